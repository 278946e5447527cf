# SPDX-License-Identifier: Apache-2.0
"""Layers that look across a batch: with several processes they see the images of all of them.

That concerns torch's batch norms, and every module with an attribute `gather`: None, or a function that stacks the
tensors of all processes, [world, *shape]. A shared layer in training mode is a collective operation: every process must
call it, and go back through it. In evaluation mode all layers work alone.
"""

from __future__ import annotations

import torch
from torch import nn

from torch_utils import distributed as dist
from torch_utils.ops.cond_batch_norm import cond_batch_norm


def share(net: nn.Module) -> None:
    """Let the layers of `net` see all processes' images from now on. Does nothing with one process."""
    if dist.world_size() > 1:
        _set(net, dist.all_gather)


def alone(net: nn.Module) -> None:
    """Undo `share`: for what one process does on its own."""
    _set(net, None)


def _set(net: nn.Module, gather) -> None:
    for m in net.modules():
        if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d):
            if gather is None:
                vars(m).pop("forward", None)
            elif "forward" not in vars(m):
                m.forward = _Shared(m)
        elif hasattr(m, "gather"):
            m.gather = gather


class _Shared:
    """The forward of a batch norm over all processes. Running averages take the variance with M/(M-1), as torch's."""

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d):
        self.norm = norm

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        m, n = self.norm, len(x)
        if not m.training:
            return type(m).forward(m, x)
        if m.momentum is None or m.running_mean is None:
            raise NotImplementedError("a batch norm without a momentum or without running averages cannot be shared")
        m.num_batches_tracked.add_(1)
        gain, bias = (None if v is None else v.expand(n, -1) for v in (m.weight, m.bias))
        y = cond_batch_norm(x[:, :, None, None] if x.ndim == 2 else x, gain, bias, m.running_mean, m.running_var,
                            momentum=m.momentum, eps=m.eps, gather=dist.all_gather)
        return y.reshape(x.shape)
