# SPDX-License-Identifier: Apache-2.0
"""gantransfer experiment hypermod: an unconditional generator learns classes, on real handwritten digits.

Trains a small StyleGAN2 on unlabelled digits, then gives it the ten classes from ten labelled images each, in several
ways: hyper-modulation from the exact start; conditional fine-tuning of the same snapshot; hyper-modulation from random
hypernetworks after self-alignment; and more. All see equally many real images. Measures each against held-out digits
and draws the picture. Running again continues; with --seeds=5 it is the comparison of docs/hypermod.md.
"""

from __future__ import annotations

import json
import shutil
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np

from dnnlib.util import UserError, atomic_path, atomic_write, format_time
from gantransfer.commands import kernels
from gantransfer.commands.flags import SEED, IntRange, PathObject, integers
from gantransfer.experiments import jobs
from gantransfer.experiments.jobs import Job
from gantransfer.metrics.paired import critical_t, difference, read_result, spread, train_seconds, versions
from gantransfer.pictures.grids import image_grid
from gantransfer.sampler import one_hot

HYPER = ["--method=hypermod"]
FINETUNE = ["--method=stylegan2"]
# name: (title, flags, kimg of self-alignment before training)
ARMS: dict[str, tuple[str, list[str], int]] = {
    "hypermod": ("hypermod", HYPER, 0),
    "projection": ("hypermod, projection", [*HYPER, "--d-head=projection"], 0),
    "finetune": ("fine-tuning", FINETUNE, 0),
    "aligned": ("random, aligned", [*HYPER, "--hyper-init=random"], 2),
    "random": ("random, not aligned", [*HYPER, "--hyper-init=random"], 0),
    "full": ("full rank", [*HYPER, "--hyper-rank=full"], 0),
    "table": ("no class network", [*HYPER, "--class-vectors=onehot"], 0),
    "contrastive": ("contrastive", [*HYPER, "--contrastive=True"], 0),
    "base-too": ("base trained too", [*HYPER, "--finetune=True"], 0),
    "freezed": ("FreezeD", [*FINETUNE, "--freezed=2"], 0),
}
COLUMNS = {"class_fd": "per-class FD", "accuracy": "accuracy", "diversity": "diversity", "nearest": "nearest training",
           "fd_pix64": "pixel FD"}
PRIMARY = "class_fd"
METRIC = "report_digits32"


@click.command()
@click.option("--dir", "folder", type=PathObject(file_okay=False, path_type=Path), default="runs/hypermod_demo",
              show_default=True, help="Where everything goes; running again continues")
@click.option("--arms", default="hypermod,projection,finetune", show_default=True,
              help=f"Comma-separated; the first is compared with the others. Known: {', '.join(ARMS)}; all")
@click.option("--seeds", type=IntRange(min=1), default=1, show_default=True, help="Repetitions, other images")
@click.option("--first-seed", type=SEED, default=0, show_default=True, help="Number of the first one")
@click.option("--kimg", "lengths", default="8", show_default=True, help="Where to measure; the last is the length")
@click.option("--shots", type=IntRange(min=2, max=114), default=10, show_default=True, help="Images per class")
@click.option("--source-kimg", type=IntRange(min=1), default=20, show_default=True, help="Length of pre-training")
@click.option("--judges", type=IntRange(min=1), default=1, show_default=True, help="Judge networks")
@click.option("--flags", metavar="LIST", help="More flags for an arm: ARM:--flag=value,...")
@click.option("--validate", is_flag=True, help="Measure against pool images that no arm trains on, for choosing flags")
@click.option("--kernels", **kernels.FLAG)
@click.option("--parallel", type=IntRange(min=1), help="Trainings at once [default: cores]")
@click.option("--out", type=PathObject(dir_okay=False, path_type=Path), help="Also write the results here (JSON)")
def main(folder: Path, arms: str, seeds: int, first_seed: int, lengths: str, shots: int, source_kimg: int, judges: int,
         flags: str | None, validate: bool, parallel: int | None, out: Path | None) -> None:
    """Ten digit classes from ten labelled images each and an unconditional StyleGAN2: train, measure, look."""
    start, names = time.time(), list(ARMS) if arms == "all" else [a.strip() for a in arms.split(",")]
    unknown = [a for a in names if a not in ARMS]
    if unknown or len(set(names)) < len(names):
        raise UserError(f"--arms={arms}: {unknown[0] if unknown else 'an arm'} is not known or given twice; there are "
                        f"{', '.join(ARMS)}")
    try:
        points = sorted(set(integers(lengths, "--kimg")))
    except UserError:
        raise UserError(f"--kimg={lengths} is not a list of whole numbers, such as 2,4,8") from None
    if points[0] < 1:
        raise UserError(f"--kimg={lengths}: snapshots are written at whole numbers from 1 on")
    more = extra_flags(flags or "")
    folder.mkdir(parents=True, exist_ok=True)
    parallel, numbers = parallel or jobs.cores(), range(first_seed, first_seed + seeds)
    source = prepare(folder, numbers, shots, judges, source_kimg, parallel)
    snapshots = train(folder, source, names, numbers, points, more, parallel)
    reference = folder / ("digits16.zip" if validate else "digits16-ref.zip")
    measure(snapshots, reference, folder, judges, parallel)

    values = {key: [read_result(path, j, METRIC) for j in range(judges)] for key, path in snapshots.items()}
    text = report(names, numbers, points, values, snapshots)
    draw(folder / "hypermod.png", folder, source, numbers[0], {a: snapshots[a, numbers[0], points[-1]] for a in names})
    result = dict(command=dict(arms=names, seeds=list(numbers), kimg=points, shots=shots, source_kimg=source_kimg,
                               judges=judges, flags=flags, reference=reference.name),
                  primary=PRIMARY, versions=versions(),
                  values=[dict(arm=a, seed=s, kimg=k, judges=v, seconds=train_seconds(snapshots[a, s, k]))
                          for (a, s, k), v in values.items()])
    with atomic_write(folder / "table.md") as f:
        f.write(text + "\n")
    for path in filter(None, [folder / "values.json", out]):
        with atomic_write(path) as f:
            json.dump(result, f, indent=1)
    print(f"\n{text}\n\nTable: {folder / 'table.md'}   picture: {folder / 'hypermod.png'}   values: "
          f"{folder / 'values.json'}\nDone in {format_time(time.time() - start)}.")


