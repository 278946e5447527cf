# SPDX-License-Identifier: Apache-2.0
"""CUDA graphs: work of the device that is recorded once and replayed without Python.

What is recorded is frozen: operators, sizes, the memory they read and write, and every number that Python put in. So
inputs are tensors that keep their memory and are overwritten before each replay, random numbers among them
(torch_utils.random.Tape), results are read from where the recording left them, and Python's side of the work is done by
whoever replays.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dnnlib.util import UserError

WARM_UP = 3  # runs before the recording: libraries choose their algorithms and allocate their workspaces
Run = Callable[[], list[torch.Tensor]]


class CaptureError(UserError):
    """This cannot be recorded."""

    def __init__(self, name: str, reason: str):
        super().__init__(f"--graphs cannot record {name}: {reason}; train without --graphs")


class CudaGraphs:
    """Records and replays on a CUDA device.

    All graphs share one pool of memory, since they never run at the same time: results must be read before the next
    replay, of any of them.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.stream, self.pool = torch.cuda.Stream(device), torch.cuda.graph_pool_handle()

    def warm_up(self, run: Run) -> list[torch.Tensor]:
        """Run on the stream of the recording."""
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            out = run()
        current.wait_stream(self.stream)
        return out

    def record(self, run: Run) -> tuple[Callable[[], None], list[torch.Tensor]]:
        """(replay, the tensors that `run` returned: each replay fills them). Nothing is computed yet."""
        graph = torch.cuda.CUDAGraph()
        # Only this thread is held to the rules of a recording: others read images, or watch over collectives.
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
            out = run()
        return graph.replay, out


class Recording:
    """`run`, which returns tensors: the first calls run it, then it is recorded, and from then on replayed.

    The next call, of any recording with the same `graphs`, overwrites the results. Raises CaptureError, naming operator
    and line, for what a recording cannot hold.
    """

    def __init__(self, name: str, run: Run, graphs: CudaGraphs):
        self.name, self.run, self.graphs = name, run, graphs
        self.calls, self.replay, self.out = 0, None, []

    def __call__(self) -> list[torch.Tensor]:
        if self.calls < WARM_UP:
            self.calls += 1
            # Checked in the second run, where draws come from the tape.
            with Checked(self.name) if self.calls == 2 else contextlib.nullcontext():
                return self.graphs.warm_up(self.run)
        if self.replay is None:
            try:
                self.replay, self.out = self.graphs.record(self.run)
            except CaptureError:
                raise
            except RuntimeError as e:
                first = e.__context__ or e  # leaving a recording that has failed fails once more
                raise CaptureError(self.name, (str(first).splitlines() or [repr(first)])[0]) from e
        self.replay()
        return self.out


class Checked(TorchDispatchMode):
    """Raises CaptureError at operators that a recording of `name` cannot hold, on any device."""

    def __init__(self, name: str):
        super().__init__()
        self.name = name

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        reason = why_not(func, args, kwargs or {})
        if reason is not None:
            raise CaptureError(self.name, f"{_where()} {reason} ({func})")
        return func(*args, **(kwargs or {}))


_INDEXING = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")


def why_not(func: Any, args: tuple, kwargs: dict[str, Any]) -> str | None:
    """Why a recording cannot hold this operator of torch's; None if it can."""
    name, tags = func.name().split(".")[0], func.tags
    if torch.Tag.data_dependent_output in tags:
        return "reads a value back from the device"
    if name in _INDEXING:
        if any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1]):
            return "selects by a mask, so that a size depends on values"
    elif torch.Tag.dynamic_output_shape in tags:
        return "makes a size depend on values"
    if torch.Tag.nondeterministic_seeded in tags:
        return "draws random numbers that are not the batch's"
    if name == "aten::lift_fresh":
        return "makes a tensor of Python's numbers, which waits for the device"
    if name == "aten::_to_copy" and torch.device(kwargs.get("device") or args[0].device).type != args[0].device.type:
        return "copies between devices"
    if name == "aten::copy_" and args[0].device.type != args[1].device.type:
        return "copies between devices"
    return None


def _where() -> str:
    """The innermost line outside torch and this package; on a GPU the backward has a thread of its own, without one."""
    libraries = tuple(str(Path(f).parent) for f in (torch.__file__, __file__))
    frames = [f for f in traceback.extract_stack() if not f.filename.startswith(libraries)]
    return f"line {frames[-1].lineno} of {Path(frames[-1].filename).name}" if frames else "the backward"
