# SPDX-License-Identifier: Apache-2.0
"""Class-conditional batch norm: normalise over (N, H, W), then a gain and a bias per sample and channel.

    out = up(act((x - mean) / sqrt(var + eps) * gain + bias))

Ioffe and Szegedy 2015 with the per-class affine of Dumoulin et al. 2017. Running averages and standing statistics are
vectors of [C] and belong to the caller; the operator returns what it measured.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F

Reduce = Callable[[torch.Tensor], torch.Tensor]


class Stats(NamedTuple):
    """What a batch measured, over all processes; detached."""

    mean: torch.Tensor  # [C] float32 (float64 for float64)
    var: torch.Tensor  # [C], biased: divided by the number of values
    count: torch.Tensor  # 0-dim: values per channel

    @property
    def unbiased_var(self) -> torch.Tensor:
        return self.var * (self.count / (self.count - 1))


def cond_batch_norm(x: torch.Tensor, gain: torch.Tensor | None = None, bias: torch.Tensor | None = None,
                    mean: torch.Tensor | None = None, var: torch.Tensor | None = None, *, eps: float = 1e-5,
                    act: str = "linear", up: int = 1, reduce: Reduce | None = None,
                    impl: str = "auto") -> tuple[torch.Tensor, Stats | None]:
    """Normalise x [N, C, H, W]; returns (out [N, C, H * up, W * up] in x's dtype, statistics of the batch).

    gain, bias: [N, C] or None (1 and 0). mean, var: [C], given at evaluation; without them the batch's own are used,
    gradients flow through them, and they are returned as `Stats` (None at evaluation and for an empty batch).
    act 'linear' or 'relu'; up 1 or 2 (nearest neighbour), both after the affine. reduce: sums a tensor over the
    processes that share the batch; None = one process. Statistics are float32 for 16-bit x. Differentiable twice.
    Raises ValueError for one value per channel in training, and for arguments that do not fit.
    """
    _check(x, gain, bias, mean, var, act, up, impl)
    stats = None
    if mean is not None:
        y = F.batch_norm(x, mean, var, None, None, False, 0.0, eps)
    elif reduce is not None:
        y, stats = _normalise_over_processes(x, eps, reduce)
    elif x.shape[0] == 0:
        y = x
    else:
        y, stats = _normalise(x, eps)
    if gain is not None:
        y = y * gain.to(y.dtype)[:, :, None, None]
    if bias is not None:
        y = y + bias.to(y.dtype)[:, :, None, None]
    if act == "relu":
        y = F.relu(y)
    if up == 2:
        y = y.repeat_interleave(2, 2).repeat_interleave(2, 3)
    return y, stats


def _check(x, gain, bias, mean, var, act, up, impl) -> None:
    if impl not in ("auto", "ref"):
        raise ValueError(f"cond_batch_norm: impl must be 'auto' or 'ref', not {impl!r}")
    if x.ndim != 4 or not x.is_floating_point():
        raise ValueError(f"cond_batch_norm: x must be [N, C, H, W] of floats, not {tuple(x.shape)} {x.dtype}")
    for name, t, shape in (("gain", gain, x.shape[:2]), ("bias", bias, x.shape[:2]), ("mean", mean, x.shape[1:2]),
                           ("var", var, x.shape[1:2])):
        if t is not None and t.shape != shape:
            raise ValueError(f"cond_batch_norm: {name} must be {tuple(shape)}, not {tuple(t.shape)}")
    if (mean is None) != (var is None):
        raise ValueError("cond_batch_norm: mean and var come together")
    if act not in ("linear", "relu") or up not in (1, 2):
        raise ValueError(f"cond_batch_norm: act must be 'linear' or 'relu' and up 1 or 2, not {act!r} and {up!r}")


def _wide(x: torch.Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _one_value(shape: torch.Size) -> ValueError:
    return ValueError(f"batch norm needs more than 1 value per channel when training; x is {tuple(shape)}")


def _normalise(x: torch.Tensor, eps: float) -> tuple[torch.Tensor, Stats]:
    count = x.shape[0] * x.shape[2] * x.shape[3]
    if count == 1:
        raise _one_value(x.shape)
    mean = torch.zeros(x.shape[1], dtype=_wide(x), device=x.device)
    var = torch.zeros_like(mean)
    y = F.batch_norm(x, mean, var, None, None, True, 1.0, eps)  # momentum 1: the buffers receive the batch's own
    return y, Stats(mean, var * ((count - 1) / count), torch.tensor(float(count), device=x.device))


class _Sum(torch.autograd.Function):
    """Sum over processes; its gradient is the sum of the gradients."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, reduce: Reduce) -> torch.Tensor:
        ctx.reduce = reduce
        return reduce(x.clone())

    @staticmethod
    def backward(ctx, dy: torch.Tensor):
        return _Sum.apply(dy.contiguous(), ctx.reduce), None


def _normalise_over_processes(x: torch.Tensor, eps: float, reduce: Reduce) -> tuple[torch.Tensor, Stats]:
    """Two passes, mean first: a difference of squares would lose everything where |mean| is far above the spread."""
    wide = torch.float64 if x.device.type == "cpu" else _wide(x)  # sums that differ only by their split stay equal
    local = x.shape[0] * x.shape[2] * x.shape[3]
    total = _Sum.apply(torch.cat([x.sum([0, 2, 3], dtype=wide), x.new_tensor([local], dtype=wide)]), reduce)
    count = total[-1].detach()
    if count == 1:
        raise _one_value(x.shape)
    mean = total[:-1] / count.clamp(min=1)
    d = x.to(_wide(x)) - mean.to(_wide(x))[:, None, None]
    var = _Sum.apply(d.square().sum([0, 2, 3], dtype=wide), reduce) / count.clamp(min=1)
    y = (d * (var + eps).rsqrt().to(d.dtype)[:, None, None]).to(x.dtype)
    return y, Stats(mean.detach().to(_wide(x)), var.detach().to(_wide(x)), count.float())
