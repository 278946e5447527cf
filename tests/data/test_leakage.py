# SPDX-License-Identifier: Apache-2.0
"""Which images of one set another has."""

import numpy as np
from PIL import Image

from gantransfer.data.leakage import Prints, alike, equal
from tests.data.picture_sets import picture


def prints(**images: np.ndarray) -> Prints:
    out = Prints()
    for name, image in images.items():
        out.add(name, image)
    return out


def test_equal_and_alike():
    large = picture(1, 64, 64)
    small = np.asarray(Image.fromarray(large).resize((32, 32), Image.Resampling.LANCZOS))
    train = prints(a=large, again=large, b=picture(2, 64, 64), grey=picture(3, 64, 64, 1)[:, :, None])
    test = prints(same=large, copy=large, small=small, other=picture(4, 64, 64), mirrored=large[:, ::-1])
    assert equal(train, test) == [("a", "same"), ("a", "copy")]
    assert list(alike(train, test)) == [("a", "small")]
    assert list(alike(train, prints())) == [] == list(alike(prints(), train)) == equal(prints(), train)


def test_shapes_are_content_too():
    one, other = np.zeros([4, 16, 1], np.uint8), np.zeros([16, 4, 1], np.uint8)
    assert equal(prints(a=one), prints(b=other)) == []
