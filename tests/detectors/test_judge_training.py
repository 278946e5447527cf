# SPDX-License-Identifier: Apache-2.0
"""Training of the judge network."""

import numpy as np
import pytest
import torch

from gantransfer.detectors import features, judge_training


@pytest.fixture(scope="module")
def all_digits():
    """All real digits enlarged to 16 x 16, split per class: (pool images, labels, held-out images, labels)."""
    from PIL import Image

    data = pytest.importorskip("sklearn.datasets", reason="needs scikit-learn (extra `demo`)").load_digits()
    large = [Image.fromarray((x * 255 / 16).astype(np.float32)).resize((16, 16), Image.Resampling.BICUBIC)
             for x in data.images]
    images = np.stack([np.asarray(x) for x in large]).round().clip(0, 255).astype(np.uint8)[:, None]
    held = np.concatenate([np.random.RandomState(0).permutation(np.flatnonzero(data.target == k))[:60]
                           for k in range(10)])
    pool = np.setdiff1d(np.arange(len(images)), held)
    return images[pool], data.target[pool], images[held], data.target[held]


@pytest.mark.slow
def test_judge_reaches_the_required_accuracy(all_digits):
    x, y, test_x, test_y = all_digits
    net = judge_training.train_judge(x, y)
    assert judge_training.score(net, test_x, test_y).accuracy >= 0.98
    assert float(judge_training.judge(net, x)[0].double().var(0).sum()) == pytest.approx(100, rel=1e-4)


def test_shipped_judge_on_held_out_digits(all_digits):
    """The shipped weights were trained on the pool of this very split rule; on all 1797 digits they hold too."""
    x, y, test_x, test_y = all_digits
    d = features.load("digits32")
    right = d(torch.from_numpy(np.concatenate([x, test_x]))).logits.argmax(1).numpy() == np.concatenate([y, test_y])
    assert right.mean() >= 0.99
    variance = float(d(torch.from_numpy(x)).features.double().var(0).sum())
    assert variance == pytest.approx(100, rel=0.05)


def test_training_repeats(digits):
    images, labels = digits
    state = torch.get_rng_state()
    a, b, c = (judge_training.train_judge(images[:, None], labels, seed=s, epochs=2) for s in (0, 0, 1))
    assert all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())
    assert not torch.equal(a.embed.weight, c.embed.weight)
    assert torch.equal(torch.get_rng_state(), state), "the caller's random numbers are untouched"


def test_shift_moves_by_a_pixel():
    x = torch.arange(64.0).reshape(1, 1, 8, 8).repeat(3, 1, 1, 1)
    out = judge_training.shift(x, torch.tensor([[0, 0], [1, 0], [0, -1]]))
    assert torch.equal(out[0], x[0])
    assert torch.equal(out[1, 0, 1:], x[1, 0, :-1]) and torch.equal(out[1, 0, 0], x[1, 0, 0])
    assert torch.equal(out[2, 0, :, :-1], x[2, 0, :, 1:]) and torch.equal(out[2, 0, :, -1], x[2, 0, :, -1])


def test_unequal_classes_are_drawn_equally_often():
    y = torch.tensor([0] * 40 + [2] * 3)
    members = [torch.arange(40), torch.arange(40, 43)]
    rows = judge_training._rows(y, members)
    assert torch.bincount(y[rows]).tolist() == [22, 0, 22] and torch.bincount(rows)[40:].max() <= 8
    assert len(set(rows[y[rows] == 0].tolist())) == 22, "no image of the frequent class comes twice"
    assert sorted(judge_training._rows(y, []).tolist()) == list(range(43))
    assert judge_training.unequal(np.array([0, 0, 1])) and not judge_training.unequal(np.array([0, 0, 0, 1, 1]))


def test_balanced_accuracy_counts_classes_and_not_images(monkeypatch):
    labels = np.array([0] * 8 + [1, 1])
    logits = torch.eye(2)[torch.zeros(10, dtype=torch.long)]  # it always says 0
    monkeypatch.setattr(judge_training, "judge", lambda net, images: (None, logits))
    got = judge_training.score(None, labels, labels)
    assert (got.accuracy, got.balanced, got.recall, got.images) == (0.8, 0.5, {0: 1.0, 1: 0.0}, {0: 8, 1: 2})
    assert (got.chance, got.needed, got.weak) == (0.5, 0.75, True)
