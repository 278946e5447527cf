# SPDX-License-Identifier: Apache-2.0
"""gantransfer demo: the whole story in minutes, on real handwritten digits.

Ten classes of digits, 114 training images of the most frequent, 4 of the rarest. Trains the judge network, a
class-conditional baseline, and UTLO with class-balanced sampling; measures both against held-out digits; draws the
picture. Every step is one of the commands of the README, printed before it runs. What is already there is kept.
"""

from __future__ import annotations

import time
import zipfile
from pathlib import Path

import click
import numpy as np
import torch

from dnnlib import json_file
from dnnlib.util import UserError, atomic_write, format_time
from gantransfer.commands import kernels
from gantransfer.commands.flags import SEED, FloatRange, PathObject
from gantransfer.data.dataset import reference_dataset
from gantransfer.experiments import jobs
from gantransfer.experiments.jobs import Job
from gantransfer.pictures.grids import image_grid, save_grid
from gantransfer.sampler import Sampler, one_hot

# name: (title, flags). The first two are the demo; --all adds the others.
ARMS = {
    "baseline": ("baseline", ["--method=stylegan2"]),
    "utlo-balanced": ("UTLO + balanced", ["--add_uc=True", "--res_uc=4", "--sampling=balanced"]),
    "balanced": ("baseline + balanced", ["--method=stylegan2", "--sampling=balanced"]),
    "utlo": ("UTLO", ["--add_uc=True", "--res_uc=4"]),
}
# Bars a correct implementation meets at 20 kimg with one seed (mean plus about three seed deviations):
# metric key -> {arm: (bound, direction)}
BARS = {
    "class_fd": {"baseline": 32, "utlo": 35, "balanced": 18, "utlo-balanced": 16},
    "class_fd_few": {"balanced": 18, "utlo-balanced": 17},
    "accuracy": {"baseline": 0.80, "utlo": 0.75, "balanced": 0.88, "utlo-balanced": 0.90},
    "accuracy_few": {"baseline": 0.50, "utlo": 0.40, "balanced": 0.88, "utlo-balanced": 0.88},
}


@click.command()
@click.option("--dir", "folder", type=PathObject(file_okay=False, path_type=Path), default="runs/demo",
              show_default=True, help="Where everything goes")
@click.option("--kimg", type=FloatRange(min=0.1), default=20, show_default=True, help="Length of each training")
@click.option("--seed", type=SEED, default=0, show_default=True)
@click.option("--kernels", **kernels.FLAG)
@click.option("--all", "everything", is_flag=True, help="Also: baseline with balanced sampling, UTLO without")
def main(folder: Path, kimg: float, seed: int, everything: bool) -> None:
    """Digits, 114 to 4 training images per class: train, measure, look. About three minutes on two cores."""
    try:
        import sklearn  # noqa: F401
    except ImportError:
        raise UserError("the demo's digits come with scikit-learn: pip install scikit-learn") from None
    start = time.time()
    folder.mkdir(parents=True, exist_ok=True)
    data, ref, judge = folder / "digits16.zip", folder / "digits16-ref.zip", folder / "judge.pt"
    arms = list(ARMS) if everything else list(ARMS)[:2]

    for job in jobs.digits_jobs(folder):
        step(job)
    if "lt_25.json" not in zipfile.ZipFile(data).namelist():
        step(Job("split", ["lt_dataset.py", f"--fn={data}", "--imf=25", "--n-max=114", "--order=label"]))
    if not judge.exists():
        step(Job("judge", ["-m", "gantransfer", "judge", f"--data={data}", f"--heldout={ref}", f"--out={judge}"]))

    flags = ["--cfg=tiny", f"--data={data}", "--fname=lt_25.json", "--cond=True", f"--seed={seed}",
             "--metrics=none", "--threads=1"]
    snapshots, todo = {}, []
    for arm in arms:
        job, done = jobs.train_job(arm, folder / "runs", jobs.run_desc(arm, seed), kimg, [*flags, *ARMS[arm][1]])
        if job:
            todo.append(job)
        else:
            print(f"{arm}: trained before, {done}")
    if todo:
        for job in todo:
            print(f"$ python {' '.join(job.argv)}")
        jobs.run_jobs(todo, parallel=min(jobs.cores(), len(todo)))
    for arm in arms:
        run_dir = jobs.run_folder(folder / "runs", jobs.run_desc(arm, seed), kimg)
        snapshots[arm] = jobs.final_snapshot(run_dir, kimg)
        if snapshots[arm] is None:
            raise UserError(f"{arm} was trained but its snapshot is missing in {folder / 'runs'}")

    results = {}
    for arm, snapshot in snapshots.items():
        lines = snapshot.parent / "metric-report_digits32.jsonl"
        if not has_result(lines, snapshot.name):
            step(Job(arm, ["calc_metrics.py", "--metrics=report_digits32", f"--network={snapshot}", f"--data={ref}",
                           f"--detector=digits32={judge}"]))
        results[arm] = next(r for r in read_lines(lines) if r["snapshot_pkl"] == snapshot.name)

    picture = folder / "demo.png"
    draw(picture, ref, snapshots)
    table = results_table(results, kimg)
    with atomic_write(folder / "table.md") as f:
        f.write(table + "\n")
    print(f"\n{table}\n\nOne seed does not rank methods; `gantransfer experiment longtail` repeats this with several.")
    for arm, snapshot in snapshots.items():
        print(f"{ARMS[arm][0] + ':':22s}{snapshot}\n{'':22s}{snapshot.parent / 'metric-report_digits32.jsonl'}")
    print(f"{'Table:':22s}{folder / 'table.md'}\n{'Picture:':22s}{picture}")
    print(f"Done in {format_time(time.time() - start)}.")


