# SPDX-License-Identifier: Apache-2.0
"""Sheets of several runs."""

import numpy as np
import torch
from PIL import Image

from gantransfer.data.dataset import ImageDataset
from gantransfer.experiments import sheets
from gantransfer.pictures import grids
from tests.conftest import write_image_zip


def test_sheet(tmp_path):
    """Two rows, blocks beside each other, wrapped after two; the strip beneath."""
    def coloured(value, n, size):  # text is grey
        return np.broadcast_to(np.array([value, 0, 200], np.uint8)[:, None, None], (n, 3, size, size))

    def block(value):
        return [coloured(value + k, 3, 8) for k in range(2)]

    sheets.save_sheet(tmp_path / "p.png", {"a": block(10), "b": block(20), "c": block(30)}, ["x", "y"], per_band=2,
                      strip=("small", coloured(77, 4, 4)))
    rgb = np.asarray(Image.open(tmp_path / "p.png").convert("RGB"))
    where = {v: (rgb == [v, 0, 200]).all(2) for v in (10, 11, 20, 21, 30, 31, 77)}
    assert all(where[v].sum() == 3 * 16 * 16 for v in (10, 11, 20, 21, 30, 31)) and where[77].sum() == 4 * 32 * 32
    x, y = ({v: np.flatnonzero(m.any(axis))[0] for v, m in where.items()} for axis in (0, 1))
    assert x[20] == x[10] + 3 * (2 * 8 + grids.GAP) + 8 and x[30] == x[10] == x[77]
    assert 13 < y[10] == y[20] < y[11] < y[30] < y[31] < y[77]  # the words above need as much


def test_small_images_are_beneath_and_in_files_of_their_own(tmp_path, monkeypatch):
    """Each arm's images are of a grey of its own; only one arm has small ones."""
    data = write_image_zip(tmp_path / "d.zip", np.full((4, 16, 16), 9, np.uint8), [0, 0, 0, 1], class_names=["a", "b"])
    spec = ImageDataset(data, use_labels=True).spec

    def sampler(level):
        def draw(seeds, c, view="image"):
            assert tuple(c.shape) == (len(seeds), 2) and (view == "image") == bool(c.any())
            return torch.full([len(seeds), 1, *([16, 16] if view == "image" else [4, 4])], level + (view == "uc"),
                              dtype=torch.uint8)

        draw.spec, draw.views = spec, ("image", "uc") if level == 100 else ("image",)
        return draw

    monkeypatch.setattr(sheets, "sampler_of", sampler)
    sheets.save_with_small(tmp_path / "p.png", data, {"one": ("One", 50), "two": ("Two", 100)})
    grey = np.asarray(Image.open(tmp_path / "p.png").convert("L"))
    assert all(0 <= (grey == v).sum() - 2 * 12 * 32 * 32 < 100 for v in (9, 50, 100))  # and some pixels of the words
    x, y = ([np.flatnonzero((grey == v).sum(axis) > 20)[0] for v in (9, 50, 100, 101)] for axis in (0, 1))
    assert x[0] < x[1] < x[2] and x[3] == x[0] and y[3] > y[0] == y[1] == y[2]
    assert [p.name for p in tmp_path.glob("*-label-free.png")] == ["two-label-free.png"]
