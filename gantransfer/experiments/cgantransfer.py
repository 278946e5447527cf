# SPDX-License-Identifier: Apache-2.0
"""gantransfer experiment cgantransfer: new classes from few images, on real handwritten digits.

Trains a small BigGAN on five digits, then adds the other five from ten images each, in several ways: cGANTransfer's
stage BN, BN then FT, residuals only, fine-tuning, FreezeD, and from scratch. All see equally many images of the new
digits. Measures each at several lengths against held-out digits, and draws the picture. Running again continues; with
--seeds=5 it is the comparison of the README: every seed has its own old and new digits, its own source and its own few
images, shared by all arms.
"""

from __future__ import annotations

import json
import shutil
import time
import zipfile
from pathlib import Path

import click
import numpy as np

from dnnlib import json_file, seeding
from dnnlib.util import UserError, atomic_path, atomic_write, format_time
from gantransfer.commands import kernels
from gantransfer.commands.flags import INT, IntRange, PathObject, integers
from gantransfer.experiments import jobs
from gantransfer.experiments.jobs import Job
from gantransfer.metrics.paired import critical_t, difference, spread, train_seconds, versions
from gantransfer.pictures.grids import image_grid
from gantransfer.sampler import one_hot

TRANSFER, PLAIN = ["--method=cgantransfer", "--cfg=tiny"], ["--method=biggan", "--cfg=tiny", "--ema_kimg=0.5"]
# name: (title, flags, starts from the source). 'bn-ft' continues 'bn' after a quarter of the images.
ARMS: dict[str, tuple[str, list[str], bool]] = {
    "bn": ("stage BN", [*TRANSFER, "--stage=BN"], True),
    "bn-ft": ("BN, then FT", [*TRANSFER, "--stage=FT"], True),
    "residual": ("residual only", [*TRANSFER, "--stage=BN", "--scores=none"], True),
    "finetune": ("fine-tuning", PLAIN, True),
    "freezed": ("FreezeD", [*PLAIN, "--freezed=2"], True),
    "scratch": ("from scratch", PLAIN, False),
    "minegan": ("MineGAN, stage mine", ["--method=minegan", "--cfg=tiny"], True),
}
ALL = ("bn", "bn-ft", "residual", "finetune", "freezed", "scratch")  # those of the README's table
COLUMNS = {"diversity": "diversity", "nearest": "nearest training", "class_fd": "per-class FD", "accuracy": "accuracy",
           "fd_pix64": "pixel FD"}
HEADLINE = ("diversity", "nearest")
PAIRS = (("bn", "finetune"), ("bn-ft", "finetune"), ("residual", "finetune"), ("freezed", "finetune"),
         ("scratch", "finetune"), ("minegan", "finetune"), ("bn", "residual"), ("bn", "scratch"), ("bn", "minegan"))


@click.command()
@click.option("--dir", "folder", type=PathObject(file_okay=False, path_type=Path), default="runs/transfer_demo",
              show_default=True, help="Where everything goes; running again continues")
@click.option("--arms", default="bn,bn-ft,finetune,scratch", show_default=True, help=f"Known: {', '.join(ARMS)}; "
              f"all: {', '.join(ALL)}")
@click.option("--seeds", type=IntRange(min=1), default=1, show_default=True, help="Repetitions: other digits, "
              "source and images")
