# SPDX-License-Identifier: Apache-2.0
"""Crop, pad and resize."""

from __future__ import annotations

import numpy as np

from gantransfer.data import transforms
from tests.data.picture_sets import picture


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
