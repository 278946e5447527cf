# SPDX-License-Identifier: Apache-2.0
"""Two differently distorted views of the same images, for contrastive terms (the list of Barlow Twins).

Nothing is differentiated through a view. Every sample draws for itself; all randomness comes from `rng`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from torch_utils import random as rnd


@torch.no_grad()
def two_views(x: torch.Tensor, rng: rnd.Rng) -> tuple[torch.Tensor, torch.Tensor]:
    """x [N, C, H, W] in [-1, 1] -> two views of the same shape and range."""
    return view(x, rng, blur=0.5, solarise=0.0), view(x, rng, blur=0.1, solarise=0.2)


@torch.no_grad()
def view(x: torch.Tensor, rng: rnd.Rng, blur: float, solarise: float) -> torch.Tensor:
    """Crop of 8-100 % of the area (sides 3:4 to 4:3), flip 0.5, colour jitter 0.8, grey 0.2, blur and solarise with
    the given probabilities."""
    def u(low: float = 0.0, high: float = 1.0) -> torch.Tensor:
        return low + (high - low) * rnd.rand([len(x), 1, 1, 1], rng, x.device)

    def some(p: float, changed: torch.Tensor) -> torch.Tensor:
        return torch.where(u() < p, changed, x)

    x = crop(x, u(0.08, 1.0), u(math.log(3 / 4), math.log(4 / 3)).exp(), u(), u())
    x = some(0.5, x.flip(3))
    x = (x + 1) / 2
    x = some(0.8, jitter(x, u(0.6, 1.4), u(0.6, 1.4), u(0.8, 1.2), u(-0.1, 0.1)))
    if x.shape[1] == 3:
        x = some(0.2, grey(x).expand_as(x))
    x = some(blur, gaussian3(x, 1.05))
    if solarise:
        x = some(solarise, torch.where(x >= u(0.0, 0.5), 1 - x, x))
    return x.clamp(0, 1) * 2 - 1


def crop(x: torch.Tensor, area: torch.Tensor, ratio: torch.Tensor, across: torch.Tensor,
         down: torch.Tensor) -> torch.Tensor:
    """A part of the image of relative `area` and width:height `ratio`, enlarged to full size (bicubic); `across` and
    `down` in [0, 1] say where it lies. All [N, 1, 1, 1]."""
    w, h = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    theta = torch.zeros([len(x), 2, 3], device=x.device, dtype=x.dtype)
    theta[:, 0, 0], theta[:, 1, 1] = w.flatten(), h.flatten()
    theta[:, 0, 2] = ((1 - w) * (2 * across - 1)).flatten()
    theta[:, 1, 2] = ((1 - h) * (2 * down - 1)).flatten()
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bicubic", padding_mode="reflection", align_corners=False)


def grey(x: torch.Tensor) -> torch.Tensor:
    """[N, 3, H, W] -> [N, 1, H, W]."""
    return (x * x.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)


def jitter(x: torch.Tensor, brightness: torch.Tensor, contrast: torch.Tensor, saturation: torch.Tensor,
           hue: torch.Tensor) -> torch.Tensor:
    """Colour changes of images in [0, 1]; the factors are [N, 1, 1, 1], hue is a part of a full turn (in YIQ)."""
    x = (x * brightness).clamp(0, 1)
    mean = (grey(x) if x.shape[1] == 3 else x).mean((1, 2, 3), keepdim=True)
    x = (mean + (x - mean) * contrast).clamp(0, 1)
    if x.shape[1] != 3:
        return x
    g = grey(x)
    x = (g + (x - g) * saturation).clamp(0, 1)
    to_yiq = x.new_tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
    y, i, q = torch.einsum("ck,nkhw->nchw", to_yiq, x).unbind(1)
    c, s = (2 * math.pi * hue[:, 0]).cos(), (2 * math.pi * hue[:, 0]).sin()
    turned = torch.stack([y, i * c - q * s, i * s + q * c], 1)
    return torch.einsum("ck,nkhw->nchw", torch.linalg.inv(to_yiq), turned).clamp(0, 1)


def gaussian3(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """Three taps each way, edges mirrored."""
    side = math.exp(-0.5 / sigma**2)
    k = x.new_tensor([side, 1.0, side]) / (1 + 2 * side)
    c = x.shape[1]
    x = F.pad(x, (1, 1, 1, 1), mode="reflect")
    x = F.conv2d(x, k.reshape(1, 1, 3, 1).expand(c, 1, 3, 1), groups=c)
    return F.conv2d(x, k.reshape(1, 1, 1, 3).expand(c, 1, 1, 3), groups=c)
