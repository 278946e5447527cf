# SPDX-License-Identifier: Apache-2.0
"""Images from a snapshot: `gantransfer generate --network=SNAP.pkl --seeds=0-63 --class=3 --outdir=out`.

Every image has a seed of its own and depends on nothing but the snapshot, the seed, the label and the options. A zip
as output is an ordinary data set; a grid has a row per class.
"""

from __future__ import annotations

from dnnlib import signals

if __name__ == "__main__":
    signals.end_in_one_line()

import io
import json
import math
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from dnnlib import seeding
from dnnlib.util import UserError, atomic_path, check_writable, finite_numbers
from gantransfer import label_means
from gantransfer.commands import kernels
from gantransfer.commands.flags import (
    CLASS_HELP,
    FLOAT,
    MAX_SEEDS,
    PATH,
    SNAPSHOT,
    IntRange,
    asked_classes,
    integers,
    known_classes,
    parse_seeds,
    trained_classes,
    warn_untrained,
)
from gantransfer.data.labels import LabelSpec
from gantransfer.data.names import valid_text
from gantransfer.importers import load_any
from gantransfer.pictures.grids import save_grid
from gantransfer.sampler import LabelSource, Sampler, one_hot, to_uint8
from gantransfer.snapshot import Snapshot
from torch_utils import random as rnd

GRID_ROWS = 10  # values of a continuous label in a grid
GRID_SEEDS = 8  # columns of a grid, and rows of one without classes, when no seeds are given


@dataclass
class Plan:
    """What to make: one entry per image."""

    seeds: list[int]
    labels: torch.Tensor  # [N, label_dim]
    classes: list[int | None]  # class id of each image, None without class labels
    columns: int  # of a grid
    row_labels: list[str] | None = None
    values: list[float] | None = None  # of a model with one continuous label

    @property
    def names(self) -> list[str]:
        tags = [f"-label{v:g}" for v in self.values] if self.values is not None else [
            "" if k is None else f"-class{k}" for k in self.classes]
        return [f"seed{seeding.tag(s)}{tag}" for s, tag in zip(self.seeds, tags)]


def split_label_set(text: str | None, sampler: Sampler) -> tuple[str | None, str | None]:
    """('old', '3,4') from 'old:3,4', for a model that knows several sets of classes; (None, text) otherwise."""
    text = text and valid_text(text)
    name, colon, rest = (text or "").partition(":")
    if not colon or name in ("name", "id") or text in sampler.spec.label.names:
        return None, text
    if name not in sampler.label_sets:
        if any(":" in n for n in sampler.spec.label.names):
            return None, text
        known = ", ".join(f"{k}:0 to {k}:{v.dim - 1}" for k, v in sampler.label_sets.items())
        raise UserError(f"--class={text}: " + (f"this model has {known}" if known else
                                               "this model has one set of classes; omit the part before ':'"))
    parts = [p.strip() for p in rest.split(",")]
    others = [p for p in parts if p.partition(":")[0] in sampler.label_sets and not p.startswith(f"{name}:")]
    if others:
        raise UserError(f"--class={text}: {others[0]} is of another set than {name}; make one set at a time")
    return name, ",".join(p.removeprefix(f"{name}:") for p in parts) or None


