# SPDX-License-Identifier: Apache-2.0
"""Kernel MMD with a Gaussian kernel whose scale comes from the real set.

Two definitions are in print: what cGANTransfer's code reports, biased and the square root of MMD^2; and the papers'
expectation over pairs of different images, MMD^2 without root or bias (Gretton et al. 2012; Xu et al. 2018, "An
empirical study on evaluation metrics of generative adversarial networks").
"""

from __future__ import annotations

import torch

from gantransfer.metrics.distances import COL_BLOCK, ROW_BLOCK, Centred, blocks, centre_of, squared_block
from gantransfer.metrics.feature_matrix import Array, MetricError, as_pair


def kmmd(real: Array, fake: Array, sigma: float = 1.0) -> float:
    """sqrt(mean K_rr + mean K_ff - 2 mean K_rf), K = exp(-D / (2 sigma^2 s)), D squared distances.

    s is the mean of D over all pairs of real rows, its zero diagonal included. Not symmetric in its arguments. float64,
    blocks only (never an N x N matrix). Raises MetricError when all real rows are equal (s = 0).
    """
    r, f, scale = _centred(real, fake)
    factor = -1 / (2 * sigma**2 * scale)
    value = kernel_mean(r, r, factor) + kernel_mean(f, f, factor) - 2 * kernel_mean(r, f, factor)
    return max(value, 0.0) ** 0.5


def kmmd_unbiased(real: Array, fake: Array, sigma: float = 1.0, parts: int = 10) -> tuple[float, float]:
    """(MMD^2 = E K(r, r') + E K(f, f') - 2 E K(r, f) over pairs of different rows, its standard error).

    The kernel is that of `kmmd`, with the zero diagonal left out of s. May be negative. The error comes from `parts`
    disjoint interleaved subsets of both sets (fewer where a subset would have less than two rows).
    """
    r, f, scale = _centred(real, fake)
    if min(len(r), len(f)) < 4:
        raise MetricError(f"KMMD needs at least four rows on each side, got {len(r)} and {len(f)}")
    factor = -(len(r) - 1) / (2 * sigma**2 * scale * len(r))

    def estimate(a: Centred, b: Centred) -> float:
        return _off_diagonal(a, factor) + _off_diagonal(b, factor) - 2 * kernel_mean(a, b, factor)

    parts = min(parts, len(r) // 2, len(f) // 2)
    real, fake = as_pair(real, fake)
    centre = centre_of(real)
    values = torch.tensor([estimate(Centred(real[k::parts], centre), Centred(fake[k::parts], centre))
                           for k in range(parts)], dtype=torch.float64)
    return estimate(r, f), float(values.std() / parts**0.5)


def _centred(real: Array, fake: Array) -> tuple[Centred, Centred, float]:
    """Both sets about the real mean, and the mean squared distance over all pairs of real rows."""
    real, fake = as_pair(real, fake)
    centre = centre_of(real)
    r, f = Centred(real, centre), Centred(fake, centre)
    # mean over pairs of |a - b|^2 = 2 (mean |a|^2 - |mean a|^2); rows are centred, so the second term is rounding
    scale = 2 * sum(float((r.rows(b) ** 2).sum()) for b in blocks(len(r), ROW_BLOCK)) / len(r)
    if scale <= 0:
        raise MetricError("KMMD: all real rows are equal, so the kernel has no scale")
    return r, f, scale


def _off_diagonal(a: Centred, factor: float) -> float:
    """Kernel mean over pairs of different rows; a row's kernel with itself is 1."""
    n = len(a)
    return (n * kernel_mean(a, a, factor) - 1) / (n - 1)


def kernel_mean(a: Centred, b: Centred, factor: float) -> float:
    """Mean of exp(factor |x - y|^2) over all pairs of a row x of `a` and a row y of `b`."""
    total = 0.0
    for rows in blocks(len(a), ROW_BLOCK):
        x = a.rows(rows)
        for cols in blocks(len(b), COL_BLOCK):
            total += float(torch.exp(squared_block(x, b.rows(cols))[0].mul_(factor)).sum())
    return total / (len(a) * len(b))
