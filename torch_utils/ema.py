# SPDX-License-Identifier: Apache-2.0
"""Exponential moving averages of networks: the decay of a step, and the step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import nn


def decay(batch_size: int, half_life_kimg: float, cur_nimg: int | None = None, ramp: float | None = None) -> float:
    """0.5 ** (batch / half-life): what a step of `batch_size` images leaves of the average so far.

    With a `ramp` the half-life is at most that share of the `cur_nimg` images shown (Karras et al. 2020, ADA release),
    so that the average forgets the first networks. A half-life of 0 keeps no average: the result is 0.
    """
    half_life = half_life_kimg * 1000
    if ramp:
        half_life = min(half_life, cur_nimg * ramp)
    return 0.5 ** (batch_size / max(half_life, 1e-8))


@torch.no_grad()
def step(average: Iterable[torch.Tensor], live: Iterable[torch.Tensor], decay: float) -> None:
    """average <- decay average + (1 - decay) live, in place, tensor by tensor."""
    torch._foreach_lerp_(list(average), list(live), 1 - decay)


@torch.no_grad()
def step_network(average: nn.Module, live: nn.Module, decay: float) -> None:
    """`step` of all parameters; buffers (running means, fixed filters) are copied. Tensors that both share stay."""
    own = [(a, b) for a, b in zip(average.parameters(), live.parameters()) if a is not b]
    step([a for a, _ in own], [b for _, b in own], decay)
    for mine, theirs in zip(average.buffers(), live.buffers()):
        if mine is not theirs:
            mine.copy_(theirs)


@torch.no_grad()
def step_state(average: Mapping[str, torch.Tensor], live: Mapping[str, torch.Tensor], decay: float) -> None:
    """`step` of whole state dicts, parameters and buffers, each tensor once; whole numbers are copied."""
    once = {t.data_ptr() if t.numel() else name: name for name, t in average.items()}.values()
    real = [name for name in once if average[name].is_floating_point()]
    step([average[name] for name in real], [live[name].to(average[name].dtype) for name in real], decay)
    for name in once:
        if name not in real:
            average[name].copy_(live[name])
