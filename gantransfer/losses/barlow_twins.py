# SPDX-License-Identifier: Apache-2.0
"""Barlow Twins (Zbontar et al., ICML 2021): two versions of one thing agree, and no number repeats another.

With C the cross-correlation [d, d] of both versions over the batch, each number standardised over the batch:

    L = sum_i (1 - C_ii)^2 + weight sum_{i != j} C_ij^2
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from torch_utils import distributed as dist


def barlow_twins(a: torch.Tensor, b: torch.Tensor, weight: float, eps: float = 1e-5) -> torch.Tensor:
    """[]: the loss of a, b [n, d], whose rows k belong together. It looks at the rows of all processes, of which there
    must be two at least; `eps` is added to the (biased) variances, as in a batch norm."""
    a, b = (F.batch_norm(dist.gather_rows(x), None, None, training=True, eps=eps) for x in (a, b))
    corr = a.t() @ b / len(a)
    own = corr.diagonal()
    return (own - 1).square().sum() + weight * (corr.square().sum() - own.square().sum())
