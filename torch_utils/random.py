# SPDX-License-Identifier: Apache-2.0
"""Random numbers with an explicit source.

Training draws from one generator per (seed, step, phase, repetition), for the whole batch: a micro-batch draws all
numbers and keeps its own rows (`StepGenerator.share`). So a resumed run repeats the same numbers, and so does the same
batch split over more rounds or processes. Sampling draws from one generator per image, so that
image k does not depend on the batch it is generated in.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from dnnlib import seeding


class StepGenerator(torch.Generator):
    """A generator of one step's numbers, of which a micro-batch gets the rows k, k + of, k + 2 of, ... of every draw.

    Rows that lie `of` apart stay those of the same images where a batch is repeated, joined with another or cut in
    halves. Draws without a size, and those that ask for it (`common`), are the same for all micro-batches.
    """

    share: tuple[int, int] = (0, 1)  # (k, of)


def share_of(rng: Any) -> tuple[int, int]:
    """(k, of): rows k, k + of, ... of what is drawn for a whole batch are this micro-batch's."""
    return getattr(rng, "share", (0, 1))


def of_whole(n: int, rng: Any, make: Callable[[int], Any]) -> Any:
    """n rows of `make(number of rows of the whole batch)`, an array or tensor, for what is not drawn by `rand` and the
    like: it has to draw from `rng` itself."""
    k, of = share_of(rng)
    return make(n * of)[k::of]


def twin(rng: torch.Generator) -> torch.Generator:
    """A generator that gives from here on what `rng` gives."""
    out = StepGenerator(rng.device)
    out.set_state(rng.get_state())
    out.share = share_of(rng)
    return out


def derived(rng: torch.Generator) -> torch.Generator:
    """A generator on the CPU for one further stream, started by a draw from `rng`."""
    out = StepGenerator("cpu")
    out.manual_seed(int(randint(0, 2**31, [], rng)))
    out.share = share_of(rng)
    return out


@contextlib.contextmanager
def dropout(rng: torch.Generator, *nets: nn.Module) -> Iterator[None]:
    """Within, dropout in `nets` is drawn from `rng`, by a seed, for the whole batch as everything else."""
    (k, of), device = share_of(rng), rng.device
    layers = [m for net in nets for m in net.modules() if isinstance(m, nn.Dropout)]

    def forward(layer: nn.Dropout, x: torch.Tensor) -> torch.Tensor:
        if not layer.training:
            return x
        return x * F.dropout(x.new_ones(len(x) * of, *x.shape[1:]), layer.p)[k::of]

    devices = {p.device for net in nets for p in net.parameters() if p.device.type == "cuda"} | (
        {device} if device.type == "cuda" else set())
    with torch.random.fork_rng(devices=sorted(devices, key=str)):
        torch.manual_seed(int(torch.randint(2**62, [], generator=rng)))
        try:
            if of > 1:
                for m in layers:
                    m.forward = functools.partial(forward, m)
            yield
        finally:
            for m in layers:
                vars(m).pop("forward", None)


class SeedStack:
    """One CPU generator per sample. `size[0]` of every draw must be the number of seeds (or `pick` a sub-range)."""

    def __init__(self, seeds: Sequence[int], generators: list[torch.Generator] | None = None):
        self.generators = generators or [generator(s) for s in seeds]

    def draw(self, fn, size: Sequence[int], **kw) -> torch.Tensor:
        if size[0] != len(self.generators):
            raise ValueError(f"{len(self.generators)} seeds cannot give {size[0]} samples")
        return torch.stack([fn(tuple(size[1:]), generator=g, **kw) for g in self.generators])


class Tape:
    """The random numbers of code that is recorded once and replayed afterwards (torch_utils/graphs.py).

    Such code asks for the same draws in the same order each time. In its first run they are made as they are asked for
    and kept; later `rewind` makes all of them, in the same order and memory. So its sources, the generators that differ
    from run to run, give the numbers that they would have given without a tape.

    Where a size follows what was drawn, `room` is its measure: the largest that any draw of this run needs. Code that
    was recorded with one room serves the runs that have the same.
    """

    def __init__(self) -> None:
        self.draws: list[tuple[tuple, Callable, Any]] = []
        self.sources: tuple = ()
        self.at, self.complete, self.room = 0, False, 0

    def rewind(self, *sources: Any) -> None:
        """Before each run: what it draws from."""
        self.sources, self.at, self.room = sources, 0, 0
        if self.complete:
            for (source, *_), make, out in self.draws:
                make(sources[source], out)

    def end(self) -> None:
        """After each run of the code itself."""
        if self.at != len(self.draws):
            raise RuntimeError(f"recorded code made {self.at} draws, and {len(self.draws)} before")
        self.complete = True

    def need(self, room: int) -> None:
        """Said while a draw is made."""
        self.room = max(self.room, room)

    def take(self, source: int, what: tuple, make: Callable[[Any, Any], Any]) -> Any:
        """The next draw, of `sources[source]`: one tensor or several. `make(source, out)` makes it, into `out` unless
        that is None."""
        if not self.complete:
            self.draws.append(((source, *what), make, make(self.sources[source], None)))
        self.at += 1
        if self.at > len(self.draws) or self.draws[self.at - 1][0] != (source, *what):
            raise RuntimeError(f"draw {self.at} of recorded code is {what}, and was not before")
        return self.draws[self.at - 1][2]


