# SPDX-License-Identifier: Apache-2.0
"""Edge cases of the metrics that golden files do not reach."""

import numpy as np
import pytest
import torch

from gantransfer.metrics import inception_score, intra, kmmd, label_score, memorisation, ppl
from gantransfer.metrics.feature_matrix import MetricError

rng = np.random.RandomState(0)


def test_inception_score_bounds():
    certain = np.full((100, 10), -np.inf)
    certain[np.arange(100), np.arange(100) % 10] = 0
    certain = np.where(np.isinf(certain), -1e5, certain)
    assert inception_score.inception_score(certain, 10)[0] == pytest.approx(10)
    assert inception_score.inception_score(np.zeros((50, 10)), 5) == (pytest.approx(1), pytest.approx(0, abs=1e-12))


def test_inception_score_with_probabilities_of_zero():
    """A logit gap beyond float64's exponent range: p = 0 exactly, contributes 0 instead of NaN."""
    logits = np.array([[0.0, -1e4], [-1e4, 0.0]])
    assert inception_score.inception_score(logits, 1) == (pytest.approx(2), 0)


def test_inception_score_needs_a_row_per_split():
    with pytest.raises(MetricError, match="at least as many rows"):
        inception_score.inception_score(np.zeros((9, 4)), 10)


def test_kmmd_against_the_definition():
    x, y = rng.rand(40, 6), rng.rand(30, 6) + 0.3
    d = lambda a, b: ((a[:, None] - b[None]) ** 2).sum(-1)  # noqa: E731
    s = d(x, x).mean()
    k = lambda a, b: np.exp(-d(a, b) / (2 * 1.5**2 * s)).mean()  # noqa: E731
    assert kmmd.kmmd(x, y, 1.5) == pytest.approx(np.sqrt(k(x, x) + k(y, y) - 2 * k(x, y)), rel=1e-9)
    assert kmmd.kmmd(x, x) == pytest.approx(0, abs=1e-7)


def test_unbiased_kmmd_against_the_definition():
    x, y = rng.rand(40, 6), rng.rand(30, 6) + 0.3
    d = lambda a, b: ((a[:, None] - b[None]) ** 2).sum(-1)  # noqa: E731
    s = d(x, x).sum() / (40 * 39)
    k = lambda a, b: np.exp(-d(a, b) / (2 * s))  # noqa: E731
    off = lambda m: (m.sum() - np.trace(m)) / (len(m) * (len(m) - 1))  # noqa: E731
    value = lambda a, b: off(k(a, a)) + off(k(b, b)) - 2 * k(a, b).mean()  # noqa: E731
    parts = [value(x[i::3], y[i::3]) for i in range(3)]
    got = kmmd.kmmd_unbiased(x, y, parts=3)
    assert got == pytest.approx((value(x, y), np.std(parts, ddof=1) / np.sqrt(3)), rel=1e-9)
    same = [kmmd.kmmd_unbiased(*np.random.RandomState(i).randn(2, 60, 4))[0] for i in range(40)]
    assert abs(np.mean(same)) < 4 * np.std(same) / np.sqrt(40) and min(same) < 0  # no bias
    with pytest.raises(MetricError, match="four rows"):
        kmmd.kmmd_unbiased(x[:3], y)


def test_kmmd_without_scale():
    with pytest.raises(MetricError, match="no scale"):
        kmmd.kmmd(np.ones((5, 3)), rng.rand(5, 3))


def test_empty_class_is_named():
    x, labels = rng.rand(20, 3), np.arange(20) % 2
    with pytest.raises(MetricError, match="class 2 has 0 real and 0 generated rows"):
        intra.intra_fid(x, x, labels, labels, [0, 1, 2])
    with pytest.raises(MetricError, match="window around 5.0 has 0 real"):
        intra.sliding_fid(x, x, labels, labels, [5.0], 1.0)


def test_intra_fid_of_one_image_per_class():
    x = rng.rand(4, 3)
    with pytest.raises(MetricError, match="divisor"):
        intra.intra_fid(x[:1], x, [0], [0] * 4, [0])


