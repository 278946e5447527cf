# SPDX-License-Identifier: Apache-2.0
"""Codes of a continuous label (CcGAN's improved label input): h = y2h(y), such that images of label y carry h.

`ImageToLabel` learns a code from images on the way to their label; `LabelToEmbedding` learns to give, from the label
alone, a code that the first network's head turns back into the label. State-dict keys are the published ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from gantransfer.networks.resnet_trunk import trunk


class LabelToEmbedding(nn.Module):
    """Normalised labels [N] or [N, 1] -> codes [N, dim], not negative. dim: a multiple of 8 from 16 on (groups of one
    element would be constant)."""

    def __init__(self, dim: int = 128, groups: int = 8):
        super().__init__()
        self.init_kwargs = dict(dim=dim, groups=groups)
        self.dim = dim
        layers: list[nn.Module] = []
        for i in range(4):
            layers += [nn.Linear(1 if i == 0 else dim, dim), nn.GroupNorm(groups, dim), nn.ReLU()]
        self.main = nn.Sequential(*layers, nn.Linear(dim, dim), nn.ReLU())

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        return self.main(y.reshape(-1, 1) + 1e-8)


class Embedded(NamedTuple):
    label: torch.Tensor  # [N, 1] normalised
    code: torch.Tensor  # [N, dim]


class ImageToLabel(nn.Module):
    """Images [N, C, R, R] -> (label [N, 1], code [N, dim]): a residual network, two layers, and the head h2y."""

    def __init__(self, dim: int = 128, width: int = 64, blocks: Sequence[int] = (3, 4, 6, 3), img_channels: int = 3):
        super().__init__()
        self.init_kwargs = dict(dim=dim, width=width, blocks=list(blocks), img_channels=img_channels)
        self.main = trunk(img_channels, width, blocks, first_stride=2)
        wide = width * 2 ** (len(blocks) - 1)
        self.x2h_res = nn.Sequential(nn.Linear(wide, wide), nn.BatchNorm1d(wide), nn.ReLU(),
                                     nn.Linear(wide, dim), nn.BatchNorm1d(dim), nn.ReLU())
        self.h2y = nn.Sequential(nn.Linear(dim, 1), nn.ReLU())
        # A head that starts below zero for all codes would have no gradient: it starts in the middle of the labels.
        nn.init.constant_(self.h2y[0].bias, 0.5)

    def forward(self, x: torch.Tensor) -> Embedded:
        h = self.x2h_res(F.adaptive_avg_pool2d(self.main(x), 1).flatten(1))
        return Embedded(self.h2y(h), h)
