# SPDX-License-Identifier: Apache-2.0
"""Extraction and its cache."""

import numpy as np
import pytest
import torch

from dnnlib.util import UserError
from gantransfer.data.dataset import ImageDataset
from gantransfer.detectors.features import Detector, Features
from gantransfer.detectors.input_path import InputSpec
from gantransfer.metrics import stats, table
from gantransfer.metrics.feature_matrix import NonFiniteFeatures
from tests.conftest import write_image_zip
from tests.metrics.conftest import NoisyMeans


def counting_detector(sha256="aa", **spec):
    """Flattened pixels; counts the images it sees."""
    seen = []

    def network(x):
        seen.append(len(x))
        return Features(x.flatten(1), x.flatten(1)[:, :4])

    spec = InputSpec(**{**dict(channels=None, size=None, resize=None), **spec})
    d = Detector("counting", network, spec, sha256, None, "cpu")
    d.seen = seen
    return d


def test_moments_and_rows_agree(make_context, reference):
    ctx = make_context(use_cache=False)
    rows = stats.real_features(ctx, counting_detector(), stats.Selection.first(reference), keep_rows=True)
    assert rows.features.shape == (40, 256)
    direct = reference.images_uint8(np.arange(40)).reshape(40, -1).astype(np.float32)
    assert np.array_equal(rows.features.numpy(), direct)
    assert np.allclose(rows.moments.mean, direct.mean(0))


def test_moments_are_all_that_is_kept_of_large_sets(make_context, reference, monkeypatch):
    monkeypatch.setattr(stats, "KEEP_BYTES", 1000)
    ctx = make_context(use_cache=False, batch=7)
    whole = reference.images_uint8(np.arange(40)).reshape(40, -1).astype(np.float64)
    got = stats.real_features(ctx, counting_detector(), stats.Selection.first(reference))
    assert got.rows is None
    assert np.allclose(got.moments.cov(1), np.cov(whole, rowvar=False), atol=1e-8)
    with pytest.raises(ValueError, match="only the moments"):
        got.features  # noqa: B018


@pytest.mark.parametrize("name", ["fd_pix64_50", "kd_pix64_50", "report_digits32_7"])
def test_batch_size_changes_nothing(make_context, reference, name):
    results = []
    for batch in (5, 64):
        sampler = NoisyMeans(reference)
        ctx = make_context(sampler=sampler, batch=batch, use_cache=False, training=reference, classes=[0, 1, 3])
        results.append(table.compute(name, ctx)["results"])
        assert max(sampler.batches) <= batch
    for key, value in results[0].items():
        assert value == pytest.approx(results[1][key], rel=1e-5, abs=1e-9), key


def test_seed_changes_the_samples(make_context):
    a, b, c = (table.compute("fd_pix64_50", make_context(seed=s))["results"] for s in (0, 1, 0))
    assert a == c and a != b


def test_neighbouring_seeds_share_no_sample(make_context):
    plans = [make_context(seed=s).plan(1000).seeds for s in (0, 1, 2)]
    assert len(set(np.concatenate(plans).tolist())) == 3000


def test_non_finite_features_name_the_sample(make_context):
    class Broken(Detector):
        pass

    def network(x):
        out = x.flatten(1)
        network.done += len(x)
        if network.done > 30:
            out[30 - network.done + len(x)] = float("nan")
        return Features(out, None)

    network.done = 0
    d = Broken("broken", network, InputSpec(channels=None, size=None, resize=None), "", None, "cpu")
    ctx = make_context(batch=8)
    with pytest.raises(NonFiniteFeatures, match="generated features: row 30,"):
        stats.generated_features(ctx, [d], ctx.plan(40))


def test_images_are_generated_once_for_several_metrics(make_context, reference):
    for names, most in ((("fd_pix64_50", "kd_pix64_50", "pr_pix64_50_k3", "dc_pix64_50_k5"), 100),  # moments, then rows
                        (("kd_pix64_50", "fd_pix64_50", "pr_pix64_50_k3"), 50)):
        sampler = NoisyMeans(reference)
        ctx = make_context(sampler=sampler)
        for name in names:
            table.compute(name, ctx)
        assert 50 <= sum(sampler.batches) <= most


def test_cache_is_used(make_context, reference):
    chosen, d = stats.Selection.first(reference), counting_detector()
    first = stats.real_features(make_context(), d, chosen)
    assert sum(d.seen) == 40
    second = stats.real_features(make_context(), d, chosen)
    assert sum(d.seen) == 40
    assert torch.equal(first.moments.mean, second.moments.mean)
    assert torch.equal(first.moments.scatter, second.moments.scatter)
    stats.real_features(make_context(use_cache=False), d, chosen)
    assert sum(d.seen) == 80


