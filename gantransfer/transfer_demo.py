# SPDX-License-Identifier: Apache-2.0
"""python -m gantransfer.transfer_demo: new classes from few images, on real handwritten digits.

Trains a small BigGAN on digits 0-4, then adds digits 5-9 from ten images each, in several ways: cGANTransfer's stage
BN, BN then FT, residuals only, fine-tuning, FreezeD, and from scratch. All see equally many images. Measures each at
several lengths against held-out digits, and draws the picture. Running again continues; with --seeds=5 it is the
comparison of the README.
"""

from __future__ import annotations

import json
import shutil
import time
import zipfile
from pathlib import Path

import click
import numpy as np

from dnnlib.util import UserError, atomic_path, atomic_write, format_time, run_cli
from gantransfer import jobs, kernels
from gantransfer.grid import image_grid
from gantransfer.jobs import Job
from gantransfer.paired import critical_t, difference, read_result, spread, train_seconds
from gantransfer.sampler import one_hot

TRANSFER, PLAIN = ["--method=cgantransfer", "--cfg=tiny"], ["--method=biggan", "--cfg=tiny", "--ema_kimg=0.5"]
# name: (title, flags, starts from the source). 'bn-ft' continues 'bn' half way.
ARMS: dict[str, tuple[str, list[str], bool]] = {
    "bn": ("stage BN", [*TRANSFER, "--stage=BN"], True),
    "bn-ft": ("BN, then FT", [*TRANSFER, "--stage=FT"], True),
    "residual": ("residual only", [*TRANSFER, "--stage=BN", "--scores=none"], True),
    "finetune": ("fine-tuning", PLAIN, True),
    "freezed": ("FreezeD", [*PLAIN, "--freezed=2"], True),
    "scratch": ("from scratch", PLAIN, False),
}
COLUMNS = {"class_fd": "per-class FD", "accuracy": "accuracy", "diversity": "diversity", "nearest": "nearest training",
           "fd_pix64": "pixel FD"}
HEADLINE = ("diversity", "nearest")


@click.command()
@click.option("--dir", "folder", type=click.Path(file_okay=False, path_type=Path), default="runs/transfer_demo",
              show_default=True, help="Where everything goes; running again continues")
@click.option("--arms", default="bn,bn-ft,finetune,scratch", show_default=True, help=f"Known: {', '.join(ARMS)}; all")
@click.option("--seeds", type=click.IntRange(min=1), default=1, show_default=True, help="Repetitions, other images")
@click.option("--kimg", "lengths", default="2,4", show_default=True, help="Where to measure; the last is the length")
@click.option("--shots", type=click.IntRange(min=2, max=114), default=10, show_default=True, help="Images per class")
@click.option("--source-kimg", type=click.IntRange(min=1), default=10, show_default=True, help="Length of pre-training")
@click.option("--judges", type=click.IntRange(min=1), default=1, show_default=True, help="Judge networks")
@click.option("--kernels", **kernels.FLAG)
@click.option("--parallel", type=click.IntRange(min=1), help="Trainings at once [default: cores]")
def main(folder: Path, arms: str, seeds: int, lengths: str, shots: int, source_kimg: int, judges: int,
         parallel: int | None) -> None:
    """Digits 5-9 from ten images each and a BigGAN of digits 0-4: train, measure, look."""
    start, names = time.time(), list(ARMS) if arms == "all" else [a.strip() for a in arms.split(",")]
    unknown = [a for a in names if a not in ARMS]
    if unknown:
        raise UserError(f"--arms={arms}: {unknown[0]} is not known; there are {', '.join(ARMS)}")
    try:
        points = sorted({int(k) for k in lengths.split(",")})
    except ValueError:
        raise UserError(f"--kimg={lengths} is not a list of whole numbers, such as 2,4,8") from None
    if points[0] < 2 or any(k % 2 for k in points):
        raise UserError(f"--kimg={lengths}: snapshots are written at even numbers from 2 on")
    folder.mkdir(parents=True, exist_ok=True)
    parallel = parallel or jobs.cores()
    prepare(folder, seeds, shots, judges)
    train_sources(folder, seeds, source_kimg, parallel)
    snapshots = train_arms(folder, names, seeds, points, parallel)
    measure(folder, snapshots, judges, parallel)

    values = {key: [read_result(path, j) for j in range(judges)] for key, path in snapshots.items()}
    text = report(names, seeds, points, values)
    picture = folder / "transfer.png"
    draw(picture, folder, names, {a: snapshots[a, 0, points[-1]] for a in names})
    with atomic_write(folder / "table.md") as f:
        f.write(text + "\n")
    with atomic_write(folder / "values.json") as f:
        json.dump([dict(arm=a, seed=s, kimg=k, judges=v, seconds=train_seconds(snapshots[a, s, k]))
                   for (a, s, k), v in values.items()], f, indent=1)
    print(f"\n{text}\n\nTable: {folder / 'table.md'}   picture: {picture}   values: {folder / 'values.json'}")
    print(f"Done in {format_time(time.time() - start)}.")


