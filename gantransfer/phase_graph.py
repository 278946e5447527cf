# SPDX-License-Identifier: Apache-2.0
"""A phase's loss and gradients as a recording (torch_utils/graphs.py): what goes in, and what comes out."""

from __future__ import annotations

from collections.abc import Callable

import torch

from gantransfer.method import Batch, Method, Phase
from torch_utils import random as rnd
from torch_utils.graphs import CudaGraphs, Recording
from torch_utils.stats import Moments


class PhaseGraph:
    """In the place of `accumulate(phase, batch)`, for one phase and one size of micro-batch.

    Images, labels and all draws are copied to where the recording reads them. Gradients are added where `accumulate`
    adds them; reports and `method.pending` are handed on after each replay. There is one recording per `room` of the
    draws (torch_utils.random.Tape), made when that room has come up often enough.
    """

    def __init__(self, method: Method, phase: Phase, accumulate: Callable[[Phase, Batch], None], graphs: CudaGraphs):
        self.method, self.phase, self.accumulate, self.graphs = method, phase, accumulate, graphs
        self.recordings: dict[int, Recording] = {}
        self.tape = rnd.Tape()
        self.inputs: list[torch.Tensor] = []
        self.reports: list[tuple[str, int]] = []
        self.pending: list[str] = []

    def __call__(self, phase: Phase, batch: Batch) -> None:
        given = [batch.x, batch.c]
        if not self.inputs:
            self.inputs = [t.clone() for t in given]
        for mine, t in zip(self.inputs, given):
            assert mine.shape == t.shape
            mine.copy_(t)
        self.tape.rewind(batch.rng, batch.choices, batch.draw_c)
        known = self.recordings.get(self.tape.room) if self.tape.complete else None
        recording = known or Recording(self.phase.name, self._run, self.graphs)
        out = [t.clone() for t in recording()]  # the next replay overwrites them
        self.recordings[self.tape.room] = recording  # of the very first run, the room is known only now
        for (name, count), sums in zip(self.reports, out[0]):
            self.method.report(name, Moments(count, sums))
        for key, t in zip(self.pending, out[1:]):
            self.method.pending.setdefault(key, []).append(t)

    def _run(self) -> list[torch.Tensor]:
        x, c = self.inputs
        batch = Batch(x, c, rnd.Taped(self.tape, 0), rnd.Taped(self.tape, 1), self._draw_c, cur_nimg=None)
        m, sums, before = self.method, [], (self.method.report, self.method.pending)
        self.reports = []

        def report(name: str, values: torch.Tensor) -> None:
            count, moments = Moments.of(values)
            self.reports.append((name, count))
            sums.append(moments)

        m.report, m.pending = report, {}
        try:
            self.accumulate(self.phase, batch)
            left = [(key, t) for key, values in m.pending.items() for t in values]
        finally:
            m.report, m.pending = before
        self.tape.end()
        self.pending = [key for key, _ in left]
        return [torch.stack(sums) if sums else x.new_zeros(0, 2), *(t for _, t in left)]

    def _draw_c(self, n: int) -> torch.Tensor:
        def make(draw_c: Callable[[int], torch.Tensor], out: torch.Tensor | None) -> torch.Tensor:
            return draw_c(n) if out is None else out.copy_(draw_c(n))

        return self.tape.take(2, (n,), make)
