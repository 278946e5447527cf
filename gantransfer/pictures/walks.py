# SPDX-License-Identifier: Apache-2.0
"""Images on the way from one class or latent to another, each row with one noise.

Types, with z a latent and v the class (vector; of a model with one continuous label the label):

    class        v moves from the first class to the second, a row per seed
    noise        z moves from each seed to the next one, at the first class
    class_noise  one sheet: down z moves, across v moves
    random_z     independent latents at the first class
    z_shift      z + s in all coordinates, s from -1 to 1, at the first class
    class_shift  v + s in all coordinates, s from -0.1 to 0.1, at the first class

A loop ends where it began: `noise` goes through all seeds and on to the first one, in one row; the others return.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from dnnlib import seeding
from gantransfer.data.labels import LabelSpec
from gantransfer.pictures.grids import Head, image_grid
from gantransfer.pictures.text import width
from gantransfer.sampler import Sampler, one_hot, to_uint8
from torch_utils.random import SeedStack

BESIDE = 8  # images in a row of a film


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
    def vector(self, end: float) -> torch.Tensor:
        """[1, T] of a class id, or of the value of a continuous label; [1, 0] of a model without labels."""
        label = label_of(self.sampler)
        c = torch.zeros([1, 0]) if label.kind == "none" else (
            one_hot([end], label.dim) if label.kind == "class" else torch.tensor([[float(end)]]))
        return self.sampler.class_vectors(c.to(self.device))

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


def label_of(sampler: Sampler) -> LabelSpec:
    """The labels that a model takes: none where its data has some and it does not."""
    return sampler.spec.label if sampler.label_dim else LabelSpec()


def _times(kind: str, steps: int, seeds: int, loop: bool) -> list[float]:
    """How far each column is, from 0 to 1; in a loop through several seeds their number counts on."""
    there = [k / (steps - 1) for k in range(steps)]
    if loop and kind == "noise":
        return [i + t for i in range(seeds) for t in there[:-1]]
    return there + there[-2:0:-1] * loop


def sheet(walk: Walk, kind: str, seeds: Sequence[int], first: float, second: float, steps: int,
          between: Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor], batch: int = 16,
          loop: bool = False) -> np.ndarray:
    """uint8 [rows, columns, C, H, W]; see the module's docstring for `kind`. `steps` columns from one end to the other;
    first, second: class ids, or values of a continuous label."""
    ts = _times(kind, steps, len(seeds), loop)
    z = {s: walk.latent(s) for s in seeds}
    one = walk.vector(first)
    two = walk.vector(second) if kind in ("class", "class_noise") else one
    rows = []
    bar = functools.partial(tqdm, desc="rows", delay=0.1)  # shown once a row is done, after what its first use may say

    def row(zs: list[torch.Tensor], vs: list[torch.Tensor], seed: int) -> None:
        rows.append(walk.images(torch.cat(zs), torch.cat(vs), seed, batch))

    if kind == "class_noise":
        for t in bar(_times(kind, steps, len(seeds), loop=False)):
            row([between(z[seeds[0]], z[seeds[1]], t)] * len(ts), [between(one, two, u) for u in ts], seeds[0])
    elif kind == "random_z":
        later = max(seeds) + 1
        for i, s in enumerate(bar(seeds)):
            row([walk.latent(later + i * steps + k) for k in range(steps)], [one] * steps, s)
    elif kind == "noise" and loop:
        ends = [z[s] for s in (*seeds, seeds[0])]
        row([between(ends[int(t)], ends[int(t) + 1], t % 1) for t in ts], [one] * len(ts), seeds[0])
    elif kind == "noise":
        for a, b in zip(bar(seeds[:-1]), seeds[1:]):
            row([between(z[a], z[b], t) for t in ts], [one] * steps, a)
    else:
        for s in bar(seeds):
            if kind == "class":
                row([z[s]] * len(ts), [between(one, two, t) for t in ts], s)
            elif kind == "z_shift":
                row([z[s] + (2 * t - 1) for t in ts], [one] * len(ts), s)
            else:
                row([z[s]] * len(ts), [one + 0.1 * (2 * t - 1) for t in ts], s)
    return np.stack(rows)


@dataclass
class Words:
    """What a walk shows."""

    title: str
    rows: list[str]
    columns: list[str]  # above those of a sheet
    frames: list[str]  # above those of a film
    marks: list[int]  # columns where something begins or ends


def words(label: LabelSpec, kind: str, seeds: Sequence[int], first: float, second: float, steps: int,
          loop: bool = False) -> Words:
    """Of `sheet` with the same arguments."""
    name = functools.partial(name_of, label)
    ts = _times(kind, steps, len(seeds), loop)
    here = f"class {name(first)}" if label.kind == "class" else name(first)
    out = Words(here, [f"seed {s}" for s in seeds], [_percent(t) for t in ts], [], [0, steps - 1])
    if kind in ("class", "class_noise"):
        a, b = name(first), name(second)
        out.title = f"{here} to {b}"
        if label.kind == "value":
            out.frames = [name(first + t * (second - first)) for t in ts]
            out.columns = out.frames
        else:
            out.columns = [{0: a, 1: b}.get(t, _percent(t)) for t in ts]
            out.frames = [{0: a, 1: b}.get(t, f"{a}: {_percent(1 - t)}, {b}: {_percent(t)}") for t in ts]
        if kind == "class_noise":
            down = _times(kind, steps, 2, loop=False)[1:-1]
            out.rows = [out.rows[0], *map(_percent, down), out.rows[1]]
        return out
    if kind == "noise" and loop:
        legs = [f"seed {a} to {b}: " for a, b in zip(seeds, [*seeds[1:], seeds[0]])]
        out.frames = [legs[int(t)] + _percent(t % 1) if t % 1 else f"seed {seeds[int(t)]}" for t in ts]
        out.columns = [_percent(t % 1) if t % 1 else f"seed {seeds[int(t)]}" for t in ts]
        out.rows, out.marks = ["all seeds"], list(range(0, len(ts), steps - 1))
    elif kind == "noise":
        out.rows = [f"seed {a} to {b}" for a, b in zip(seeds, seeds[1:])]
        out.frames = out.columns
    elif kind == "random_z":
        out.rows, out.columns = [f"row {i + 1}" for i in range(len(seeds))], [""] * len(ts)
        out.frames = [f"latent {k + 1} of {len(ts)}" for k in range(len(ts))]
    else:
        what, most = ("z", 1) if kind == "z_shift" else ("class", 0.1)
        out.columns = [f"{most * (2 * t - 1):+.2g}" for t in ts]
        out.frames = [f"{what} {c}" for c in out.columns]
        out.title = f"{here}, {what} shifted".removeprefix(", ")
    out.frames = [f"{here}, {f}".removeprefix(", ") for f in out.frames]
    return out


def name_of(label: LabelSpec, end: float) -> str:
    """What a class id, or a value of a continuous label, is called; '' of a model without labels."""
    if label.kind == "class":
        return label.name(end)
    return f"{end:.3g} {label.meta.get('unit', '')}".rstrip() if label.kind == "value" else ""


def _percent(t: float) -> str:
    return f"{100 * t:.0f} %"


def drawn(frames: np.ndarray, said: Words, about: str, zoom: int) -> Image.Image:
    """The sheet of a walk [rows, columns, C, H, W]; `about` begins its title."""
    n, side = frames.shape[1], frames.shape[-1] * zoom
    heads = [Head(t, j, j) for j, t in enumerate(said.columns) if t]
    if heads and max(width(t, max(side // 12, 13)) for t in said.columns) > side:  # too narrow to name all
        heads = [Head(said.columns[j], j, to - 1) for j, to in zip(said.marks, [*said.marks[1:], n])]
        if said.marks[-1] == n - 1:
            middle = (said.marks[-2] + n) // 2
            heads[-2:] = [Head(heads[-2].text, said.marks[-2], middle - 1), Head(heads[-1].text, middle, n - 1, True)]
    return image_grid(frames.reshape(-1, *frames.shape[2:]), n, row_labels=said.rows, zoom=zoom, heads=heads,
                      title=", ".join(filter(None, [about, said.title])))


def film(frames: np.ndarray, said: Words, zoom: int) -> np.ndarray:
    """uint8 [T, H, W, 3]: step after step of a walk [rows, T, C, H, W], its rows beside each other."""
    columns = -(-len(frames) // -(-len(frames) // BESIDE))
    heads = [Head(t, i, i) for i, t in enumerate(said.rows)] if 1 < len(frames) == columns else []
    return np.stack([np.asarray(image_grid(frames[:, k], columns, zoom=zoom, heads=heads, title=t,
                                           titles=said.frames).convert("RGB")) for k, t in enumerate(said.frames)])
