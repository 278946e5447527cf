# SPDX-License-Identifier: Apache-2.0
"""Image resizing as different evaluation codes do it. They differ by more than many published improvements
(Parmar et al. 2022, arXiv:2104.11222), so each has a name. All take and return float32 [N, C, H, W] in 0..255."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor


def tf1(x: Tensor, size: int) -> Tensor:
    """TensorFlow 1 bilinear: source position i * in / out (no half-pixel shift), border clamped, no antialiasing."""
    for dim in (2, 3):
        n = x.shape[dim]
        pos = torch.arange(size, device=x.device, dtype=torch.float32) * (n / size)
        low = pos.floor().long().clamp(max=n - 1)
        frac = (pos - low).to(x.dtype).reshape([-1, 1] if dim == 2 else [-1])
        a, b = x.index_select(dim, low), x.index_select(dim, (low + 1).clamp(max=n - 1))
        x = a + (b - a) * frac
    return x


def half_pixel(x: Tensor, size: int) -> Tensor:
    """Half-pixel bilinear without antialiasing (pytorch-fid, PIQ)."""
    return F.interpolate(x, (size, size), mode="bilinear", align_corners=False)


def aligned_corners(x: Tensor, size: int) -> Tensor:
    """Bilinear with aligned corners (BigGAN-PyTorch, cGANTransfer)."""
    return F.interpolate(x, (size, size), mode="bilinear", align_corners=True)


def pil_bicubic(x: Tensor, size: int) -> Tensor:
    """Antialiased PIL bicubic on float channels, clipped to 0..255, not rounded (clean-fid). Runs on the CPU."""
    planes = x.detach().cpu().float().numpy().reshape(-1, *x.shape[2:])
    out = np.stack([np.asarray(Image.fromarray(p, mode=None).resize((size, size), Image.Resampling.BICUBIC))
                    for p in planes])
    return torch.from_numpy(out.clip(0, 255)).reshape(*x.shape[:2], size, size).to(x.device)


def pil_bicubic_uint8(x: Tensor, size: int) -> Tensor:
    """Antialiased PIL bicubic of 8-bit images: clipped and rounded (dgm-eval, torchvision's Resize of a PIL image). Not
    square: the sides are changed each by its own factor. Runs on the CPU."""
    planes = x.detach().cpu().to(torch.uint8).numpy().reshape(-1, *x.shape[2:])
    out = np.stack([np.asarray(Image.fromarray(p).resize((size, size), Image.Resampling.BICUBIC)) for p in planes])
    return torch.from_numpy(out).reshape(*x.shape[:2], size, size).to(x.device, torch.float32)


def crop_pil_bicubic_uint8(x: Tensor, size: int) -> Tensor:
    """The largest square in the middle, then `pil_bicubic_uint8` (CMMD)."""
    side = min(x.shape[2:])
    top, left = ((n - side) // 2 for n in x.shape[2:])
    return pil_bicubic_uint8(x[:, :, top:top + side, left:left + side], size)


def bicubic_antialias(x: Tensor, size: int) -> Tensor:
    """torch's antialiased bicubic, clipped to 0..255."""
    return bicubic_antialias_unclipped(x, size).clamp(0, 255)


def bicubic_antialias_unclipped(x: Tensor, size: int) -> Tensor:
    """The same as it comes: beside edges up to a tenth of the range outside 0..255 (EDM2's DINOv2 path)."""
    return F.interpolate(x, (size, size), mode="bicubic", antialias=True)


def box(x: Tensor, size: int) -> Tensor:
    """Mean over boxes; never enlarges: a side of at most `size` pixels is kept."""
    return F.adaptive_avg_pool2d(x, (min(size, x.shape[2]), min(size, x.shape[3])))


RESIZERS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "tf1": tf1, "half_pixel": half_pixel, "aligned_corners": aligned_corners, "pil_bicubic": pil_bicubic,
    "pil_bicubic_uint8": pil_bicubic_uint8, "crop_pil_bicubic_uint8": crop_pil_bicubic_uint8,
    "bicubic_antialias": bicubic_antialias, "bicubic_antialias_unclipped": bicubic_antialias_unclipped, "box": box,
}
