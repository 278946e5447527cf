# SPDX-License-Identifier: Apache-2.0
"""Images on the way from one class or latent to another, each row with one noise.

Types, with z a latent and v the class (vector):

    class        v moves from the first class to the second, a row per seed
    noise        z moves from each seed to the next one, at the first class
    class_noise  one sheet: down z moves, across v moves
    random_z     independent latents at the first class
    z_shift      z + s in all coordinates, s from -1 to 1, at the first class
    class_shift  v + s in all coordinates, s from -0.1 to 0.1, at the first class
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
from tqdm import tqdm

from dnnlib import seeding
from gantransfer.sampler import Sampler, one_hot, to_uint8
from torch_utils.random import SeedStack


def slerp(a: torch.Tensor, b: torch.Tensor, t: float) -> torch.Tensor:
    """Spherical interpolation between rows of a, b [N, D] of any length; straight where they are parallel."""
    angle = torch.acos((torch.nn.functional.normalize(a, dim=1) * torch.nn.functional.normalize(b, dim=1)).sum(
        1, keepdim=True).clamp(-1, 1))
    sine = torch.sin(angle)
    straight = sine.abs() < 1e-6
    sine = torch.where(straight, torch.ones_like(sine), sine)
    return torch.where(straight, torch.lerp(a, b, t), torch.sin((1 - t) * angle) / sine * a + torch.sin(
        t * angle) / sine * b)


def straight(a: torch.Tensor, b: torch.Tensor, t: float) -> torch.Tensor:
    return torch.lerp(a, b, t)


class Walk:
    """Images of latents and of what stands for the class in a model: its class vector where it has one, else the
    label."""

    def __init__(self, sampler: Sampler, psi: float, noise_mode: str, device: torch.device, center: str = "global"):
        self.sampler, self.psi, self.noise_mode, self.device = sampler, psi, noise_mode, device
        self.center = center  # of truncation; between classes it moves with the label

    def latent(self, seed: int) -> torch.Tensor:
        """[1, z_dim], as the sampler draws it."""
        return torch.from_numpy(seeding.numpy_rng(seed).randn(1, self.sampler.z_dim)).float().to(self.device)

    @torch.no_grad()
    def vector(self, class_id: int) -> torch.Tensor:
        """[1, T]."""
        return self.sampler.class_vectors(one_hot([class_id], self.sampler.spec.label.dim).to(self.device))

    @torch.no_grad()
    def images(self, z: torch.Tensor, v: torch.Tensor, seed: int, batch: int) -> np.ndarray:
        """uint8 [n, C, H, W] for n pairs of z and v, all with the noise of one seed."""
        out = []
        for i in range(0, len(z), batch):
            zs, vs = z[i : i + batch], v[i : i + batch]
            out.append(to_uint8(self.sampler.images_at(
                zs, vs, SeedStack([seed] * len(zs)), truncation_psi=self.psi, truncation_center=self.center,
                noise_mode=self.noise_mode)))
        return torch.cat(out).cpu().numpy()


def sheet(walk: Walk, kind: str, seeds: list[int], first: int, second: int, steps: int,
          between: Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor], batch: int = 16) -> np.ndarray:
    """uint8 [rows, steps, C, H, W]; see the module's docstring for `kind`."""
    ts = [k / (steps - 1) for k in range(steps)]
    z = {s: walk.latent(s) for s in seeds}
    one = walk.vector(first)
    two = walk.vector(second) if kind in ("class", "class_noise") else one
    rows = []
    bar = functools.partial(tqdm, desc="rows", delay=0.1)  # shown once a row is done, after what its first use may say

    def row(zs: list[torch.Tensor], vs: list[torch.Tensor], seed: int) -> None:
        rows.append(walk.images(torch.cat(zs), torch.cat(vs), seed, batch))

    if kind == "class_noise":
        for t in bar(ts):
            row([between(z[seeds[0]], z[seeds[1]], t)] * steps, [between(one, two, u) for u in ts], seeds[0])
    elif kind == "random_z":
        later = max(seeds) + 1
        for i, s in enumerate(bar(seeds)):
            row([walk.latent(later + i * steps + k) for k in range(steps)], [one] * steps, s)
    elif kind == "noise":
        for a, b in zip(bar(seeds[:-1]), seeds[1:]):
            row([between(z[a], z[b], t) for t in ts], [one] * steps, a)
    else:
        for s in bar(seeds):
            if kind == "class":
                row([z[s]] * steps, [between(one, two, t) for t in ts], s)
            elif kind == "z_shift":
                row([z[s] + (2 * t - 1) for t in ts], [one] * steps, s)
            else:
                row([z[s]] * steps, [one + 0.1 * (2 * t - 1) for t in ts], s)
    return np.stack(rows)
