# SPDX-License-Identifier: Apache-2.0
"""gantransfer experiment ccgan: a GAN of a continuous label, and what its images are worth, on real digits.

Handwritten digits turned by a known angle. For every seed: a few training images, a CcGAN of the angle, a teacher,
generated images for all angles, and small networks that read the angle. These all see equally many images: real ones
only, or half generated ones: as they come, filtered by the teacher, or filtered and relabelled (cGAN-KD). Tested on
held-out digits. Every step is a command of the README, what is there already is kept; with --seeds=5 it is the
comparison of the README.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image, ImageDraw

from dnnlib import json_file, seeding
from dnnlib.util import UserError, atomic_path, atomic_write, format_time
from gantransfer.commands import distill, kernels
from gantransfer.commands.flags import SEED, FloatRange, IntRange, PathObject
from gantransfer.data.dataset import ImageDataset
from gantransfer.detectors import judge_training
from gantransfer.experiments import jobs
from gantransfer.experiments.jobs import Job
from gantransfer.importers import load_any
from gantransfer.methods import METHODS
from gantransfer.metrics.paired import critical_t, difference, spread, versions
from gantransfer.pictures.grids import image_grid

# Students: (title, fakes)
ARMS = {"real": ("real only", None), "raw": ("+ raw fakes", "raw"), "filtered": ("+ filtered", "filtered"),
        "cgankd": ("+ filtered, relabelled (cGAN-KD)", "relabelled")}
PRIMARY = ("real", "cgankd", "mae")
TESTED = [("real", "raw"), ("raw", "filtered"), ("filtered", "cgankd"), ("real", "cgankd")]
PER_ANGLE, RHO, SHARE = 40, 0.7, 0.5


@click.command()
@click.option("--dir", "folder", type=PathObject(file_okay=False, path_type=Path), default="runs/ccgan_demo",
              show_default=True, help="Where everything goes; running again continues")
@click.option("--seeds", type=IntRange(min=1), default=1, show_default=True,
              help="Repetitions: other images, angles, held-out digits and networks")
@click.option("--first-seed", type=SEED, default=0, show_default=True, help="Number of the first one")
@click.option("--images", type=IntRange(min=20, max=400), default=150, show_default=True,
              help="Training images")
@click.option("--gan-kimg", type=IntRange(min=1), default=16, show_default=True,
              help="Length of the GAN, without its label code")
@click.option("--student-kimg", type=FloatRange(min=1), default=20, show_default=True,
              help="Images that every student sees, in thousands")
@click.option("--kernels", **kernels.FLAG)
@click.option("--out", type=PathObject(dir_okay=False, path_type=Path),
              help="Also write the table here (.md; the values beside it as .json)")
def main(folder: Path, seeds: int, first_seed: int, images: int, gan_kimg: int, student_kimg: float,
         out: Path | None) -> None:
    """Turned digits: train a CcGAN, generate by angle, teach small networks, compare, look."""
    try:
        import sklearn  # noqa: F401
    except ImportError:
        raise UserError("the demo's digits come with scikit-learn: pip install scikit-learn") from None
    start = time.time()
    folder.mkdir(parents=True, exist_ok=True)
    chosen = range(first_seed, first_seed + seeds)
    results = [one_seed(folder / f"seed{s}", s, images, gan_kimg, student_kimg) for s in chosen]
    text = report(results, images, gan_kimg, student_kimg)
    picture = folder / "ccgan.png"
    draw(picture, folder / f"seed{first_seed}")
    command = dict(seeds=list(chosen), images=images, gan_kimg=gan_kimg, student_kimg=student_kimg, rho=RHO,
                   fakes_per_angle=PER_ANGLE, fake_batch_share=SHARE)
    for path in filter(None, [folder / "table.md", out]):
        with atomic_write(path) as f:
            f.write(text + "\n")
        with atomic_write(path.with_suffix(".json")) as f:
            json.dump(dict(command=command, primary=PRIMARY, versions=versions(), results=results), f, indent=1)
    print(f"\n{text}\n\nTable: {folder / 'table.md'}   picture: {picture}")
    print(f"Done in {format_time(time.time() - start)}.")


def one_seed(folder: Path, seed: int, images: int, gan_kimg: int, student_kimg: float) -> dict:
    """Everything of one seed; the figures."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {n: folder / f"{n}.zip" for n in ("pool", "test", "others")}
    splits = {"pool": ("pool", seed), "test": ("reference", seed), "others": ("all", seed + 1000)}
    todo = [Job("data", ["dataset_tool.py", "--source=sklearn:rotated-digits", f"--split={splits[n][0]}",
                         f"--seed={splits[n][1]}", f"--dest={path}"]) for n, path in files.items() if not path.exists()]
    jobs.run_jobs(todo, quiet=True)
    train = folder / "train.json"
    if not train.exists():
        choose(files["pool"], seed, images, train)
    real = [f"--data={files['pool']}", f"--fname={train}"]

    kimg = gan_kimg + 32
    job, snapshot = jobs.train_job(f"gan{seed}", folder / "gan", f"seed{seed}", kimg, [
        "--method=ccgan", "--cfg=tiny", *real, f"--seed={seed}", "--metrics=none", "--threads=1"])
    if job:
        print(f"$ python {' '.join(job.argv)}", flush=True)
        jobs.run_jobs([job])
        snapshot = jobs.final_snapshot(jobs.run_folder(folder / "gan", f"seed{seed}", kimg), kimg)
    (folder / "snapshot.txt").write_text(str(snapshot))

    common = ["--preset=digits", *real, f"--test={files['test']}", f"--seed={seed}", "--threads=1"]
    distill.call(distill.teacher, *common, f"--outdir={folder / 'teacher'}")
    made = {n: folder / f"{n}.zip" for n in ("raw", "filtered", "relabelled")}
    if not made["raw"].exists():
        distill.call(distill.fakes, *real, f"--network={snapshot}", f"--teacher={folder / 'teacher' / 'teacher.pkl'}",
                     f"--seed={seed}", "--num-labels=91", f"--num-per-label={PER_ANGLE}", "--rho=1", "--threads=1",
                     f"--dest={made['raw']}")
    for name, replace in (("filtered", False), ("relabelled", True)):
        if not made[name].exists():
            distill.call(distill.refilter, f"--fakes={made['raw']}", f"--rho={RHO}", f"--replace={replace}",
                         f"--dest={made[name]}")
    out: dict = dict(seed=seed, students={}, teacher=last(folder / "teacher"),
                     label_score=scores(folder, files["others"], files["test"], made, seed))
    for arm, (_, source) in ARMS.items():
        words = [f"--fakes={made[source]}", f"--fake_batch_share={SHARE}"] if source else []
        distill.call(distill.student, *common, f"--kimg={student_kimg:g}", f"--outdir={folder / arm}", *words)
        out["students"][arm] = last(folder / arm)
    return out


