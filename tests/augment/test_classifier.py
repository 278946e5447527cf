# SPDX-License-Identifier: Apache-2.0
"""AutoAugment's operations on a picture of one row of greys."""

import numpy as np
import pytest
from PIL import Image

from gantransfer.augment import classifier

GREYS = np.array([[0, 60, 130, 200, 255]], np.uint8)


@pytest.mark.parametrize("name, magnitude, expected", [
    ("solarize", 0, [0, 60, 130, 200, 255]), ("solarize", 9, [255, 195, 125, 55, 0]),
    ("solarize", 4, [0, 60, 130, 55, 0]),  # pixels from 256 - 256 * 4 / 9 = 142 on are inverted
    ("posterize", 0, [0, 60, 130, 200, 255]), ("posterize", 9, [0, 48, 128, 192, 240]),
    ("invert", 0, [255, 195, 125, 55, 0])])
def test_values(name, magnitude, expected):
    out = classifier.operation(Image.fromarray(GREYS), name, magnitude, 1)
    assert np.asarray(out)[0].tolist() == expected