@pytest.mark.parametrize("change", ["image", "labels", "detector", "input", "selection", "mirror", "resolution"])
def test_cache_misses_when_anything_differs(make_context, reference, tmp_path, digits, change):
    """Same path, other content: the published key (path and name) would return stale statistics."""
    images, labels = digits
    path = write_image_zip(tmp_path / "set.zip", images, labels.tolist())

    def select(**kw):
        return stats.Selection.first(ImageDataset(path, use_labels=True), **kw)

    stats.real_features(make_context(), counting_detector(), select())
    d, chosen = counting_detector(), None
    stats.real_features(make_context(), d, select())
    assert not d.seen, "the same content must hit"
    if change == "image":
        other = images.copy()
        other[17, 3, 3] ^= 1
        write_image_zip(path, other, labels.tolist())
    elif change == "labels":
        write_image_zip(path, images, labels[::-1].tolist())
    elif change == "detector":
        d = counting_detector(sha256="bb")
    elif change == "input":
        d = counting_detector(std=(2.0,))
    elif change == "selection":
        chosen = select(count=30)
    elif change == "mirror":
        chosen = select(mirror=True)
    elif change == "resolution":
        write_image_zip(path, images[:, ::2, ::2], labels.tolist())
    stats.real_features(make_context(), d, chosen or select())
    assert d.seen, f"a changed {change} must not be answered from the cache"


def test_damaged_cache_is_computed_again(make_context, reference, tmp_path, capsys):
    chosen, d = stats.Selection.first(reference), counting_detector()
    good = stats.real_features(make_context(), d, chosen)
    [path] = (tmp_path / "cache").glob("*.npz")
    path.write_bytes(path.read_bytes()[:200])
    again = stats.real_features(make_context(), d, chosen)
    assert torch.equal(good.moments.mean, again.moments.mean) and sum(d.seen) == 80
    assert "damaged" in capsys.readouterr().err


def test_unwritable_cache_costs_nothing_but_time(make_context, reference, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    ctx = make_context(cache_dir=tmp_path / "file" / "below")
    stats.real_features(ctx, counting_detector(), stats.Selection.first(reference))
    assert capsys.readouterr().err.count("cannot be cached") == 1
    again = make_context(cache_dir=tmp_path / "file" / "below", said=ctx.said)  # of the next snapshot of a run
    stats.real_features(again, counting_detector(), stats.Selection.first(reference))
    assert not capsys.readouterr().err


def test_cache_leaves_no_temporary_files(make_context, reference, tmp_path):
    stats.real_features(make_context(), counting_detector(), stats.Selection.first(reference))
    assert all(p.suffix == ".npz" for p in (tmp_path / "cache").iterdir())


def test_mirrored_selection(reference):
    both = stats.Selection.first(reference, mirror=True)
    assert len(both) == 80
    plain, flipped = both.images(3, 4), both.images(43, 44)
    assert torch.equal(plain.flip(3), flipped) and not torch.equal(plain, flipped)
    assert stats.Selection.first(reference, 50, mirror=True).ids[40:].tolist() == reference.class_ids[:10].tolist()


def test_spread_selection_covers_a_sorted_set(reference):
    chosen = stats.Selection.spread(reference, 8)
    assert len(set(chosen.ids.tolist())) == 4
    assert len(stats.Selection.spread(reference, 1000)) == 40


def test_interleave_restores_index_order():
    per_rank = torch.stack([torch.arange(r, 12, 3) for r in range(3)])[..., None]
    assert stats.interleave(per_rank)[:, 0].tolist() == list(range(12))


def test_fake_images_may_come_from_a_zip(make_context, reference, digits, tmp_path):
    """A set compared with itself: distance zero, all labels right, nearest-training ratio zero."""
    images, labels = digits
    generated = ImageDataset(write_image_zip(tmp_path / "fakes.zip", images, labels.tolist()), use_labels=True)
    ctx = table.MetricContext(sampler=None, generated=generated, reference=reference, cache_dir=tmp_path / "c")
    assert table.compute("fd_pix64_40", ctx)["results"]["fd_pix64_40"] < 1e-6
    result = table.compute("report_digits32_10", ctx)["results"]
    assert result["report_digits32_10_class_fd"] < 1e-6
    assert result["report_digits32_10_diversity"] == pytest.approx(1)
    with pytest.raises(UserError, match="has 40 images, the metric takes 41"):
        table.compute("fd_pix64_41", ctx)
