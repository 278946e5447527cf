# SPDX-License-Identifier: Apache-2.0
"""Generated images as a data set: drawn with one seed each, subsampled by a density ratio, filtered, relabelled.

`fakes.zip` is an ordinary data set. Its dataset.json also has `provenance` (what made it) and `scores`, parallel to
the labels: seed, assigned label, ratio, error, prediction. So refiltering needs no network, and any image can be made
again. What an image is depends on the global seed, its label and its number only.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from tqdm import tqdm

import gantransfer
from dnnlib import json_file, seeding
from dnnlib.util import UserError, atomic_path, atomic_write, first_line, printable, sha256, sole_writer
from gantransfer.data.container import Container
from gantransfer.data.dataset import DataSpec, ImageDataset, LabelSpec
from gantransfer.data.labels import some, trained_classes
from gantransfer.data.names import clean_name
from gantransfer.data.transforms import png
from gantransfer.distillation import selection
from gantransfer.distillation.rejection import Rejection
from gantransfer.formats import npz
from gantransfer.formats.pickle_machine import Refused
from gantransfer.sampler import Sampler
from torch_utils import distributed as dist
from torch_utils import random as rnd

CHUNK = 32  # images per call of the generator: always as many, so that no image depends on the others
SCORES = ("seed", "assigned", "ratio", "error", "predicted")


class Ratio(Protocol):
    """How much likelier than generated an image is: `identity` names the model."""

    identity: str

    def ratios(self, images: np.ndarray, c: np.ndarray) -> np.ndarray:
        """float64 [n] for uint8 images [n, C, H, W] and labels [n, label_dim]."""
        ...


class Generator:
    """A sampler, asked in chunks of one size."""

    def __init__(self, sampler: Sampler, identity: str, **kw: Any):
        self.sampler, self.spec, self.identity, self.kw = sampler, sampler.spec, identity, kw
        if self.spec.label.kind == "none":
            raise UserError("the snapshot is unconditional: its images have no labels; train one with --cond=True")

    def draw(self, c: np.ndarray, seeds: Sequence[int], first: int) -> np.ndarray:
        """uint8 [n, C, H, W] for labels [n, label_dim] and seeds."""
        out = []
        for start in range(0, len(seeds), CHUNK):
            rows, part = c[start : start + CHUNK], list(seeds[start : start + CHUNK])
            n = len(part)
            rows = np.concatenate([rows, np.repeat(rows[-1:], CHUNK - n, 0)])
            x = self.sampler(part + part[-1:] * (CHUNK - n), torch.from_numpy(rows), **self.kw)
            out.append(x[:n].cpu().numpy())
        return np.concatenate(out)


class ReadyImages:
    """Images that exist already: a zip or folder with class labels. Number k of a class is its k-th image."""

    def __init__(self, path: str, spec: DataSpec):
        self.data = ImageDataset(path, use_labels=True,
                                 label_dim=spec.label.dim if spec.label.kind == "class" else None)
        self.spec, self.identity, self.path = self.data.spec, self.data.fingerprint(), path
        if self.spec.label.kind != "class":
            raise UserError(f"--network={path}: ready images need class labels")

    def draw(self, c: np.ndarray, seeds: Sequence[int], first: int) -> np.ndarray:
        k = int(c[0].argmax())
        members = np.flatnonzero(self.data.class_ids == k)
        if first + len(seeds) > len(members):
            raise UserError(f"--network={self.path} has {len(members)} images of class {k}, fewer than are needed; "
                            "lower --num-per-label")
        return self.data.images_uint8(members[first : first + len(seeds)])


@dataclass
class Recipe:
    """What is drawn. All fields are part of the provenance."""

    num_per_label: int  # after subsampling, before filtering
    seed: int = 0
    rs_mode: str = "fixed"
    rs_quantile: float | None = None
    rs_burn_in: int = 1000
    rs_batch: int = 256
    options: dict[str, Any] = field(default_factory=dict)  # of the sampler: truncation


@dataclass
class Raw:
    """Images with everything known about them, in the order of their labels."""

    images: np.ndarray  # uint8 [n, C, H, W]
    scores: dict[str, np.ndarray]
    reports: dict[str, dict[str, float]]  # of the rejection, by label


def grid(label: LabelSpec, data: ImageDataset, count: int | None = None) -> np.ndarray:
    """Labels [L, dim] to generate at: every class that has images; or the values of the data, or `count` even ones."""
    if label.kind == "class":
        have = [k for k in range(label.dim) if not label.counts or label.counts[k]]
        return np.eye(label.dim, dtype=np.float32)[have]
    values = np.unique(data.labels(np.arange(len(data))), axis=0)
    if count is None:
        return values.astype(np.float32)
    if label.dim != 1:
        raise UserError("--num-labels needs labels of one number")
    return np.linspace(values.min(), values.max(), count, dtype=np.float32)[:, None]


def seed_of(*keys: int) -> int:
    """A 31-bit image seed that is a function of the integers alone."""
    return int(seeding.sequence(*keys).generate_state(1)[0] >> 1)


def key_of(label: LabelSpec, row: np.ndarray, index: int) -> int:
    """What stands for a label in the seeds of its images: the class id, or the place in the list of values."""
    return int(row.argmax()) if label.kind == "class" else int(index)


def draw_label(source: Any, row: np.ndarray, index: int, recipe: Recipe, ratio: Ratio | None,
               name: str) -> tuple[np.ndarray, list[int], np.ndarray | None, dict[str, float]]:
    """(images [n], seeds, ratios, report) of the label with the key `index`, whose row is `row` [label_dim]."""
    n = recipe.num_per_label
    if ratio is None:
        seeds = [seed_of(recipe.seed, index, 0, k) for k in range(n)]
        return source.draw(np.repeat(row[None], n, 0), seeds, 0), seeds, None, {}
    test = Rejection(recipe.rs_mode, recipe.rs_quantile, name)

    def candidates(stream: int, first: int, count: int) -> tuple[np.ndarray, list[int], np.ndarray]:
        seeds = [seed_of(recipe.seed, index, stream, first + k) for k in range(count)]
        c = np.repeat(row[None], count, 0)
        images = source.draw(c, seeds, first)
        return images, seeds, ratio.ratios(images, c)

    test.burn_in(np.concatenate([candidates(1, k, min(recipe.rs_batch, recipe.rs_burn_in - k))[2]
                                 for k in range(0, recipe.rs_burn_in, recipe.rs_batch)]))
    kept, round_ = [], 0
    while sum(len(k[1]) for k in kept) < n:
        images, seeds, r = candidates(0, round_ * recipe.rs_batch, recipe.rs_batch)
        u = torch.rand(len(r), generator=rnd.step_generator(recipe.seed, index, 2, round_), dtype=torch.float64)
        ok = np.flatnonzero(test.accept(r, u.numpy()))
        kept.append((images[ok], [seeds[k] for k in ok], r[ok]))
        round_ += 1
    images, r = (np.concatenate([k[i] for k in kept])[:n] for i in (0, 2))
    return images, [s for k in kept for s in k[1]][:n], r, test.report()


def draw(source: Any, labels: np.ndarray, recipe: Recipe, folder: Path, *, ratio: Ratio | None = None,
         judge: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]] | None = None,
         progress: bool = True) -> Raw | None:
    """Draw `recipe.num_per_label` images at each of `labels` [L, dim]; label i on process i mod world.

    `judge(images, labels) -> (errors, predictions)`. Parts go to `folder` as they are done, and are not made again.
    The whole on process 0, None on others.
    """
    folder.mkdir(parents=True, exist_ok=True)
    per_part = max(64 // recipe.num_per_label, 1)
    parts = [np.arange(i, min(i + per_part, len(labels))) for i in range(0, len(labels), per_part)]
    mine = range(dist.rank(), len(parts), dist.world_size())
    for p in tqdm(mine, desc="drawing", unit="part", disable=not progress or not dist.is_main()):
        path = folder / f"part-{p:05d}.npz"
        if path.exists():
            continue
        c = np.repeat(labels[parts[p]], recipe.num_per_label, 0)
        if ratio is None and isinstance(source, Generator):  # labels may share a chunk
            keys = [key_of(source.spec.label, labels[i], i) for i in parts[p]]
            seeds = [[seed_of(recipe.seed, key, 0, k) for k in range(recipe.num_per_label)] for key in keys]
            made = [(None, s, None, {}) for s in seeds]
            images = source.draw(c, [k for s in seeds for k in s], 0)
        else:
            made = [draw_label(source, labels[i], key_of(source.spec.label, labels[i], i), recipe, ratio,
                               label_name(source.spec.label, labels[i]))
                    for i in parts[p]]
            images = np.concatenate([m[0] for m in made])
        errors, predicted = judge(images, c) if judge is not None else (None, None)
        out = dict(images=images, index=np.repeat(parts[p], recipe.num_per_label),
                   seed=np.concatenate([np.asarray(m[1], np.int64) for m in made]),
                   reports=np.array(json.dumps({int(i): m[3] for i, m in zip(parts[p], made)})))
        if ratio is not None:
            out["ratio"] = np.concatenate([m[2] for m in made])
        if errors is not None:
            out.update(error=errors, predicted=predicted)
        with atomic_write(path, "wb") as f:
            np.savez(f, **out)
    dist.barrier()
    if not dist.is_main():
        return None
    found, reports = [], {}
    for p in range(len(parts)):
        part = folder / f"part-{p:05d}.npz"
        try:
            found.append(npz.read(part))
            reports.update(json_file.parse(str(found[-1].pop("reports")), f"{part}: reports"))
        except (Refused, KeyError) as e:
            raise UserError(f"{part} is damaged ({first_line(e)}); remove it and run again, which draws it anew"
                            ) from None
    joined = {k: np.concatenate([f[k] for f in found]) for k in found[0]}
    rows = labels[joined["index"]]
    kind = source.spec.label.kind
    assigned = rows.argmax(1) if kind == "class" else rows
    scores = dict(seed=joined["seed"], assigned=assigned, ratio=joined.get("ratio"), error=joined.get("error"),
                  predicted=joined.get("predicted"))
    names = {label_name(source.spec.label, labels[int(i)]): r for i, r in reports.items() if r}
    return Raw(joined["images"], {k: v for k, v in scores.items() if v is not None}, names)


def label_name(label: LabelSpec, row: np.ndarray) -> str:
    if label.kind == "class":
        k = int(np.argmax(row))
        return printable(label.names[k]) if label.names else f"class {k}"
    return f"label {', '.join(f'{v:g}' for v in row)}"


def open_parts(folder: Path, recipe: dict[str, Any]) -> None:
    """Use `folder` for the parts of this recipe. UserError when it holds those of another one."""
    path, text = folder / "recipe.json", json.dumps(recipe, sort_keys=True)
    if path.exists() and path.read_text(encoding="utf-8") != text:
        old = json_file.read(path, remedy=f"remove {folder}, or choose another --dest")
        new = json.loads(json.dumps(recipe))
        key = next((k for k in sorted({*old, *new}) if old.get(k) != new.get(k)), "recipe.json")
        raise UserError(f"{folder} holds parts of other fakes ({key}={old.get(key)}); remove it, or choose another "
                        "--dest")
    with atomic_write(path) as f:
        f.write(text)


# ---- filtering -------------------------------------------------------------------------------------------------------


@dataclass
class Filter:
    rho: float = 1.0
    quantile: str = "perclass"  # perclass | global | bins (values: equal parts of the range)
    bins: int = 10
    replace: bool = False
    burn_in: int | None = None  # cut-offs from the first so many images of each group
    ties: str = "keep"  # keep | strict

    def settings(self) -> dict[str, Any]:
        return dict(rho=self.rho, quantile=self.quantile, replaced=self.replace, ties=self.ties,
                    burn_in=self.burn_in, bins=self.bins if self.quantile == "bins" else None)


def check_quantile(quantile: str, kind: str) -> None:
    """UserError unless images with labels of this kind can be grouped so."""
    if quantile not in selection.QUANTILES:
        raise UserError(f"--quantile={quantile} does not exist; choose {', '.join(selection.QUANTILES)}")
    if quantile == "perclass" and kind != "class":
        raise UserError("--quantile=perclass needs classes; use --quantile=global or bins")
    if quantile == "bins" and kind == "class":
        raise UserError("--quantile=bins is for values; use --quantile=perclass")


def apply(scores: dict[str, np.ndarray], kind: str, f: Filter) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """(indices kept, their final labels, cut-offs) of the stored scores. UserError as in label_filter.select."""
    selection.check_rho(f.rho)
    assigned, n = scores["assigned"], len(scores["assigned"])
    check_quantile(f.quantile, kind)
    if "error" not in scores and (f.rho < 1 or f.replace):
        what = "--rho below 1" if f.rho < 1 else "--replace"
        raise UserError(f"{what} needs a teacher's predictions: give --teacher")
    keep, cutoffs = np.arange(n), {}
    if "error" in scores:
        groups = None
        if f.quantile == "perclass":
            groups = assigned
        elif f.quantile == "bins":
            groups = selection.intervals(assigned, f.bins)
        burn = None
        if f.burn_in is not None:
            burn = selection.published_burn_in(np.zeros(n, int) if groups is None else groups, f.burn_in)
        keep, found = selection.select(scores["error"], f.rho, groups, burn, f.ties)
        cutoffs = {"all" if k == -1 else str(k): v for k, v in found.items()}
    labels = (scores["predicted"] if f.replace else assigned)[keep]
    return keep, labels, cutoffs


def agreement(scores: dict[str, np.ndarray], labels: np.ndarray, keep: np.ndarray, kind: str) -> float | None:
    """Share of images whose label is the teacher's choice; for values the mean distance to its prediction."""
    if "predicted" not in scores:
        return None
    p = scores["predicted"][keep]
    return float((p == labels).mean()) if kind == "class" else float(np.abs(p - labels).mean())


