# SPDX-License-Identifier: Apache-2.0
"""Images from a snapshot: `gantransfer generate --network=SNAP.pkl --seeds=0-63 --class=3 --outdir=out`.

Every image has a seed of its own and depends on nothing but the snapshot, the seed, the label and the options. A zip
as output is an ordinary data set; a grid has a row per class.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dnnlib.util import UserError, check_writable, finite_numbers
from gantransfer.commands import CONTEXT, flags
from gantransfer.data.classes import CLASS_HELP, asked_classes, note, warn_untrained

if TYPE_CHECKING:
    import numpy as np

    from gantransfer.sampler import Sampler

@click.command(context_settings=CONTEXT)
@click.option("--network", type=flags.SNAPSHOT, metavar="PATH",
              help="Snapshot: ours or a published pickle; file or URL [default: newest of runs/]")
@click.option("--seeds", metavar="LIST", help="One image per seed (and class): 0-63 or 1,5,9; any whole numbers")
@click.option("--class", "--classes", "class_", metavar="LIST",
              help=f"Classes: {CLASS_HELP}; new:3 or old:17 of a transferred model [default: those that had images]")
@click.option("--per-class", type=flags.IntRange(min=1), help="Images per class, seeds counting on from the first")
@click.option("--list", "list_", type=flags.PATH, metavar="FILE.json",
              help="The seeds and labels that gantransfer view saved, in place of --seeds and --class")
@click.option("--labels", type=flags.Choice(["uniform", "data"]),
              help="Draw the label of each seed: every class equally often, or as in the training set")
@click.option("--label", metavar="V,V,...", help="The label: a vector's values, or a weight for every class; of one "
              "continuous label: a value, or several (a row each in --grid)")
@click.option("--data", type=flags.PATH, metavar="PATH", help="Data set to draw float-vector labels from")
@click.option("--trunc", type=flags.FLOAT, default=1, show_default=True,
              help="Truncation psi: below 1 typical, less varied")
@click.option("--trunc-cutoff", type=flags.IntRange(min=0), help="Truncate only this many layers")
@click.option("--trunc-center", type=flags.Choice(["global", "class"]), default="global", show_default=True,
              help="What truncation pulls towards: one mean, as published, or the mean w of the image's own class")
@click.option("--noise-mode", type=flags.Choice(["const", "random", "none"]), default="const", show_default=True)
@click.option("--grid", type=flags.PATH, metavar="FILE.png", help="Write one picture, a row per class")
@click.option("--outdir", type=flags.PATH, metavar="DIR|FILE.zip",
              help="Write PNGs into a folder, or a data set with labels as a zip")
@click.option("--add-uc", "add_uc", is_flag=True, help="UTLO: also the label-free small images")
@click.option("--zoom", type=flags.IntRange(1, 64), help="Enlarge the grid's images [default: to 32 pixels at least]")
@click.option("--mix-rows", metavar="LIST", help="Style mixing into --grid: seeds of the rows")
@click.option("--mix-cols", metavar="LIST", help="... seeds of the columns, whose styles are taken over")
@click.option("--mix-layers", metavar="LIST", help="... in these layers [default: the lower half, at most 0-6]")
@click.option("--projected-w", type=flags.PATH, metavar="FILE.npz",
              help="Images of the latents that gantransfer project has found")
@click.option("--balance", is_flag=True, help="Fill the rare classes of --data up to the largest one, or to "
              "--per-class images, into --outdir=FILE.zip: the real images and the generated ones")
@click.option("--judge", type=flags.PATH, metavar="NAME|FILE", help="--balance: take images only in which this network "
              "(gantransfer judge, or digits32) sees their class")
@click.option("--fname", type=flags.PATH, metavar="NAME", help="--balance: label file in --data")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N")
@click.option("--gpus", type=flags.IntRange(min=1), default=1, show_default=True,
              help="Processes: one per GPU, or on the CPU; the same images, for thousands of them")
@flags.option(flags.KERNELS)
@click.option("--batch", type=flags.IntRange(min=1), default=16, show_default=True, help="Images at a time and process")
def main(network: str | None, seeds: str | None, class_: str | None, per_class: int | None, list_: str | None,
         labels: str | None, label: str | None, data: str | None, trunc: float, trunc_cutoff: int | None,
         trunc_center: str, noise_mode: str, grid: str | None, outdir: str | None, add_uc: bool, zoom: int | None,
         mix_rows: str | None, mix_cols: str | None, mix_layers: str | None, projected_w: str | None,
         balance: bool, judge: str | None, fname: str | None, device: str, gpus: int, batch: int) -> None:
    """Generate images from a snapshot, one seed per image.

    \b
    gantransfer generate --network=SNAP.pkl --grid=grid.png
    gantransfer generate --network=SNAP.pkl --seeds=0-63 --class=3 --trunc=0.7 --outdir=out
    gantransfer generate --network=SNAP.pkl --per-class=500 --outdir=fakes.zip
    gantransfer generate --network=SNAP.pkl --balance --data=set.zip --outdir=more.zip
    """
    if not grid and not outdir:
        raise UserError("where to? give --grid=FILE.png, --outdir=FOLDER or --outdir=FILE.zip")
    asked = dict(seeds=seeds, per_class=per_class, labels=labels, label=label, mix_rows=mix_rows, mix_cols=mix_cols)
    if list_ and (also := [f"--{k.replace('_', '-')}" for k, v in {**asked, "class": class_}.items() if v is not None]):
        raise UserError(f"--list says which images; omit {', '.join(also)}")
    if grid and os.path.splitext(grid)[1].lower() != ".png":
        raise UserError(f"--grid={grid} should end in .png")
    alone = {"--balance": balance, "--projected-w": projected_w, "--mix-rows": mix_rows, "--mix-cols": mix_cols}
    if gpus > 1 and any(alone.values()):
        raise UserError(f"--gpus={gpus} shares out single images; omit it with "
                        f"{next(k for k, v in alone.items() if v)}")
    if gpus > 1 and device not in ("auto", "cpu", "cuda"):
        raise UserError(f"--gpus={gpus} takes the first GPUs; omit --device={device}")
    is_zip = bool(outdir) and outdir.lower().endswith(".zip")
    for flag, path, is_file in (("--grid", grid, True), ("--outdir", outdir, is_zip)):
        check_writable(flag, path, is_file)
    if is_zip:
        from gantransfer.data.destination import only_generated

        only_generated(outdir, "--outdir")
    flags.start_processes(gpus, device)
    import numpy as np

    from gantransfer.model import load
    from gantransfer.pictures.files import ZipWriter, pngs, write_folder
    from gantransfer.pictures.grids import save_grid, zoom_to
    from gantransfer.pictures.plan import label_rows, listed_plan, make_plan, sample, split_label_set
    from torch_utils import distributed as dist

    chosen = flags.parse_seeds(seeds) if seeds else None
    if not balance and (judge or fname):
        raise UserError(f"{'--judge' if judge else '--fname'} belongs to --balance")
    if balance and (not data or not is_zip or chosen and len(chosen) > 1):
        raise UserError("--balance needs --data=SET and --outdir=FILE.zip; of --seeds it takes a single number, the "
                        "first one")
    if balance and (also := [f"--{k.replace('_', '-')}" for k, v in {
            **asked, "class": class_, "list": list_, "grid": grid, "projected_w": projected_w,
            "add_uc": add_uc or None}.items() if v is not None and k not in ("seeds", "per_class")]):
        raise UserError(f"--balance says which images; omit {', '.join(also)}")
    if not network:
        from gantransfer.commands.run import newest_snapshot

        network = newest_snapshot("--network is missing and runs/ has no snapshot: name one")
    where = dist.init(device) if gpus > 1 or dist.launched() else flags.pick_device(device)
    say = note if dist.is_main() else lambda text: None
    model = load(network)
    sampler = model.sampler(where)
    named = model.title + f", psi {trunc:g}" * (trunc != 1)
    if mix_rows or mix_cols:
        _mix(sampler, mix_rows, mix_cols, mix_layers, class_, label, grid, outdir, zoom, named, batch=batch, psi=trunc,
             noise_mode=noise_mode, center=trunc_center)
        return
    if projected_w:
        given = dict(seeds=seeds, class_=class_, list=list_, per_class=per_class, labels=labels, label=label, data=data)
        if any(v is not None for v in given.values()) or trunc != 1 or add_uc or is_zip:
            raise UserError("--projected-w says which latents and labels; give it with --grid or --outdir=FOLDER alone")
        _projected(sampler, projected_w, grid, outdir, zoom, named)
        return
    sampler.check_center(trunc_center)
    if balance:
        kw = {k: v for k, v in dict(truncation_psi=trunc, truncation_cutoff=trunc_cutoff, noise_mode=noise_mode,
                                    truncation_center=trunc_center).items() if v not in (None, "global")}
        _balance(sampler, network, data, fname, outdir, per_class, judge, (chosen or [0])[0], where, batch, kw)
        return
    label_set, class_ = split_label_set(class_, sampler)
    spec = sampler.label_sets[label_set] if label_set else sampler.spec.label
    if add_uc and "uc" not in sampler.views:
        raise UserError("--add-uc: this model has no label-free images (UTLO with res_uc above 0 has)")
    if add_uc and is_zip:
        raise UserError("--add-uc: a data set holds images of one size; give --outdir a folder")
    vector = None if label is None else finite_numbers(label, "--label")
    if vector is not None and spec.kind == "class":
        warn_untrained([k for k, v in enumerate(vector[: spec.dim]) if v], spec, "--label", say)
    owner = f"the set '{label_set}' of the model" if label_set else "the model"
    plan = listed_plan(spec, list_) if list_ else make_plan(
        spec, seeds=chosen, classes=None if class_ is None else asked_classes(class_, spec, say=say, owner=owner),
        per_class=per_class, policy=labels, vector=vector, values=_label_rows(data) if data else None,
        grid=bool(grid) and not outdir)
    if list_:
        warn_untrained([k for k in plan.classes if k is not None], spec, "--list", say)
    if len(set(plan.names)) < len(plan.names):
        raise UserError(f"{'--list' if list_ else '--seeds'} names a seed twice")
    if is_zip and spec.kind == "class" and None in plan.classes:
        raise UserError(f"{'--list' if list_ else '--label'} mixes classes, and a data set names one class per image; "
                        "give --outdir a folder")

    if grid:
        _fits(sampler, len(plan.seeds), zoom, "--grid: give fewer --seeds, or --outdir=FOLDER instead")
    kw: dict[str, Any] = dict(truncation_psi=trunc, noise_mode=noise_mode)
    if label_set:
        kw["label_set"] = label_set
    if trunc_cutoff is not None:
        kw["truncation_cutoff"] = trunc_cutoff
    if trunc_center != "global":
        kw["truncation_center"] = trunc_center
    views = ["image", "uc"] if add_uc else ["image"]
    kept: dict[str, list[np.ndarray]] = {v: [] for v in views}
    with ExitStack() as stack:
        write = None
        if is_zip and dist.is_main():
            known = plan.classes if spec.kind == "class" else label_rows(plan)
            meta = dict(generated=dict(network=os.path.basename(network), **kw))
            write = stack.enter_context(ZipWriter(Path(outdir), plan.names, spec, known, meta))
        elif outdir and dist.is_main():
            write = write_folder(Path(outdir), plan.names)
        made = sample(sampler, plan, batch, views,
                      lambda images: (pngs(images) if outdir else {}, images if grid else {}), **kw)
        for index, (files, images) in made:
            if write:
                write(index, files)
            for v, image in images.items():
                kept[v].append(image)
    if not dist.is_main():
        return
    if outdir:
        print(f"{outdir}: {len(plan.seeds)} image{'s' * (len(plan.seeds) > 1)}")
    if not grid:
        return
    title = ", ".join([named, *plan.shared(spec), *plan.counting()])
    sheets = {Path(grid): dict(images=np.stack(kept["image"]), row_labels=plan.counted_rows(spec), title=title)}
    if add_uc:  # they know no class: each latent once
        first = {s: i for i, s in reversed(list(enumerate(plan.seeds)))}
        once = np.stack([kept["uc"][i] for i in sorted(first.values())])
        sheets[Path(grid).with_name(f"{Path(grid).stem}_uc.png")] = dict(
            images=once, title=", ".join([named, "label-free images", *plan.counting()]))
    for path, sheet in sheets.items():
        images = sheet.pop("images")
        columns = min(plan.columns, len(images))
        save_grid(path, images, columns, zoom=zoom or zoom_to(images.shape[-1]), **sheet)
        print(f"{path}: {len(images)} image{'s' * (len(images) > 1)}, {columns} per row")


def _fits(sampler: Sampler, images: int, zoom: int | None, fewer: str) -> None:
    from gantransfer.networks.sizes import ImageSize
    from gantransfer.pictures.grids import check_size, zoom_to

    height, width = ImageSize.of(sampler.spec.resolution)
    check_size(images, height, width, zoom or zoom_to(width), fewer)


def _mix(sampler: Sampler, mix_rows: str | None, mix_cols: str | None, mix_layers: str | None, class_: str | None,
         label: str | None, grid: str | None, outdir: str | None, zoom: int | None, named: str, **kw: Any) -> None:
    from gantransfer.pictures.grids import Head, save_grid, zoom_to
    from gantransfer.pictures.mixing import mixing_sheet
    from gantransfer.pictures.plan import make_plan

    if not (mix_rows and mix_cols and grid) or outdir:
        raise UserError("style mixing needs --mix-rows, --mix-cols and --grid=FILE.png, without --outdir")
    rows, cols = flags.parse_seeds(mix_rows, "--mix-rows"), flags.parse_seeds(mix_cols, "--mix-cols")
    _fits(sampler, (len(rows) + 1) * (len(cols) + 1), zoom, "give fewer --mix-rows or --mix-cols")
    layers = flags.integers(mix_layers, "--mix-layers") if mix_layers else None
    spec = sampler.spec.label
    plan = make_plan(spec, seeds=[0], classes=asked_classes(class_, spec) if class_ else None,
                     vector=None if label is None else finite_numbers(label, "--label"))
    if len(plan.seeds) != 1:
        raise UserError(f"--class={class_}: style mixing shows one class")
    sheet = mixing_sheet(sampler, rows, cols, layers, plan.labels, **kw)
    heads = [Head("seed", 0, 0), *(Head(f"{s}", i, i) for i, s in enumerate(cols, 1))]
    save_grid(grid, sheet, len(cols) + 1, zoom=zoom or zoom_to(sheet.shape[-1]), heads=heads,
              row_labels=["", *map(str, rows)], title=", ".join([named, *plan.shared(spec), "styles mixed"]))
    print(f"{grid}: {len(rows)} x {len(cols)} mixtures")


def _balance(sampler: Sampler, network: str, data: str, fname: str | None, dest: str, per_class: int | None,
             judge: str | None, first: int, device: Any, batch: int, kw: dict[str, Any]) -> None:
    from gantransfer.data.dataset import ImageDataset
    from gantransfer.data.destination import not_the_source
    from gantransfer.detectors import features
    from gantransfer.distillation import balance, class_match
    from gantransfer.networks.sizes import ImageSize

    not_the_source(data, dest)
    real = ImageDataset(data, fname=fname, use_labels=True)
    if real.spec.label.kind != "class":
        raise UserError(f"--balance needs classes, and {data} has " + (
            "no labels" if real.spec.label.kind == "none" else "continuous labels"))
    if (sampler.spec.resolution, sampler.spec.channels) != (real.resolution, real.num_channels):
        raise UserError(f"--network={network} makes images of {ImageSize.of(sampler.spec.resolution)} pixels and "
                        f"{sampler.spec.channels} channels, and {data} has {ImageSize.of(real.resolution)} and "
                        f"{real.num_channels}; --data is the set that it was trained on")
    if sampler.spec.label.kind != "class" or not class_match.comparable(
            sampler.spec.label, real.spec.label) and sampler.spec.label.dim != real.spec.label.dim:
        raise UserError(f"--network={network} was not trained on the classes of {data}")
    wanted = balance.missing(real.spec.label.counts, per_class)
    sampler = class_match.translated(sampler, real.spec.label, f"--network={network}")
    found = None
    if judge:
        named = features.parse_overrides([judge], "--judge") if os.path.exists(judge) else {judge: None}
        (name, file), = named.items()
        found = features.load(name, device, {name: file} if file else None)
        found.input.check(real.num_channels, real.resolution, name)
    from tqdm import tqdm

    made = balance.fill(sampler, real, wanted, first, found, batch,
                        lambda x: tqdm(x, desc="filling", unit="class", disable=None), **kw)
    total = balance.write(Path(dest), real, made, balance.settings(network, found, first, kw, made))
    print("\n".join(balance.lines(real, made)))
    print(f"{dest}: {total} images, {total - real.spec.num_images} of them generated; --fname=real.json is the others")


def _projected(sampler: Sampler, path: str, grid: str | None, outdir: str | None, zoom: int | None,
               named: str) -> None:
    import numpy as np
    import torch

    from gantransfer.latent.projection import load, render, with_noise
    from gantransfer.pictures.files import pngs, write_folder
    from gantransfer.pictures.grids import save_grid, zoom_to
    from torch_utils.pixels import to_uint8

    latents, c, maps = load(path, sampler)
    if grid:
        _fits(sampler, len(latents), zoom, "give a smaller --zoom, or --outdir=FOLDER instead of --grid")
    with torch.no_grad(), with_noise(sampler, maps):
        images = [to_uint8(render(sampler, latents[i : i + 1], c[i : i + 1]))[0].cpu().numpy()
                  for i in range(len(latents))]
    if grid:
        save_grid(grid, np.stack(images), min(len(images), 8), zoom=zoom or zoom_to(images[0].shape[-1]),
                  title=f"{named}, projected images")
    if outdir:
        write = write_folder(Path(outdir), [f"proj{i:02d}" for i in range(len(images))])
        for i, image in enumerate(images):
            write(i, pngs({"image": image}))
    print(f"{grid or outdir}: {len(images)} image{'s' * (len(images) != 1)} of {path}")


def _label_rows(path: str) -> np.ndarray:
    import numpy as np

    from gantransfer.data.dataset import ImageDataset

    data = ImageDataset(path, use_labels=True)
    return np.stack([data.get_label(i) for i in range(len(data))])