def make_plan(label: LabelSpec, *, seeds: list[int] | None, classes: list[int] | None = None,
              per_class: int | None = None, policy: str | None = None, vector: Sequence[float] | None = None,
              values: np.ndarray | None = None, grid: bool = False) -> Plan:
    """Seeds and labels of every image.

    Without a policy every seed is made in every class of `classes`, so that a column of a grid shares its latent;
    `per_class` counts seeds on from the first one instead, so that no two images share one. With a policy ('uniform',
    'data') each seed draws its label. `vector` is the label of all images of a model with float-vector labels, or a
    weight for every class; of a model with one continuous label it lists values, and every seed is made at every value.
    Raises UserError when the labels of a conditional model are left open.
    """
    if per_class is not None and label.kind != "class":
        raise UserError("--per-class needs a model with classes; give --seeds")
    if per_class is not None and seeds is not None and len(seeds) > 1:
        raise UserError("--per-class counts seeds on from the first one: give a single number to --seeds")
    if seeds is None and per_class is None:
        if not grid:
            raise UserError("which images? give --seeds=0-63 or --per-class=N")
        a_row_per_class = label.kind == "class" and policy is None and (classes is None or len(classes) > 1)
        by_value = label.kind == "value" and label.dim == 1 and policy is None and (vector is None or len(vector) > 1)
        seeds = list(range(GRID_SEEDS if a_row_per_class or by_value else GRID_SEEDS**2))
    first = seeds[0] if seeds else 0

    if label.kind == "none":
        return Plan(seeds, torch.zeros([len(seeds), 0]), [None] * len(seeds), _square(len(seeds)))
    if label.kind == "value" and label.dim == 1 and policy is None and (vector is not None or grid and label.meta):
        return value_plan(label, seeds, vector)
    if vector is not None:
        if len(vector) != label.dim:
            raise UserError(f"--label needs {label.dim} numbers" + (
                "" if label.kind == "value" else ", a weight for every class; for one class give --class"))
        c = torch.tensor([list(vector)], dtype=torch.float32).repeat(len(seeds), 1)
        return Plan(seeds, c, [None] * len(seeds), _square(len(seeds)))
    if policy is not None:
        if seeds is None:
            raise UserError("--labels draws a label per seed: give --seeds instead of --per-class")
        if label.kind == "class" and policy == "data" and not label.counts:
            raise UserError("this snapshot does not record how often each class occurs; use --labels=uniform")
        c = LabelSource(label, policy, classes, values)(seeds)
        ids = c.argmax(dim=1).tolist() if label.kind == "class" else [None] * len(seeds)
        return Plan(seeds, c, ids, _square(len(seeds)))
    if label.kind == "value":
        raise UserError(f"this model needs a label of {label.dim} numbers: give --label=V,V,... or --labels=data")
    if classes is None:
        if not grid and per_class is None:
            raise UserError("this model is class-conditional: give --class=..., --labels=uniform or data, or "
                            f"--per-class=N for every class; {known_classes(label)}")
        classes = trained_classes(label)

    count = (len(seeds) if per_class is None else per_class) * len(classes)
    if count > MAX_SEEDS:
        flag = "--seeds" if per_class is None else "--per-class"
        raise UserError(f"{flag} in {len(classes)} classes: these are more than {MAX_SEEDS:,} images; make fewer at a "
                        "time")
    if per_class is not None:
        columns, ids = per_class, [k for k in classes for _ in range(per_class)]
        seeds = list(range(first, first + len(ids)))
    else:
        columns, ids = len(seeds), [k for k in classes for _ in seeds]
        seeds = seeds * len(classes)
    names = [label.names[k] if label.names else str(k) for k in classes]
    if len(classes) == 1:
        columns, names = _square(len(seeds)), None
    return Plan(seeds, one_hot(ids, label.dim), ids, columns, names)


def value_plan(label: LabelSpec, seeds: list[int], values: Sequence[float] | None) -> Plan:
    """Every seed at every value of a model's one continuous label; None: GRID_ROWS values over its range."""
    low, high, unit = (label.meta.get(k) for k in ("min", "max", "unit"))
    if values is None:
        values = np.linspace(low, high, GRID_ROWS).tolist()
    for v in values:
        if not math.isfinite(v) or low is not None and not low <= v <= high:
            raise UserError(f"--label={v:g} is outside the labels of this model, {low:g} to {high:g}"
                            + (f" {unit}" if unit else "") if low is not None else f"--label={v:g} is no label")
    made = [float(v) for v in values for _ in seeds]
    names = [f"{v:g}" for v in values] if len(values) > 1 else None
    columns = _square(len(seeds)) if len(values) == 1 else len(seeds)
    return Plan(list(seeds) * len(values), torch.tensor(made, dtype=torch.float32)[:, None], [None] * len(made),
                columns, names, made)


def _square(n: int) -> int:
    return max(math.ceil(math.sqrt(n)), 1)


def sample(sampler: Sampler, plan: Plan, batch: int, views: Sequence[str],
           **kw: Any) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """(index, {view: uint8 [C, H, W]}) of every image of the plan, in order, with a progress bar."""
    with tqdm(total=len(plan.seeds), unit="img", desc="generating") as progress:
        for start in range(0, len(plan.seeds), batch):
            rows = slice(start, start + batch)
            seeds, c = plan.seeds[rows], plan.labels[rows]
            made = {v: sampler(seeds, c, **(kw if v == "image" else {**kw, "view": v})).cpu().numpy() for v in views}
            for i in range(len(seeds)):
                yield start + i, {v: images[i] for v, images in made.items()}
            progress.update(len(seeds))


