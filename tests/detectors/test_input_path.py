# SPDX-License-Identifier: Apache-2.0
"""From images to what a detector takes."""


import numpy as np
import pytest
import torch

from dnnlib.util import UserError
from gantransfer.detectors import features
from gantransfer.detectors.input_path import PRESETS, InputSpec

images = torch.from_numpy(np.random.RandomState(0).randint(0, 256, (3, 3, 20, 20)).astype(np.uint8))


def test_judge_refuses_other_images():
    spec = features.load("digits32").input
    with pytest.raises(UserError, match="grey images, the data set has 3 channels"):
        spec.check(3, 16, "digits32")
    with pytest.raises(UserError, match="judges 16x16 images, the data set has 32x32"):
        spec.check(1, 32, "digits32")


def test_grey_becomes_three_channels():
    x = images[:, :1]
    assert torch.equal(PRESETS["tf1"].prepare(x), PRESETS["tf1"].prepare(x.expand(-1, 3, -1, -1)))


def test_range_and_normalisation():
    spec = InputSpec(range=(-1.0, 1.0), size=None, resize=None, mean=(0.5,), std=(2.0,))
    assert torch.allclose(spec.prepare(images), (images / 127.5 - 1 - 0.5) / 2, atol=1e-6)