def extra_flags(text: str) -> dict[str, list[str]]:
    """'hypermod:--glr=0.002,finetune:--glr=0.001' -> flags per arm. UserError for an unknown arm."""
    out: dict[str, list[str]] = {}
    for part in filter(None, text.split(",")):
        arm, colon, flag = part.partition(":")
        if arm not in ARMS or not colon or not flag.startswith("--"):
            raise UserError(f"--flags={text}: {part} is not ARM:--flag=value with an arm of {', '.join(ARMS)}")
        out.setdefault(arm, []).append(flag)
    return out


def prepare(folder: Path, seeds: Sequence[int], shots: int, judges: int, source_kimg: int, parallel: int) -> Path:
    """Data sets, a choice of labelled images per seed, judges and the source; returns the source's snapshot."""
    jobs.run_jobs(jobs.digits_jobs(folder))
    pool, ref = folder / "digits16.zip", folder / "digits16-ref.zip"
    todo = [Job(f"judge{j}", ["-m", "gantransfer", "judge", f"--data={pool}", f"--seed={j}", f"--heldout={ref}",
                              f"--out={folder / f'judge{j}.pt'}"])
            for j in range(judges) if not (folder / f"judge{j}.pt").exists()]
    for s in seeds:
        if not few(folder, s).exists():
            with atomic_path(few(folder, s)) as tmp:
                shutil.copyfile(pool, tmp)
        if "lt_1.json" not in zipfile.ZipFile(few(folder, s)).namelist():
            todo.append(Job(f"split{s}", ["lt_dataset.py", f"--fn={few(folder, s)}", "--imf=1", f"--n-max={shots}",
                                          "--order=label", f"--seed={s}"]))
    job, _ = jobs.train_job("source", folder / "runs", "source", source_kimg, [
        "--method=stylegan2", "--cfg=tiny", f"--data={pool}", "--seed=0", "--metrics=none", "--threads=1"])
    jobs.run_jobs(todo + ([job] if job else []), parallel=parallel)
    source = jobs.final_snapshot(jobs.run_folder(folder / "runs", "source", source_kimg), source_kimg)
    if source is None:
        raise UserError(f"the source has no final snapshot in {folder / 'runs'}; run again to continue")
    return source


def few(folder: Path, seed: int) -> Path:
    return folder / f"few{seed}.zip"


def train(folder: Path, source: Path, names: list[str], seeds: Sequence[int], points: list[int],
          more: dict[str, list[str]], parallel: int) -> dict[tuple[str, int, int], Path]:
    """Snapshot of every arm, seed and length. Seed by seed, so that a run stopped early still has whole pairs."""
    todo, folders = [], {}
    for s in seeds:
        for arm in names:
            _, flags, align = ARMS[arm]
            flags = [*flags, *more.get(arm, []), *([f"--align-kimg={align}"] if align else [])]
            job, _ = jobs.train_job(f"{arm}/{s}", folder / "runs", jobs.run_desc(arm, s), points[-1] + align, [
                *flags, "--cfg=tiny", f"--source={source}", f"--data={few(folder, s)}", "--fname=lt_1.json",
                "--cond=True", f"--seed={s}", "--snap=1", "--ema-kimg=0.5", "--metrics=none", "--threads=1"])
            todo += [job] if job else []
    print(f"{len(todo)} of {len(seeds) * len(names)} trainings to do, {parallel} at a time")
    jobs.run_jobs(todo, parallel=parallel)
    for s in seeds:
        for arm in names:
            folders[arm, s] = jobs.run_folder(folder / "runs", jobs.run_desc(arm, s), points[-1] + ARMS[arm][2])
    return {(arm, s, k): folders[arm, s] / f"network-snapshot-{k + ARMS[arm][2]:06d}.pkl"
            for s in seeds for arm in names for k in points}