class Taped:
    """Source number `source` of a tape, in the place of a generator."""

    def __init__(self, tape: Tape, source: int):
        self.tape, self.source = tape, source

    def take(self, what: tuple, make: Callable[[Any, Any], Any]) -> Any:
        return self.tape.take(self.source, what, make)

    def draw(self, fn, size: tuple[int, ...], device, dtype, common: bool) -> torch.Tensor:
        def make(rng: torch.Generator, out: torch.Tensor | None) -> torch.Tensor:
            if out is None:
                return _draw(fn, size, rng, device, dtype, common)
            if share_of(rng)[1] > 1:
                return out.copy_(to_device(_draw(fn, size, rng, rng.device, dtype, common), out.device))
            if out.device == rng.device:
                return fn(size, generator=rng, device=rng.device, dtype=dtype, out=out)
            return out.copy_(to_device(fn(size, generator=rng, device=rng.device, dtype=dtype), out.device))

        return self.take((size, dtype, device), make)


Rng = torch.Generator | SeedStack | Taped | None


def generator(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator that starts from one seed, any integer (dnnlib/seeding.py)."""
    return torch.Generator(device).manual_seed(seeding.number(seed))


def step_generator(*keys: int, device: torch.device | str = "cpu", share: tuple[int, int] = (0, 1)) -> StepGenerator:
    """A generator that is a function of the integers `keys` alone (hashed, so that near keys are unrelated), for the
    `share` of a batch."""
    words = seeding.sequence(*keys).generate_state(2, np.uint32)
    out = StepGenerator(device)
    out.manual_seed(int(words[0]) << 32 | int(words[1]))
    out.share = share
    return out


def randn(size: Sequence[int], rng: Rng = None, device=None, dtype=torch.float32,
          common: bool = False) -> torch.Tensor:
    """Standard normal tensor of `size` from `rng` (None: torch's global generator of `device`). `size[0]` counts images
    of a micro-batch, unless the draw is `common` to all (see StepGenerator)."""
    return _draw(torch.randn, size, rng, device, dtype, common)


@functools.lru_cache(maxsize=64)
def fixed_randn(size: tuple[int, ...], seed: int) -> torch.Tensor:
    """Standard normal float32 tensor of `size` on the CPU, a function of `seed`; not to be written to. It is kept, so
    that a graph exported after one ordinary call has it as a constant and not as a random operator."""
    with torch.inference_mode(False), torch.no_grad():
        return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def rand(size: Sequence[int], rng: Rng = None, device=None, dtype=torch.float32,
         common: bool = False) -> torch.Tensor:
    """Uniform [0, 1) tensor of `size` from `rng`."""
    return _draw(torch.rand, size, rng, device, dtype, common)


def randint(low: int, high: int, size: Sequence[int], rng: Rng = None, device=None,
            common: bool = False) -> torch.Tensor:
    """Integers in [low, high) of `size`, int64, from `rng`."""
    return _draw(lambda s, **kw: torch.randint(low, high, s, **kw), size, rng, device, torch.int64, common)


def to_device(x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """x on `device`, without making the host wait for the device."""
    if x.device.type == "cpu" and device.type == "cuda":
        x = x.pin_memory()
    return x.to(device, non_blocking=True)


def _draw(fn, size, rng: Rng, device, dtype, common: bool = False) -> torch.Tensor:
    size = tuple(int(s) for s in size)
    if rng is None:
        return fn(size, device=device, dtype=dtype)
    if isinstance(rng, SeedStack):
        return rng.draw(fn, size, dtype=dtype).to(device)
    if isinstance(rng, Taped):
        return rng.draw(fn, size, device, dtype, common)
    k, of = share_of(rng)
    if of > 1 and size and not common:
        whole = fn((size[0] * of, *size[1:]), generator=rng, device=rng.device, dtype=dtype)
        x = whole[k::of].contiguous()
    else:
        x = fn(size, generator=rng, device=rng.device, dtype=dtype)
    return x if device is None else to_device(x, torch.device(device))
