# SPDX-License-Identifier: Apache-2.0
"""gantransfer project: the latents of given images, found by optimisation, as published for StyleGAN2."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from dnnlib.util import UserError, atomic_path, check_writable, format_time
from gantransfer.commands import CONTEXT, flags
from gantransfer.data.classes import CLASS_HELP, asked_classes

if TYPE_CHECKING:
    import torch

    from gantransfer.data.labels import LabelSpec
    from gantransfer.latent.nearness import Embed
    from gantransfer.latent.projection import Procedure, Projected
    from gantransfer.networks.sizes import ImageSize
    from gantransfer.sampler import Sampler

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
FRAMES = 200  # of the film, at most


@click.command(context_settings=CONTEXT)
@click.option("--network", type=flags.SNAPSHOT, metavar="PATH",
              help="Snapshot: ours or a published pickle; file or URL [default: newest of runs/]")
@click.option("--target", required=True, type=flags.PATH, metavar="IMAGE|FOLDER",
              help="Image, or a folder of images; the centred part of the network's shape is taken, at its size")
@click.option("--outdir", required=True, type=flags.PATH, metavar="DIR",
              help="Where to; of a folder a folder per image")
@click.option("--class", "class_", metavar="LIST", help=f"The image's class, or several to try: {CLASS_HELP} [default: "
              "all that had images are tried]")
@click.option("--label", type=flags.FloatRange(), help="The image's label, of a model with one continuous label")
@click.option("--steps", type=flags.IntRange(min=1), default=1000, show_default=True, help="Steps of the optimiser")
@click.option("--plus", is_flag=True, help="A w for each layer (w+): nearer to the image, further from the model")
@click.option("--noise", type=flags.BOOL, default=True, show_default=True, help="Find the noise maps too")
@click.option("--seed", type=flags.SEED, default=303, show_default=True, help="Of all that is random")
@click.option("--video", type=flags.BOOL, default=True, show_default=True,
              help="Also proj.mp4 (without imageio-ffmpeg proj.webp): target and projection")
@click.option("--detector", type=flags.PATHS, metavar="LIST",
              help="Weights of VGG16 for LPIPS: lpips=FILE or vgg16=FILE")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N")
@flags.option(flags.KERNELS)
def main(network: str | None, target: str, outdir: str, class_: str | None, label: float | None, steps: int,
         plus: bool, noise: bool, seed: int, video: bool, detector: str | None, device: str) -> None:
    """Find the latent of which a generator makes a given image, or one near it.

    \b
    gantransfer project --network=SNAP.pkl --target=photo.png --outdir=out
    gantransfer generate --network=SNAP.pkl --projected-w=out/projected_w.npz --grid=same.png

    Writes target.png, proj.png, projected_w.npz (w, label, noise maps) and proj.mp4.
    """
    check_writable("--outdir", outdir, False)
    where, files = flags.pick_device(device), targets(Path(target))
    from gantransfer.detectors.features import parse_overrides
    from gantransfer.latent.nearness import DETECTORS, nearness
    from gantransfer.latent.projection import Procedure
    from gantransfer.model import load

    weights = parse_overrides([part for part in (detector or "").split(",") if part])
    if other := [name for name in weights if name not in DETECTORS]:
        raise UserError(f"--detector: {other[0]} is not asked here; give {' or '.join(f'{d}=FILE' for d in DETECTORS)}")
    if not network:
        from gantransfer.commands.run import newest_snapshot

        network = newest_snapshot("--network is missing and runs/ has no snapshot: name one")
    snap = load(network)
    sampler = snap.sampler(where)
    spec = sampler.spec
    if plus and sampler.styles is None:
        raise UserError(f"--plus: this model ({snap.method}) has no w, and is searched in z; omit the flag")
    labels, names = labels_of(spec.label, class_, label)
    images = [(f, upright(f, spec.size, spec.channels)) for f in files]
    D = snap.build("D", where) if "D" in snap.nets else None
    embed, words = nearness(D, min(spec.size), where, weights)
    print(f"Nearness:     {words}")
    p = Procedure(steps=steps, plus=plus, noise=noise, seed=seed)
    for file, image in images:
        into = Path(outdir) / file.stem if Path(target).is_dir() else Path(outdir)
        one(sampler, file, image, labels, names, embed, p, into, video)


def targets(path: Path) -> list[Path]:
    """The image files that are meant. UserError where there are none, or two that would be written to one folder."""
    if not path.is_dir():
        return [path]
    found = sorted(f for f in path.iterdir() if f.suffix.lower() in SUFFIXES)
    if not found:
        raise UserError(f"--target={path} holds no images ({', '.join(SUFFIXES)})")
    twice = [f for f in found if sum(g.stem == f.stem for g in found) > 1]
    if twice:
        raise UserError(f"--target={path}: {twice[0].name} and {twice[1].name} would be written to one folder; rename "
                        "one")
    return found


def upright(file: Path, size: ImageSize, channels: int) -> np.ndarray:
    """uint8 [C, *size]: the largest centred part of the network's shape, as its images are."""
    from dnnlib.util import open_regular
    from gantransfer.data.decode import read_picture, to_uint8
    from gantransfer.data.transforms import transform_image

    with open_regular(file) as f:
        data = f.read()
    picture = to_uint8(read_picture(data, str(file)), str(file), channels=str(channels), alpha="white")
    return transform_image(picture, "center-crop", size.width, size.height).transpose(2, 0, 1)