def test_diversity_ratio():
    real = rng.randn(3000, 4)
    table = intra.diversity_ratio(real, 0.5 * rng.randn(3000, 4), [0] * 3000, [0] * 3000, [0])
    assert table.values[0] == pytest.approx(0.5, rel=0.05)
    collapsed = intra.diversity_ratio(real, np.zeros((10, 4)), [0] * 3000, [0] * 10, [0])
    assert collapsed.values[0] == 0


def test_memorisation_tells_copies_from_new_images():
    train, held = rng.randn(50, 8), rng.randn(40, 8)
    zeros = [np.zeros(n, int) for n in (50, 30, 40)]
    copied = memorisation.nearest_training(train, train[:30] + 0.001, held, *zeros, [0])
    fresh = memorisation.nearest_training(train, rng.randn(30, 8), held, *zeros, [0])
    assert copied.ratio[0] < 0.01 and 0.8 < fresh.ratio[0] < 1.2
    assert copied.fake_index.tolist() == list(range(30))


def test_training_images_in_the_reference_do_not_count_as_held_out():
    train, held, fake = rng.randn(50, 8), rng.randn(40, 8), rng.randn(30, 8)
    clean = memorisation.nearest_training(train, fake, held, *[np.zeros(n, int) for n in (50, 30, 40)], [0])
    mixed = memorisation.nearest_training(train, fake, np.vstack([train, held]),
                                          *[np.zeros(n, int) for n in (50, 30, 90)], [0])
    assert mixed.ratio[0] == pytest.approx(clean.ratio[0]) and mixed.excluded == 50
    with pytest.raises(MetricError, match="held-out"):
        memorisation.nearest_training(train, fake, train, *[np.zeros(n, int) for n in (50, 30, 50)], [0])


def test_classes_are_not_mixed():
    """A copy of another class's training image is not memorisation of this class."""
    train = np.vstack([rng.randn(20, 4), rng.randn(20, 4) + 50])
    labels = np.repeat([0, 1], 20)
    fake, held = train[20:25].copy(), rng.randn(10, 4)
    result = memorisation.nearest_training(train, fake, held, labels, np.zeros(5, int), np.zeros(10, int), [0])
    assert result.ratio[0] > 10


def test_label_metrics():
    assert label_score.label_accuracy(np.array([0, 1, 1]), np.array([0, 1, 2])) == pytest.approx(2 / 3)
    with pytest.raises(MetricError):
        label_score.label_accuracy(np.array([0, 1]), np.array([0, 1, 2]))
    with pytest.raises(MetricError):
        label_score.label_score(np.array([np.nan]), np.array([0.0]))


def test_a_path_stays_on_the_sphere():
    a, b = torch.randn(50, 16, dtype=torch.float64), torch.randn(50, 16, dtype=torch.float64)
    t = torch.rand(50, 1, dtype=torch.float64)
    out = ppl.on_sphere(a, b, t)
    assert torch.allclose(out.norm(dim=1), torch.ones(50, dtype=torch.float64))
    unit = torch.nn.functional.normalize
    assert torch.allclose(ppl.on_sphere(a, b, torch.zeros(50, 1)), unit(a), atol=1e-9)
    assert torch.allclose(ppl.on_sphere(a, b, torch.ones(50, 1)), unit(b), atol=1e-9)
    assert torch.isfinite(ppl.on_sphere(a, a, t)).all() and torch.isfinite(ppl.on_sphere(a, 3 * a, t)).all()


def test_trimmed_mean_drops_outliers():
    d = np.concatenate([np.ones(998), [1e9, -1e9]])
    assert ppl.trimmed_mean(d) == 1
    with pytest.raises(MetricError):
        ppl.trimmed_mean(np.array([1.0, np.nan]))


def test_crop_and_box():
    x = torch.arange(64 * 64, dtype=torch.float32).reshape(1, 1, 64, 64)
    assert torch.equal(ppl.crop_face(x), x[:, :, 24:56, 16:48])
    assert ppl.box_to_256(torch.zeros(1, 3, 1024, 1024)).shape[-1] == 256
    assert ppl.box_to_256(x) is x