def measure(snapshots: dict[tuple[str, int, int], Path], reference: Path, folder: Path, judges: int,
            parallel: int) -> None:
    todo = [Job(f"{a}/{s} {k} kimg judge{j}", [
        "calc_metrics.py", f"--metrics={METRIC}", f"--network={path}", f"--data={reference}",
        f"--detector=digits32={folder / f'judge{j}.pt'}", f"--outdir={path.parent / f'judge{j}'}"])
        for (a, s, k), path in snapshots.items() for j in range(judges) if read_result(path, j, METRIC) is None]
    jobs.run_jobs(todo, parallel=parallel, quiet=True)


def report(names: list[str], seeds: Sequence[int], points: list[int], values: dict, snapshots: dict) -> str:
    """Markdown: a table per length, a row per arm; with several seeds paired differences."""
    judges = len(values[names[0], seeds[0], points[-1]])

    def of(arm: str, k: int, column: str) -> list[list[float]]:
        return [[values[arm, s, k][j][column] for s in seeds] for j in range(judges)]

    before = "".join(f"; '{ARMS[a][0]}' was aligned for {ARMS[a][2]} kimg before" for a in names if ARMS[a][2])
    lines = [f"Ten digit classes from one unconditional source; {len(seeds)} seed(s), {judges} judge(s). Primary "
             f"column, fixed before the runs: {COLUMNS[PRIMARY]}. All arms see equally many real images{before}."]
    for k in points:
        lines += ["", f"| {k} kimg | " + " | ".join(COLUMNS.values()) + " | seconds |",
                  "|---|" + "---|" * (len(COLUMNS) + 1)]
        for a in names:
            cells = [spread([float(np.mean(v)) for v in zip(*of(a, k, c))]) for c in COLUMNS]
            cells.append(spread([train_seconds(snapshots[a, s, k]) for s in seeds]))
            lines.append(f"| {ARMS[a][0]} | " + " | ".join(cells) + " |")
    if len(seeds) > 1:
        for k in points:
            lines += ["", f"{ARMS[names[0]][0]} minus the arm, {k} kimg, paired: mean +- standard error; bold beyond "
                          f"{critical_t(len(seeds)):.2f} standard errors (t, 5 %) under every judge.", "",
                      "| | " + " | ".join(COLUMNS.values()) + " |", "|---|" + "---|" * len(COLUMNS)]
            lines += [f"| {ARMS[a][0]} | " + " | ".join(difference(of(a, k, c), of(names[0], k, c)).cell()
                                                        for c in COLUMNS) + " |" for a in names[1:]]
    return "\n".join(lines)


def draw(path: Path, folder: Path, source: Path, seed: int, snapshots: dict[str, Path]) -> None:
    """A row per class: its training images | the source without labels | each arm, from the same latents."""
    from PIL import Image, ImageDraw

    from gantransfer.data.dataset import ImageDataset
    from gantransfer.importers import load_any
    from gantransfer.methods import METHODS

    def sampler(p: Path):
        snap = load_any(p)
        return METHODS[snap.method].sampler_from(snap)

    data = ImageDataset(str(few(folder, seed)), fname="lt_1.json", use_labels=True)
    columns, size, zoom = 8, data.resolution, 2
    unlabelled, arms = sampler(source), {a: sampler(p) for a, p in snapshots.items()}
    gap = np.full((data.num_channels, size, size // 2), 255, np.uint8)
    strips = []
    for k in range(data.label_dim):
        members, latents = np.flatnonzero(data.class_ids == k), [1000 * k + i for i in range(columns)]
        blocks = [data.images_uint8(np.resize(members, columns)), unlabelled(latents).numpy()]
        blocks += [s(latents, one_hot([k] * columns, data.label_dim)).numpy() for s in arms.values()]
        strips.append(np.concatenate([tile for b in blocks for tile in (*b, gap)][:-1], axis=2))
    sheet = image_grid(np.stack(strips), 1, row_labels=[str(n) for n in data.spec.label.names], zoom=zoom)
    out = Image.new("RGB", (sheet.width, sheet.height + 18), "white")
    out.paste(sheet, (0, 18))
    pitch = (columns * size + size // 2) * zoom
    left = max(sheet.width - pitch * (2 + len(arms)) + size // 2 * zoom, 0)
    for i, title in enumerate(["training images", "the source", *(ARMS[a][0] for a in arms)]):
        ImageDraw.Draw(out).text((left + i * pitch + 2, 3), title, fill="black")
    with atomic_path(path) as tmp:
        out.save(tmp, format="PNG")
