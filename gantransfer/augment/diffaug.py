# SPDX-License-Identifier: Apache-2.0
"""Fixed differentiable augmentation of everything the discriminator sees.

Zhao et al., "Differentiable Augmentation for Data-Efficient GAN Training" (2020): colour, translation and cutout at
full strength on reals and fakes alike, with zeros (mid-grey) where an image moved away, as published. The policy
`light` is milder and brings nothing new into an image: what a shift uncovers continues the edge, so that any ground,
black or white, stays as it is. It is the augmentation of the `tiny` preset.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from dnnlib.util import UserError
from torch_utils import random as rnd

Transform = Callable[[torch.Tensor, rnd.Rng], torch.Tensor]


def _uniform(x: torch.Tensor, low: float, high: float, rng: rnd.Rng) -> torch.Tensor:
    """[N, 1, 1, 1], one draw per sample."""
    return (rnd.rand([len(x), 1, 1, 1], rng, x.device) * (high - low) + low).to(x.dtype)


def brightness(x: torch.Tensor, rng: rnd.Rng, *, limit: float) -> torch.Tensor:
    """Add U(-limit, limit)."""
    return x + _uniform(x, -limit, limit, rng)


def saturation(x: torch.Tensor, rng: rnd.Rng, *, low: float, high: float) -> torch.Tensor:
    """Scale the distance of each pixel from its own grey value by U(low, high); nothing happens to one channel."""
    grey = x.mean(dim=1, keepdim=True)
    return (x - grey) * _uniform(x, low, high, rng) + grey


def contrast(x: torch.Tensor, rng: rnd.Rng, *, low: float, high: float) -> torch.Tensor:
    """Scale the distance from the image's mean by U(low, high)."""
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    return (x - mean) * _uniform(x, low, high, rng) + mean


def translation(x: torch.Tensor, rng: rnd.Rng, *, fill: float | None, ratio: float) -> torch.Tensor:
    """Shift by whole pixels, up to `ratio` of the size each way; uncovered pixels become `fill`, or (None) what the
    nearest pixel of the image is."""
    n, channels, height, width = x.shape
    sources, inside = [], []
    for size in (height, width):
        reach = int(size * ratio + 0.5)
        source = torch.arange(size, device=x.device) + rnd.randint(-reach, reach + 1, [n, 1], rng, x.device)
        sources.append(source.clamp(0, size - 1))
        inside.append((source >= 0) & (source < size))
    index = (sources[0][:, :, None] * width + sources[1][:, None, :]).reshape(n, 1, height * width)
    y = x.flatten(2).gather(2, index.expand(n, channels, height * width)).reshape(x.shape)
    if fill is None:
        return y
    return torch.where((inside[0][:, :, None] & inside[1][:, None, :])[:, None], y, fill)


def cutout(x: torch.Tensor, rng: rnd.Rng, *, ratio: float) -> torch.Tensor:
    """Set a rectangle of `ratio` times the size to 0; its centre may be anywhere, so that it may stick out."""
    covered = []
    for size in x.shape[2:]:
        length = int(size * ratio + 0.5)
        # The centre of an even rectangle lies between pixels: one more place.
        centre = rnd.randint(0, size + 1 - length % 2, [len(x), 1], rng, x.device)
        start = centre - length // 2
        pixel = torch.arange(size, device=x.device)
        covered.append((pixel >= start) & (pixel < start + length))
    return x * ~(covered[0][:, :, None] & covered[1][:, None, :])[:, None]


POLICIES: dict[str, tuple[Transform, ...]] = {
    "color": (
        partial(brightness, limit=0.5),
        partial(saturation, low=0, high=2),
        partial(contrast, low=0.5, high=1.5),
    ),
    "translation": (partial(translation, ratio=1 / 8, fill=0.0),),
    "cutout": (partial(cutout, ratio=0.5),),
    "light": (
        partial(translation, ratio=1 / 8, fill=None),
        partial(brightness, limit=0.2),
        partial(contrast, low=0.8, high=1.2),
    ),
}


class DiffAugment(nn.Module):
    """Apply the named policies, in the order given, to every image.

    `policy`: comma-separated names of `POLICIES`, for example 'color,translation,cutout' or 'light'.
    Raises UserError for an unknown or empty policy.
    """

    def __init__(self, policy: str):
        super().__init__()
        names = [name.strip() for name in policy.split(",") if name.strip()]
        unknown = [name for name in names if name not in POLICIES]
        if unknown or not names:
            raise UserError(f"unknown DiffAugment policy {(unknown or [policy])[0]!r}; use a comma-separated list of "
                            f"{', '.join(POLICIES)}")
        self.transforms = tuple(t for name in names for t in POLICIES[name])

    def forward(self, images: torch.Tensor, *, rng: rnd.Rng = None) -> torch.Tensor:
        """Augment images [N, C, H, W], floats in [-1, 1], 1 or more channels; same shape and dtype.

        Each sample has its own draws from `rng`. Differentiable twice; results may leave [-1, 1].
        """
        for transform in self.transforms:
            images = transform(images, rng)
        return images
