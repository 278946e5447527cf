# SPDX-License-Identifier: Apache-2.0
"""VGG16 (Simonyan & Zisserman 2014) for fully connected features, and LPIPS on top of it (Zhang et al. 2018,
arXiv:1801.03924). State-dict names are torchvision's; the five LPIPS weightings are `lin.0` .. `lin.4` [C]."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_WIDTHS = (64, 64, None, 128, 128, None, 256, 256, 256, None, 512, 512, 512, None, 512, 512, 512, None)
STAGES = (64, 128, 256, 512, 512)
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _features() -> nn.Sequential:
    layers, cin = [], 3
    for width in _WIDTHS:
        if width is None:
            layers.append(nn.MaxPool2d(2, 2))
        else:
            layers += [nn.Conv2d(cin, width, 3, padding=1), nn.ReLU()]
            cin = width
    return nn.Sequential(*layers)


def imagenet_normalise(x: Tensor) -> Tensor:
    """[N, 3, H, W] in 0..255 to zero mean, unit variance over ImageNet. Equals LPIPS's scaling layer."""
    mean, std = (x.new_tensor(v).reshape(1, 3, 1, 1) * 255 for v in (_MEAN, _STD))
    return (x - mean) / std


class VGG16(nn.Module):
    """forward: ImageNet-normalised [N, 3, 224, 224] -> [N, 4096], the second fully connected layer after its ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.features = _features()
        self.classifier = nn.Sequential(nn.Linear(512 * 49, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, 4096),
                                        nn.ReLU(), nn.Dropout(), nn.Linear(4096, 1000))

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(self.features(x), 7).flatten(1)
        return self.classifier[:5](x)


class LPIPS(nn.Module):
    """Learned perceptual distance. Images are [N, 3, H, W] in 0..255, H, W >= 16."""

    def __init__(self) -> None:
        super().__init__()
        self.features = _features()
        self.lin = nn.ParameterList([nn.Parameter(torch.ones(c)) for c in STAGES])

    def embed(self, x: Tensor) -> Tensor:
        """A vector [N, *] per image: the squared difference of two of them is their LPIPS distance.

        Per stage the channels are normalised to unit length (eps 1e-10), weighted by sqrt(w_c) and divided by the
        square root of the number of positions.
        """
        parts, stage, x = [], 0, imagenet_normalise(x)
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                unit = x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)
                weight = self.lin[stage].clamp(min=0).sqrt().reshape(1, -1, 1, 1)
                parts.append((unit * weight / (x.shape[2] * x.shape[3]) ** 0.5).flatten(1))
                stage += 1
            x = layer(x)
        return torch.cat(parts, 1)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """LPIPS distance per pair [N]."""
        return (self.embed(a) - self.embed(b)).square().sum(1)


def lpips_state(vgg: Mapping[str, Tensor], linear: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of LPIPS from a torchvision VGG16 file and an LPIPS calibration file (names `lin0...weight`).

    Raises KeyError naming what is missing.
    """
    out = {k: v for k, v in vgg.items() if k.startswith("features.")}
    if not out:
        raise KeyError("features.0.weight")
    for stage, width in enumerate(STAGES):
        found = [v for k, v in linear.items() if re.search(rf"\blin{stage}\b.*weight$", k) and v.numel() == width]
        if len(found) != 1:
            raise KeyError(f"lin{stage}.model.1.weight [1, {width}, 1, 1]")
        out[f"lin.{stage}"] = found[0].reshape(width)
    return out