@click.option("--kimg", "lengths", default="2,4", show_default=True, help="Where to measure; the last is the length")
@click.option("--shots", type=IntRange(min=2, max=114), default=10, show_default=True, help="Images per class")
@click.option("--source-kimg", type=IntRange(min=1), default=10, show_default=True, help="Length of pre-training")
@click.option("--judges", type=IntRange(min=1), default=1, show_default=True, help="Judge networks")
@click.option("--kernels", **kernels.FLAG)
@click.option("--parallel", type=IntRange(min=1), help="Trainings at once [default: cores]")
@click.option("--picture-kimg", type=INT, help="Length that the picture shows, one of --kimg [default: the last]")
@click.option("--out", type=PathObject(dir_okay=False, path_type=Path), help="Also write the results here (JSON)")
def main(folder: Path, arms: str, seeds: int, lengths: str, shots: int, source_kimg: int, judges: int,
         parallel: int | None, picture_kimg: int | None, out: Path | None) -> None:
    """Five digits from ten images each and a BigGAN of the other five: train, measure, look."""
    start, names = time.time(), list(ALL) if arms == "all" else [a.strip() for a in arms.split(",")]
    unknown = [a for a in names if a not in ARMS]
    if unknown:
        raise UserError(f"--arms={arms}: {unknown[0]} is not known; there are {', '.join(ARMS)}")
    try:
        points = sorted(set(integers(lengths, "--kimg")))
    except UserError:
        raise UserError(f"--kimg={lengths} is not a list of whole numbers, such as 2,4,8") from None
    if points[0] < 2 or any(k % 2 for k in points):
        raise UserError(f"--kimg={lengths}: snapshots are written at even numbers from 2 on")
    if picture_kimg is not None and picture_kimg not in points:
        raise UserError(f"--picture-kimg={picture_kimg} is none of --kimg={lengths}")
    folder.mkdir(parents=True, exist_ok=True)
    parallel = parallel or jobs.cores()
    prepare(folder, seeds, shots, judges, parallel)
    sources = train_sources(folder, seeds, source_kimg, parallel)
    runs = folder / f"runs-{shots}shots-source{source_kimg}"
    snapshots: dict[tuple[str, int, int], Path] = {}
    for s in range(seeds):  # seed by seed, so that a comparison stopped early has whole pairs
        snapshots |= train_arms(runs, names, s, points, sources[s], few(folder, s, shots), parallel)
        measure(folder, s, snapshots, judges, parallel)

    values = {key: [read(path, j) for j in range(judges)] for key, path in snapshots.items()}
    times = {key: train_seconds(path) for key, path in snapshots.items()}
    for s in range(seeds):
        for k in points:  # FT's own clock starts where BN's stopped
            if ("bn-ft", s, k) in times and k > ft_from(points):
                times["bn-ft", s, k] += train_seconds(bn_at(runs, s, points))
    text = report(names, seeds, points, values, times, shots, source_kimg)
    picture = folder / "transfer.png"
    draw(picture, few(folder, 0, shots), names, {a: snapshots[a, 0, picture_kimg or points[-1]] for a in names})
    with atomic_write(folder / "table.md") as f:
        f.write(text + "\n")
    result = dict(command=dict(arms=names, seeds=seeds, kimg=points, shots=shots, source_kimg=source_kimg,
                               judges=judges, parallel=parallel), headline=HEADLINE, versions=versions(),
                  digits=[dict(old=old, new=new) for old, new in map(digits, range(seeds))],
                  source_seconds=[train_seconds(p) for p in sources],
                  values=[dict(arm=a, seed=s, kimg=k, judges=v, seconds=times[a, s, k])
                          for (a, s, k), v in values.items()])
    for path in filter(None, [folder / "values.json", out]):
        with atomic_write(path) as f:
            json.dump(result, f, indent=1)
    print(f"\n{text}\n\nTable: {folder / 'table.md'}   picture: {picture}   values: {folder / 'values.json'}")
    print(f"Done in {format_time(time.time() - start)}.")


def digits(seed: int) -> tuple[list[int], list[int]]:
    """(old, new) digits of a seed: a random half each."""
    order = seeding.numpy_rng(seed).permutation(10).tolist()
    return sorted(order[:5]), sorted(order[5:])


def prepare(folder: Path, seeds: int, shots: int, judges: int, parallel: int) -> None:
    """Per seed: data sets of the old and new digits, a choice of new images, and judges of all ten digits."""
    todo = []
    for s in range(seeds):
        old, new = digits(s)
        # Judges number the new digits first, as the trainings do; a new digit that looks like an old one is wrong.
        for name, classes, split in (("source", old, "pool"), ("target", new, "pool"), ("reference", new, "reference"),
                                     ("judge", new + old, "pool"), ("judge-reference", new + old, "reference")):
            if not data(folder, name, s).exists():
                todo.append(Job("data", ["dataset_tool.py", "--source=sklearn:digits", f"--split={split}",
                                         f"--classes={','.join(map(str, classes))}", f"--dest={data(folder, name, s)}"
                                         ]))
    jobs.run_jobs(todo, parallel=parallel, quiet=True)
    todo = [Job(f"judge{j}/{s}", [
        "-m", "gantransfer", "judge", f"--data={data(folder, 'judge', s)}", f"--seed={j}", f"--name=judge{j}",
        f"--heldout={data(folder, 'judge-reference', s)}", "--min-accuracy=0.98", f"--out={judge_file(folder, s, j)}"])
        for s in range(seeds) for j in range(judges) if not judge_file(folder, s, j).exists()]
    for s in range(seeds):
        path = few(folder, s, shots)
        if not path.exists():
            with atomic_path(path) as tmp:
                shutil.copyfile(data(folder, "target", s), tmp)
        if "lt_1.json" not in zipfile.ZipFile(path).namelist():
            todo.append(Job(f"split{s}", ["lt_dataset.py", f"--fn={path}", "--imf=1", f"--n-max={shots}",
                                          "--order=label", f"--seed={s}"]))
    jobs.run_jobs(todo, parallel=parallel)


