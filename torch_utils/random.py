# SPDX-License-Identifier: Apache-2.0
"""Random numbers with an explicit source.

Training draws from one generator per (seed, step, phase, micro-batch), so that a resumed run, or the same global
batch split over more processes, repeats the same numbers. Sampling draws from one generator per image, so that
image k does not depend on the batch it is generated in.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch


class SeedStack:
    """One CPU generator per sample. `size[0]` of every draw must be the number of seeds (or `pick` a sub-range)."""

    def __init__(self, seeds: Sequence[int], generators: list[torch.Generator] | None = None):
        self.generators = generators or [torch.Generator().manual_seed(int(s) % 2**63) for s in seeds]

    def draw(self, fn, size: Sequence[int], **kw) -> torch.Tensor:
        if size[0] != len(self.generators):
            raise ValueError(f"{len(self.generators)} seeds cannot give {size[0]} samples")
        return torch.stack([fn(tuple(size[1:]), generator=g, **kw) for g in self.generators])


Rng = torch.Generator | SeedStack | None


def step_generator(*keys: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator that is a function of the integers `keys` alone (hashed, so that near keys are unrelated)."""
    words = np.random.SeedSequence([int(k) & 0xFFFFFFFFFFFFFFFF for k in keys]).generate_state(2, np.uint32)
    return torch.Generator(device).manual_seed(int(words[0]) << 32 | int(words[1]))


def randn(size: Sequence[int], rng: Rng = None, device=None, dtype=torch.float32) -> torch.Tensor:
    """Standard normal tensor of `size` from `rng` (None: torch's global generator of `device`)."""
    return _draw(torch.randn, size, rng, device, dtype)


def rand(size: Sequence[int], rng: Rng = None, device=None, dtype=torch.float32) -> torch.Tensor:
    """Uniform [0, 1) tensor of `size` from `rng`."""
    return _draw(torch.rand, size, rng, device, dtype)


def randint(low: int, high: int, size: Sequence[int], rng: Rng = None, device=None) -> torch.Tensor:
    """Integers in [low, high) of `size`, int64, from `rng`."""
    return _draw(lambda s, **kw: torch.randint(low, high, s, **kw), size, rng, device, torch.int64)


def _draw(fn, size, rng: Rng, device, dtype) -> torch.Tensor:
    size = tuple(int(s) for s in size)
    if rng is None:
        return fn(size, device=device, dtype=dtype)
    if isinstance(rng, SeedStack):
        return rng.draw(fn, size, dtype=dtype).to(device)
    return fn(size, generator=rng, device=rng.device, dtype=dtype).to(device)
