# SPDX-License-Identifier: Apache-2.0
"""gantransfer experiment mind2mind: Mind2Mind on real handwritten digits, from digits 0-4 to digits 5-9.

Trains a small StyleGAN2 on the source digits and an encoder for it, encodes the target digits once, trains Mind2Mind,
and, from the same source, full fine-tuning and FreezeD. Measures all at several lengths against held-out digits: when
does each come within 5 % of the way from the start to the auto-encoder's floor? Running again continues; with --seeds=5
it is the comparison of the documents.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np

from dnnlib import json_file
from dnnlib.util import UserError, atomic_path, atomic_write, format_time
from gantransfer.commands import kernels
from gantransfer.commands.flags import IntRange, PathObject
from gantransfer.experiments import jobs
from gantransfer.experiments.jobs import Job
from gantransfer.metrics.paired import critical_t, difference, spread, train_seconds, versions
from gantransfer.pictures.grids import image_grid
from gantransfer.sampler import one_hot
from gantransfer.snapshot import find_snapshots

ARMS: dict[str, tuple[str, list[str]]] = {
    "mind": ("Mind2Mind", ["--method=mind2mind", "--hidden_g=128,128", "--hidden_d=128,128"]),
    "finetune": ("fine-tuning", ["--method=stylegan2", "--cfg=tiny"]),
    "freezed": ("FreezeD", ["--method=stylegan2", "--cfg=tiny", "--freezed=4"]),
}
BASELINES = {"gaussian": "Gaussian", "class_gaussian": "class-Gaussian"}
COLUMNS = {"class_fd": "per-class FD", "accuracy": "accuracy", "diversity": "diversity", "nearest": "nearest training",
           "fd_pix64": "pixel FD"}
SIZES = ["--z_dim=16", "--w_dim=16"]
PRIMARY, SHARE = "class_fd", 0.05


@click.command()
@click.option("--dir", "folder", type=PathObject(file_okay=False, path_type=Path), default="runs/mind_demo",
              show_default=True, help="Where everything goes; running again continues")
@click.option("--arms", default="mind,finetune", show_default=True, help=f"Known: {', '.join(ARMS)}; all")
@click.option("--seeds", type=IntRange(min=1), default=1, show_default=True, help="Paired repetitions")
@click.option("--kimg", type=IntRange(min=1), default=4, show_default=True, help="Length of fine-tuning")
@click.option("--epochs", type=IntRange(min=1), default=150, show_default=True, help="Length of Mind2Mind")
@click.option("--source-kimg", type=IntRange(min=1), default=20, show_default=True, help="Length of pre-training")
@click.option("--encoder-kimg", type=IntRange(min=1), default=10, show_default=True, help="... of the encoder")
@click.option("--judges", type=IntRange(min=1), default=1, show_default=True, help="Judge networks")
@click.option("--kernels", **kernels.FLAG)
@click.option("--parallel", type=IntRange(min=1), default=1, show_default=True,
              help="Trainings at once; more than one distorts the times")
def main(folder: Path, arms: str, seeds: int, kimg: int, epochs: int, source_kimg: int, encoder_kimg: int, judges: int,
         parallel: int) -> None:
    """Digits 5-9 in the latent space of a StyleGAN2 of digits 0-4: train, measure, look."""
    start, names = time.time(), list(ARMS) if arms == "all" else [a.strip() for a in arms.split(",")]
    unknown = [a for a in names if a not in ARMS]
    if unknown:
        raise UserError(f"--arms={arms}: {unknown[0]} is not known; there are {', '.join(ARMS)}")
    folder.mkdir(parents=True, exist_ok=True)
    prepare(folder, judges)
    source, encoder = train_source(folder, source_kimg, encoder_kimg)
    jobs.run_jobs([Job("encode", ["-m", "gantransfer", "encode", f"--data={folder / 'target.zip'}",
                                  f"--network={encoder}",
                                  "--accept", "--device=cpu"])])
    snapshots = train_arms(folder, names, seeds, kimg, epochs, source, encoder, parallel)
    values = measure(folder, snapshots, encoder, judges)
    result = summary(folder, names, seeds, snapshots, values, encoder, judges)
    result |= dict(command=dict(arms=names, seeds=seeds, kimg=kimg, epochs=epochs, source_kimg=source_kimg,
                                encoder_kimg=encoder_kimg, judges=judges), primary=PRIMARY, versions=versions())
    text = report(names, seeds, judges, result)
    draw(folder / "mind.png", folder, names, {a: snapshots[a, 0][-1] for a in names}, encoder)
    with atomic_write(folder / "table.md") as f:
        f.write(text + "\n")
    with atomic_write(folder / "values.json") as f:
        json.dump(result, f, indent=1)
    print(f"\n{text}\n\nTable: {folder / 'table.md'}   picture: {folder / 'mind.png'}   values: "
          f"{folder / 'values.json'}\nDone in {format_time(time.time() - start)}.")


# ---- training ------------------------------------------------------------------------------------------------------


def judge_file(folder: Path, j: int) -> Path:
    return folder / f"judge{j}.pt"


def prepare(folder: Path, judges: int) -> None:
    todo = []
    for name, classes, split in (("source.zip", "0-4", "pool"), ("target.zip", "5-9", "pool"),
                                 ("target-ref.zip", "5-9", "reference")):
        if not (folder / name).exists():
            todo.append(Job("data", ["dataset_tool.py", "--source=sklearn:digits", f"--split={split}",
                                     f"--classes={classes}", f"--dest={folder / name}"]))
    jobs.run_jobs(todo)
    jobs.run_jobs([Job(f"judge{j}", ["-m", "gantransfer", "judge", f"--data={folder / 'target.zip'}", f"--seed={j}",
                                     f"--heldout={folder / 'target-ref.zip'}", f"--out={judge_file(folder, j)}"])
                   for j in range(judges) if not judge_file(folder, j).exists()], quiet=True)


def train_source(folder: Path, kimg: int, encoder_kimg: int) -> tuple[Path, Path]:
    """(StyleGAN2 of the source digits, the same with an encoder)."""
    common = [f"--data={folder / 'source.zip'}", "--cfg=tiny", "--threads=1", "--metrics=none"]
    job, _ = jobs.train_job("source", folder / "runs", "source", kimg, ["--method=stylegan2", *SIZES, *common])
    jobs.run_jobs([job] if job else [])
    source = jobs.final_snapshot(jobs.run_folder(folder / "runs", "source", kimg), kimg)
    job, _ = jobs.train_job("encoder", folder / "runs", "encoder", encoder_kimg, [
        "--method=encoder", f"--source={source}", *common])
    jobs.run_jobs([job] if job else [])
    return source, jobs.final_snapshot(jobs.run_folder(folder / "runs", "encoder", encoder_kimg), encoder_kimg)


def train_arms(folder: Path, names: list[str], seeds: int, kimg: int, epochs: int, source: Path, encoder: Path,
               parallel: int) -> dict[tuple[str, int], list[Path]]:
    """Snapshots of every arm and seed, in order of length."""
    todo, lengths = [], {}
    for s in range(seeds):
        for arm in names:
            flags = [f"--data={folder / 'target.zip'}", "--cond=True", f"--seed={s}", "--metrics=none", "--threads=1",
                     *ARMS[arm][1]]
            if arm == "mind":
                lengths[arm] = math.ceil(epochs * training_images(folder) / 1000)
                flags += [f"--source={encoder}", "--accept_encoder=True", "--snap=1", f"--tick={lengths[arm] / 6:g}"]
            else:
                lengths[arm] = kimg
                flags += [f"--source={source}", *SIZES, "--snap=1", "--tick=1"]
            job, _ = jobs.train_job(f"{arm}/{s}", folder / "runs", jobs.run_desc(arm, s), lengths[arm], flags)
            todo += [job] if job else []
    jobs.run_jobs(todo, parallel=parallel)
    return {(arm, s): find_snapshots(jobs.run_folder(folder / "runs", jobs.run_desc(arm, s), lengths[arm]))
            for s in range(seeds) for arm in names}


def training_images(folder: Path) -> int:
    from gantransfer.data.dataset import ImageDataset

    return len(ImageDataset(folder / "target.zip"))


# ---- measuring -----------------------------------------------------------------------------------------------------


class Ruler:
    """The judges' reports of samplers, remembered in a file by key."""

    def __init__(self, folder: Path, judges: int):
        from gantransfer.data.dataset import ImageDataset

        self.path, self.judges = folder / "measured.json", judges
        self.known: dict[str, Any] = json_file.read(self.path) if self.path.exists() else {}
        self.reference = ImageDataset(folder / "target-ref.zip", use_labels=True)
        self.training = ImageDataset(folder / "target.zip", use_labels=True)
        self.folder = folder

    def __call__(self, key: str, make: Any) -> list[dict[str, float]]:
        """Per judge, the columns of report_digits32 of the sampler that `make()` gives."""
        from gantransfer.metrics import table

        found = self.known.setdefault(key, [])
        if len(found) < self.judges:
            sampler = make()
            for j in range(len(found), self.judges):
                ctx = table.MetricContext(sampler=sampler, reference=self.reference, training=self.training,
                                          detectors={"digits32": judge_file(self.folder, j)}, labels="uniform")
                got = table.compute("report_digits32", ctx)["results"]
                found.append({k.removeprefix("report_digits32_"): float(v) for k, v in got.items()
                              if isinstance(v, int | float)})
            with atomic_write(self.path) as f:
                json.dump(self.known, f)
            print(f"measured {key}: {PRIMARY} {found[0][PRIMARY]:.2f}", flush=True)
        return found


