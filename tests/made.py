# SPDX-License-Identifier: Apache-2.0
"""Methods as training makes them, and what a step changes of a network."""

from collections.abc import Callable, Iterable
from typing import Any

import torch

from gantransfer.data.dataset import DataSpec
from gantransfer.method import Method, RunConfig, Start
from gantransfer.methods import METHODS
from gantransfer.snapshot import Snapshot


def made(kind: str | type[Method], data: DataSpec, run: dict[str, Any] | None = None,
         start: Start | Snapshot | None = None, stage: str | None = None, **options: Any) -> Method:
    """A method, or a class built on one, with resolved options; its weights drawn anew, or a snapshot's to start from.

    `run`: values of its RunConfig.
    """
    kind = METHODS[kind] if isinstance(kind, str) else kind
    opts, config = kind.Options(**options), RunConfig(**run or {})
    kind.resolve(opts, config, data)
    torch.manual_seed(config.seed)
    return kind(opts, data, config, start if isinstance(start, Start) else Start(start), stage)


def train_only(m: Method, params: Iterable[torch.nn.Parameter]) -> None:
    """As the loop before a phase: gradients of these parameters alone, and none yet."""
    for net in m.nets.values():
        net.requires_grad_(False)
        net.zero_grad(set_to_none=True)
    for p in params:
        p.requires_grad_(True)


def moved_by(change: Callable[[], Any], net: torch.nn.Module) -> set[str]:
    """Names of the tensors of `net` that are others after `change()`."""
    before = {k: t.clone() for k, t in net.state_dict().items()}
    change()
    return {k for k, t in net.state_dict().items() if not torch.equal(t, before[k])}
