# SPDX-License-Identifier: Apache-2.0
"""Views of training images for classifiers: crop and flip, rotations, and AutoAugment's policy for CIFAR-10.

Images are float [N, C, H, W] in [-1, 1]; all randomness comes from the generators given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from torch_utils import random as rnd
from torch_utils.pixels import from_uint8

if TYPE_CHECKING:  # methods are imported where there is torch alone (tests/bench/gpu_check.py)
    from PIL import Image

# 25 sub-policies of two operations (name, probability, magnitude 0..9): Cubuk et al., CVPR 2019, table 7.
CIFAR10_POLICY = (
    (("invert", .1, 7), ("contrast", .2, 6)), (("rotate", .7, 2), ("translate_x", .3, 9)),
    (("sharpness", .8, 1), ("sharpness", .9, 3)), (("shear_y", .5, 8), ("translate_y", .7, 9)),
    (("autocontrast", .5, 8), ("equalize", .9, 2)), (("shear_y", .2, 7), ("posterize", .3, 7)),
    (("color", .4, 3), ("brightness", .6, 7)), (("sharpness", .3, 9), ("brightness", .7, 9)),
    (("equalize", .6, 5), ("equalize", .5, 1)), (("contrast", .6, 7), ("sharpness", .6, 5)),
    (("color", .7, 7), ("translate_x", .5, 8)), (("equalize", .3, 7), ("autocontrast", .4, 8)),
    (("translate_y", .4, 3), ("sharpness", .2, 6)), (("brightness", .9, 6), ("color", .2, 8)),
    (("solarize", .5, 2), ("invert", .0, 3)), (("equalize", .2, 0), ("autocontrast", .6, 0)),
    (("equalize", .2, 8), ("equalize", .6, 4)), (("color", .9, 9), ("equalize", .6, 6)),
    (("autocontrast", .8, 4), ("solarize", .2, 8)), (("brightness", .1, 3), ("color", .7, 0)),
    (("solarize", .4, 5), ("autocontrast", .9, 3)), (("translate_y", .9, 9), ("translate_y", .7, 9)),
    (("autocontrast", .9, 2), ("solarize", .8, 3)), (("equalize", .8, 8), ("invert", .1, 3)),
    (("translate_y", .7, 9), ("autocontrast", .9, 1)),
)  # fmt: skip
GREY = 128  # what shears, shifts and turns leave open


def crop_and_flip(x: Tensor, pad: int, flip: bool, rng: torch.Generator, views: int = 1) -> Tensor:
    """A window of the image padded with black, at one place per image, mirrored for half of them. `views`: rows that
    belong to one image of the batch.

    Black is the published protocol of the classifiers trained with it; no generator is trained on these views, so that
    the border cannot get into images.
    """
    n, _, h, w = x.shape
    if pad:
        at = rnd.randint(0, 2 * pad + 1, [n // views, views, 2], rng, x.device).flatten(0, 1)
        rows = torch.arange(h, device=x.device) + at[:, :1]
        cols = torch.arange(w, device=x.device) + at[:, 1:]
        padded = F.pad(x, (pad,) * 4, value=-1.0)
        each = torch.arange(n, device=x.device)[:, None, None]
        x = padded[each, :, rows[:, :, None], cols[:, None, :]].permute(0, 3, 1, 2)
    if flip:
        chosen = rnd.rand([n // views, views], rng, x.device).flatten() < 0.5
        x = torch.where(chosen[:, None, None, None], x.flip(3), x)
    return x


def rotations(x: Tensor) -> Tensor:
    """[4N, C, H, W]: rows 4i..4i+3 are image i turned by 0, 90, 180, 270 degrees."""
    return torch.stack([x.rot90(k, (2, 3)) for k in range(4)], 1).flatten(0, 1)


def autoaugment(x: Tensor, choices: torch.Generator, policy: tuple = CIFAR10_POLICY) -> Tensor:
    """One sub-policy per image, on 8-bit images as published. `choices` lives on the CPU."""
    pixels = (x.detach().float() * 127.5 + 127.5).round().clamp(0, 255).to("cpu", torch.uint8).numpy()
    which = rnd.randint(0, len(policy), [len(x)], choices).tolist()
    draws = rnd.rand([len(x), 2, 2], choices).tolist()
    out = np.stack([_apply(image, policy[k], d) for image, k, d in zip(pixels, which, draws)])
    return from_uint8(torch.from_numpy(out).to(x.device))


def _apply(image: np.ndarray, sub: tuple, draws: list) -> np.ndarray:
    from PIL import Image

    picture = Image.fromarray(image[0]) if len(image) == 1 else Image.fromarray(np.moveaxis(image, 0, 2))
    for (name, probability, magnitude), (u, sign) in zip(sub, draws):
        if u < probability:
            picture = operation(picture, name, magnitude, -1 if sign < 0.5 else 1)
    out = np.asarray(picture)
    return out[None] if out.ndim == 2 else np.moveaxis(out, 2, 0)


def operation(picture: Image.Image, name: str, magnitude: int, sign: int) -> Image.Image:
    """One of AutoAugment's operations; magnitude 0..9 spans the published range, `sign` is -1 or 1."""
    from PIL import Image, ImageEnhance, ImageOps

    m = magnitude / 9
    fill = GREY if picture.mode == "L" else (GREY,) * 3
    if name in ("shear_x", "shear_y", "translate_x", "translate_y"):
        if name.startswith("shear"):
            amount = 0.3 * m * sign
            matrix = (1, amount, 0, 0, 1, 0) if name.endswith("x") else (1, 0, 0, amount, 1, 0)
        else:
            amount = 150 / 331 * picture.size[name.endswith("y")] * m * sign  # published in pixels of 331-pixel images
            matrix = (1, 0, amount, 0, 1, 0) if name.endswith("x") else (1, 0, 0, 0, 1, amount)
        return picture.transform(picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC,
                                 fillcolor=fill)
    if name == "rotate":
        return picture.rotate(30 * m * sign, Image.Resampling.NEAREST, fillcolor=fill)
    if name in ("color", "contrast", "brightness", "sharpness"):
        return getattr(ImageEnhance, name.capitalize())(picture).enhance(1 + 0.9 * m * sign)
    if name == "posterize":
        return ImageOps.posterize(picture, int(round(8 - 4 * m)))
    if name == "solarize":
        return ImageOps.solarize(picture, int(256 - 256 * m))
    return {"autocontrast": ImageOps.autocontrast, "equalize": ImageOps.equalize, "invert": ImageOps.invert}[name](
        picture)
