# SPDX-License-Identifier: Apache-2.0
"""Projection: which latent does a generator make a given image of?

Karras et al., "Analyzing and Improving the Image Quality of StyleGAN" (CVPR 2020), appendix D. Adam moves w, from the
mean w of its label on, and the generator's noise maps, until the image is near the target:

    L(w, n) = D(target, G(w + r, n)) + 1e5 sum_maps sum_scales (mean_ij n_ij n_i,j-1)^2 + (mean_ij n_ij n_i-1,j)^2

r is normal noise of std(w) * 0.05 * max(0, 1 - t / 0.75)^2 at the share t of the steps: it lets w leave a poor minimum
at first. The second term keeps signal out of the noise maps, at every scale down to 8 pixels; after each step they are
set to zero mean and unit variance.

What moves is what differs between latents of one label: where layers have one w in common it is one vector (or, with
`plus`, one per layer), and what the label alone decides stays. A model without a w (BigGAN) is searched in z.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from dnnlib import seeding
from dnnlib.util import UserError, atomic_path
from gantransfer.formats import npz
from gantransfer.formats.pickle_machine import Refused
from gantransfer.sampler import Sampler
from torch_utils import optimizers
from torch_utils import random as rnd
from torch_utils.pixels import from_uint8, to_uint8

Distance = Callable[[torch.Tensor], torch.Tensor]  # float images [N, C, H, W] in [-1, 1] -> [N, *]; squared differences
NOISE_DOWN_TO = 8  # pixels of a noise map's side at which no further scale is looked at


@dataclass(frozen=True)
class Procedure:
    """The published numbers."""

    steps: int = 1000
    plus: bool = False  # a w per layer (w+)
    noise: bool = True  # the noise maps move too
    seed: int = 303
    lr: float = 0.1
    lr_rampup: float = 0.05  # shares of the steps
    lr_rampdown: float = 0.25
    samples: int = 10_000  # latents whose w say where to begin, and how far w vary
    perturb: float = 0.05
    perturb_until: float = 0.75
    noise_weight: float = 1e5


@dataclass
class Projected:
    """A latent, and how near its image is to the target."""

    latent: np.ndarray  # float32 [L, D], the w of every layer; or z [D]
    noise: dict[str, np.ndarray]  # noise maps by their names in the network; empty where they stayed as they were
    distance: float
    rms: float  # root mean square difference of pixels, of 255


class Latents:
    """What of ws [N, L, D] moves, for one label: `expand(free)` -> ws [1, L, D], or z [1, D]."""

    def __init__(self, sampler: Sampler, c: torch.Tensor, p: Procedure):
        self.sampler, self.c = sampler, c
        rng = seeding.numpy_rng(p.seed)
        z = torch.from_numpy(rng.randn(p.samples, sampler.z_dim)).to(sampler.device, torch.float32)
        self.has_w = sampler.styles is not None
        with torch.no_grad():
            rows = [self._points(part) for part in z.split(1000)]
        points = torch.cat(rows)  # [N, L, D]
        # Layers that have one w in common: equal in all samples.
        first = [next(j for j in range(i + 1) if torch.equal(points[:, j], points[:, i]))
                 for i in range(points.shape[1])]
        own = range(points.shape[1]) if p.plus and self.has_w else sorted(set(first))
        self.group = [list(own).index(i if p.plus and self.has_w else j) for i, j in enumerate(first)]
        points = points[:, list(own)]
        self.mean = points.mean(0)  # [groups, D]
        self.moves = points.std(0, correction=0) > 1e-6 * points.abs().max()  # what the label alone decides does not
        self.spread = float((points - self.mean)[:, 0].square().sum(1).mean().sqrt())

    def _points(self, z: torch.Tensor) -> torch.Tensor:
        if not self.has_w:
            return z[:, None]
        return self.sampler.styles_at(z, self.sampler.class_vectors(self.c.expand(len(z), -1)))

    def expand(self, free: torch.Tensor) -> torch.Tensor:
        whole = torch.where(self.moves, free, self.mean)
        return whole[self.group][None] if self.has_w else whole

    def images(self, latent: torch.Tensor) -> torch.Tensor:
        """float [1, C, H, W] of ws [1, L, D], or of z [1, D]."""
        return render(self.sampler, latent, self.c)


def render(sampler: Sampler, latent: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """float [N, C, H, W] of ws [N, L, D], or of z [N, D] with labels c, with the network's own noise maps."""
    if latent.ndim == 3:
        return sampler.render(latent, noise_mode="const", rng=None)
    return sampler.images(latent, c, rnd.SeedStack([0] * len(latent)), noise_mode="const")


