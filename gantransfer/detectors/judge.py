# SPDX-License-Identifier: Apache-2.0
"""A small convolutional classifier that judges generated images of a small data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn, ones

from gantransfer.networks.sizes import ImageSize


class Judgement(NamedTuple):
    features: Tensor  # [N, num_features]
    logits: Tensor  # [N, num_classes]


class DigitsJudge(nn.Module):
    """Three 3x3 convolutions with max pooling, a linear layer of `num_features` features, a linear classifier.

    forward: images [N, channels, H, W] in 0..255 -> Judgement; resolution: R for R x R, or (H, W). Features are taken
    before the last leaky ReLU and multiplied by the buffer `feature_scale`, set after training so that the total
    variance of the training images' features is 100.
    """

    def __init__(self, resolution: int | Sequence[int] = 16, channels: int = 1, num_classes: int = 10,
                 num_features: int = 32, widths: tuple[int, int, int] = (16, 32, 64), dropout: float = 0.3):
        super().__init__()
        height, width = (-(-side // 8) for side in ImageSize.of(resolution))
        self.init_kwargs = dict(resolution=resolution, channels=channels, num_classes=num_classes,
                                num_features=num_features, widths=list(widths), dropout=dropout)
        cin = [channels, *widths]
        self.convs = nn.ModuleList([nn.Conv2d(a, b, 3, padding=1) for a, b in zip(cin[:-1], cin[1:])])
        self.embed = nn.Linear(widths[-1] * height * width, num_features)
        self.dropout = nn.Dropout(dropout)
        self.classify = nn.Linear(num_features, num_classes)
        self.register_buffer("feature_scale", ones([]))

    def forward(self, x: Tensor) -> Judgement:
        x = x / 127.5 - 1
        for conv in self.convs:
            x = F.max_pool2d(F.leaky_relu(conv(x), 0.2), 2, ceil_mode=True)
        features = self.embed(x.flatten(1))
        return Judgement(features * self.feature_scale, self.classify(self.dropout(F.leaky_relu(features, 0.2))))
