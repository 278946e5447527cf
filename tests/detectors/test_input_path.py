# SPDX-License-Identifier: Apache-2.0
"""From images to what a detector takes."""


import numpy as np
import pytest
import torch
from PIL import Image

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


def photograph(height, width):
    """uint8 [H, W, 3]: edges and noise, both ends of the range."""
    rng, (y, x) = np.random.RandomState(0), np.mgrid[:height, :width]
    stripes = np.where((x[..., None] // 5 + y[..., None] // 7 + np.arange(3)) % 2, 255, 0)
    return np.where(rng.rand(height, width, 1) < 0.7, stripes, rng.randint(0, 256, (height, width, 3))).astype(np.uint8)


def prepared(name, image):
    return features.RESERVED[name].input.prepare(torch.from_numpy(image.transpose(2, 0, 1).copy())[None])[0]


@pytest.mark.parametrize("size", [(64, 48), (300, 300)])
def test_published_paths_of_vision_transformers(size):
    """As their authors write them, of a picture: dgm-eval resizes it to a square, CMMD cuts a square out first."""
    image = photograph(*size)
    picture = Image.fromarray(image)
    small = np.asarray(picture.resize((224, 224), Image.Resampling.BICUBIC)) / 255
    expected = (small - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    assert np.allclose(prepared("dinov2", image).permute(1, 2, 0), expected, atol=1e-5)
    side = min(size)
    left, top = (size[1] - side) // 2, (size[0] - side) // 2
    square = picture.crop((left, top, left + side, top + side)).resize((336, 336), Image.Resampling.BICUBIC)
    expected = (np.asarray(square) / 255 - [0.48145466, 0.4578275, 0.40821073]) / [0.26862954, 0.26130258, 0.27577711]
    assert np.allclose(prepared("clip", image).permute(1, 2, 0), expected, atol=1e-5)


def test_edm2_resizes_dinov2s_images_without_clipping():
    image = photograph(300, 300)
    edm2, dgm = (prepared(n, image) for n in ("dinov2-edm2", "dinov2"))
    assert float(dgm.max()) < 2.65 < float(edm2.max())  # (1 - mean) / std of the blue channel is 2.64
    mild = (image // 4 + 96).astype(np.uint8)  # nothing to clip: rounding to 8 bits remains, once per direction
    edm2, dgm = (prepared(n, mild) for n in ("dinov2-edm2", "dinov2"))
    assert 1e-4 < float((edm2 - dgm).abs().max()) < 1.1 / 255 / 0.224