# ---- files -----------------------------------------------------------------------------------------------------------


def write(path: Path, read: Callable[[int], bytes], scores: dict[str, np.ndarray], label: LabelSpec,
          provenance: dict[str, Any], f: Filter) -> dict[str, Any]:
    """Filter, and write the zip; `read(i)` is the PNG of image i. The final provenance."""
    keep, labels, cutoffs = apply(scores, label.kind, f)
    drawn = provenance["counts"]
    before = agreement(scores, scores["assigned"], np.arange(len(scores["assigned"])), label.kind)
    provenance = dict(provenance, **f.settings(), cutoffs=cutoffs,
                      counts=dict(drawn, after_filter=len(keep)),
                      agreement=dict(drawn=before,
                                     filtered=agreement(scores, scores["assigned"][keep], keep, label.kind),
                                     final=agreement(scores, labels, keep, label.kind)))
    if label.kind == "class":
        counts = np.bincount(labels, minlength=label.dim)
        provenance["class_counts"] = counts.tolist()
        provenance["assigned_counts"] = np.bincount(scores["assigned"], minlength=label.dim).tolist()
    rows, content = [], {}
    with atomic_path(path) as tmp, zipfile.ZipFile(tmp, "w", zipfile.ZIP_STORED) as z:
        for k, i in enumerate(keep):
            name = f"{k // 1000:05d}/img{k:08d}.png"
            z.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), read(int(i)))
            rows.append([name, int(labels[k]) if label.kind == "class" else [float(v) for v in labels[k]]])
        content = dict(labels=rows, provenance=provenance,
                       scores={key: scores[key][keep].tolist() if key in scores else None for key in SCORES})
        if label.names:
            content["class_names"] = list(label.names)
        if label.kind == "value" and label.meta:
            meta = dict(label.meta)
            values = np.asarray([r[1][0] for r in rows])
            content["label_meta"] = dict(meta, min=min(meta["min"], float(values.min())),
                                         max=max(meta["max"], float(values.max())))
        z.writestr(zipfile.ZipInfo("dataset.json", (1980, 1, 1, 0, 0, 0)), json.dumps(content))
    return provenance


