# SPDX-License-Identifier: Apache-2.0
"""Group spectral regularisation, gSR (Rangwani et al., ECCV 2022): no class may be drawn along one direction only.

Before the images of a rare class collapse to one, the parameters that belong to it alone (gain and bias of each
class-conditional batch norm) grow along one direction. Each class's vector of n parameters is cut into groups and
becomes a matrix W_y [a, b], a b = n, as square as n allows; its largest singular value is kept down, more so for rare
classes:

    L = lambda / (tables * classes)  sum_tables sum_y  rho_y sigma_max(W_y)^2,   rho_y = 1 / E(n_y), of mean 1

with the effective number E(n) of losses/effective_number.py, alpha 0.99. sigma_max comes from power iteration, whose
vectors are kept from step to step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gantransfer.losses.effective_number import inverse_effective_number

ALPHA, ITERATIONS = 0.99, 4


def group_shape(n: int) -> tuple[int, int]:
    """(a, b) with a * b = n, a <= b and a as large as it can be."""
    a = next(k for k in range(int(n**0.5), 0, -1) if n % k == 0)
    return a, n // a


class GroupSpectral:
    """The penalty and its power iteration, for tables of class parameters [classes, n] (n may differ).

    The loss reads the vectors and `advance`, once after every step, moves them: so it is the same in every round and
    process, and can be recorded as a CUDA graph.
    """

    def __init__(self, counts: Sequence[int], weight: float, tables: Sequence[torch.Tensor], alpha: float = ALPHA):
        """`tables` as the first step will find them."""
        rho = torch.from_numpy(inverse_effective_number(counts, alpha)).float()
        self.rho, self.weight = rho.to(tables[0].device), weight
        with torch.no_grad():  # exact at the beginning
            self.u = [torch.linalg.svd(_matrices(t))[0][:, :, 0] for t in tables]  # [classes, a]

    def penalty(self, tables: Sequence[torch.Tensor]) -> torch.Tensor:
        """[]: with |W^T u| for sigma_max, which it is once u has converged, and never more."""
        total = sum((self.rho * _forward(_matrices(t), u).square().sum(1)).sum() for t, u in zip(tables, self.u))
        return total * (self.weight / (len(self.u) * len(self.rho)))

    @torch.no_grad()
    def advance(self, tables: Sequence[torch.Tensor]) -> None:
        for t, u in zip(tables, self.u):
            w, new = _matrices(t), u
            for _ in range(ITERATIONS):
                new = torch.einsum("kab,kb->ka", w, _forward(w, new))
                new = torch.nn.functional.normalize(new, dim=1, eps=1e-30)
            # A vector that is lost (its class's parameters were all zero) would stay lost.
            u.copy_(torch.where(new.norm(dim=1, keepdim=True) > 0.5, new, u))

    def state(self) -> list[torch.Tensor]:
        return self.u

    def load_state(self, state: Sequence[torch.Tensor]) -> None:
        for u, s in zip(self.u, state, strict=True):
            u.copy_(s)


def _matrices(table: torch.Tensor) -> torch.Tensor:
    """[classes, n] -> [classes, a, b]."""
    return table.unflatten(1, group_shape(table.shape[1]))


def _forward(w: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """W^T u of each class: [classes, b]."""
    return torch.einsum("kab,ka->kb", w, u)
