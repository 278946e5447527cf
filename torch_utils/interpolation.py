# SPDX-License-Identifier: Apache-2.0
"""Spherical interpolation (Shoemake 1985)."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def slerp(a: torch.Tensor, b: torch.Tensor, t: torch.Tensor | float) -> torch.Tensor:
    """sin((1 - t) x) / sin x a + sin(t x) / sin x b, x the angle between a and b [..., D], rows of any length.

    `t` is a number or broadcasts with [..., 1]. Straight where the rows are parallel.
    """
    tiny = torch.finfo(a.dtype).tiny
    cosine = (F.normalize(a, dim=-1, eps=tiny) * F.normalize(b, dim=-1, eps=tiny)).sum(-1, keepdim=True)
    angle = torch.acos(cosine.clamp(-1, 1))
    sine = torch.sin(angle)
    parallel = sine.abs() < 1e-6
    sine = torch.where(parallel, torch.ones_like(sine), sine)
    return torch.where(parallel, torch.lerp(a, b, torch.as_tensor(t).to(a)),
                       torch.sin((1 - t) * angle) / sine * a + torch.sin(t * angle) / sine * b)