def measure(folder: Path, snapshots: dict[tuple[str, int], list[Path]], encoder: Path,
            judges: int) -> dict[str, list[dict[str, float]]]:
    """Reports of every snapshot, of the baselines of the last Mind2Mind snapshots, and of the reconstructions."""
    from gantransfer.importers import load_any
    from gantransfer.latent import autoencoder, cache
    from gantransfer.latent.reconstructions import Reconstructions
    from gantransfer.methods import METHODS, mind2mind

    ruler, out = Ruler(folder, judges), {}

    def sampler_of(snap):
        return METHODS[snap.method].sampler_from(snap)

    def reconstructions():
        images = cache.whole_set(folder / "target.zip")
        return Reconstructions(cache.read(cache.default_path(folder / "target.zip")),
                               autoencoder.load(load_any(encoder)), images, "cpu")

    out["floor"] = ruler("floor", reconstructions)
    for (arm, s), paths in snapshots.items():
        for path in paths:
            key = f"{arm}/{s}/{path.stem[-6:]}"
            out[key] = ruler(key, lambda path=path: sampler_of(load_any(path)))
        if arm == "mind":
            for name in BASELINES:
                out[f"{name}/{s}"] = ruler(f"{name}/{s}", lambda name=name, path=paths[-1]: sampler_of(
                    mind2mind.baseline(load_any(path), name)))
    return out