def write_raw(path: Path, raw: Raw, label: LabelSpec, provenance: dict[str, Any], f: Filter) -> dict[str, Any]:
    counts = dict(drawn=int(sum(r["drawn"] for r in raw.reports.values())) or len(raw.images),
                  after_ratio=len(raw.images))
    provenance = dict(tool_version=gantransfer.__version__, **provenance, counts=counts,
                      ratio_M={k: r["M"] for k, r in raw.reports.items()}, acceptance=raw.reports)
    return write(path, lambda i: png(raw.images[i], 1), raw.scores, label, provenance, f)


@dataclass
class FakesFile:
    path: Path
    names: list[str]
    scores: dict[str, np.ndarray]
    provenance: dict[str, Any]
    label: LabelSpec


def read(path: str) -> FakesFile:
    """What a zip of `fakes` knows of its images. UserError for a zip without scores."""
    data = ImageDataset(path, use_labels=True)
    try:
        content = Container(path).read_json("dataset.json")
    except UserError:
        raise UserError(f"{path} is not a zip made by `gantransfer distill fakes`") from None
    scores, provenance = content.get("scores"), content.get("provenance")
    if not isinstance(scores, dict) or not isinstance(provenance, dict) or scores.get("assigned") is None:
        raise UserError(f"{path} has no scores; make it with `gantransfer distill fakes --teacher=...`")
    rows = content["labels"]
    arrays = {k: np.asarray(scores[k]) for k in SCORES if scores.get(k) is not None}
    if any(len(v) != len(rows) for v in arrays.values()):
        raise UserError(f"{path} is damaged: its scores do not belong to its {len(rows)} images")
    label = data.spec.label
    if label.kind == "class" and provenance.get("num_classes"):
        label = LabelSpec("class", int(provenance["num_classes"]), names=label.names)
    return FakesFile(Path(path), [clean_name(r[0]) for r in rows], arrays, provenance, label)


