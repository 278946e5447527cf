# SPDX-License-Identifier: Apache-2.0
"""From uint8 images to a detector's input: channels, resize, range, normalisation."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dnnlib.util import UserError
from gantransfer.detectors import resize
from gantransfer.networks.sizes import ImageSize

IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of images in 0..255
CLIP_MEAN = tuple(255 * v for v in (0.48145466, 0.4578275, 0.40821073))
CLIP_STD = tuple(255 * v for v in (0.26862954, 0.26130258, 0.27577711))


@dataclass(frozen=True)
class InputSpec:
    """How uint8 images become the network's input: to `channels`, resize, scale to `range`, (x - mean) / std."""

    range: tuple[float, float] = (0.0, 255.0)
    dtype: str = "float32"
    channels: int | None = 3  # None: as they are
    size: int | tuple[int, int] | None = 299  # R for R x R, or (height, width); None: as they are
    resize: str | None = "tf1"  # a name of resize.RESIZERS; None: the images must have `size` already
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    quantize_uint8: bool = True

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, for descriptors and result lines."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    def check(self, channels: int, resolution: int | Sequence[int], name: str) -> None:
        """UserError when images of this shape cannot be judged."""
        if self.channels == 1 and channels != 1:
            raise UserError(f"detector '{name}' judges grey images, the data set has {channels} channels")
        if self.channels is not None and channels not in (1, self.channels):
            raise UserError(f"detector '{name}' takes {self.channels} channels, the data set has {channels}")
        if self.resize is None and self.size is not None:
            want, have = ImageSize.of(self.size), ImageSize.of(resolution)
            if want != have:
                raise UserError(f"detector '{name}' judges {want} images, the data set has {have}; train one of your "
                                "own with gantransfer judge")

    def prepare(self, images: Tensor) -> Tensor:
        """uint8 [N, C, H, W] -> float32 network input."""
        x = images.float()
        if self.channels == 3 and x.shape[1] == 1:
            x = x.expand(-1, 3, -1, -1)
        if self.resize is not None:
            x = resize.RESIZERS[self.resize](x, self.size)
        low, high = self.range
        if (low, high) != (0.0, 255.0):
            x = x * ((high - low) / 255) + low
        if any(self.mean) or any(s != 1 for s in self.std):
            x = (x - x.new_tensor(self.mean).reshape(-1, 1, 1)) / x.new_tensor(self.std).reshape(-1, 1, 1)
        return x


# The four named input paths of Inception evaluations.
PRESETS = {
    "tf1": InputSpec(resize="tf1", mean=(128.0,), std=(128.0,)),
    "pytorch_fid": InputSpec(resize="half_pixel", mean=(127.5,), std=(127.5,)),
    "clean": InputSpec(resize="pil_bicubic", mean=(128.0,), std=(128.0,)),
    "biggan": InputSpec(resize="aligned_corners", mean=IMAGENET_MEAN, std=IMAGENET_STD),
}