def data(folder: Path, name: str, seed: int) -> Path:
    return folder / f"{name}{seed}.zip"


def few(folder: Path, seed: int, shots: int) -> Path:
    return folder / f"few{seed}-{shots}.zip"


def judge_file(folder: Path, seed: int, j: int) -> Path:
    return folder / f"judge{j}-split{seed}.pt"


COMMON = ["--cond=True", "--metrics=none", "--threads=1", "--tick=1"]


def train_sources(folder: Path, seeds: int, kimg: int, parallel: int) -> list[Path]:
    def job(s: int) -> tuple[Job | None, Path | None]:
        return jobs.train_job(f"source/{s}", folder / "runs", jobs.run_desc("source", s), kimg, [
            "--method=biggan", "--cfg=tiny", f"--data={data(folder, 'source', s)}", f"--seed={s}", *COMMON])

    jobs.run_jobs([j for j, _ in map(job, range(seeds)) if j], parallel=parallel)
    return [job(s)[1] for s in range(seeds)]


def ft_from(points: list[int]) -> int:
    """kimg of stage BN before stage FT: a quarter of the length."""
    return max(points[-1] // 8 * 2, 2)


def bn_at(runs: Path, seed: int, points: list[int]) -> Path:
    run_dir = jobs.run_folder(runs, jobs.run_desc("bn", seed), points[-1])
    return run_dir / f"network-snapshot-{ft_from(points):06d}.pkl"


def train_arms(runs: Path, names: list[str], seed: int, points: list[int], source: Path, training: Path,
               parallel: int) -> dict[tuple[str, int, int], Path]:
    """Snapshot of every arm and length."""
    total, early = points[-1], ft_from(points)
    first = [a for a in names if a != "bn-ft"] + (["bn"] if "bn-ft" in names and "bn" not in names else [])
    lengths = {a: total - early if a == "bn-ft" else total for a in [*first, "bn-ft"]}
    for group in (first, [a for a in names if a == "bn-ft" and total > early]):
        todo = []
        for arm in group:
            _, flags, transfer = ARMS[arm]
            start = bn_at(runs, seed, points) if arm == "bn-ft" else source
            job, _ = jobs.train_job(f"{arm}/{seed}", runs, jobs.run_desc(arm, seed), lengths[arm], [
                *flags, f"--data={training}", "--fname=lt_1.json", f"--seed={seed}",
                "--snap=2", *COMMON, *([f"--source={start}"] if transfer else [])])
            todo += [job] if job else []
        jobs.run_jobs(todo, parallel=parallel)
    out = {}
    for arm in names:
        for k in points:
            later = arm == "bn-ft" and k > early
            run = "bn" if arm == "bn-ft" and not later else arm
            run_dir = jobs.run_folder(runs, jobs.run_desc(run, seed), lengths[run])
            out[arm, seed, k] = run_dir / f"network-snapshot-{k - early if later else k:06d}.pkl"
    return out


def measure(folder: Path, seed: int, snapshots: dict[tuple[str, int, int], Path], judges: int, parallel: int) -> None:
    todo = [Job(f"{path.parent.name.rsplit('-', 2)[-2]}/{seed} {path.stem[-3:]}", [
        "calc_metrics.py", f"--metrics={','.join(f'report_judge{j}' for j in range(judges))}", f"--network={path}",
        f"--data={data(folder, 'reference', seed)}", "--verbose=False",
        *(f"--detector=judge{j}={judge_file(folder, seed, j)}" for j in range(judges))])
        for path in dict.fromkeys(p for (_, s, _), p in snapshots.items() if s == seed)
        if any(read(path, j) is None for j in range(judges))]
    jobs.run_jobs(todo, parallel=parallel, quiet=True)


def read(snapshot: Path, judge: int) -> dict[str, float] | None:
    """The numbers of one snapshot under one judge, or None."""
    name = f"report_judge{judge}"
    path = snapshot.parent / f"metric-{name}.jsonl"
    for r in json_file.lines(path):
        if Path(r["snapshot_pkl"]).name == snapshot.name:
            return {k.removeprefix(f"{name}_"): v for k, v in r["results"].items() if isinstance(v, int | float)}
    return None


def report(names: list[str], seeds: int, points: list[int], values: dict, times: dict, shots: int,
           source_kimg: int) -> str:
    """Markdown: a table per length, a row per arm; with several seeds also paired differences."""
    lines = [f"Five digits from {shots} images each and a BigGAN of the other five ({source_kimg} kimg, not counted "
             f"below); {seeds} seed{'s' * (seeds > 1)}{', mean +- sample standard deviation' * (seeds > 1)}. Headline "
             f"columns: {' and '.join(COLUMNS[c] for c in HEADLINE)}; 1 = as varied, and as far from the training "
             f"images, as held-out digits."]
    for k in points:
        lines += ["", f"| {k} kimg | " + " | ".join(COLUMNS.values()) + " | minutes |",
                  "|---|" + "---|" * (len(COLUMNS) + 1)]
        for a in names:
            cells = [spread([np.mean([j[c] for j in values[a, s, k]]) for s in range(seeds)]) for c in COLUMNS]
            cells.append(f"{np.mean([times[a, s, k] for s in range(seeds)]) / 60:.1f}")
            lines.append(f"| {ARMS[a][0]} | " + " | ".join(cells) + " |")
    pairs = [(a, b) for a, b in PAIRS if a in names and b in names]
    if seeds > 1 and pairs:
        bound = critical_t(seeds)
        lines += ["", f"Paired differences: mean +- standard error. Bold: beyond {bound:.2f} standard errors "
                      f"(Student's t, {seeds} pairs, 5 %) under every judge."]
        for k in points:
            lines += ["", f"| {k} kimg | " + " | ".join(COLUMNS.values()) + " |", "|---|" + "---|" * len(COLUMNS)]
            for a, b in pairs:
                lines.append(f"| {ARMS[a][0]} minus {ARMS[b][0]} | " + " | ".join(
                    difference(*([[values[x, s, k][j][c] for s in range(seeds)] for j in range(len(values[x, 0, k]))]
                                 for x in (b, a))).cell() for c in COLUMNS) + " |")
    return "\n".join(lines)


def draw(path: Path, training: Path, names: list[str], snapshots: dict[str, Path]) -> None:
    """A block for the training images and each arm, four beside each other; a row per new class in each block."""
    from PIL import Image, ImageDraw

    from gantransfer.data.dataset import ImageDataset
    from gantransfer.importers import load_any
    from gantransfer.methods import METHODS

    data = ImageDataset(str(training), fname="lt_1.json", use_labels=True)
    columns, per_row, top, gap = 10, 4, 16, 12
    classes = range(data.label_dim)
    blocks = {"training images": np.concatenate([
        data.images_uint8(np.resize(np.flatnonzero(data.class_ids == k), columns)) for k in classes])}
    for arm in names:
        snap = load_any(snapshots[arm])
        sampler = METHODS[snap.method].sampler_from(snap)
        blocks[ARMS[arm][0]] = np.concatenate([sampler(
            [1000 * k + i for i in range(columns)], one_hot([k] * columns, data.label_dim)).numpy() for k in classes])
    labels = [str(n) for n in data.spec.label.names]
    blocks = {title: np.pad(b, ((0, 0), (0, 0), (1, 1), (1, 1))) for title, b in blocks.items()}
    sheets = {title: image_grid(b, columns, row_labels=labels, zoom=2) for title, b in blocks.items()}
    w, h = next(iter(sheets.values())).size
    rows = -(-len(sheets) // per_row)
    out = Image.new("RGB", (min(len(sheets), per_row) * (w + gap) - gap, rows * (h + top + gap) - gap), "white")
    for i, (title, sheet) in enumerate(sheets.items()):
        x, y = i % per_row * (w + gap), i // per_row * (h + top + gap)
        out.paste(sheet, (x, y + top))
        ImageDraw.Draw(out).text((x + w - columns * (data.resolution + 2) * 2, y + 2), title, fill="black")
    with atomic_path(path) as tmp:
        out.save(tmp, format="PNG")
