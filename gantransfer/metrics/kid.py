# SPDX-License-Identifier: Apache-2.0
"""Kernel inception distance: unbiased squared MMD with a cubic polynomial kernel (Binkowski et al. 2018,
arXiv:1801.01401). Negative values are legitimate for near-equal distributions and are reported as they are."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from dnnlib import seeding
from gantransfer.metrics.feature_matrix import Array, MetricError, as_pair

_BLOCK = 4096  # rows of a kernel block: 4096 x 4096 float64 = 128 MiB


def cubic_kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(a.b / D + 1)^3 for all pairs of rows: [n, D], [m, D] -> [n, m]."""
    k = a @ b.T / a.shape[1] + 1
    return k * k * k


def mmd2_unbiased(x: Array, y: Array) -> float:
    """Unbiased squared MMD of two sets of n, m >= 2 rows: diagonals of the within-set kernels are omitted."""
    x, y = as_pair(x, y)
    n, m = len(x), len(y)
    if min(n, m) < 2:
        raise MetricError(f"unbiased MMD needs at least 2 rows on each side, got {n} and {m}")
    x, y = x.double(), y.double()
    pairs = n * (n - 1)
    # the factor of the second sum is exactly 1 for equal sizes, where published figures were made
    within = _kernel_sum(x, x, diagonal=False) + _kernel_sum(y, y, diagonal=False) * (pairs / (m * (m - 1)))
    return within / pairs - 2 * _kernel_sum(x, y) / (n * m)


def _kernel_sum(a: torch.Tensor, b: torch.Tensor, diagonal: bool = True) -> float:
    total = 0.0
    for i, p in enumerate(a.split(_BLOCK)):
        for j, q in enumerate(b.split(_BLOCK)):
            k = cubic_kernel(p, q)
            total += float(k.sum() if diagonal or i != j else k.sum() - k.diagonal().sum())
    return total


def draw_subsets(num_real: int, num_fake: int, num_subsets: int, size: int,
                 rng: np.random.RandomState) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """`num_subsets` pairs (rows of real, rows of fake), without replacement within a subset.

    The generated rows are drawn first: with one legacy MT19937 seed this repeats the subsets of torch-fidelity,
    clean-fid and the StyleGAN2-ADA code.
    """
    for _ in range(num_subsets):
        fake = rng.choice(num_fake, size, replace=False)
        yield rng.choice(num_real, size, replace=False), fake


def kid_on_subsets(real: Array, fake: Array, subsets) -> np.ndarray:
    """Unbiased cubic MMD^2 per (real rows, fake rows) pair of index arrays: float64 [S]."""
    real, fake = as_pair(real, fake)
    return np.array([mmd2_unbiased(real[torch.as_tensor(r)], fake[torch.as_tensor(f)]) for r, f in subsets])


def kid(real: Array, fake: Array, num_subsets: int = 100, max_subset_size: int = 1000,
        seed: int = 2020) -> tuple[float, float]:
    """(mean, standard deviation with divisor S) of MMD^2 over seeded subsets of min(N, M, max_subset_size) rows."""
    real, fake = as_pair(real, fake)
    size = min(len(real), len(fake), max_subset_size)
    if size < 2:
        raise MetricError(f"KID needs at least 2 rows on each side, got {len(real)} and {len(fake)}")
    rng = seeding.numpy_rng(seed)
    values = kid_on_subsets(real, fake, draw_subsets(len(real), len(fake), num_subsets, size, rng))
    return float(values.mean()), float(values.std())


def kid_full(real: Array, fake: Array) -> float:
    """One unbiased MMD^2 on the first min(N, M) rows of both sets, in row order."""
    m = min(len(real), len(fake))
    return mmd2_unbiased(real[:m], fake[:m])
