# SPDX-License-Identifier: Apache-2.0
"""Frechet distance between Gaussians fitted to two feature sets (Heusel et al. 2017, arXiv:1706.08500).

    |mx - my|^2 + tr Sx + tr Sy - 2 tr (Sx Sy)^(1/2)

The square root's trace is computed without a matrix square root: through symmetric eigenvalues when both sets have
more rows than columns, else through singular values of the product of two factors, which is exact for rank-deficient
covariances. The divisor (`ddof`) is part of a protocol: 0 for the NVIDIA names, 1 for clean-fid, pytorch-fid, BigGAN.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from dnnlib import seeding
from gantransfer.metrics.feature_matrix import Array, MetricError, as_features


@dataclass(frozen=True)
class Moments:
    """Count, mean [D] and scatter [D, D] (sum of centred outer products, divisor-free), float64.

    `features` [N, D] are kept when there are no more rows than columns: the distance is exact only with them.
    """

    num: int
    mean: torch.Tensor
    scatter: torch.Tensor
    features: torch.Tensor | None = None

    @property
    def dim(self) -> int:
        return len(self.mean)

    def cov(self, ddof: int) -> torch.Tensor:
        """Covariance [D, D] with divisor num - ddof. Raises MetricError when that is not positive."""
        if self.num - ddof < 1:
            raise MetricError(f"covariance with divisor n-{ddof} needs more than {self.num} row(s)")
        return self.scatter / (self.num - ddof)

    @classmethod
    def of(cls, features: Array, name: str = "features") -> Moments:
        """Moments of a feature matrix [N, D], N >= 1."""
        x = as_features(features, name).double()
        if len(x) == 0:
            raise MetricError(f"{name}: no rows")
        mean = x.mean(0)
        centred = x - mean
        return cls(len(x), mean, centred.T @ centred, x if len(x) <= x.shape[1] else None)

    @classmethod
    def from_sums(cls, num: int, total: Array, outer: Array) -> Moments:
        """From raw sums: `total` [D] = sum x, `outer` [D, D] = sum x x^T, float64."""
        total = torch.as_tensor(total, dtype=torch.float64)
        outer = torch.as_tensor(outer, dtype=torch.float64)
        mean = total / num
        return cls(int(num), mean, outer - num * torch.outer(mean, mean))

    @classmethod
    def from_mean_cov(cls, num: int, mean: Array, cov: Array, ddof: int) -> Moments:
        """From published statistics (mu, sigma) whose covariance divisor was num - ddof."""
        mean = torch.as_tensor(mean, dtype=torch.float64)
        return cls(int(num), mean, torch.as_tensor(cov, dtype=torch.float64) * (num - ddof))


class RunningMoments:
    """Accumulates raw float64 sums of feature batches; keeps the rows while they are no more than the columns."""

    def __init__(self) -> None:
        self.num = 0
        self.total: torch.Tensor | None = None
        self.outer: torch.Tensor | None = None
        self._rows: list[torch.Tensor] | None = []

    def add(self, features: torch.Tensor) -> None:
        """Add rows [n, D] (finite; checked by the caller, who knows their index)."""
        x = features.double()
        if self.total is None:
            self.total = x.new_zeros(x.shape[1])
            self.outer = x.new_zeros(x.shape[1], x.shape[1])
        self.num += len(x)
        self.total += x.sum(0)
        self.outer.addmm_(x.T, x)
        if self._rows is not None:
            self._rows = None if self.num > x.shape[1] else [*self._rows, x]

    def finish(self) -> Moments:
        if self.total is None or self.num == 0:
            raise MetricError("no rows were added")
        if self._rows is not None:
            return Moments.of(torch.cat(self._rows))
        return Moments.from_sums(self.num, self.total, self.outer)


def frechet_distance(real: Moments | Array, fake: Moments | Array, ddof: int = 0) -> float:
    """Frechet distance of two sets given as Moments or as feature matrices [N, D], [M, D].

    (The released cGAN-KD classification scripts add the norm of the mean difference instead of its square.) Raises
    MetricError for inconsistent statistics.
    """
    x = real if isinstance(real, Moments) else Moments.of(real, "real features")
    y = fake if isinstance(fake, Moments) else Moments.of(fake, "generated features")
    if x.dim != y.dim:
        raise MetricError(f"real features have {x.dim} columns, generated ones {y.dim}")
    traces = float(torch.trace(x.cov(ddof)) + torch.trace(y.cov(ddof)))
    if not np.isfinite(traces):
        raise MetricError("statistics are not finite")
    value = float(((x.mean - y.mean) ** 2).sum()) + traces - 2 * _trace_sqrt(x, y, ddof)
    if value < -1e-6 * max(traces, np.finfo(np.float64).tiny):
        raise MetricError(f"Frechet distance is {value:.3g} with total variances summing to {traces:.3g}: "
                         "the statistics are inconsistent")
    return max(value, 0.0)


def _trace_sqrt(x: Moments, y: Moments, ddof: int) -> float:
    """tr (Sx Sy)^(1/2), which is the nuclear norm of Fx Fy^T for any factors with Fx^T Fx = Sx, Fy^T Fy = Sy."""
    if x.features is None and y.features is None:
        fx = _factor(x, ddof)
        product = fx @ y.cov(ddof) @ fx.T
        return float(torch.linalg.eigvalsh((product + product.T) / 2).clamp(min=0).sqrt().sum())
    return float(torch.linalg.svdvals(_factor(x, ddof) @ _factor(y, ddof).T).sum())


def _factor(m: Moments, ddof: int) -> torch.Tensor:
    """F [rank or D, D] with F^T F = covariance."""
    if m.features is not None:
        return (m.features - m.mean) / (m.num - ddof) ** 0.5
    w, v = torch.linalg.eigh(m.cov(ddof))
    return w.clamp(min=0).sqrt()[:, None] * v.T


def total_variance(real: Moments | Array, ddof: int = 1) -> float:
    """Trace of the covariance."""
    m = real if isinstance(real, Moments) else Moments.of(real)
    return float(torch.trace(m.cov(ddof)))


def fid_infinity(real: Moments | Array, fake: Array) -> tuple[float, np.ndarray, np.ndarray]:
    """FID extrapolated to infinitely many generated images (Chong & Forsyth 2020, arXiv:1911.07023).

    FID at 15 sizes evenly spaced from a tenth of the rows, at least two, to all M rows of `fake` [M, D], each on a
    seeded random subset; a straight line in 1/size is fitted. Returns (intercept, sizes [15], values [15]).
    """
    x = real if isinstance(real, Moments) else Moments.of(real, "real features")
    y = as_features(fake, "generated features")
    smallest = max(2, len(y) // 10)
    if smallest >= len(y):
        raise MetricError(f"FID-infinity needs at least two sizes between {smallest} and {len(y)} generated rows")
    sizes = np.unique(np.linspace(smallest, len(y), 15).astype(np.int64))
    rng = seeding.numpy_rng(0)
    values = np.array([frechet_distance(x, Moments.of(y[torch.as_tensor(rng.choice(len(y), int(n), replace=False))]))
                       for n in sizes])
    _, intercept = np.polyfit(1 / sizes, values, 1)
    return float(intercept), sizes, values


