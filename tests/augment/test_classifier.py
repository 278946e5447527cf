# SPDX-License-Identifier: Apache-2.0
"""AutoAugment's operations on a picture of one row of greys."""

import numpy as np
import pytest
import torch
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


def test_views_are_as_their_generators_say():
    x = torch.rand(6, 3, 8, 8) * 2 - 1
    g = lambda: torch.Generator().manual_seed(1)  # noqa: E731
    a = classifier.crop_and_flip(x, 2, True, g())
    assert torch.equal(a, classifier.crop_and_flip(x, 2, True, g())) and not torch.equal(a, x)
    assert torch.equal(classifier.crop_and_flip(x, 0, False, g()), x)
    r = classifier.rotations(x)
    assert torch.equal(r[::4], x) and torch.equal(r[1::4], x.rot90(1, (2, 3)))
    for image in (x, x[:, :1]):
        s = classifier.autoaugment(image, g())
        assert s.shape == image.shape and s.abs().max() <= 1
        assert torch.equal(s, classifier.autoaugment(image, g())) and not torch.equal(s, image)


def test_every_operation_of_the_policy_changes_images():
    from PIL import Image

    y, x = np.mgrid[:32, :32]
    picture = Image.fromarray(np.stack([x * 5, y * 6, 40 * ((x + y) % 5)], 2).astype(np.uint8))
    names = {op[0] for sub in classifier.CIFAR10_POLICY for op in sub} | {"shear_x"}
    assert len(classifier.CIFAR10_POLICY) == 25 and len(names) >= 13
    for name in names:
        out = classifier.operation(picture, name, 9, 1)
        assert out.size == picture.size and out.mode == "RGB"
        assert np.abs(np.asarray(out).astype(int) - np.asarray(picture)).mean() > 1, name