def choose(pool: Path, seed: int, count: int, path: Path) -> None:
    """A label file of `count` images."""
    data = ImageDataset(pool, use_labels=True)
    rows = np.sort(seeding.numpy_rng(seed).permutation(len(data))[:count])
    labels = [[data.get_details(int(i)).name, [float(data.get_label(int(i))[0])]] for i in rows]
    with atomic_write(path) as f:
        json.dump({"labels": labels}, f)


def last(folder: Path) -> dict[str, float]:
    r = json_file.read(folder / "results.json")
    return dict(r["last"], images_seen=r["images_seen"], seconds=r["seconds"])


def scores(folder: Path, others: Path, test: Path, made: dict[str, Path], seed: int) -> dict[str, float]:
    """Mean distance between labels and what a judge of its own sees, in degrees: held-out reals, then fakes by stage.

    The judge learns from all digits at other angles.
    """
    path = folder / "label_score.json"
    if not path.exists():
        learn = ImageDataset(others, use_labels=True)
        every = np.arange(len(learn))
        net = judge_training.train_judge(learn.images_uint8(every), learn.labels(every)[:, 0], seed=seed + 1000,
                                         epochs=60, label=learn.spec.label)
        values = {}
        for name, zip_path in {"held-out reals": test, **made}.items():
            data = ImageDataset(zip_path, use_labels=True)
            rows = np.arange(len(data))
            values[name] = judge_training.mean_error(net, data.images_uint8(rows), data.labels(rows)[:, 0])
        with atomic_write(path) as f:
            json.dump(values, f)
    return json_file.read(path)