def seconds_of(path: Path) -> float:
    """Seconds of training until a snapshot; without the measuring that Mind2Mind does meanwhile."""
    own = path.parent / "metric-mind2mind.jsonl"
    for r in json_file.lines(own):
        if r["snapshot_pkl"] == path.name:
            return r["results"]["seconds_train"]
    return 0.0 if own.exists() else train_seconds(path)


@contextlib.contextmanager
def counted_macs() -> Iterator[list[float]]:
    """A list whose only number becomes the multiply-adds of all matrix products and convolutions in the block."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    from torch_utils import build

    total, before = [0.0], build.mode()

    class Counter(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            count = flop_registry.get(getattr(func, "overloadpacket", func))
            if count is not None:
                total[0] += count(*args, **(kwargs or {}), out_val=out) / 2
            return out

    build.configure("ref")  # convolutions inside compiled operators would not be seen
    try:
        with Counter():
            yield total
    finally:
        build.configure(before)


def macs_per_image(path: Path) -> float:
    """Multiply-adds of training per real image shown: steps are counted until lazy regularisation has come round."""
    import torch

    from gantransfer import training_loop
    from gantransfer.data.dataset import ImageDataset
    from gantransfer.importers import load_any
    from gantransfer.method import RunConfig
    from gantransfer.methods import METHODS

    given = json_file.read(path.parent / "training_options.json")
    snap = load_any(path)
    kind = METHODS[snap.method]
    data = ImageDataset(given["training_set_kwargs"]["path"], use_labels=True)
    run = RunConfig(batch=given["batch_size"], batch_gpu=given["batch_gpu"], kimg=given["total_kimg"])
    with contextlib.redirect_stdout(io.StringIO()):
        m = kind(kind.Options(**snap.options), data.spec, run, snap if kind.shaped_by_source else None)
        reals = m.prepare(data)
    stepper, rows = training_loop.Stepper(m, run), np.arange(run.batch) % len(reals)
    x, c = reals.read(rows), torch.from_numpy(reals.labels(rows))
    x = x.float() / 127.5 - 1 if x.dtype == torch.uint8 else x
    total, rounds = 0.0, math.lcm(*(p.every for p in stepper.phases))
    for i in range(rounds):
        with counted_macs() as macs:
            stepper.step(i, 0, lambda rep, k: (x, c), lambda n, g: c[torch.arange(n) % len(c)])
        total += macs[0]
    return total / rounds / run.batch


def macs_of_encoding(encoder: Path) -> float:
    """Multiply-adds of encoding one image."""
    import torch

    from gantransfer.importers import load_any
    from gantransfer.latent import autoencoder

    ae = autoencoder.load(load_any(encoder))
    x = torch.zeros(1, ae.encoder.img_channels, ae.encoder.img_resolution, ae.encoder.img_resolution)
    with counted_macs() as macs, torch.no_grad():
        ae.encode(x)
    return macs[0]


def kimg_of(path: Path) -> float:
    from gantransfer import snapshot

    return snapshot.load(path).cur_nimg / 1000


def summary(folder: Path, names: list[str], seeds: int, snapshots: dict[tuple[str, int], list[Path]],
            values: dict[str, list[dict[str, float]]], encoder: Path, judges: int) -> dict[str, Any]:
    """Curves, thresholds and when they are reached: {arm: per seed ...}."""
    from gantransfer.latent import cache

    config = cache.read(cache.default_path(folder / "target.zip")).config
    out: dict[str, Any] = dict(floor=values["floor"], encode_seconds=config["seconds"],
                               encode_macs=macs_of_encoding(encoder) * config["images"], curves={}, reached={},
                               baselines={n: [values[f"{n}/{s}"] for s in range(seeds)] for n in BASELINES
                                          if f"{n}/0" in values})
    cost = {a: macs_per_image(snapshots[a, 0][-1]) for a in names}
    out["macs_per_image"] = cost
    for a in names:
        out["curves"][a] = [[dict(kimg=kimg_of(p), seconds=seconds_of(p), macs=kimg_of(p) * 1000 * cost[a],
                                  judges=values[f"{a}/{s}/{p.stem[-6:]}"]) for p in snapshots[a, s]]
                            for s in range(seeds)]
    opponent = "finetune" if "finetune" in names else names[0]
    out["start"] = [[out["curves"][opponent][s][0]["judges"][j][PRIMARY] for s in range(seeds)] for j in range(judges)]
    for a in names:
        out["reached"][a] = [[first_below(out["curves"][a][s], j, threshold(out, s, j)) for s in range(seeds)]
                             for j in range(judges)]
    return out


def threshold(result: dict[str, Any], seed: int, judge: int) -> float:
    """Floor plus 5 % of the distance from there to the untrained start."""
    floor = result["floor"][judge][PRIMARY]
    return floor + SHARE * (result["start"][judge][seed] - floor)


def first_below(curve: list[dict], judge: int, bound: float) -> dict[str, float] | None:
    """Cost at which the curve first falls to the bound, on a straight line between snapshots; None if it never does."""
    keys = ("kimg", "seconds", "macs")
    for before, after in zip([None, *curve], curve):
        high = math.inf if before is None else before["judges"][judge][PRIMARY]
        low = after["judges"][judge][PRIMARY]
        if low <= bound:
            share = 1.0 if before is None else (high - bound) / (high - low)
            return {k: after[k] if before is None else before[k] + share * (after[k] - before[k]) for k in keys}
    return None


# ---- reporting -----------------------------------------------------------------------------------------------------


def report(names: list[str], seeds: int, judges: int, r: dict[str, Any]) -> str:
    """Markdown: final figures, when the bound is reached, cost, and with several seeds paired differences."""
    def cells(rows: list[list[dict[str, float]]]) -> str:
        """rows [seeds][judges] -> a cell per column."""
        return " | ".join(spread([float(np.mean([j[c] for j in one])) for one in rows]) for c in COLUMNS)

    lines = [f"Digits 5-9 in the latent space of a StyleGAN2 of digits 0-4, class-conditional; {seeds} paired seed(s), "
             f"{judges} judge(s). Primary column, fixed before the runs: {COLUMNS[PRIMARY]}.", "",
             "| | " + " | ".join(COLUMNS.values()) + " |", "|---|" + "---|" * len(COLUMNS),
             f"| reconstructions (floor) | {cells([r['floor']])} |"]
    for name, rows in r["baselines"].items():
        lines.append(f"| {BASELINES[name]} latents | {cells(rows)} |")
    for a in names:
        end = r["curves"][a][0][-1]["kimg"]
        last = [c[-1]["judges"] for c in r["curves"][a]]
        lines.append(f"| {ARMS[a][0]}, {end:.0f} kimg | {cells(last)} |")
    bound = spread([threshold(r, s, 0) for s in range(seeds)])
    lines += ["", f"Floor + {SHARE:.0%} of the way to the start ({COLUMNS[PRIMARY]} {bound} under judge 0), on a "
                  f"straight line between snapshots:", "", "| | reached in | kimg | seconds | multiply-adds |",
              "|---|---|---|---|---|"]
    for a in names:
        got = [x for x in r["reached"][a][0] if x is not None]
        row = [spread([x[k] for x in got]) if got else "-" for k in ("kimg", "seconds", "macs")]
        lines.append(f"| {ARMS[a][0]} | {len(got)} of {seeds} | " + " | ".join(row) + " |")
        if a == "mind" and got:
            both = [x["seconds"] + r["encode_seconds"] for x in got]
            macs = [x["macs"] + r["encode_macs"] for x in got]
            lines.append(f"| ... with encoding | {len(got)} of {seeds} | {row[0]} | {spread(both)} | "
                         f"{spread(macs)} |")
    cost = ", ".join(f"{ARMS[a][0]} {r['macs_per_image'][a]:.3g}" for a in names)
    lines += ["", f"Multiply-adds of training per real image shown: {cost}; encoding the whole set "
                  f"{r['encode_macs']:.3g}, {r['encode_seconds']:.1f} s."]
    if seeds > 1 and "mind" in names:
        lines += ["", f"Mind2Mind minus each, paired; bold beyond {critical_t(seeds):.2f} standard errors (t, 5 %) "
                      f"under every judge.", "", "| | " + " | ".join(COLUMNS.values()) + " |",
                  "|---|" + "---|" * len(COLUMNS)]
        mine = {c: [[r["curves"]["mind"][s][-1]["judges"][j][c] for s in range(seeds)] for j in range(judges)]
                for c in COLUMNS}
        for label, other in [*((ARMS[a][0], [c[-1]["judges"] for c in r["curves"][a]]) for a in names if a != "mind"),
                             *((f"{BASELINES[n]} latents", rows) for n, rows in r["baselines"].items())]:
            row = [difference([[other[s][j][c] for s in range(seeds)] for j in range(judges)], mine[c]).cell()
                   for c in COLUMNS]
            lines.append(f"| {label} | " + " | ".join(row) + " |")
    return "\n".join(lines)


def draw(path: Path, folder: Path, names: list[str], snapshots: dict[str, Path], encoder: Path) -> None:
    """A row per target class: training images | their reconstructions | each arm."""
    import torch
    from PIL import Image, ImageDraw

    from gantransfer.data.dataset import ImageDataset
    from gantransfer.importers import load_any
    from gantransfer.latent import autoencoder
    from gantransfer.methods import METHODS
    from gantransfer.sampler import to_uint8

    data = ImageDataset(folder / "target.zip", use_labels=True)
    ae = autoencoder.load(load_any(encoder))
    samplers = {a: METHODS[s.method].sampler_from(s) for a, s in ((a, load_any(p)) for a, p in snapshots.items())}
    columns, size, zoom = 10, data.resolution, 2
    gap, strips = np.full((data.num_channels, size, size // 2), 255, np.uint8), []
    for k in range(data.label_dim):
        images = data.images_uint8(np.flatnonzero(data.class_ids == k)[:columns])
        with torch.no_grad():
            again = to_uint8(ae.decode(ae.encode(torch.from_numpy(images).float() / 127.5 - 1))).numpy()
        blocks = [images, again, *(s([1000 * k + i for i in range(columns)], one_hot([k] * columns, data.label_dim)
                                     ).numpy() for s in samplers.values())]
        strips.append(np.concatenate([tile for b in blocks for tile in (*b, gap)][:-1], axis=2))
    sheet = image_grid(np.stack(strips), 1, row_labels=[str(n) for n in data.spec.label.names], zoom=zoom, gap=6)
    out = Image.new("RGB", (sheet.width, sheet.height + 18), "white")
    out.paste(sheet, (0, 18))
    pitch = (columns * size + size // 2) * zoom
    left = sheet.width - 6 - pitch * (2 + len(names)) + size // 2 * zoom
    for i, title in enumerate(["training images", "reconstructions", *(ARMS[a][0] for a in names)]):
        ImageDraw.Draw(out).text((max(left, 0) + i * pitch + 2, 3), title, fill="black")
    with atomic_path(path) as tmp:
        out.save(tmp, format="PNG")