def refilter(path: str, dest: Path, f: Filter) -> dict[str, Any]:
    """Another selection from the scores of unfiltered fakes; no network is needed."""
    fakes = read(path)
    if "error" not in fakes.scores:
        raise UserError(f"{path} has no errors: it was made without --teacher; make it again with one")
    if fakes.provenance.get("rho", 1) != 1:
        raise UserError(f"{path} was filtered before (rho {fakes.provenance['rho']:g}): the quantile of what was "
                        "removed is not known; give the fakes made with --rho=1")
    files = Container(path)
    provenance = dict(fakes.provenance, refiltered_from=sha256(path))
    return write(dest, lambda i: files.read(fakes.names[i]), fakes.scores, fakes.label, provenance, f)


# ---- the whole -------------------------------------------------------------------------------------------------------


def trained_labels(labels: np.ndarray, source: Any, what: str) -> np.ndarray:
    """`labels` [L, dim] without the classes whose input a generator never trained: their images would be noise. A line
    names them; `what` names the generator. UserError where none is left."""
    label = source.spec.label
    if label.kind != "class" or not isinstance(source, Generator):
        return labels
    trained = set(trained_classes(label))
    absent = [int(row.argmax()) for row in labels if int(row.argmax()) not in trained]
    if absent:
        dist.print0(f"Note: {what} had no image of class {some(absent)}, so none are made")
    kept = labels[[int(row.argmax()) in trained for row in labels]]
    if not len(kept):
        raise UserError(f"{what} had images of none of the data's classes")
    return kept