# ---- files -----------------------------------------------------------------------------------------------------------


def save(path: Path, found: Projected, c: torch.Tensor) -> None:
    """An .npz: `w` [1, L, D], as published, or `z` [1, D]; `c` [1, label_dim]; `noise/NAME` for each noise map."""
    name = "w" if found.latent.ndim == 2 else "z"
    with atomic_path(path) as tmp, open(tmp, "wb") as f:
        np.savez(f, **{name: found.latent[None], "c": c.cpu().numpy()},
                 **{f"noise/{k}": v for k, v in found.noise.items()})


def load(path: str, sampler: Sampler) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """(ws [N, L, D] or z [N, D], labels [N, label_dim], noise maps) of such a file, or of a published one, which has
    `w` alone. UserError for a file that is none, or that is of another network."""
    try:
        arrays = {k: torch.from_numpy(v.astype(np.float32)).to(sampler.device) for k, v in npz.read(path).items()
                  if v.dtype.kind in "fiu"}
    except Refused as e:
        raise UserError(f"--projected-w={path} is not an .npz file of `gantransfer project`: {e}") from None
    latent = arrays.get("w", arrays.get("z"))
    if latent is None or latent.ndim not in (2, 3) or not latent.isfinite().all():
        raise UserError(f"--projected-w={path} has no finite latents `w` [N, L, D] or `z` [N, D]")
    c = arrays.get("c", torch.zeros([1, sampler.label_dim], device=sampler.device))
    if latent.ndim == 2 and "w" in arrays and sampler.styles is not None:  # one w for all layers
        latent = latent[:, None].expand(-1, shape_of(sampler)[0], -1)
    fits = latent.shape[1:] == shape_of(sampler) and c.ndim == 2 and c.shape[1] == sampler.label_dim
    if not fits or len(c) not in (1, len(latent)):
        raise UserError(f"--projected-w={path} is of another network: its latents are {list(latent.shape[1:])} with "
                        f"{c.shape[-1]} labels, those of this one {list(shape_of(sampler))} with {sampler.label_dim}")
    return latent, c.expand(len(latent), -1), {k.removeprefix("noise/"): v for k, v in arrays.items()
                                               if k.startswith("noise/")}


def shape_of(sampler: Sampler) -> torch.Size:
    """[L, D] of a network's ws; [D] of its z where it has no w."""
    if sampler.styles is None:
        return torch.Size([sampler.z_dim])
    with torch.no_grad():
        z, c = (torch.zeros([1, n], device=sampler.device) for n in (sampler.z_dim, sampler.label_dim))
        if sampler.label_dim:
            c[0, 0] = 1
        return sampler.styles_at(z, sampler.class_vectors(c)).shape[1:]


# ---- noise maps ------------------------------------------------------------------------------------------------------


def noise_maps(sampler: Sampler) -> dict[str, tuple[nn.Module, str]]:
    """The constant noise maps of a generator's layers: name -> (layer, buffer)."""
    if not isinstance(sampler.network, nn.Module):
        return {}
    return {f"{name}.noise_const": (m, "noise_const") for name, m in sampler.network.named_modules()
            if "noise_const" in m._buffers}