def prepare(folder: Path, seeds: int, shots: int, judges: int) -> None:
    """Data sets of the old and new digits, a choice of new images per seed, judges."""
    todo = []
    for name, classes, split in (("source.zip", "0-4", "pool"), ("target.zip", "5-9", "pool"),
                                 ("target-ref.zip", "5-9", "reference")):
        if not (folder / name).exists():
            todo.append(Job("data", ["dataset_tool.py", "--source=sklearn:digits", f"--split={split}",
                                     f"--classes={classes}", f"--dest={folder / name}"]))
    jobs.run_jobs(todo)
    todo = [Job(f"judge{j}", ["-m", "gantransfer.judge", f"--data={folder / 'target.zip'}", f"--seed={j}",
                              f"--heldout={folder / 'target-ref.zip'}", f"--out={folder / f'judge{j}.pt'}"])
            for j in range(judges) if not (folder / f"judge{j}.pt").exists()]
    for s in range(seeds):
        path = few(folder, s)
        if not path.exists():
            with atomic_path(path) as tmp:
                shutil.copyfile(folder / "target.zip", tmp)
        if "lt_1.json" not in zipfile.ZipFile(path).namelist():
            todo.append(Job(f"split{s}", ["lt_dataset.py", f"--fn={path}", "--imf=1", f"--n-max={shots}",
                                          "--order=label", f"--seed={s}"]))
    jobs.run_jobs(todo)


def few(folder: Path, seed: int) -> Path:
    return folder / f"target{seed}.zip"


def source_snapshot(folder: Path, seed: int, kimg: float) -> Path | None:
    return jobs.final_snapshot(jobs.run_folder(folder / "runs", f"source-seed{seed}", kimg), kimg)


COMMON = ["--cond=True", "--metrics=none", "--threads=1", "--tick=1"]


def train_sources(folder: Path, seeds: int, kimg: int, parallel: int) -> None:
    found = [jobs.train_job(f"source/{s}", folder / "runs", f"source-seed{s}", kimg, [
        "--method=biggan", "--cfg=tiny", f"--data={folder / 'source.zip'}", f"--seed={s}", *COMMON])[0]
        for s in range(seeds)]
    jobs.run_jobs([j for j in found if j], parallel=parallel)
    for s in range(seeds):
        (folder / f"source{s}.txt").write_text(str(source_snapshot(folder, s, kimg)))


def train_arms(folder: Path, names: list[str], seeds: int, points: list[int],
               parallel: int) -> dict[tuple[str, int, int], Path]:
    """Snapshot of every arm, seed and length. FT goes on from the BN snapshot at half the length."""
    total, half = points[-1], points[-1] // 4 * 2
    first = [a for a in names if a != "bn-ft"] + (["bn"] if "bn-ft" in names and "bn" not in names else [])
    for group in (first, [a for a in names if a == "bn-ft"]):
        todo = []
        for s in range(seeds):
            for arm in group:
                _, flags, transfer = ARMS[arm]
                source = [f"--source={(folder / f'source{s}.txt').read_text()}"] if transfer else []
                if arm == "bn-ft":
                    bn = jobs.run_folder(folder / "runs", f"bn-seed{s}", total)
                    source = [f"--source={bn / f'network-snapshot-{half:06d}.pkl'}"]
                job, _ = jobs.train_job(f"{arm}/{s}", folder / "runs", f"{arm}-seed{s}",
                                        total - half if arm == "bn-ft" else total,
                                        [*flags, f"--data={few(folder, s)}", "--fname=lt_1.json", f"--seed={s}",
                                         "--snap=2", *COMMON, *source])
                todo += [job] if job else []
        jobs.run_jobs(todo, parallel=parallel)
    out = {}
    for s in range(seeds):
        for arm in names:
            for k in points:
                early = arm == "bn-ft" and k <= half
                run_dir = jobs.run_folder(folder / "runs", f"{'bn' if early else arm}-seed{s}",
                                          total - half if arm == "bn-ft" and not early else total)
                at = k - half if arm == "bn-ft" and not early else k
                out[arm, s, k] = run_dir / f"network-snapshot-{at:06d}.pkl"
    return out