def check_dest(dest: str) -> Path:
    path = Path(dest)
    if path.suffix.lower() != ".zip":
        raise UserError(f"--dest={dest} should end in .zip")
    if path.is_dir():
        raise UserError(f"--dest={dest} is a folder; name a file")
    return path


def make(dest: Path, source: Any, labels: np.ndarray, data: ImageDataset, recipe: Recipe, f: Filter,
         teacher: dict[str, Any], *, ratio: Ratio | None = None, judge: Any = None) -> dict[str, Any] | None:
    """Draw, filter and write the fakes `dest` with the labels of `data`; their provenance, on the first process.

    What is drawn lies beside `dest` until that is complete: a stop, or a filter that keeps nothing, loses none of it.
    `teacher`: what the provenance says of the judge's teacher.
    """
    label, center = data.spec.label, recipe.options.get("truncation_center")
    provenance = dict(
        network_sha256=source.identity, sampler=type(source).__name__, seed=recipe.seed,
        truncation=recipe.options.get("truncation_psi", 1.0), num_per_label=recipe.num_per_label,
        num_labels=len(labels), **(dict(truncation_center=center) if center else {}),
        ratio_sha256=ratio.identity if ratio else None, rs_mode=recipe.rs_mode, rs_M=recipe.rs_quantile, **teacher,
        real_data_sha256=data.fingerprint(), num_classes=label.dim if label.kind == "class" else None,
        class_map={str(k): k if not label.class_map else label.class_map[k]
                   for k in label.class_map or range(label.dim)} if label.kind == "class" else None)
    parts = dest.with_name(dest.name + ".parts")
    with sole_writer(dest, "--dest=") if dist.is_main() else contextlib.nullcontext():
        if dist.is_main():
            open_parts(parts, dict(provenance, rs_burn_in=recipe.rs_burn_in))
        dist.barrier()
        raw = draw(source, labels, recipe, parts, ratio=ratio, judge=judge)
        if raw is None:
            return None
        try:
            made = write_raw(dest, raw, label, provenance, f)
        except UserError as e:
            raise UserError(f"{e} (what was drawn is kept in {parts} for another --rho)") from None
        shutil.rmtree(parts, ignore_errors=True)
        return made


def summary(dest: Path, p: dict[str, Any], kind: str) -> Iterator[str]:
    """Lines on what is in fakes with the provenance `p`."""
    c, a = p["counts"], p["agreement"]
    yield (f"{dest}: {c['after_filter']} images (drawn {c['drawn']}, after the ratio {c['after_ratio']}, "
           f"after the filter {c['after_filter']})")
    if a["drawn"] is not None:
        word = "label is the teacher's choice" if kind == "class" else "distance to the teacher's value"
        yield f"{word}: {a['drawn']:.4g} drawn, {a['filtered']:.4g} filtered, {a['final']:.4g} final"
    for k, n in enumerate(p.get("class_counts") or []):
        if n == 0 and p.get("assigned_counts", [1] * (k + 1))[k]:
            yield f"Note: no image of class {k} is left after replacing labels"
    if p["acceptance"]:
        rates = [r["rate"] for r in p["acceptance"].values()]
        above = sum(r["exceeded"] for r in p["acceptance"].values())
        yield (f"rejection: acceptance {np.mean(rates):.3g} (from {min(rates):.3g} to {max(rates):.3g}), "
               f"{above} ratios above M")