@contextmanager
def with_noise(sampler: Sampler, maps: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Noise maps in place of the network's own. UserError for maps that it does not have."""
    places = noise_maps(sampler)
    for name, value in maps.items():
        if name not in places or places[name][0].noise_const.shape != value.shape:
            raise UserError(f"the noise map {name} is of another network than this one")
    before = {name: places[name][0].noise_const for name in maps}
    try:
        for name, value in maps.items():
            places[name][0]._buffers["noise_const"] = value
        yield
    finally:
        for name, value in before.items():
            places[name][0]._buffers["noise_const"] = value


def signal_in(maps: Sequence[torch.Tensor]) -> torch.Tensor:
    """The second term: squared correlations of neighbours, over all scales of all maps [R, R]."""
    total = maps[0].new_zeros([])
    for n in maps:
        n = n[None, None]
        while True:
            total = total + (n * n.roll(1, 3)).mean().square() + (n * n.roll(1, 2)).mean().square()
            if n.shape[2] <= NOISE_DOWN_TO:
                break
            n = F.avg_pool2d(n, 2)
    return total


# ---- the search ------------------------------------------------------------------------------------------------------


def learning_rate(share: float, p: Procedure) -> float:
    """At the share of all steps: up linearly, down by a cosine."""
    down = min(1.0, (1 - share) / p.lr_rampdown)
    return p.lr * (0.5 - 0.5 * math.cos(down * math.pi)) * min(1.0, share / p.lr_rampup)


def project(sampler: Sampler, target: np.ndarray, c: torch.Tensor, distance: Distance, p: Procedure,
            watch: Callable[[int, float, torch.Tensor, Mapping[str, torch.Tensor]], None] | None = None) -> Projected:
    """The latent of a target uint8 [C, H, W] for the label c [1, label_dim].

    `watch(step, distance, latent, noise)` sees every step. The same arguments give the same result.
    """
    device = sampler.device
    latents = Latents(sampler, c.to(device, torch.float32), p)
    shown = torch.from_numpy(target[None].copy()).to(device)
    want = distance(from_uint8(shown)).detach()
    rng = torch.Generator().manual_seed(seeding.number(p.seed))
    free = latents.mean.clone().requires_grad_(True)
    places = noise_maps(sampler) if p.noise else {}
    # All start as noise of their own, also those that the network has constant.
    maps = {name: torch.randn(m.noise_const.shape, generator=rng).to(device).requires_grad_(True)
            for name, (m, _) in places.items()}
    opt = optimizers.Adam([free, *maps.values()], betas=(0.9, 0.999), lr=p.lr)
    with with_noise(sampler, maps):
        for step in range(p.steps):
            share = step / p.steps
            for group in opt.param_groups:
                group["lr"] = learning_rate(share, p)
            jitter = latents.spread * p.perturb * max(0.0, 1 - share / p.perturb_until) ** 2
            moved = free + torch.randn(free.shape, generator=rng).to(device) * jitter
            apart = (distance(latents.images(latents.expand(moved))) - want).square().sum()
            loss = apart + p.noise_weight * signal_in(list(maps.values())) if maps else apart
            opt.zero_grad(set_to_none=True)
            loss.backward()
            opt.step()
            with torch.no_grad():
                for n in maps.values():
                    n -= n.mean()
                    n *= n.square().mean().rsqrt()
                if watch:
                    watch(step, float(apart), latents.expand(free), maps)
        with torch.no_grad():
            latent = latents.expand(free)
            image = latents.images(latent)
            apart = float((distance(image) - want).square().sum())
            pixels = to_uint8(image).float() - shown
    if not math.isfinite(apart):
        raise UserError("the projection became infinite or not a number: the network's weights may be damaged")
    return Projected(latent[0].cpu().numpy(), {k: v.detach().cpu().numpy() for k, v in maps.items()}, apart,
                     float(pixels.square().mean().sqrt()))


def likely_class(sampler: Sampler, target: np.ndarray, labels: torch.Tensor, distance: Distance, p: Procedure,
                 tried: Callable[[int, float], None] | None = None) -> int:
    """The row of `labels` [K, label_dim] whose short projection (a tenth of the steps) comes nearest to the target."""
    short = Procedure(**{**p.__dict__, "steps": max(p.steps // 10, 1), "samples": min(p.samples, 1000)})
    best, at = math.inf, 0
    for k in range(len(labels)):
        found = project(sampler, target, labels[k : k + 1], distance, short).distance
        if tried:
            tried(k, found)
        if found < best:
            best, at = found, k
    return at
