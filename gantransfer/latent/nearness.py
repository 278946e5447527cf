# SPDX-License-Identifier: Apache-2.0
"""How near two images look: vectors of images whose squared difference is small for images that look alike.

With the weights of VGG16 at hand LPIPS (Zhang et al. 2018, arXiv:1801.03924), as published projections have it. Else
pixels at every scale, and the features of the snapshot's own discriminator, which was trained to see what matters in
such images (as in feature matching, Salimans et al. 2016), channels normalised to unit length as in LPIPS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import nn

from gantransfer.detectors import features, weights
from gantransfer.networks.stylegan2 import DiscriminatorBlock

LARGEST = 256  # pixels of a side that LPIPS sees, as published
LEAST = 16  # ... and what it needs
DETECTORS = ("lpips", "vgg16")  # names of files that have its weights

Embed = Callable[[torch.Tensor], torch.Tensor]


def nearness(D: nn.Module | None, shorter: int, device: torch.device,
             detectors: Mapping[str, str] | None = None) -> tuple[Embed, str]:
    """(images [N, C, H, W] in [-1, 1] -> [N, *], what it is in words). `D`: the snapshot's discriminator, if it has it;
    `shorter`: the shorter side.

    Raises UserError where `detectors` names weights that cannot be read.
    """
    if shorter >= LEAST:
        try:
            return lpips(features.load_lpips(device, detectors).embed), "LPIPS"
        except weights.MissingWeights:
            if detectors:
                raise
    blocks = [] if D is None else [m for m in D.modules() if isinstance(m, DiscriminatorBlock)]
    if not blocks:
        return pixels, "pixels at every scale; no weights of VGG16, no discriminator of StyleGAN2's kind"
    return (lambda x: torch.cat([pixels(x), seen_by(blocks, x)], 1),
            "pixels at every scale and the discriminator's features; no weights of VGG16")


def lpips(embed: Embed) -> Embed:
    def of(x: torch.Tensor) -> torch.Tensor:
        x = (x + 1) * 127.5
        longer = max(x.shape[2:])
        if longer > LARGEST:
            x = F.interpolate(x, size=[round(s * LARGEST / longer) for s in x.shape[2:]], mode="area")
        return embed(x if x.shape[1] == 3 else x.expand(-1, 3, -1, -1))

    return of


def pixels(x: torch.Tensor) -> torch.Tensor:
    """Of every scale down to 4 pixels, each counting the same: squared differences are mean squared differences."""
    parts = []
    while True:
        parts.append(x.flatten(1) / x[0].numel() ** 0.5)
        if min(x.shape[2:]) < 8:
            return torch.cat(parts, 1)
        x = F.avg_pool2d(x, 2)


def seen_by(blocks: list[DiscriminatorBlock], image: torch.Tensor) -> torch.Tensor:
    """Unit-length features of every block, each position and block counting the same."""
    parts, x, img = [], None, image
    for block in blocks:
        x, img = block(x, img, force_fp32=True)
        unit = F.normalize(x.float(), dim=1, eps=1e-10)
        parts.append((unit / (x.shape[2] * x.shape[3]) ** 0.5).flatten(1))
    return torch.cat(parts, 1)