def label_rows(plan: Plan) -> list[list[float]]:
    """Vector labels as a data set lists them: the shortest decimals, 0.1 rather than 0.10000000149."""
    if plan.values is not None:
        return [[v] for v in plan.values]
    return [[float(str(v)) for v in row] for row in plan.labels.numpy()]


def write_folder(folder: Path, names: Sequence[str]) -> Callable[[int, dict[str, np.ndarray]], None]:
    """Writer of `<name>.png`, and `<name>_<view>.png` for views other than 'image', each file atomically."""
    def write(index: int, views: dict[str, np.ndarray]) -> None:
        for view, image in views.items():
            suffix = "" if view == "image" else f"_{view}"
            with atomic_path(folder / f"{names[index]}{suffix}.png") as tmp:
                tmp.write_bytes(png(image))
    return write


@dataclass
class ZipWriter:
    """A data set: PNGs and dataset.json, complete or absent. A context manager; call it for each image in order."""

    path: Path
    names: Sequence[str]
    label: LabelSpec
    labels: Sequence[Any]  # class id or vector of each image
    meta: dict[str, Any]
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> ZipWriter:
        with ExitStack() as stack:
            tmp = stack.enter_context(atomic_path(self.path))
            self._zip = stack.enter_context(zipfile.ZipFile(tmp, "w", zipfile.ZIP_STORED))
            self._stack = stack.pop_all()
        return self

    def __call__(self, index: int, views: dict[str, np.ndarray]) -> None:
        self._add(f"{self.names[index]}.png", png(views["image"]))

    def _add(self, name: str, data: bytes) -> None:
        # A fixed date: the same command writes the same bytes.
        self._zip.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)

    def __exit__(self, *exc: Any) -> None:
        if exc[0] is None:
            rows = None if self.label.kind == "none" else [
                [f"{n}.png", label] for n, label in zip(self.names, self.labels)]
            content: dict[str, Any] = dict(labels=rows, meta=self.meta)
            if self.label.names:
                content["class_names"] = list(self.label.names)
            if self.label.meta:
                content["label_meta"] = dict(self.label.meta)
            self._add("dataset.json", json.dumps(content).encode())
        self._stack.__exit__(*exc)


def png(image: np.ndarray) -> bytes:
    """uint8 [C, H, W] with 1 or 3 channels as a PNG file."""
    picture = Image.fromarray(image[0]) if len(image) == 1 else Image.fromarray(np.moveaxis(image, 0, 2))
    out = io.BytesIO()
    picture.save(out, format="PNG")
    return out.getvalue()