def labels_of(label: LabelSpec, class_: str | None, value: float | None) -> tuple[torch.Tensor, list[str]]:
    """(labels [K, label_dim] to try, what they are called). UserError for a label that the model has not."""
    import torch

    from gantransfer.data.labels import trained_classes
    from gantransfer.pictures.plan import value_plan
    from gantransfer.sampler import one_hot

    if value is not None and label.kind != "value" or class_ is not None and label.kind != "class":
        kind = {"none": "no labels", "class": "classes", "value": "continuous labels"}[label.kind]
        raise UserError(f"--{'label' if value is not None else 'class'}: this model has {kind}")
    if label.kind == "value":
        if value is None or label.dim != 1:
            raise UserError("this model has continuous labels; give --label=VALUE, the target's")
        return value_plan(label, [0], [value]).labels, [f"label {value:g}"]
    if label.kind == "none":
        return torch.zeros([1, label.dim]), [""]
    classes = asked_classes(class_, label) if class_ else trained_classes(label)
    return one_hot(classes, label.dim), [f"class {label.name(k)}" for k in classes]


def one(sampler: Sampler, file: Path, image: np.ndarray, labels: torch.Tensor, names: list[str], embed: Embed,
        p: Procedure, into: Path, video: bool) -> Projected:
    """Project one image and write what was found."""
    import torch
    from tqdm import tqdm

    from gantransfer.data.transforms import png
    from gantransfer.latent import projection
    from gantransfer.pictures.video import video_ending, write_video
    from torch_utils.pixels import to_uint8

    begin, chosen = time.time(), 0
    if len(labels) > 1:
        with tqdm(total=len(labels), desc=f"{file.name}: which class", unit="class") as bar:
            chosen = projection.likely_class(sampler, image, labels, embed, p, lambda k, d: bar.update())
    c, frames, every = labels[chosen : chosen + 1], [image], -(-p.steps // FRAMES)
    with tqdm(total=p.steps, desc=file.name, unit="step") as bar:
        def watch(step: int, distance: float, latent: torch.Tensor, maps: dict[str, torch.Tensor]) -> None:
            bar.update()
            if step % every == 0:
                bar.set_postfix_str(f"distance {distance:.3g}", refresh=False)
                if video:
                    with torch.no_grad():
                        frames.append(to_uint8(projection.render(sampler, latent, c))[0].cpu().numpy())

        found = projection.project(sampler, image, c, embed, p, watch)
    maps = {k: torch.from_numpy(v).to(sampler.device) for k, v in found.noise.items()}
    with torch.no_grad(), projection.with_noise(sampler, maps):
        latent = torch.from_numpy(found.latent)[None].to(sampler.device)
        made = to_uint8(projection.render(sampler, latent, c.to(sampler.device)))[0].cpu().numpy()
    into.mkdir(parents=True, exist_ok=True)
    for name, x in (("target", image), ("proj", made)):
        with atomic_path(into / f"{name}.png") as tmp:
            tmp.write_bytes(png(x))
    if video:
        pairs = np.stack([np.repeat(image[None], len(frames), 0), np.stack([*frames[1:], made])])
        write_video(into / f"proj{video_ending()}", pairs, 30, max(256 // max(image.shape), 1))
    projection.save(into / "projected_w.npz", found, c)
    of = f", {names[chosen]}" if names[chosen] else ""
    print(f"{into / 'proj.png'}: distance {found.distance:.3g}, pixels {found.rms:.3g} of 255 (root mean square){of}, "
          f"{format_time(time.time() - begin)}")
    return found
