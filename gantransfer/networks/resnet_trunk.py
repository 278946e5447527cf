# SPDX-License-Identifier: Apache-2.0
"""The residual trunk that label embedding and the density ratio's feature extractor share: ResNet of basic blocks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm around a shortcut, which is 1x1 where size or width change."""

    def __init__(self, in_ch: int, out_ch: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_ch, out_ch, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_ch)
        self.conv2 = nn.Conv2d(out_ch, out_ch, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_ch)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_ch != out_ch:
            self.shortcut = nn.Sequential(nn.Conv2d(in_ch, out_ch, 1, stride, bias=False), nn.BatchNorm2d(out_ch))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


def trunk(in_ch: int, width: int, blocks: Sequence[int], first_stride: int) -> nn.Sequential:
    """Images [N, in_ch, R, R] -> maps [N, width * 2^(stages - 1), r, r]: a convolution, then stages of `blocks[i]`
    blocks, each but the first halving the size and doubling the width; the first has `first_stride`."""
    stem = [nn.Conv2d(in_ch, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    stages, ch = [], width
    for i, n in enumerate(blocks):
        out = width * 2**i
        stages.append(nn.Sequential(*[BasicBlock(ch if k == 0 else out, out,
                                                 (first_stride if i == 0 else 2) if k == 0 else 1) for k in range(n)]))
        ch = out
    return nn.Sequential(*stem, *stages)