def measure(folder: Path, snapshots: dict[tuple[str, int, int], Path], judges: int, parallel: int) -> None:
    todo = [Job(f"{path.parent.name.rsplit('-', 2)[-2]} {path.stem[-3:]} judge{j}", [
        "calc_metrics.py", "--metrics=report_digits32", f"--network={path}", f"--data={folder / 'target-ref.zip'}",
        f"--detector=digits32={folder / f'judge{j}.pt'}", f"--outdir={path.parent / f'judge{j}'}"])
        for path in dict.fromkeys(snapshots.values()) for j in range(judges) if read_result(path, j) is None]
    jobs.run_jobs(todo, parallel=parallel, quiet=True)


def report(names: list[str], seeds: int, points: list[int], values: dict) -> str:
    """Markdown: a table per length, a row per arm; with several seeds paired differences against fine-tuning."""
    lines = [f"Digits 5-9 from a BigGAN of digits 0-4; {seeds} seed(s); headline columns: "
             f"{' and '.join(COLUMNS[c] for c in HEADLINE)} (1 = as varied, and as far from the training images, as "
             f"held-out digits)."]
    for k in points:
        lines += ["", f"| {k} kimg | " + " | ".join(COLUMNS.values()) + " |", "|---|" + "---|" * len(COLUMNS)]
        for a in names:
            cells = []
            for c in COLUMNS:
                v = [np.mean([j[c] for j in values[a, s, k]]) for s in range(seeds)]
                cells.append(spread(v))
            lines.append(f"| {ARMS[a][0]} | " + " | ".join(cells) + " |")
    if seeds > 1 and "finetune" in names:
        k, bound = points[-1], critical_t(seeds)
        lines += ["", f"Minus fine-tuning at {k} kimg, paired: mean +- standard error; bold beyond {bound:.2f} "
                      f"standard errors (t, 5 %) under every judge.", "", "| | " + " | ".join(COLUMNS.values()) + " |",
                  "|---|" + "---|" * len(COLUMNS)]
        for a in (a for a in names if a != "finetune"):
            lines.append(f"| {ARMS[a][0]} | " + " | ".join(
                difference(*([[values[x, s, k][j][c] for s in range(seeds)] for j in range(len(values[x, 0, k]))]
                             for x in ("finetune", a))).cell() for c in COLUMNS) + " |")
    return "\n".join(lines)


def draw(path: Path, folder: Path, names: list[str], snapshots: dict[str, Path]) -> None:
    """A row per new class: its training images | each arm."""
    from PIL import Image, ImageDraw

    from gantransfer.dataset import ImageDataset
    from gantransfer.importers import load_any
    from gantransfer.methods import METHODS

    data = ImageDataset(str(few(folder, 0)), fname="lt_1.json", use_labels=True)
    loaded = {a: load_any(p) for a, p in snapshots.items()}
    samplers = {a: METHODS[s.method].sampler_from(s) for a, s in loaded.items()}
    columns, size, zoom = 10, data.resolution, 2
    gap = np.full((data.num_channels, size, size // 2), 255, np.uint8)
    strips = []
    for k in range(data.label_dim):
        members = np.flatnonzero(data.class_ids == k)
        blocks = [data.images_uint8(np.resize(members, columns))]
        blocks += [s([1000 * k + i for i in range(columns)], one_hot([k] * columns, data.label_dim)).numpy()
                   for s in samplers.values()]
        strips.append(np.concatenate([tile for b in blocks for tile in (*b, gap)][:-1], axis=2))
    sheet = image_grid(np.stack(strips), 1, row_labels=[str(n) for n in data.spec.label.names], zoom=zoom)
    out = Image.new("RGB", (sheet.width, sheet.height + 18), "white")
    out.paste(sheet, (0, 18))
    pitch = (columns * size + size // 2) * zoom
    left = sheet.width - pitch * (1 + len(names)) + size // 2 * zoom
    for i, title in enumerate(["training images", *(ARMS[a][0] for a in names)]):
        ImageDraw.Draw(out).text((max(left, 0) + i * pitch + 2, 3), title, fill="black")
    with atomic_path(path) as tmp:
        out.save(tmp, format="PNG")


if __name__ == "__main__":
    run_cli(main)
