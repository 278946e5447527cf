# SPDX-License-Identifier: Apache-2.0
"""Walks between classes and latents: `gantransfer interpolate --type=class --network=SNAP.pkl --output=...`.

A .png is a sheet with a column per step; an .mp4 or .webp shows the steps one after the other, rows side by side. All
cells of a row share one noise, so that nothing flickers. Types, with z a latent and v the class (vector; the label,
where it is continuous):

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

from dnnlib.util import UserError, check_writable, finite_numbers
from gantransfer.commands import CONTEXT, flags
from gantransfer.data.classes import ONE_CLASS_HELP, one_class
from gantransfer.data.labels import LabelSpec, trained_classes

TYPES = ("class", "noise", "class_noise", "random_z", "z_shift", "class_shift")
UNLABELLED = ("noise", "random_z", "z_shift")  # what a model without labels has


@click.command(context_settings=CONTEXT)
@click.option("--network", required=True, type=flags.SNAPSHOT, metavar="PATH", help="Snapshot; file or URL")
@click.option("--type", "kind", type=flags.Choice(TYPES), help="What moves [default: class; noise of a model "
              "without labels or with one class]")
@click.option("--output", type=flags.PATH, metavar="FILE.png|mp4|webp", help="A sheet or a film")
@click.option("--video", type=flags.PATH, metavar="FILE", help="A film; without an ending .mp4 where the package "
              "imageio-ffmpeg is installed, else .webp")
@click.option("--class-1", "first", metavar="CLASS", help=f"Class, or where the class starts: {ONE_CLASS_HELP} "
              "[default: the first that had images]; of a continuous label its value [the least]")
@click.option("--class-2", "second", metavar="CLASS", help="Where the class ends [default: the second; the largest]")
@click.option("--seeds", default="0-3", show_default=True, help="A row per seed (noise: per pair of neighbours)")
@click.option("--steps", type=flags.IntRange(min=2), default=10, show_default=True,
              help="Columns, or frames, of one way")
@click.option("--loop", is_flag=True, help="End where it began: noise goes through all seeds to the first, in one row; "
              "the others return")
@click.option("--interpolation", type=flags.Choice(["linear", "spherical"]), default="linear", show_default=True)
@click.option("--trunc", type=flags.FLOAT, default=1, show_default=True, help="Truncation psi")
@click.option("--trunc-center", type=flags.Choice(["global", "class"]), default="global", show_default=True,
              help="What truncation pulls towards: one mean, as published, or the mean w of the step's own class")
@click.option("--noise-mode", type=flags.Choice(["const", "random", "none"]), default="const", show_default=True,
              help="random: one noise per row")
@click.option("--zoom", type=flags.IntRange(1, 64),
              help="Enlarge the images [default: to 32 pixels at least, in a film to 128]")
@click.option("--fps", type=flags.IntRange(1, 120), default=12, show_default=True, help="Frames per second of a film")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N")
@flags.option(flags.KERNELS)
@click.option("--batch", type=flags.IntRange(min=1), default=16, show_default=True, help="Images at a time")
def main(network: str, kind: str | None, output: str | None, video: str | None, first: str | None, second: str | None,
         seeds: str, steps: int, loop: bool, interpolation: str, trunc: float, trunc_center: str, noise_mode: str,
         zoom: int | None, fps: int, device: str, batch: int) -> None:
    """Interpolate between classes, latents, or both.

    \b
    gantransfer interpolate --network=SNAP.pkl --type=class --class-1=3 --class-2=8 --output=sheet.png
    gantransfer interpolate --network=SNAP.pkl --type=noise --seeds=0-8 --steps=60 --loop --video=walk.mp4
    """
    import torch

    from gantransfer.model import load
    from gantransfer.networks.sizes import ImageSize
    from gantransfer.pictures import grids, walks
    from gantransfer.pictures import video as films
    from torch_utils.interpolation import slerp

    if not output and not video:
        raise UserError("where to? give --output=FILE.png, or --video=FILE for a film")
    ending = os.path.splitext(output or "x.png")[1].lower()
    if ending not in (".png", *films.KINDS) or os.path.isdir(output or ""):
        raise UserError(f"--output={output} should be a file that ends in .png, .mp4 or .webp")
    if output and ending != ".png":
        if video:
            raise UserError(f"--output={output} and --video={video} are two films; give one of them")
        output, video = None, output
    check_writable("--output", output, True)
    video = video and films.named(video)
    chosen = flags.parse_seeds(seeds)
    where = flags.pick_device(device)
    model = load(network)
    sampler = model.sampler(where)
    label = walks.label_of(sampler)
    one = label.kind == "class" and len(trained_classes(label)) < 2 and not second
    kind = kind or ("noise" if label.kind == "none" or one else "class")
    if label.kind == "none" and (given := [f for f, v in (("--class-1", first), ("--class-2", second)) if v] or [
            f"--type={kind}"] * (kind not in UNLABELLED)):
        raise UserError(f"{given[0]}: {network} has no classes to walk between; omit it, or give --type="
                        f"{', '.join(UNLABELLED)}")
    if kind in ("noise", "class_noise") and len(set(chosen)) < 2:
        raise UserError(f"--type={kind} moves from one seed to another: give two or more to --seeds")
    if kind == "random_z" and loop:
        raise UserError("--type=random_z jumps from one latent to another, and has no way back: omit --loop")
    ends = _ends(label, first, second)
    if kind in ("class", "class_noise") and ends[0] == ends[1]:
        raise UserError(f"--type={kind} moves from --class-1 to --class-2, and both are "
                        f"{walks.name_of(label, ends[0])}: give two that differ, or --type=noise")
    sampler.check_center(trunc_center)
    height, width = ImageSize.of(sampler.spec.resolution)
    grids.check_size(len(chosen) * steps * (steps if kind == "class_noise" else 1), height, width,
                     (zoom or grids.zoom_to(width)) if output else 1, f"--steps={steps}: give fewer steps or --seeds")
    between = slerp if interpolation == "spherical" else torch.lerp
    walk = walks.Walk(sampler, trunc, noise_mode, where, trunc_center)
    frames = walks.sheet(walk, kind, chosen, *ends, steps, between, batch, loop)
    said = walks.words(label, kind, chosen, *ends, steps, loop)
    what = f"{frames.shape[0]} row{'s' * (frames.shape[0] != 1)} of {frames.shape[1]} steps"
    if output:
        grids.save(output, walks.drawn(frames, said, model.title, zoom or grids.zoom_to(frames.shape[-1])))
        print(f"{output}: {what}")
    if video:
        films.write_film(video, walks.film(frames, said, zoom or grids.zoom_to(frames.shape[-1], 128)), fps)
        print(f"{video}: {what}, {frames.shape[1] / fps:.3g} s")


def _ends(label: LabelSpec, first: str | None, second: str | None) -> tuple[float, float]:
    """Where the class is and where it goes: class ids, or values of a continuous label."""
    given = (("--class-1", first), ("--class-2", second))
    if label.kind == "none":
        return 0, 0
    if label.kind == "class":
        trained = trained_classes(label)
        return tuple(fallback if text is None else one_class(text, label, flag) for (flag, text), fallback in zip(
            given, (trained[0], trained[min(1, len(trained) - 1)])))
    if label.dim != 1 or "min" not in label.meta:
        raise UserError(f"a walk needs classes, one continuous label or none; the labels of this model are {label.dim} "
                        "numbers")
    low, high, ends = label.meta["min"], label.meta["max"], []
    for (flag, text), fallback in zip(given, (low, high)):
        value, *more = [fallback] if text is None else finite_numbers(text, flag)
        if more or not low <= value <= high:
            raise UserError(f"{flag}={text}: one label between {low:g} and {high:g}")
        ends.append(value)
    return tuple(ends)
