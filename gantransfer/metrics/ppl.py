# SPDX-License-Identifier: Apache-2.0
"""Perceptual path length (Karras et al. 2019, arXiv:1812.04948, section 4.1): the parts that need no generator."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from gantransfer.metrics.feature_matrix import MetricError
from torch_utils.interpolation import slerp

EPSILON = 1e-4


def lerp(a: torch.Tensor, b: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Straight interpolation; t broadcasts."""
    return a + (b - a) * t


def on_sphere(a: torch.Tensor, b: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Interpolation on the unit hypersphere: rows of a, b [..., D] are normalised first, t is [..., 1]; unit result."""
    return F.normalize(slerp(F.normalize(a, dim=-1), F.normalize(b, dim=-1), t), dim=-1)


def trimmed_mean(distances: np.ndarray, low: float = 1, high: float = 99) -> float:
    """Mean of the distances between the `low`-th (method lower) and `high`-th (method higher) percentile, inclusive."""
    d = np.asarray(distances, np.float64)
    if d.ndim != 1 or not len(d) or not np.isfinite(d).all():
        raise MetricError("path length needs a finite vector of distances")
    lo = np.percentile(d, low, method="lower")
    hi = np.percentile(d, high, method="higher")
    return float(d[(d >= lo) & (d <= hi)].mean())


def crop_face(images: torch.Tensor) -> torch.Tensor:
    """The centre used by the face variants: rows 3/8 .. 7/8, columns 2/8 .. 6/8 of a square image [N, C, R, R]."""
    c = images.shape[2] // 8
    return images[:, :, c * 3:c * 7, c * 2:c * 6]


def box_to_256(images: torch.Tensor) -> torch.Tensor:
    """Box-downsample images [N, C, H, W] larger than 256 by the integer factor R // 256, R the longer side."""
    factor = max(images.shape[2:]) // 256
    return F.avg_pool2d(images, factor) if factor > 1 else images
