# SPDX-License-Identifier: Apache-2.0
"""Sheets: where images and words stand, and that nothing covers anything."""

import json

import numpy as np
import pytest
from PIL import Image

from gantransfer.pictures import grids
from gantransfer.pictures.grids import Head, image_grid


def images(n, channels=3, side=8):
    return np.random.RandomState(0).randint(0, 255, (n, channels, side, side)).astype(np.uint8)


def ink(picture):
    """Where there is other than white and the grey of gaps."""
    x = np.asarray(picture.convert("L"))
    return (x != 255) & (x != grids.BETWEEN)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("words", [{}, dict(title="A title", row_labels=["one", "two"], heads=[Head("all", 0, 2)])],
                         ids=["bare", "named"])
def test_a_file_says_where_its_images_are(channels, words, tmp_path):
    x = images(5, channels)
    grids.save_grid(tmp_path / "x.png", x, 3, zoom=3, **words)
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.mode == ("L" if channels == 1 else "RGB")
        got = grids.cells(picture)
    assert got.shape[:4] == (2, 3, 24, 24)
    small = got[:, :, ::3, ::3].reshape(6, 8, 8, channels)
    assert np.array_equal(small[:5], x.transpose(0, 2, 3, 1)) and (small[5] == grids.BETWEEN).all()
    assert np.array_equal(small.repeat(3, 1).repeat(3, 2).reshape(got.shape), got)


def test_without_words_there_are_gaps_and_nothing_else():
    picture = image_grid(images(4), 2)
    assert picture.size == (2 * 8 + grids.GAP,) * 2
    assert (np.asarray(picture)[8 : 8 + grids.GAP] == grids.BETWEEN).all()


def test_words_touch_neither_images_nor_each_other():
    long = "a class with a name that is much too long for the place that there is in any picture"
    x = np.full((6, 1, 8, 8), 128, np.uint8)
    picture = image_grid(x, 3, row_labels=[long, f"{long} (7)"], title=long, heads=[Head(long, 0, 1), Head("x", 2, 2)])
    cells = grids.cells(picture)
    assert (cells == 128).all()
    dark = ink(picture)
    at = json.loads(picture.info["cells"])
    for y in at["y"]:
        dark[y : y + 8, at["x"][0] : at["x"][-1] + 8] = False
    first, last = at["y"]
    assert last - first >= 17, "a row is as high as its words"
    assert not dark[first:, at["x"][0] - 2 :].any(), "no word beside the images"
    assert dark[first - 2 :, : at["x"][0]].any() and picture.width < 1000
    lines = dark[:first].any(1)
    assert 3 <= np.diff(lines.astype(int)).clip(0).sum(), "title and heads are broken into lines"


def test_large_sheets_have_large_words():
    def height(side):
        picture = image_grid(images(2, 1, side), 2, title="H")
        y = json.loads(picture.info["cells"])["y"][0]
        return np.ptp(np.flatnonzero(ink(picture)[:y].any(1)))

    assert height(512) > 2.5 * height(64)


def test_pictures_below_each_other_have_their_images_in_line():
    a, b = image_grid(images(2), 2, row_labels=["a long name"]), image_grid(images(3, 1), 3, title="t")
    both = grids.stack([a, b])
    x = json.loads(a.info["cells"])["x"][0]
    assert both.mode == "RGB" and both.height == a.height + b.height
    assert np.array_equal(np.asarray(both)[: a.height, : a.width], np.asarray(a))
    assert np.array_equal(np.asarray(both)[a.height :, x - grids.PAD : x - grids.PAD + b.width, 0], np.asarray(b))
