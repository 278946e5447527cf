# SPDX-License-Identifier: Apache-2.0
"""gantransfer encode: the images of a set as latents of a frozen auto-encoder, once.

Writes `<data>.mind.npz` beside the set. A killed run continues when it is started again. Prints how well the
auto-encoder reproduces the images: no generator in its latent space can do better (the floor).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dnnlib.util import UserError, sole_writer
from gantransfer.commands import CONTEXT, flags

if TYPE_CHECKING:
    import torch

    from gantransfer.data.dataset import ImageDataset
    from gantransfer.latent.autoencoder import AutoEncoder
    from gantransfer.latent.cache import Cache


@click.command(context_settings=CONTEXT)
@click.option("--data", required=True, type=flags.PATH, metavar="PATH",
              help="Images to encode: zip or folder made by dataset_tool.py")
@click.option("--network", required=True, type=flags.SNAPSHOT, metavar="PATH",
              help="Snapshot with an encoder: of --method=encoder or alae, or made in one's latent space")
@click.option("--cache", type=flags.PATH, metavar="FILE", help="Where to [default: <data>.mind.npz beside the set]")
@click.option("--xflip", type=flags.BOOL, default=False, show_default=True, help="Mirrored images too")
@click.option("--fp16", is_flag=True, help="Keep latents as float16, half the size")
@click.option("--recon", type=flags.BOOL, default=True, show_default=True,
              help="Measure the reconstruction of every image")
@click.option("--floor", metavar="METRIC", help="Also a metric of the reconstructions, e.g. fid1000_full")
@click.option("--detector", type=flags.PATHS, metavar="LIST",
              help="Detector weights for --floor: FILE or NAME=FILE, comma-separated")
@click.option("--shard", metavar="I/N", default="0/1", show_default=True,
              help="Do part I of N; the last part to finish writes the file")
@click.option("--overwrite", is_flag=True, help="Replace a cache that does not fit")
@click.option("--accept", is_flag=True, help="Go on with an encoder that missed its acceptance figures")
@click.option("--batch", type=flags.IntRange(min=1), default=16, show_default=True, help="Images at a time")
@flags.option(flags.KERNELS)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N")
def main(data: str, network: str, cache: str | None, xflip: bool, fp16: bool, recon: bool, floor: str | None,
         detector: str | None, shard: str, overwrite: bool, accept: bool, batch: int, device: str) -> None:
    """Encode a data set into the latent space of a frozen auto-encoder.

    \b
    gantransfer encode --data=target.zip --network=runs/00001-source/network-snapshot-000200.pkl
    """
    from tqdm import tqdm

    from gantransfer.data import resolution
    from gantransfer.importers import load_any
    from gantransfer.latent import autoencoder
    from gantransfer.latent import cache as latents
    from gantransfer.latent.reconstructions import floor_lines

    where, part = flags.pick_device(device), parse_shard(shard)
    path = Path(cache) if cache else latents.default_path(data)
    ae = autoencoder.load(load_any(network), where, network)
    say_acceptance(ae, network, accept)
    images = latents.whole_set(data)
    resolution.require(images.resolution, data)
    autoencoder.check_images(ae, images.spec, network)
    found = None
    if path.exists():
        try:
            found = latents.read(path)
            found.check(ae, images)
            if xflip and not found.config["xflip"]:
                raise UserError(f"{path} has no latents of mirrored images; encode again with --overwrite")
        except UserError as e:
            replace = isinstance(e, latents.Damaged) and latents.made_by_us(path)
            if not overwrite and not replace:
                raise
            if replace:
                print(f"{str(e).split('; encode')[0]}: encoding again")
            found = None
    if found is not None:
        print(f"{path} is there already, of these images and networks")
    else:
        total = len(images) * (2 if xflip else 1)
        target = path if part[1] == 1 else path.with_name(f"{path.name}.{part[0]}of{part[1]}")
        with sole_writer(target), tqdm(total=total, unit="img", desc="encoding") as bar:
            found = latents.encode(images, ae, path, flips=xflip, half=fp16, measure=recon, batch=batch, shard=part,
                                   device=where, progress=bar.update)
        if found is None:
            print(f"part {shard} of {path} is done; other parts are missing")
            return
        print(f"{path}: {len(found.w)} latents of {ae.slots} x {ae.w_dim}, {path.stat().st_size / 2**20:.1f} MiB, "
              f"{found.config['seconds']:.1f} s")
    for line in floor_lines(found, images):
        print(line)
    if floor:
        print_floor_metric(floor, detector, found, ae, images, where)


def parse_shard(text: str) -> tuple[int, int]:
    first, slash, last = text.partition("/")
    if not (slash and len(text) < 40 and first.isdecimal() and last.isdecimal() and int(first) < int(last)):
        raise UserError(f"--shard={text} is not I/N with I below N, such as 0/4")
    return int(first), int(last)


def say_acceptance(ae: AutoEncoder, name: str, accept: bool) -> None:
    """Print an encoder's figures; UserError for one that missed them, unless it is accepted knowingly."""
    if ae.figures:
        print("encoder: " + ", ".join(f"{k} {v:.4g}" for k, v in ae.figures.items()))
    if not ae.accepted:
        text = (f"the encoder of {name} missed its acceptance figure (relative latent error "
                f"{ae.figures.get('latent_error', math.nan):.3g}, wanted below 0.1)")
        if not accept:
            raise UserError(f"{text}; train it longer, or take it knowingly with --accept")
        print(f"Warning: {text}; its latents may not say what the generator needs")


def print_floor_metric(name: str, detector: str | None, cache: Cache, ae: AutoEncoder, images: ImageDataset,
                       device: torch.device | str) -> dict[str, float]:
    """Compute a metric of the reconstructions against the images they are of, and print it."""
    from gantransfer.latent.reconstructions import Reconstructions
    from gantransfer.metrics import table

    detectors, out = flags.named_files(detector), {}
    for metric in table.parse_names(name):
        table.preflight([metric], images.spec, detectors)
        ctx = table.MetricContext(sampler=Reconstructions(cache, ae, images, device), reference=images,
                                  device=device, detectors=detectors)
        result = table.compute(metric, ctx)["results"]
        out.update({k: v for k, v in result.items() if isinstance(v, int | float)})
    print("floor: " + ", ".join(f"{k} {v:.5g}" for k, v in out.items()))
    return out
