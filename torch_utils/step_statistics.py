# SPDX-License-Identifier: Apache-2.0
"""Batch-norm averages that do not depend on how a batch is split."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from torch_utils import distributed as dist


class StepStatistics:
    """Batch-norm averages advance once per step, by the mean over all micro-batches of all processes.

    So that they do not depend on how a batch is split over processes, and all processes hold the same.
    """

    def __init__(self, *nets: nn.Module):
        self.norms = [m for net in nets for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        self.momenta = [m.momentum for m in self.norms]
        self.old: list[tuple[Tensor, Tensor]] | None = None
        self.sums: Tensor | None = None
        for m in self.norms:
            m.register_forward_pre_hook(self._before)
            m.register_forward_hook(self._after)

    def _before(self, m: nn.Module, args: Any) -> None:
        if m.training:
            if self.old is None:
                self.old = [(n.running_mean.clone(), n.running_var.clone()) for n in self.norms]
                self.sums = torch.zeros(sum(2 * len(n.running_mean) + 1 for n in self.norms),
                                        device=self.norms[0].running_mean.device)
                self.at, offset = {}, 0
                for n in self.norms:
                    self.at[id(n)] = offset
                    offset += 2 * len(n.running_mean) + 1
            m.momentum = 1.0

    def _after(self, m: nn.Module, args: Any, out: Tensor) -> None:
        if m.training:
            a, c = self.at[id(m)], len(m.running_mean)
            self.sums[a : a + c] += m.running_mean
            self.sums[a + c : a + 2 * c] += m.running_var
            self.sums[a + 2 * c] += 1

    @torch.no_grad()
    def finish(self) -> None:
        if self.old is None:
            return
        dist.all_reduce_sum(self.sums)
        for n, (mean, var), momentum in zip(self.norms, self.old, self.momenta):
            a, c = self.at[id(n)], len(mean)
            count = self.sums[a + 2 * c].clamp(min=1)
            n.running_mean.copy_(mean.lerp(self.sums[a : a + c] / count, momentum))
            n.running_var.copy_(var.lerp(self.sums[a + c : a + 2 * c] / count, momentum))
            n.num_batches_tracked.fill_(0)  # unused with a fixed momentum; one value on every process
            n.momentum = momentum
        self.old = self.sums = None
