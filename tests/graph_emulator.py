# SPDX-License-Identifier: Apache-2.0
"""CUDA graphs emulated on the CPU, for tests of what is recorded.

A recording holds every operator that ran, with the very memory of its tensors and the very numbers of its other
arguments; a replay runs the operators again into that memory. So whatever Python decided, computed or drew while
recording is frozen, as on a GPU. As there, recording itself computes nothing that lasts, and results hold rubbish (here
NaN) until the first replay. What a GPU adds and this cannot show: streams, the pool's reuse of memory, libraries that
refuse to be recorded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

from torch_utils.graphs import CaptureError, Checked, Run

READS = ("tolist", "numpy", "__array__", "cpu")  # of a CPU tensor they need no operator, and so would not be seen


class EmulatedGraphs:
    """In the place of torch_utils.graphs.CudaGraphs."""

    def __init__(self) -> None:
        self.warm_ups = self.replays = 0
        self.recorded: list[_Recorder] = []

    def warm_up(self, run: Run) -> list[torch.Tensor]:
        self.warm_ups += 1
        return run()

    def record(self, run: Run) -> tuple[Callable[[], None], list[torch.Tensor]]:
        recorder = _Recorder()
        with reads_refused(), recorder:
            out = [_alias(t) for t in run()]
        recorder.undo()
        self.recorded.append(recorder)

        def replay() -> None:
            self.replays += 1
            for r in self.recorded:  # one pool of memory: a replay may overwrite what another one left
                r.spoil()
            recorder.replay()

        return replay, out


class _Recorder(Checked):
    def __init__(self) -> None:
        super().__init__("the recording")
        self.calls: list[tuple[Any, tuple, dict, list[torch.Tensor]]] = []
        self.own: dict[int, torch.Tensor] = {}  # storages that came up in the recording
        self.before: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # others that it writes, and what they held

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        args, kwargs = tree_map(_alias, args), {k: tree_map(_alias, v) for k, v in (kwargs or {}).items()}
        given = _tensors((args, kwargs))
        for t in _written(func, args, kwargs):
            key = _storage(t)
            if key not in self.own and key not in self.before:
                self.before[key] = (_whole(t), _whole(t).clone())
        out = super().__torch_dispatch__(func, types, args, kwargs)
        known, fresh = {_storage(t) for t in given}, []
        for t in _tensors(out):
            if _storage(t) not in known:
                self.own[_storage(t)] = _whole(t)
                fresh.append(_alias(t))
            else:
                fresh.append(None)
        self.calls.append((func, args, kwargs, fresh))
        return out

    def undo(self) -> None:
        """Recording has computed nothing."""
        for memory, content in self.before.values():
            memory.copy_(content)
        self.spoil()

    def spoil(self) -> None:
        for memory in self.own.values():
            memory.fill_(0xFF)  # NaN in every floating type, -1 in integers

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, kept in self.calls:
            for mine, t in zip(kept, _tensors(func(*args, **kwargs)), strict=True):
                if mine is not None:
                    mine.copy_(t)


def _alias(x: Any) -> Any:
    """The same memory, without the history that a tensor may get later."""
    return x.detach() if isinstance(x, torch.Tensor) else x


def _tensors(tree: Any) -> list[torch.Tensor]:
    if isinstance(tree, torch.Tensor):  # most often; PyTorch's own walk takes as long as a small operator
        return [tree]
    return [t for t in tree_leaves(tree) if isinstance(t, torch.Tensor)]


def _storage(t: torch.Tensor) -> int:
    return t.untyped_storage()._cdata


def _whole(t: torch.Tensor) -> torch.Tensor:
    """All bytes of a tensor's storage."""
    return torch.empty(0, dtype=torch.uint8).set_(t.untyped_storage())


def _written(func: Any, args: tuple, kwargs: dict) -> Iterator[torch.Tensor]:
    for i, a in enumerate(func._schema.arguments):
        if a.alias_info is not None and a.alias_info.is_write:
            value = args[i] if i < len(args) else kwargs.get(a.name)
            yield from _tensors(value)


@contextlib.contextmanager
def reads_refused() -> Iterator[None]:
    """Reading a CPU tensor raises as reading one of a GPU does while it records."""
    before = {name: getattr(torch.Tensor, name) for name in READS}

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise CaptureError("the recording", "reads a tensor back from the device")

    for name in READS:
        setattr(torch.Tensor, name, refuse)
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(torch.Tensor, name, function)
