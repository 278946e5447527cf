# SPDX-License-Identifier: Apache-2.0
"""Blockwise Euclidean distances in bounded memory, exact where it matters.

Squared distances come from one matrix product per block (float64, rows centred). Its rounding would decide ties at
random (copies have distance 0, so radius 0), so every value that decides a comparison is recomputed from differences of
the rows as they are.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from gantransfer.metrics.feature_matrix import MetricError

ROW_BLOCK, COL_BLOCK = 2048, 4096
_RECHECK_ELEMENTS = 1 << 24  # 128 MiB of float64 differences at a time


def blocks(n: int, size: int) -> Iterator[slice]:
    """Consecutive slices of at most `size` rows."""
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


class Centred:
    """Rows of `x` [N, D] minus a common `centre` [D], given out as float64 blocks (the whole is never copied)."""

    def __init__(self, x: torch.Tensor, centre: torch.Tensor):
        self.x, self.centre = x, centre

    def __len__(self) -> int:
        return len(self.x)

    def rows(self, index: slice | torch.Tensor) -> torch.Tensor:
        """float64 [n, D], centred: for matrix products."""
        return self.x[index].double() - self.centre

    def raw(self, index: slice | torch.Tensor) -> torch.Tensor:
        """float64 [n, D] as they are: for exact differences."""
        return self.x[index].double()


def centre_of(x: torch.Tensor) -> torch.Tensor:
    """Mean row [D] in float64 without a float64 copy of all rows."""
    return sum(b.double().sum(0) for b in x.split(ROW_BLOCK)) / len(x)


def exact_squared(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Squared distance of paired rows [n, D], [n, D] -> [n], by differences."""
    step = max(1, _RECHECK_ELEMENTS // a.shape[1])
    return torch.cat([((p - q) ** 2).sum(1) for p, q in zip(a.split(step), b.split(step))])


def squared_block(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """([n, m] squared distances by matrix product, [n, m] broadcastable bound of their rounding error)."""
    na, nb = (a * a).sum(1)[:, None], (b * b).sum(1)
    scale = na + nb
    d2 = torch.addmm(scale, a, b.T, alpha=-2).clamp_(min=0)
    return d2, scale * (4e-16 * (8 + a.shape[1] ** 0.5))


def below(a: Centred, rows: slice, b: Centred, cols: slice, threshold: torch.Tensor, strict: bool) -> torch.Tensor:
    """Boolean [n, m]: |a_i - b_j|^2 < threshold_j (or <=), exact, for a block; `threshold` [m] is squared."""
    d2, error = squared_block(a.rows(rows), b.rows(cols))
    margin = d2 - threshold
    near = (margin.abs() <= error).nonzero()
    result = margin < 0
    del d2, margin, error
    left, right = a.raw(rows), b.raw(cols)
    for part in near.split(max(1, _RECHECK_ELEMENTS // left.shape[1])):
        i, j = part.unbind(1)
        exact = exact_squared(left[i], right[j])
        result[i, j] = exact < threshold[j] if strict else exact <= threshold[j]
    return result


def smallest(a: Centred, rows: slice, b: Centred, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `count` smallest exact squared distances of each of `a`'s `rows` to the rows of `b`, ascending.

    Returns (values [n, count], row indices into b [n, count]). A few more candidates than asked for are re-measured by
    differences, so that rounding of the matrix product does not decide.
    """
    keep = min(count + 8, len(b))
    x = a.rows(rows)
    best_d = x.new_zeros((len(x), 0))
    best_i = torch.zeros((len(x), 0), dtype=torch.int64, device=x.device)
    for cols in blocks(len(b), COL_BLOCK):
        d2, _ = squared_block(x, b.rows(cols))
        d, i = d2.topk(min(keep, d2.shape[1]), dim=1, largest=False)
        d, i = torch.cat([best_d, d], 1), torch.cat([best_i, i + cols.start], 1)
        best_d, order = d.topk(min(keep, d.shape[1]), dim=1, largest=False)
        best_i = i.gather(1, order)
    left = a.raw(rows)
    exact = torch.stack([exact_squared(left, b.raw(best_i[:, k])) for k in range(best_i.shape[1])], 1)
    values, order = exact.sort(dim=1, stable=True)
    return values[:, :count], best_i.gather(1, order)[:, :count]


def kth_neighbour_squared(x: Centred, k: int) -> torch.Tensor:
    """Squared distance of every row to its k-th nearest other row [N]. Raises MetricError when N <= k."""
    if len(x) <= k:
        raise MetricError(f"the {k}-th nearest neighbour needs more than {k} rows, got {len(x)}")
    # the row itself is among the k+1 smallest (distance 0)
    return torch.cat([smallest(x, rows, x, k + 1)[0][:, k] for rows in blocks(len(x), ROW_BLOCK)])


def nearest(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(Euclidean distance float64 [N], index int64 [N]) of the nearest row of `b` [M, D] to each row of `a` [N, D]."""
    centre = centre_of(b)
    ca, cb = Centred(a, centre), Centred(b, centre)
    parts = [smallest(ca, rows, cb, 1) for rows in blocks(len(a), ROW_BLOCK)]
    return torch.cat([d[:, 0] for d, _ in parts]).sqrt(), torch.cat([i[:, 0] for _, i in parts])