def step(job: Job) -> None:
    print(f"$ python {' '.join(job.argv)}", flush=True)
    jobs.run_jobs([job], threads=jobs.cores())


def read_lines(path: Path) -> list[dict]:
    return json_file.lines(path)


def has_result(path: Path, snapshot: str) -> bool:
    return any(r["snapshot_pkl"] == snapshot for r in read_lines(path))


def draw(path: Path, ref: Path, snapshots: dict[str, Path]) -> None:
    """A row per class with its number of training images: held-out reals | each arm; beneath, UTLO's small images."""
    from gantransfer.importers import load_any
    from gantransfer.methods import METHODS

    samplers: dict[str, Sampler] = {}
    for arm, snapshot in list(snapshots.items()):
        snap = load_any(snapshot)
        samplers[arm] = METHODS[snap.method].sampler_from(snap)
    spec = next(iter(samplers.values())).spec
    reference = reference_dataset(spec, path=str(ref))
    columns, classes = 12, range(spec.label.dim)
    rows = []
    for k in classes:
        members = np.flatnonzero(reference.class_ids == k)[:columns]
        blocks = [reference.images_uint8(members)]
        c = one_hot([k] * columns, spec.label.dim)
        blocks += [s([1000 * k + i for i in range(columns)], c).numpy() for s in samplers.values()]
        rows.append(blocks)
    gap = np.full((1, spec.channels, spec.resolution, spec.resolution // 2), 255, np.uint8)
    strips = []
    for blocks in rows:
        strip = []
        for b in blocks:
            strip += [*b, gap[0]]
        line = np.concatenate(strip[:-1], axis=2)
        strips.append(np.pad(line, ((0, 0), (0, 2), (0, 0)), constant_values=255))
    labels = [f"{spec.label.names[k] if spec.label.names else k}  ({spec.label.counts[k]})" for k in classes]
    zoom = 2
    sheet = image_grid(np.stack(strips), 1, row_labels=labels, zoom=zoom)
    write_titled(path, sheet, ["held out", *(ARMS[a][0] for a in snapshots)],
                 (columns * spec.resolution + spec.resolution // 2) * zoom, label_free_strip(samplers, spec))
    for arm, s in samplers.items():
        if "uc" in s.views:
            small = label_free(s, spec, 24)
            save_grid(path.with_name(f"{arm}-label-free.png"), small, 12, zoom=max(64 // small.shape[-1], 1), gap=4)


def label_free(s: Sampler, spec, n: int) -> np.ndarray:
    return s(range(n), torch.zeros(n, spec.label.dim), view="uc").numpy()


def label_free_strip(samplers: dict[str, Sampler], spec) -> tuple[np.ndarray, str] | None:
    for arm, s in samplers.items():
        if "uc" in s.views:
            images = label_free(s, spec, 24)
            return images, f"{ARMS[arm][0]}: label-free {images.shape[-1]}x{images.shape[-1]} images"
    return None


def write_titled(path: Path, sheet, titles: list[str], pitch: int, strip: tuple[np.ndarray, str] | None) -> None:
    from PIL import Image, ImageDraw

    from dnnlib.util import atomic_path

    extra = image_grid(strip[0], 24, zoom=max(32 // strip[0].shape[-1], 1), gap=3).convert("RGB") if strip else None
    out = Image.new("RGB", (sheet.width, sheet.height + 20 + (extra.height + 22 if extra else 0)), "white")
    out.paste(sheet, (0, 20))
    draw = ImageDraw.Draw(out)
    left = sheet.width - pitch * len(titles)
    for i, title in enumerate(titles):
        draw.text((max(left, 0) + i * pitch + 4, 4), title, fill="black")
    if extra:
        draw.text((max(left, 0) + 4, sheet.height + 24), strip[1], fill="black")
        out.paste(extra, (max(left, 0), sheet.height + 40))
    with atomic_path(path) as tmp:
        out.save(tmp, format="PNG")


def results_table(results: dict[str, dict], kimg: float) -> str:
    """Markdown: a column per arm, and the bar a correct implementation meets at 20 kimg."""
    rows = [f"| {kimg:g} kimg | " + " | ".join(ARMS[a][0] for a in results) + " |",
            "|---|" + "---|" * len(results)]
    for key in next(iter(results.values()))["results"]:
        cells = []
        for arm, r in results.items():
            value = r["results"].get(key)
            if not isinstance(value, int | float):
                break
            bar = BARS.get(key.removeprefix("report_digits32_"), {}).get(arm)
            higher = "accuracy" in key
            note = "" if bar is None or kimg != 20 else f" ({'>=' if higher else '<='} {bar:g}" + (
                ")" if (value >= bar if higher else value <= bar) else ", MISSED)")
            cells.append(f"{value:.3g}{note}")
        else:
            rows.append(f"| {key.removeprefix('report_digits32_')} | " + " | ".join(cells) + " |")
    return "\n".join(rows)