@torch.no_grad()
def mixing_sheet(snap: Snapshot, rows: Sequence[int], cols: Sequence[int], layers: Sequence[int] | None = None,
                 c: torch.Tensor | None = None, device: torch.device | str = "cpu", batch: int = 16,
                 psi: float = 1, noise_mode: str = "const", center: str = "global") -> np.ndarray:
    """uint8 [(1 + rows) * (1 + cols), C, H, W]: image (i, j) has the styles `layers` of seed cols[j], the others of
    rows[i]; the first row and column show the seeds themselves. layers None: the lower half, at most 0 to 6.

    c: label [1, label_dim] of all images, None if unconditional. Raises UserError for layers that do not exist.
    """
    from gantransfer.methods import METHODS

    sampler = METHODS[snap.method].sampler_from(snap, device)
    sampler.check_center(center)
    G = getattr(sampler, "network", None)
    if not hasattr(G, "mapping") or not hasattr(G, "num_ws"):
        raise UserError(f"style mixing needs a style-based generator; method {snap.method} has none")
    layers = list(range(min(G.num_ws // 2, 7))) if layers is None else list(layers)
    if not layers or not 0 <= min(layers) <= max(layers) < G.num_ws:
        raise UserError(f"--mix-layers: the model has layers 0 to {G.num_ws - 1}")
    seeds = list(dict.fromkeys([*rows, *cols]))
    z = torch.from_numpy(np.stack([seeding.numpy_rng(s).randn(G.z_dim) for s in seeds])).float().to(device)
    c = torch.zeros([1, 0]) if c is None else c
    c = c.to(device).expand(len(seeds), -1)
    if center == "class" and psi != 1:
        mapped = label_means.pull(sampler.means.styles(z, c), sampler.means(c), psi)
    else:
        mapped = G.mapping(z, c, truncation_psi=psi)
    own = dict(zip(seeds, mapped))
    ws, noise_seeds = [own[s] for s in cols], list(cols)
    for r in rows:
        ws.append(own[r])
        for s in cols:
            mixed = own[r].clone()
            mixed[layers] = own[s][layers]
            ws.append(mixed)
        noise_seeds += [r] * (1 + len(cols))
    images = []
    for i in tqdm(range(0, len(ws), batch), desc="mixing"):
        rng = rnd.SeedStack(noise_seeds[i : i + batch])
        x = G.synthesis(torch.stack(ws[i : i + batch]), noise_mode=noise_mode, rng=rng)
        images.append(to_uint8(x).cpu().numpy())
    corner = np.full((1, *images[0].shape[1:]), 255, np.uint8)
    return np.concatenate([corner, *images])


def pick_device(name: str) -> torch.device:
    """'auto' is the GPU if there is one. Raises UserError for a device that this machine lacks."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device={name} is not a device; use cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device={name}: this machine has {torch.cuda.device_count()} CUDA devices; use --device=cpu")
    return device


@click.command(context_settings={"max_content_width": 110})
@click.option("--network", type=SNAPSHOT, metavar="PATH",
              help="Snapshot: ours or a published pickle; file or URL [default: newest of runs/]")
@click.option("--seeds", metavar="LIST", help="One image per seed (and class): 0-63 or 1,5,9; any whole numbers")
@click.option("--class", "--classes", "class_", metavar="LIST",
              help=f"Classes: {CLASS_HELP}; new:3 or old:17 of a transferred model [default: those that had images]")
@click.option("--per-class", type=IntRange(min=1), help="Images per class, seeds counting on from the first")
@click.option("--labels", type=click.Choice(["uniform", "data"]),
              help="Draw the label of each seed: every class equally often, or as in the training set")
@click.option("--label", metavar="V,V,...", help="The label: a vector's values, or a weight for every class; of one "
              "continuous label: a value, or several (a row each in --grid)")
@click.option("--data", type=PATH, metavar="PATH", help="Data set to draw float-vector labels from")
@click.option("--trunc", type=FLOAT, default=1, show_default=True, help="Truncation psi: below 1 typical, less varied")
@click.option("--trunc-cutoff", type=IntRange(min=0), help="Truncate only this many layers")
@click.option("--trunc-center", type=click.Choice(label_means.CENTERS), default="global", show_default=True,
              help="What truncation pulls towards: one mean, as published, or the mean w of the image's own class")
@click.option("--noise-mode", type=click.Choice(["const", "random", "none"]), default="const", show_default=True)
@click.option("--grid", type=PATH, metavar="FILE.png", help="Write one picture, a row per class")
@click.option("--outdir", type=PATH, metavar="DIR|FILE.zip",
              help="Write PNGs into a folder, or a data set with labels as a zip")
@click.option("--add-uc", "--add_uc", "add_uc", is_flag=True, help="UTLO: also the label-free small images")
@click.option("--zoom", type=IntRange(1, 64), default=1, show_default=True, help="Enlarge the grid's images")
@click.option("--mix-rows", metavar="LIST", help="Style mixing into --grid: seeds of the rows")
@click.option("--mix-cols", metavar="LIST", help="... seeds of the columns, whose styles are taken over")
@click.option("--mix-layers", metavar="LIST", help="... in these layers [default: the lower half, at most 0-6]")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N")
@click.option("--kernels", **kernels.FLAG)
@click.option("--batch", type=IntRange(min=1), default=16, show_default=True, help="Images at a time")
def main(network: str | None, seeds: str | None, class_: str | None, per_class: int | None, labels: str | None,
         label: str | None, data: str | None, trunc: float, trunc_cutoff: int | None, trunc_center: str,
         noise_mode: str, grid: str | None, outdir: str | None, add_uc: bool, zoom: int, mix_rows: str | None,
         mix_cols: str | None, mix_layers: str | None, device: str, batch: int) -> None:
    """Generate images from a snapshot, one seed per image.

    \b
    gantransfer generate --network=SNAP.pkl --grid=grid.png
    gantransfer generate --network=SNAP.pkl --seeds=0-63 --class=3 --trunc=0.7 --outdir=out
    gantransfer generate --network=SNAP.pkl --per-class=500 --outdir=fakes.zip
    """
    from gantransfer.methods import METHODS

    if not grid and not outdir:
        raise UserError("where to? give --grid=FILE.png, --outdir=FOLDER or --outdir=FILE.zip")
    if grid and os.path.splitext(grid)[1].lower() != ".png":
        raise UserError(f"--grid={grid} should end in .png")
    where = pick_device(device)
    is_zip = bool(outdir) and outdir.lower().endswith(".zip")
    for flag, path, is_file in (("--grid", grid, True), ("--outdir", outdir, is_zip)):
        check_writable(flag, path, is_file)
    chosen = parse_seeds(seeds) if seeds else None
    if not network:
        from gantransfer.commands.run import newest_snapshot

        network = newest_snapshot("--network is missing and runs/ has no snapshot: name one")
    snap = load_any(network)
    if snap.method not in METHODS:
        raise UserError(f"{network} is of the method {snap.method}, which makes no images in this version; name the "
                        "snapshot of a generator")
    if mix_rows or mix_cols:
        _mix(snap, mix_rows, mix_cols, mix_layers, class_, label, grid, outdir, zoom, device=where, batch=batch,
             psi=trunc, noise_mode=noise_mode, center=trunc_center)
        return

    sampler = METHODS[snap.method].sampler_from(snap, where)
    sampler.check_center(trunc_center)
    label_set, class_ = split_label_set(class_, sampler)
    spec = sampler.label_sets[label_set] if label_set else sampler.spec.label
    if add_uc and "uc" not in sampler.views:
        raise UserError("--add-uc: this model has no label-free images (UTLO with res_uc above 0 has)")
    if add_uc and is_zip:
        raise UserError("--add-uc: a data set holds images of one size; give --outdir a folder")
    vector = None if label is None else finite_numbers(label, "--label")
    if vector is not None and spec.kind == "class":
        warn_untrained([k for k, v in enumerate(vector[: spec.dim]) if v], spec, "--label")
    plan = make_plan(
        spec, seeds=chosen, classes=None if class_ is None else asked_classes(class_, spec), per_class=per_class,
        policy=labels, vector=vector,
        values=_label_rows(data) if data else None, grid=bool(grid) and not outdir)
    if len(set(plan.names)) < len(plan.names):
        raise UserError("--seeds names a seed twice")
    if is_zip and label is not None and spec.kind == "class":
        raise UserError("--label mixes classes, and a data set names one class per image; give --outdir a folder")

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
        writers = []
        if is_zip:
            known = plan.classes if spec.kind == "class" else label_rows(plan)
            meta = dict(generated=dict(network=os.path.basename(network), **kw))
            writers.append(stack.enter_context(ZipWriter(Path(outdir), plan.names, spec, known, meta)))
        elif outdir:
            writers.append(write_folder(Path(outdir), plan.names))
        if grid:
            writers.append(lambda i, made: [kept[v].append(image) for v, image in made.items()])
        for index, made in sample(sampler, plan, batch, views, **kw):
            for write in writers:
                write(index, made)
    if outdir:
        print(f"{outdir}: {len(plan.seeds)} images")
    for view in views if grid else ():
        path = Path(grid) if view == "image" else Path(grid).with_name(f"{Path(grid).stem}_{view}.png")
        save_grid(path, np.stack(kept[view]), plan.columns, row_labels=plan.row_labels, zoom=zoom)
        print(f"{path}: {len(plan.seeds)} images, {plan.columns} per row")


def _mix(snap: Snapshot, mix_rows: str | None, mix_cols: str | None, mix_layers: str | None, class_: str | None,
         label: str | None, grid: str | None, outdir: str | None, zoom: int, **kw: Any) -> None:
    if not (mix_rows and mix_cols and grid) or outdir:
        raise UserError("style mixing needs --mix-rows, --mix-cols and --grid=FILE.png, without --outdir")
    rows, cols = parse_seeds(mix_rows, "--mix-rows"), parse_seeds(mix_cols, "--mix-cols")
    layers = integers(mix_layers, "--mix-layers") if mix_layers else None
    spec = LabelSpec.from_dict(snap.data["label"])
    plan = make_plan(spec, seeds=[0], classes=asked_classes(class_, spec) if class_ else None,
                     vector=None if label is None else finite_numbers(label, "--label"))
    if len(plan.seeds) != 1:
        raise UserError(f"--class={class_}: style mixing shows one class")
    sheet = mixing_sheet(snap, rows, cols, layers, plan.labels, **kw)
    save_grid(grid, sheet, len(cols) + 1, zoom=zoom)
    print(f"{grid}: {len(rows)} x {len(cols)} mixtures")


def _label_rows(path: str) -> np.ndarray:
    from gantransfer.data.dataset import ImageDataset

    data = ImageDataset(path, use_labels=True)
    return np.stack([data.get_label(i) for i in range(len(data))])
