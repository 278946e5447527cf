# SPDX-License-Identifier: Apache-2.0
"""Crop, pad and resize."""

import numpy as np

from gantransfer.data import transforms
from tests.data.picture_sets import picture


def test_center_crop_takes_the_shape_that_is_wanted():
    """The largest centred part of that shape, so that nothing is stretched; of a square the centred square."""
    x = np.stack(np.meshgrid(np.arange(60), np.arange(40)), -1).astype(np.uint8)[:, :, [0, 1, 1]]  # columns, rows
    for (width, height), (left, right, top, bottom) in (
            ((24, 36), (16, 44, 0, 40)), ((30, 10), (0, 60, 10, 30)), ((40, 40), (10, 50, 0, 40)),
            ((60, 40), (0, 60, 0, 40))):
        made = transforms.transform_image(x, "center-crop", width, height, "box")
        assert made.shape == (height, width, 3)
        cut = x[top:bottom, left:right]
        assert abs(made[..., 0].mean() - cut[..., 0].mean()) < 1 and abs(made[..., 1].mean() - cut[..., 1].mean()) < 1
        assert abs(int(made[..., 0].min()) - left) <= 2 and abs(int(made[..., 1].max()) - bottom) <= 3
    assert np.array_equal(transforms.transform_image(x, "center-crop", 40, 40), x[:, 10:50])
    assert transforms.enlarges("center-crop", 40, 60, 24, 48) and not transforms.enlarges("center-crop", 40, 60, 60, 40)
    for side in (3, 7, 96, 200, 1023):  # as ever: no rounding may move the square
        for short in range(1, 400, 13):
            assert round(side * (short / side)) == short


def test_transforms_of_greyscale_and_pad(tmp_path):
    grey = picture(0, 20, 32, 1)[:, :, None]
    colour = np.repeat(grey, 3, 2)
    for args in ((None, 16, 16), ("center-crop", 8, 8), ("center-crop-wide", 16, 8), ("pad", 16, 16)):
        for f in ("lanczos", "box"):
            a, b = (transforms.transform_image(x, *args, f) for x in (grey, colour))
            assert a.shape == (16, 16, 1) if args[0] != "center-crop" else (8, 8, 1)
            assert np.array_equal(np.repeat(a, 3, 2), b)
    padded = transforms.transform_image(np.full([20, 40, 3], 200, np.uint8), "pad", 16, 16)
    assert (padded[4:12] == 200).all() and (padded[:4] == 0).all() and (padded[12:] == 0).all()
    padded = transforms.transform_image(np.full([40, 20, 1], 200, np.uint8), "pad", 16, 16)
    assert (padded[:, 4:12] == 200).all() and (padded[:, :4] == 0).all() and (padded[:, 12:] == 0).all()
