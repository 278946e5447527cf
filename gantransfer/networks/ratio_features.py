# SPDX-License-Identifier: Apache-2.0
"""What the density ratio looks at: a sparse auto-encoder (continuous labels) or a classifier's wide layer (classes)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from gantransfer.networks.resnet_trunk import trunk

# (inner, outer) channel multiples of the encoder's stages; the decoder's from the code on.
_DOWN = ((1, 1), (1, 2), (2, 4), (4, 4))
_UP = ((4, 2), (2, 1), (1, 1), (1, 1))


def _stages(resolution: int) -> int:
    n = int(math.log2(resolution)) - 2
    if 2 ** (n + 2) != resolution or not 1 <= n <= len(_DOWN):
        raise ValueError(f"no sparse auto-encoder for {resolution} pixels; there are 8, 16, 32 and 64")
    return n


class SparseEncoder(nn.Module):
    """Images [N, C, R, R] in [-1, 1] -> features [N, dim], not negative. dim: as many as the image has values."""

    def __init__(self, resolution: int = 64, img_channels: int = 3, ch: int = 64, dim: int | None = None):
        super().__init__()
        n, dim = _stages(resolution), dim or img_channels * resolution**2
        self.init_kwargs = dict(resolution=resolution, img_channels=img_channels, ch=ch, dim=dim)
        self.dim = dim
        layers: list[nn.Module] = []
        last = img_channels
        for a, b in _DOWN[:n]:
            layers += [nn.Conv2d(last, a * ch, 4, 2, 1), nn.BatchNorm2d(a * ch), nn.ReLU(),
                       nn.Conv2d(a * ch, b * ch, 3, 1, 1), nn.BatchNorm2d(b * ch), nn.ReLU()]
            last = b * ch
        self.conv = nn.Sequential(*layers)
        self.fc = nn.Sequential(nn.Linear(16 * last, dim), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(x).flatten(1))


class SparseDecoder(nn.Module):
    """Features [N, dim] -> images [N, C, R, R] in [-1, 1]."""

    def __init__(self, resolution: int = 64, img_channels: int = 3, ch: int = 64, dim: int | None = None):
        super().__init__()
        n, dim = _stages(resolution), dim or img_channels * resolution**2
        self.init_kwargs = dict(resolution=resolution, img_channels=img_channels, ch=ch, dim=dim)
        last = self.width = _DOWN[n - 1][1] * ch
        self.fc = nn.Sequential(nn.Linear(dim, 16 * last), nn.BatchNorm1d(16 * last), nn.ReLU())
        layers: list[nn.Module] = []
        for a, b in _UP[-n:]:
            layers += [nn.ConvTranspose2d(last, a * ch, 4, 2, 1), nn.BatchNorm2d(a * ch), nn.ReLU(),
                       nn.Conv2d(a * ch, b * ch, 3, 1, 1), nn.BatchNorm2d(b * ch), nn.ReLU()]
            last = b * ch
        self.deconv = nn.Sequential(*layers, nn.Conv2d(last, img_channels, 1), nn.Tanh())

    def forward(self, phi: torch.Tensor) -> torch.Tensor:
        return self.deconv(self.fc(phi).reshape(len(phi), self.width, 4, 4))


class LabelPredictor(nn.Module):
    """Features [N, dim] -> normalised label [N, 1], not negative."""

    def __init__(self, dim: int, widths: Sequence[int] = (1024, 512, 256)):
        super().__init__()
        self.init_kwargs = dict(dim=dim, widths=list(widths))
        layers: list[nn.Module] = []
        for a, b in zip([dim, *widths], widths):
            layers += [nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU()]
        self.predict = nn.Sequential(*layers, nn.Linear(widths[-1], 1), nn.ReLU())
        nn.init.constant_(self.predict[-2].bias, 0.5)  # starts in the middle of the labels, where ReLU has a gradient

    def forward(self, phi: torch.Tensor) -> torch.Tensor:
        return self.predict(phi)


class SparseLoss(NamedTuple):
    """Terms per sample, each [N]."""

    reconstruction: torch.Tensor
    sparsity: torch.Tensor  # weighted
    regression: torch.Tensor  # weighted

    def total(self) -> torch.Tensor:
        return self.reconstruction + self.sparsity + self.regression


def sparse_ae_loss(x: torch.Tensor, y: torch.Tensor, phi: torch.Tensor, recon: torch.Tensor, pred: torch.Tensor,
                   sparsity: float = 1e-3, regression: float = 1.0) -> SparseLoss:
    """Squared error of the image, mean feature (features are not negative), squared error of the label y [N]."""
    return SparseLoss((recon - x).square().flatten(1).mean(1), sparsity * phi.mean(1),
                      regression * (pred.reshape(-1) - y.reshape(-1)).square())


class Extracted(NamedTuple):
    logits: torch.Tensor  # [N, classes]
    features: torch.Tensor  # [N, dim], before any activation


class FeatureExtractor(nn.Module):
    """A residual classifier with a layer as wide as the image: its output, before activation, is the feature."""

    def __init__(self, num_classes: int, dim: int, img_channels: int = 3, width: int = 64,
                 blocks: Sequence[int] = (3, 4, 6, 3), head: Sequence[int] = (1024, 256), dropout: float = 0.5):
        super().__init__()
        self.init_kwargs = dict(num_classes=num_classes, dim=dim, img_channels=img_channels, width=width,
                                blocks=list(blocks), head=list(head), dropout=dropout)
        self.dim = dim
        self.main = trunk(img_channels, width, blocks, first_stride=1)
        self.classifier_1 = nn.Sequential(nn.Linear(width * 2 ** (len(blocks) - 1), dim))
        layers: list[nn.Module] = []
        for a, b in zip([dim, *head], [*head, num_classes]):
            layers += [nn.BatchNorm1d(a), nn.ReLU(), nn.Dropout(dropout), nn.Linear(a, b)]
        self.classifier_2 = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> Extracted:
        phi = self.classifier_1(F.adaptive_avg_pool2d(self.main(x), 1).flatten(1))
        return Extracted(self.classifier_2(phi), phi)