def report(results: list[dict], images: int, gan_kimg: int, student_kimg: float) -> str:
    """Markdown: error of the angle by student, label error of the fakes by stage, paired differences."""
    n = len(results)
    mae = {a: [r["students"][a]["mae"] for r in results] for a in ARMS}
    lines = [f"{images} training images, {n} seed{'s' * (n > 1)}, every student sees {student_kimg:g} thousand images, "
             f"with fakes half of them generated; {gan_kimg} kimg of GAN, rho {RHO:g}. Mean +- sample standard "
             f"deviation over seeds. Primary, fixed before the runs: {PRIMARY[1]} minus {PRIMARY[0]}.", "",
             "| student trained on | mean absolute error on held-out digits, degrees |", "|---|---|"]
    lines += [f"| {ARMS[a][0]} | {spread(mae[a])} |" for a in ARMS]
    lines += [f"| (the teacher, real only) | {spread([r['teacher']['mae'] for r in results])} |", "",
              "| images | label error by an independent judge, degrees |", "|---|---|"]
    lines += [f"| {k} | {spread([r['label_score'][k] for r in results])} |" for k in results[0]["label_score"]]
    if n > 1:
        lines += ["", f"Paired differences of the error, mean +- standard error (seeds in which it is lower). Bold: "
                      f"beyond {critical_t(n):.2f} standard errors (t, 5 %).", "", "| | |", "|---|---|"]
        lines += [f"| {ARMS[b][0]} minus {ARMS[a][0]} | {difference([mae[a]], [mae[b]]).cells()[0]} |"
                  for a, b in TESTED]
    else:
        lines += ["", "One seed does not rank anything; --seeds=5 repeats it with others."]
    return "\n".join(lines)


def draw(path: Path, folder: Path) -> None:
    """Rows: angles. Left: training images near the angle, right: generated ones, a column per latent."""
    snap = load_any(Path((folder / "snapshot.txt").read_text()))
    sampler = METHODS[snap.method].sampler_from(snap)
    data = ImageDataset(folder / "pool.zip", fname=str(folder / "train.json"), use_labels=True)
    y = data.labels(np.arange(len(data)))[:, 0]
    angles, columns, zoom = np.linspace(0, 90, 10), 8, 2
    strips = []
    for a in angles:
        near = np.argsort(np.abs(y - a), kind="stable")[:columns]
        made = sampler(range(columns), torch.full([columns, 1], float(a))).numpy()
        gap = np.full((1, *made.shape[1:]), 255, np.uint8)
        strips.append(np.concatenate([*data.images_uint8(near), *gap, *made], axis=2))
    sheet = image_grid(np.stack(strips), 1, row_labels=[f"{a:g} degrees" for a in angles], zoom=zoom).convert("RGB")
    out = Image.new("RGB", (sheet.width, sheet.height + 20), "white")
    out.paste(sheet, (0, 20))
    pen, size = ImageDraw.Draw(out), data.resolution * zoom
    left = sheet.width - (2 * columns + 1) * size
    pen.text((left + 4, 4), "training images nearest to the angle", fill="black")
    pen.text((left + (columns + 1) * size + 4, 4), "generated, a latent per column", fill="black")
    with atomic_path(path) as tmp:
        out.save(tmp, format="PNG")
