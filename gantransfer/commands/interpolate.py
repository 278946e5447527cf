# SPDX-License-Identifier: Apache-2.0
"""Walks between classes and latents: `gantransfer interpolate --type=class --network=SNAP.pkl --output=...`.

A .png is a sheet with a column per step; an .mp4 or .webp shows the steps one after the other, rows side by side. All
cells of a row share one noise, so that nothing flickers. Types, with z a latent and v the class (vector):

    class        v moves from --class-1 to --class-2, a row per seed
    noise        z moves from each seed to the next one, at --class-1
    class_noise  one sheet: down z moves, across v moves
    random_z     independent latents at --class-1
    z_shift      z + s in all coordinates, s from -1 to 1, at --class-1
    class_shift  v + s in all coordinates, s from -0.1 to 0.1, at --class-1
"""

from __future__ import annotations

import os

import click

from dnnlib.util import UserError
from gantransfer.commands import CONTEXT
from gantransfer.commands.flags import (
    FLOAT,
    KERNELS,
    PATH,
    SNAPSHOT,
    Choice,
    IntRange,
    option,
    parse_seeds,
    pick_device,
)
from gantransfer.data.classes import ONE_CLASS_HELP, one_class
from gantransfer.data.labels import trained_classes

TYPES = ("class", "noise", "class_noise", "random_z", "z_shift", "class_shift")


@click.command(context_settings=CONTEXT)
@click.option("--network", required=True, type=SNAPSHOT, metavar="PATH",
              help="Snapshot of a class-conditional model; file or URL")
@click.option("--type", "kind", type=Choice(TYPES), default="class", show_default=True, help="What moves")
@click.option("--output", required=True, type=PATH, metavar="FILE.png|mp4|webp", help="A sheet or a film")
@click.option("--class-1", "first", metavar="CLASS",
              help=f"Class, or where the class starts: {ONE_CLASS_HELP} [default: the first that had images]")
@click.option("--class-2", "second", metavar="CLASS", help="Where the class ends [default: the second]")
@click.option("--seeds", default="0-3", show_default=True, help="A row per seed (noise: per pair of neighbours)")
@click.option("--steps", type=IntRange(min=2), default=10, show_default=True, help="Columns, or frames")
@click.option("--interpolation", type=Choice(["linear", "spherical"]), default="linear", show_default=True)
@click.option("--trunc", type=FLOAT, default=1, show_default=True, help="Truncation psi")
@click.option("--trunc-center", type=Choice(["global", "class"]), default="global", show_default=True,
              help="What truncation pulls towards: one mean, as published, or the mean w of the step's own class")
@click.option("--noise-mode", type=Choice(["const", "random", "none"]), default="const", show_default=True,
              help="random: one noise per row")
@click.option("--zoom", type=IntRange(1, 64), default=1, show_default=True, help="Enlarge the images")
@click.option("--fps", type=IntRange(1, 120), default=12, show_default=True, help="Frames per second of a film")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N")
@option(KERNELS)
@click.option("--batch", type=IntRange(min=1), default=16, show_default=True, help="Images at a time")
def main(network: str, kind: str, output: str, first: str | None, second: str | None, seeds: str, steps: int,
         interpolation: str, trunc: float, trunc_center: str, noise_mode: str, zoom: int, fps: int, device: str,
         batch: int) -> None:
    """Interpolate between classes, latents, or both.

    \b
    gantransfer interpolate --network=SNAP.pkl --type=class --class-1=3 --class-2=8 --output=sheet.png
    gantransfer interpolate --network=SNAP.pkl --type=noise --seeds=0-8 --steps=60 --output=walk.mp4
    """
    import torch

    from gantransfer.model import load
    from gantransfer.pictures.grids import save_grid
    from gantransfer.pictures.video import KINDS, write_video
    from gantransfer.pictures.walks import Walk, sheet
    from torch_utils.interpolation import slerp

    ending = os.path.splitext(output)[1].lower()
    if ending not in (".png", *KINDS) or os.path.isdir(output):
        raise UserError(f"--output={output} should be a file that ends in .png, .mp4 or .webp")
    chosen = parse_seeds(seeds)
    if kind in ("noise", "class_noise") and len(set(chosen)) < 2:
        raise UserError(f"--type={kind} moves from one seed to another: give two or more to --seeds")
    where = pick_device(device)
    sampler = load(network).sampler(where)
    label = sampler.spec.label
    if label.kind != "class":
        raise UserError(f"{network} has no classes to walk between")
    trained = trained_classes(label)
    ends = [fallback if text is None else one_class(text, label, flag) for flag, text, fallback in (
        ("--class-1", first, trained[0]), ("--class-2", second, trained[min(1, len(trained) - 1)]))]
    sampler.check_center(trunc_center)
    between = slerp if interpolation == "spherical" else torch.lerp
    frames = sheet(Walk(sampler, trunc, noise_mode, where, trunc_center), kind, chosen, *ends, steps, between, batch)
    if ending == ".png":
        save_grid(output, frames.reshape(-1, *frames.shape[2:]), steps, zoom=zoom)
    else:
        write_video(output, frames, fps, zoom)
    print(f"{output}: {frames.shape[0]} rows of {steps} steps")
