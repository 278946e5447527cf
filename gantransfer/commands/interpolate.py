# SPDX-License-Identifier: Apache-2.0
"""Walks between classes and latents: `gantransfer interpolate --type=class --network=SNAP.pkl --output=...`.

A .png is a sheet with a column per step; an .mp4 shows the steps one after the other, rows side by side. All cells of
a row share one noise, so that nothing flickers. Types, with z a latent and v the class (vector):

    class        v moves from --class-1 to --class-2, a row per seed
    noise        z moves from each seed to the next one, at --class-1
    class_noise  one sheet: down z moves, across v moves
    random_z     independent latents at --class-1
    z_shift      z + s in all coordinates, s from -1 to 1, at --class-1
    class_shift  v + s in all coordinates, s from -0.1 to 0.1, at --class-1
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import click
import numpy as np
import torch
from tqdm import tqdm

from dnnlib import seeding
from dnnlib.util import UserError, atomic_path
from gantransfer import label_means
from gantransfer.commands import kernels
from gantransfer.commands.flags import FLOAT, ONE_CLASS_HELP, PATH, IntRange, one_class, parse_seeds, trained_classes
from gantransfer.commands.generate import pick_device
from gantransfer.importers import load_any
from gantransfer.networks.hypermod import ClassInStyles
from gantransfer.pictures.grids import save_grid
from gantransfer.sampler import Sampler, one_hot, to_uint8
from torch_utils.random import SeedStack

TYPES = ("class", "noise", "class_noise", "random_z", "z_shift", "class_shift")


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
        net = getattr(sampler, "network", None)
        self.hyper = net if isinstance(net, ClassInStyles) else None

    def latent(self, seed: int) -> torch.Tensor:
        """[1, z_dim], as the sampler draws it."""
        return torch.from_numpy(seeding.numpy_rng(seed).randn(1, self.sampler.z_dim)).float().to(self.device)

    @torch.no_grad()
    def vector(self, class_id: int) -> torch.Tensor:
        """[1, T]."""
        c = one_hot([class_id], self.sampler.spec.label.dim).to(self.device)
        return self.hyper.G.classes(c) if self.hyper is not None else c

    @torch.no_grad()
    def images(self, z: torch.Tensor, v: torch.Tensor, seed: int, batch: int) -> np.ndarray:
        """uint8 [n, C, H, W] for n pairs of z and v, all with the noise of one seed."""
        out = []
        for i in range(0, len(z), batch):
            zs, vs = z[i : i + batch], v[i : i + batch]
            kw: dict[str, Any] = dict(noise_mode=self.noise_mode, rng=SeedStack([seed] * len(zs)))
            if self.hyper is not None:
                ws = self.styles(zs)
                ws = torch.cat([ws, vs[:, None].expand(-1, ws.shape[1], -1)], 2)
                out.append(to_uint8(self.hyper.synthesis(ws, **kw)))
            else:
                out.append(to_uint8(self.sampler.images(zs, vs, truncation_psi=self.psi, truncation_center=self.center,
                                                     **kw)))
        return torch.cat(out).cpu().numpy()

    def styles(self, z: torch.Tensor) -> torch.Tensor:
        """ws of a hyper-modulated model, [n, L, D]: they know no class, so that every class has one centre."""
        G = self.hyper.G
        if self.center == "global" or self.psi == 1:
            return G.styles(z, truncation_psi=self.psi)
        label = torch.eye(self.sampler.label_dim, device=z.device)[:1]
        ws = G.styles(z)
        return label_means.pull(ws, self.sampler.means(label)[:, :, : ws.shape[2]], self.psi)


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


def write_video(path: str, frames: np.ndarray, fps: int, zoom: int) -> None:
    """uint8 [rows, steps, C, H, W] as an .mp4: frame k shows step k of all rows side by side."""
    try:
        import imageio_ffmpeg
    except ImportError:
        raise UserError("an .mp4 needs the package imageio-ffmpeg: pip install imageio-ffmpeg; or write a "
                        ".png") from None
    rows, steps, channels, h, w = frames.shape
    movie = np.repeat(np.repeat(frames, zoom, 3), zoom, 4).transpose(1, 3, 0, 4, 2).reshape(
        steps, h * zoom, rows * w * zoom, channels)
    if channels == 1:
        movie = movie.repeat(3, 3)
    # Encoders want even sizes.
    movie = np.pad(movie, ((0, 0), (0, movie.shape[1] % 2), (0, movie.shape[2] % 2), (0, 0)))
    with atomic_path(path) as tmp:
        writer = imageio_ffmpeg.write_frames(str(tmp), (movie.shape[2], movie.shape[1]), fps=fps, macro_block_size=1,
                                             output_params=["-f", "mp4"])
        writer.send(None)
        for frame in movie:
            writer.send(np.ascontiguousarray(frame))
        writer.close()


@click.command(context_settings={"max_content_width": 110})
@click.option("--network", required=True, type=PATH, metavar="PATH",
              help="Snapshot of a class-conditional model; file or URL")
@click.option("--type", "kind", type=click.Choice(TYPES), default="class", show_default=True, help="What moves")
@click.option("--output", required=True, type=PATH, metavar="FILE.png|mp4", help="A sheet or a film")
@click.option("--class-1", "first", metavar="CLASS",
              help=f"Class, or where the class starts: {ONE_CLASS_HELP} [default: the first that had images]")
@click.option("--class-2", "second", metavar="CLASS", help="Where the class ends [default: the second]")
@click.option("--seeds", default="0-3", show_default=True, help="A row per seed (noise: per pair of neighbours)")
@click.option("--steps", type=IntRange(min=2), default=10, show_default=True, help="Columns, or frames")
@click.option("--interpolation", type=click.Choice(["linear", "spherical"]), default="linear", show_default=True)
@click.option("--trunc", type=FLOAT, default=1, show_default=True, help="Truncation psi")
@click.option("--trunc-center", type=click.Choice(label_means.CENTERS), default="global", show_default=True,
              help="What truncation pulls towards: one mean, as published, or the mean w of the step's own class")
@click.option("--noise-mode", type=click.Choice(["const", "random", "none"]), default="const", show_default=True,
              help="random: one noise per row")
@click.option("--zoom", type=IntRange(1, 64), default=1, show_default=True, help="Enlarge the images")
@click.option("--fps", type=IntRange(1, 120), default=12, show_default=True, help="Frames per second of an .mp4")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N")
@click.option("--kernels", **kernels.FLAG)
@click.option("--batch", type=IntRange(min=1), default=16, show_default=True, help="Images at a time")
def main(network: str, kind: str, output: str, first: str | None, second: str | None, seeds: str, steps: int,
         interpolation: str, trunc: float, trunc_center: str, noise_mode: str, zoom: int, fps: int, device: str,
         batch: int) -> None:
    """Interpolate between classes, latents, or both.

    \b
    gantransfer interpolate --network=SNAP.pkl --type=class --class-1=3 --class-2=8 --output=sheet.png
    gantransfer interpolate --network=SNAP.pkl --type=noise --seeds=0-8 --steps=60 --output=walk.mp4
    """
    from gantransfer.methods import METHODS

    ending = os.path.splitext(output)[1].lower()
    if ending not in (".png", ".mp4") or os.path.isdir(output):
        raise UserError(f"--output={output} should be a file that ends in .png or .mp4")
    chosen = parse_seeds(seeds)
    if kind in ("noise", "class_noise") and len(set(chosen)) < 2:
        raise UserError(f"--type={kind} moves from one seed to another: give two or more to --seeds")
    where, snap = pick_device(device), load_any(network)
    if snap.method not in METHODS:
        raise UserError(f"{network} is of the method {snap.method}, which makes no images in this version; name the "
                        "snapshot of a generator")
    sampler = METHODS[snap.method].sampler_from(snap, where)
    label = sampler.spec.label
    if label.kind != "class":
        raise UserError(f"{network} has no classes to walk between")
    trained = trained_classes(label)
    ends = [fallback if text is None else one_class(text, label, flag) for flag, text, fallback in (
        ("--class-1", first, trained[0]), ("--class-2", second, trained[min(1, len(trained) - 1)]))]
    sampler.check_center(trunc_center)
    between = slerp if interpolation == "spherical" else straight
    frames = sheet(Walk(sampler, trunc, noise_mode, where, trunc_center), kind, chosen, *ends, steps, between, batch)
    if ending == ".png":
        save_grid(output, frames.reshape(-1, *frames.shape[2:]), steps, zoom=zoom)
    else:
        write_video(output, frames, fps, zoom)
    print(f"{output}: {frames.shape[0]} rows of {steps} steps")
