# SPDX-License-Identifier: Apache-2.0
"""gantransfer experiment distill: cGAN-KD on real handwritten digits, in minutes on a CPU.

For every fold of the digits: a GAN, a teacher, fakes, filtered fakes, and students that all see equally many images:
real ones only (NOKD), with a distillation loss (KD), with generated images as they come (raw), filtered and relabelled
(cGAN-KD), and with both. Tested on the fold's own images, so that with five folds every image is tested once. Every
step is a command of the README; what is there already is kept. With --folds=5 this is the comparison of the README.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import click
import numpy as np
import torch

from dnnlib import json_file
from dnnlib.util import UserError, atomic_path, atomic_write, format_time
from gantransfer.commands import distill, kernels
from gantransfer.commands.flags import FloatRange, IntRange, PathObject
from gantransfer.data.dataset import ImageDataset
from gantransfer.detectors.judge import DigitsJudge
from gantransfer.detectors.weights import package_data, read_state
from gantransfer.distillation import fakes
from gantransfer.experiments import jobs
from gantransfer.experiments.jobs import Job
from gantransfer.metrics.paired import critical_t, difference, spread, versions
from gantransfer.pictures.grids import image_grid

FOLDS = 5
# Settings of the real data: (title, flags of the GAN, sampling of every classifier)
SETTINGS = {
    "longtail": ("long-tailed, imbalance 25", ["--add_uc=True", "--res_uc=4", "--sampling=balanced"], "balanced"),
    "balanced": ("all images of four folds", [], "empirical"),
}
# Students: (title, fakes, distillation loss)
ARMS = {
    "nokd": ("NOKD", None, False), "kd": ("KD", None, True), "raw": ("raw fakes", "raw", False),
    "raw-kd": ("raw fakes + KD", "raw", True), "cgankd": ("cGAN-KD", "processed", False),
    "cgankd-kd": ("cGAN-KD + KD", "processed", True),
}
PRIMARY = ("longtail", "nokd", "cgankd-kd", "accuracy")
TESTED = [("nokd", "kd"), ("nokd", "raw"), ("raw", "cgankd"), ("nokd", "cgankd"), ("nokd", "cgankd-kd"),
          ("kd", "cgankd-kd"), ("raw-kd", "cgankd-kd")]
COLUMNS = {"longtail": ("accuracy", "accuracy_many", "accuracy_medium", "accuracy_few"), "balanced": ("accuracy",)}
PER_CLASS, RHO, SHARE, IMBALANCE = 500, 0.9, 0.5, 25


@click.command()
@click.option("--dir", "folder", type=PathObject(file_okay=False, path_type=Path), default="runs/distill_demo",
              show_default=True, help="Where everything goes; running again continues")
@click.option("--folds", type=IntRange(1, FOLDS), default=1, show_default=True,
              help="Folds tested, each with a seed, a class order and networks of its own; 5 = every image once")
@click.option("--settings", default="longtail", show_default=True, help=f"Of {', '.join(SETTINGS)}")
@click.option("--gan-kimg", type=IntRange(min=1), default=12, show_default=True, help="Length of the GANs")
@click.option("--student-kimg", type=FloatRange(min=1), default=40, show_default=True,
              help="Images that every student sees, in thousands")
@click.option("--kernels", **kernels.FLAG)
@click.option("--out", type=PathObject(dir_okay=False, path_type=Path),
              help="Also write the table here (.md; the values beside it as .json)")
def main(folder: Path, folds: int, settings: str, gan_kimg: int, student_kimg: float, out: Path | None) -> None:
    """Teach small networks through generated digits: train, generate, filter, compare, look."""
    start, chosen = time.time(), [s.strip() for s in settings.split(",") if s.strip()]
    for s in chosen:
        if s not in SETTINGS:
            raise UserError(f"--settings={settings}: {s} is not known; there are {', '.join(SETTINGS)}")
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "digits.zip"
    if not data.exists():
        jobs.run_jobs([Job("data", ["dataset_tool.py", "--source=sklearn:digits", f"--dest={data}"])])
    results: dict[str, list[dict]] = {s: [] for s in chosen}
    for setting in chosen:
        for fold in range(folds):
            results[setting].append(one_fold(folder / f"{setting}-fold{fold}", data, fold, setting, gan_kimg,
                                             student_kimg))
    text = report(results, gan_kimg, student_kimg)
    picture = folder / "distill.png"
    draw(picture, data, folder / f"{chosen[0]}-fold0")
    with atomic_write(folder / "table.md") as f:
        f.write(text + "\n")
    command = dict(folds=folds, settings=chosen, gan_kimg=gan_kimg, student_kimg=student_kimg, rho=RHO,
                   fakes_per_class=PER_CLASS, fake_batch_share=SHARE, imbalance=IMBALANCE)
    for path in filter(None, [folder / "table.json", out.with_suffix(".json") if out else None]):
        with atomic_write(path) as f:
            json.dump(dict(command=command, primary=PRIMARY, versions=versions(), results=results), f, indent=1)
    if out:
        with atomic_write(out) as f:
            f.write(text + "\n")
    print(f"\n{text}\n\nTable: {folder / 'table.md'}   picture: {picture}")
    print(f"Done in {format_time(time.time() - start)}.")


def one_fold(folder: Path, data: Path, fold: int, setting: str, gan_kimg: int, student_kimg: float) -> dict:
    """Everything of one fold and setting; the figures."""
    folder.mkdir(parents=True, exist_ok=True)
    title, gan_flags, sampling = SETTINGS[setting]
    train, test = folder / "train.json", folder / "test.json"
    if not test.exists():
        split(data, fold, setting, train, test)
    real = [f"--data={data}", f"--fname={train}"]
    seed = f"--seed={fold}"

    job, snapshot = jobs.train_job(f"{setting}{fold}", folder / "gan", f"seed{fold}", gan_kimg, [
        "--cfg=tiny", *real, "--cond=True", seed, "--metrics=none", "--threads=1", *gan_flags])
    if job:
        print(f"$ python {' '.join(job.argv)}", flush=True)
        jobs.run_jobs([job])
        snapshot = jobs.final_snapshot(jobs.run_folder(folder / "gan", f"seed{fold}", gan_kimg), gan_kimg)

    common = ["--preset=digits", *real, f"--test={data}", f"--test-fname={test}", seed, f"--sampling={sampling}",
              "--threads=1"]
    distill.call(distill.teacher, *common, f"--outdir={folder / 'teacher'}")
    teacher = folder / "teacher" / "teacher.pkl"
    files = {"raw": folder / "raw.zip", "processed": folder / "processed.zip"}
    if not files["raw"].exists():
        distill.call(distill.fakes, *real, f"--network={snapshot}", f"--teacher={teacher}", seed, "--rho=1",
                     f"--num-per-label={PER_CLASS}", f"--dest={files['raw']}", "--threads=1")
    if not files["processed"].exists():
        distill.call(distill.refilter, f"--fakes={files['raw']}", f"--rho={RHO}", "--replace=True",
                     f"--dest={files['processed']}")
    out = dict(fold=fold, students={}, teacher=last(folder / "teacher"), fakes=agreements(files, data, train),
               train_counts=list(ImageDataset(data, fname=str(train), use_labels=True).spec.label.counts),
               tested=len(json_file.read(test)["labels"]))
    for arm, (_, source, kd) in ARMS.items():
        words = [f"--fakes={files[source]}", f"--fake_batch_share={SHARE}"] if source else []
        words += ["--kd=blkd", f"--teacher={teacher}"] if kd else []
        distill.call(distill.student, *common, f"--kimg={student_kimg:g}", f"--outdir={folder / arm}", *words)
        out["students"][arm] = last(folder / arm)
    return out


def last(folder: Path) -> dict[str, float]:
    r = json_file.read(folder / "results.json")
    return dict(r["last"], images_seen=r["images_seen"], seconds=r["seconds"])


def split(data: Path, fold: int, setting: str, train: Path, test: Path) -> None:
    """Label files: a fifth of every class is tested. Long-tailed: a class order and a choice of images per fold."""
    whole = ImageDataset(data, use_labels=True)
    ids, names = whole.class_ids, [whole.get_details(i).name for i in range(len(whole))]
    parts, rng = np.zeros(len(ids), int), np.random.RandomState(0)
    for k in range(10):
        members = rng.permutation(np.flatnonzero(ids == k))
        parts[members] = np.arange(len(members)) % FOLDS
    keep = parts != fold
    if setting == "longtail":
        rng = np.random.RandomState(1000 + fold)
        most = min(int((keep & (ids == k)).sum()) for k in range(10))
        for rank, k in enumerate(rng.permutation(10)):
            members = rng.permutation(np.flatnonzero(keep & (ids == k)))
            keep[members[round(most * IMBALANCE ** (-rank / 9)) :]] = False
    for path, chosen in ((train, keep), (test, parts == fold)):
        with atomic_write(path) as f:
            json.dump(dict(labels=[[names[i], int(ids[i])] for i in np.flatnonzero(chosen)]), f)


def agreements(files: dict[str, Path], data: Path, train: Path) -> dict[str, float]:
    """Share of fakes whose label is the choice of the teacher, and of a judge trained apart from all this."""
    judge = DigitsJudge().eval()
    judge.load_state_dict(read_state(package_data() / "digits32.pt"))
    out = {}
    stages = {name: fakes.read(str(path)) for name, path in files.items()}
    for name, path in files.items():
        found = ImageDataset(path, use_labels=True, label_dim=10)
        with torch.no_grad():
            says = judge(torch.from_numpy(found.images_uint8(np.arange(len(found)))).float()).logits.argmax(1).numpy()
        out[f"judge_{name}"] = float((says == found.class_ids).mean())
        if name == "processed":
            out["judge_filtered"] = float((says == stages[name].scores["assigned"]).mean())
        out[f"images_{name}"] = len(found)
    given = stages["processed"].provenance["agreement"]
    out.update({f"teacher_{k}": given[k] for k in ("drawn", "filtered", "final")})
    return out


def report(results: dict[str, list[dict]], gan_kimg: int, student_kimg: float) -> str:
    """Markdown: students per setting, paired differences, label agreement per stage."""
    n = len(next(iter(results.values())))
    lines = [f"Real digits, {n} of {FOLDS} folds, each with its own seed, GAN, teacher and students; every student "
             f"sees {student_kimg:g} thousand images; half of them generated where there are fakes; GANs of {gan_kimg} "
             f"kimg; {PER_CLASS} fakes per class, rho {RHO}. Mean +- sample standard deviation over folds. "
             f"Primary, fixed before the runs: {PRIMARY[3]}, {SETTINGS[PRIMARY[0]][0]}, {ARMS[PRIMARY[2]][0]} minus "
             f"{ARMS[PRIMARY[1]][0]}."]
    for setting, folds in results.items():
        columns = [c for c in COLUMNS[setting] if all(c in f["students"]["nokd"] for f in folds)]
        total = sum(f["tested"] for f in folds)
        lines += ["", f"{SETTINGS[setting][0]} ({spread([sum(f['train_counts']) for f in folds])} training images, "
                      f"{total} tested once):", "",
                  "| | " + " | ".join(c.replace("_", " ") for c in columns) + " |", "|---|" + "---|" * len(columns)]
        rows = [("teacher", [f["teacher"] for f in folds])]
        rows += [(ARMS[a][0], [f["students"][a] for f in folds]) for a in ARMS]
        for title, values in rows:
            lines.append(f"| {title} | " + " | ".join(spread([v[c] for v in values]) for c in columns) + " |")
        if n > 1:
            lines += ["", f"Paired differences, mean +- standard error; bold beyond {critical_t(n):.2f} standard "
                          "errors (t, 5 %); tests are not corrected for their number.", "",
                      "| | " + " | ".join(c.replace("_", " ") for c in columns) + " |", "|---|" + "---|" * len(columns)]
            for a, b in TESTED:
                cells = [difference(*[[[f["students"][x][c] for f in folds]] for x in (a, b)]).cell() for c in columns]
                lines.append(f"| {ARMS[b][0]} minus {ARMS[a][0]} | " + " | ".join(cells) + " |")
        lines += ["", "| label of a fake is the choice of | drawn | filtered | relabelled |", "|---|---|---|---|"]
        for who, keys in (("the teacher", ("teacher_drawn", "teacher_filtered", "teacher_final")),
                          ("an independent judge", ("judge_raw", "judge_filtered", "judge_processed"))):
            lines.append(f"| {who} | " + " | ".join(spread([f["fakes"][k] for f in folds]) for k in keys) + " |")
    return "\n".join(lines)


def draw(path: Path, data: Path, folder: Path, columns: int = 8) -> None:
    """A row per class: training images | fakes with the smallest | with the largest errors, which the filter drops."""
    real = ImageDataset(data, fname=str(folder / "train.json"), use_labels=True)
    made = fakes.read(str(folder / "raw.zip"))
    images = ImageDataset(folder / "raw.zip", use_labels=True)
    gap = np.full((1, real.resolution, real.resolution // 2), 255, np.uint8)
    order = sorted(range(10), key=lambda k: -real.spec.label.counts[k])
    strips = []
    for k in order:
        blocks = [real.images_uint8(np.resize(np.flatnonzero(real.class_ids == k), columns))]
        mine = np.flatnonzero(made.scores["assigned"] == k)
        mine = mine[np.argsort(made.scores["error"][mine], kind="stable")]
        kept = mine[: int(RHO * len(mine))]
        blocks.append(images.images_uint8(kept[np.linspace(0, len(kept) - 1, columns).astype(int)]))
        blocks.append(images.images_uint8(mine[-columns:][::-1]))
        strips.append(np.concatenate([tile for b in blocks for tile in (*b, gap)][:-1], axis=2))
    names = [f"{k} ({real.spec.label.counts[k]})" for k in order]
    sheet = image_grid(np.stack(strips), 1, row_labels=names, zoom=2)
    with atomic_path(path) as tmp:
        sheet.save(tmp, format="PNG")
