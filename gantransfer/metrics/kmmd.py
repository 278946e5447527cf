# SPDX-License-Identifier: Apache-2.0
"""Kernel MMD as reported by cGANTransfer: biased, Gaussian, scale from the real set, the square root of MMD^2."""

from __future__ import annotations

import torch

from gantransfer.metrics.arrays import Array, MetricError, as_pair
from gantransfer.metrics.distances import COL_BLOCK, ROW_BLOCK, Centred, blocks, centre_of, squared_block


def kmmd(real: Array, fake: Array, sigma: float = 1.0) -> float:
    """sqrt(mean K_rr + mean K_ff - 2 mean K_rf), K = exp(-D / (2 sigma^2 s)), D squared distances.

    s is the mean of D over all pairs of real rows, its zero diagonal included. Not symmetric in its arguments. float64,
    blocks only (never an N x N matrix). Raises MetricError when all real rows are equal (s = 0).
    """
    real, fake = as_pair(real, fake)
    centre = centre_of(real)
    r, f = Centred(real, centre), Centred(fake, centre)
    # mean over pairs of |a - b|^2 = 2 (mean |a|^2 - |mean a|^2); rows are centred, so the second term is rounding
    scale = 2 * sum(float((r.rows(b) ** 2).sum()) for b in blocks(len(r), ROW_BLOCK)) / len(r)
    if scale <= 0:
        raise MetricError("KMMD: all real rows are equal, so the kernel has no scale")
    factor = -1 / (2 * sigma**2 * scale)
    value = _kernel_mean(r, r, factor) + _kernel_mean(f, f, factor) - 2 * _kernel_mean(r, f, factor)
    return max(value, 0.0) ** 0.5


def _kernel_mean(a: Centred, b: Centred, factor: float) -> float:
    total = 0.0
    for rows in blocks(len(a), ROW_BLOCK):
        x = a.rows(rows)
        for cols in blocks(len(b), COL_BLOCK):
            total += float(torch.exp(squared_block(x, b.rows(cols))[0].mul_(factor)).sum())
    return total / (len(a) * len(b))
