# SPDX-License-Identifier: Apache-2.0
"""scikit-learn's digits: their pixels and parts, and turned ones."""

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from gantransfer.commands import dataset_tool
from gantransfer.data.dataset import ImageDataset


def test_digits(tmp_path, tool):
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    sets = {}
    for split, n in (("pool", 1197), ("reference", 600), ("all", 1797)):
        assert tool("--source=sklearn:digits", f"--dest={tmp_path}/{split}.zip", f"--split={split}")[0] == 0
        sets[split] = ImageDataset(tmp_path / f"{split}.zip", use_labels=True)
        assert len(sets[split]) == n and sets[split].image_shape == [1, 16, 16]
    assert sets["reference"].spec.label.counts == (60,) * 10
    assert sets["pool"].spec.label.counts == tuple(np.bincount(digits.target) - 60)
    # The rule of the pixels, written out.
    rng = np.random.RandomState(0)
    held = np.sort(np.concatenate([rng.permutation(np.flatnonzero(digits.target == k))[:60] for k in range(10)]))
    got = sets["reference"].images_uint8(range(600))[:, 0]
    for i in (0, 1, 300, 599):
        big = Image.fromarray((digits.images[held[i]] * 255 / 16).astype(np.float32)).resize((16, 16), Image.BICUBIC)
        assert np.array_equal(got[i], np.clip(np.round(np.asarray(big)), 0, 255).astype(np.uint8))
    assert sets["reference"].class_ids.tolist() == digits.target[held].tolist()

    def rows(d):
        return {d.images_uint8([i]).tobytes() for i in range(len(d))}
    assert not rows(sets["pool"]) & rows(sets["reference"])
    assert rows(sets["pool"]) | rows(sets["reference"]) == rows(sets["all"])
    assert tool("--source=sklearn:digits", f"--dest={tmp_path}/s.zip", "--split=reference", "--seed=1")[0] == 0
    assert rows(ImageDataset(tmp_path / "s.zip")) != rows(sets["reference"])
    assert tool("--source=sklearn:digits", f"--dest={tmp_path}/c.zip", "--classes=5-9", "--resolution=32x32")[0] == 0
    some = ImageDataset(tmp_path / "c.zip", use_labels=True)
    assert some.spec.label.names == tuple("56789") and some.resolution == 32 and some.label_dim == 5


def tool(*words):
    """dataset_tool.py within this process; returns what it printed, or raises its UserError."""
    done = CliRunner().invoke(dataset_tool.main, [str(w) for w in words], catch_exceptions=False, standalone_mode=False)
    return done.output


def test_rotated_digits_are_what_their_label_says(tmp_path):
    pytest.importorskip("sklearn")
    from gantransfer.data.sources.digits import rotated_digit

    tool("--source=sklearn:rotated-digits", "--split=reference", f"--dest={tmp_path / 'a.zip'}", "--max-images=60")
    data = ImageDataset(tmp_path / "a.zip", use_labels=True)
    assert data.spec.label.meta["scale"] == 90 and 30 < len(set(data.labels(range(60))[:, 0].tolist()))
    bar = np.zeros([8, 8])
    bar[3:5, 1:7] = 16
    flat, upright = rotated_digit(bar, 0, (16, 16)), rotated_digit(bar, 90, (16, 16))
    turned = np.abs(upright - np.rot90(flat).astype(int)).mean()
    assert turned < 4 < np.abs(upright - flat.astype(int)).mean()
