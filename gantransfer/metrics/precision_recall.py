# SPDX-License-Identifier: Apache-2.0
"""k-nearest-neighbour precision and recall (Kynkaanniemi et al. 2019, arXiv:1904.06991) and density and coverage
(Naeem et al. 2020, arXiv:2002.09797). `real` and `fake` are named arguments throughout: exchanging them is the classic
mistake, since precision(real, fake) = recall(fake, real)."""

from __future__ import annotations

from typing import NamedTuple

import torch

from gantransfer.metrics import distances
from gantransfer.metrics.feature_matrix import Array, as_pair


class PrecisionRecall(NamedTuple):
    precision: float  # share of generated rows inside the real manifold
    recall: float  # share of real rows inside the generated manifold


class DensityCoverage(NamedTuple):
    density: float  # mean number of real balls around a generated row, over k; may exceed 1
    coverage: float  # share of real rows whose ball holds a generated row


def precision_recall(real: Array, fake: Array, k: int = 3, *, strict: bool = False,
                     device: torch.device | str | None = None) -> PrecisionRecall:
    """Precision and recall of `fake` [M, D] against `real` [N, D] with balls to the k-th nearest other row.

    Balls are closed (`<=`, StyleGAN2-ADA and torch-fidelity); `strict` gives the open balls of prdc. Raises MetricError
    when a set has no more than k rows.
    """
    r, f = _prepare(real, fake, device)
    return PrecisionRecall(_covered(f, r, distances.kth_neighbour_squared(r, k), strict),
                           _covered(r, f, distances.kth_neighbour_squared(f, k), strict))


def density_coverage(real: Array, fake: Array, k: int = 5, *,
                     device: torch.device | str | None = None) -> DensityCoverage:
    """Density and coverage of `fake` [M, D] against `real` [N, D], open balls (`<`) around real rows."""
    r, f = _prepare(real, fake, device)
    radii = distances.kth_neighbour_squared(r, k)
    inside, covered = 0, torch.zeros(len(r), dtype=torch.bool, device=radii.device)
    for rows in distances.blocks(len(f), distances.ROW_BLOCK):
        for cols in distances.blocks(len(r), distances.COL_BLOCK):
            hit = distances.below(f, rows, r, cols, radii[cols], strict=True)
            inside += int(hit.sum())
            covered[cols] |= hit.any(0)
    return DensityCoverage(inside / (k * len(f)), float(covered.double().mean()))


def _prepare(real: Array, fake: Array, device) -> tuple[distances.Centred, distances.Centred]:
    real, fake = as_pair(real, fake)
    if device is not None:
        real, fake = real.to(device), fake.to(device)
    centre = distances.centre_of(real)
    return distances.Centred(real, centre), distances.Centred(fake, centre)


def _covered(points: distances.Centred, centres: distances.Centred, radii: torch.Tensor, strict: bool) -> float:
    """Share of `points` that lie in the ball of at least one centre."""
    count = 0
    for rows in distances.blocks(len(points), distances.ROW_BLOCK):
        hit = torch.zeros(rows.stop - rows.start, dtype=torch.bool, device=radii.device)
        for cols in distances.blocks(len(centres), distances.COL_BLOCK):
            hit |= distances.below(points, rows, centres, cols, radii[cols], strict).any(1)
        count += int(hit.sum())
    return count / len(points)
