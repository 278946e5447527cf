# SPDX-License-Identifier: Apache-2.0
"""gantransfer experiment distill: classifiers taught by generated images: cGAN-KD.

For every fold of the digits: a GAN, a teacher, fakes, filtered fakes, and students that all see equally many images:
real ones only (NOKD), with a distillation loss (KD), with generated images as they come (raw), filtered and relabelled
(cGAN-KD), and with both. Tested on the fold's own images, so that with five folds every image is tested once. Every
step is a command; what is there already is kept. With --folds=5 this is the published comparison.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np

from dnnlib import json_file
from dnnlib.util import atomic_write
from gantransfer.commands.flags import IntRange
from gantransfer.experiments import harness, sheets
from gantransfer.experiments.harness import Arm, student_result
from gantransfer.metrics.paired import critical_t, spread, table, versions

FOLDS = 5
# Settings of the real data: (title, flags of the GAN, sampling of every classifier)
SETTINGS = {
    "longtail": ("long-tailed, imbalance 25", ["--add_uc=True", "--res_uc=4", "--sampling=balanced"], "balanced"),
    "balanced": ("all images of four folds", [], "empirical"),
}
# Students; the last word: which fakes they see
KD = ["--kd=blkd"]  # with the teacher
ARMS = {
    "nokd": Arm("NOKD", [], None), "kd": Arm("KD", KD, None), "raw": Arm("raw fakes", [], "raw"),
    "raw-kd": Arm("raw fakes + KD", KD, "raw"), "cgankd": Arm("cGAN-KD", [], "processed"),
    "cgankd-kd": Arm("cGAN-KD + KD", KD, "processed"),
}
PRIMARY = ("longtail", "nokd", "cgankd-kd", "accuracy")
TESTED = [("nokd", "kd"), ("nokd", "raw"), ("raw", "cgankd"), ("nokd", "cgankd"), ("nokd", "cgankd-kd"),
          ("kd", "cgankd-kd"), ("raw-kd", "cgankd-kd")]
COLUMNS = {"longtail": ("accuracy", "accuracy_many", "accuracy_medium", "accuracy_few"), "balanced": ("accuracy",)}
PER_CLASS, RHO, SHARE, IMBALANCE = 500, 0.9, 0.5, 25


@harness.flags(
    "runs/distill_demo",
    click.option("--folds", type=IntRange(1, FOLDS), default=1, show_default=True,
                 help="Folds tested, each with a seed, a class order and networks of its own; 5 = every image once"),
    click.option("--settings", default="longtail", show_default=True, help=f"Of {', '.join(SETTINGS)}"),
    click.option("--gan-kimg", type=IntRange(min=1), default=12, show_default=True, help="Length of the GANs"),
    harness.student_kimg(40), harness.OUT_TABLE)
def main(folder: Path, folds: int, settings: str, gan_kimg: int, student_kimg: float, out: Path | None) -> None:
    """Teach small networks through generated digits: train, generate, filter, compare, look."""
    chosen = harness.chosen(settings, SETTINGS, flag="--settings")
    study = harness.Study(folder, ["data", *(f"{what} of {s}, fold {f}" for s in chosen for f in range(folds) for what
                                             in ("GAN", "teacher", "fakes", "students")), "table and picture"])
    study.step()
    data = folder / "digits.zip"
    study.run(harness.data_jobs("digits", {data: {}}))
    results = {s: [one_fold(study, folder / f"{s}-fold{fold}", data, fold, s, gan_kimg, student_kimg)
                   for fold in range(folds)] for s in chosen}
    study.step()
    picture = folder / "distill.png"
    draw(picture, data, folder / f"{chosen[0]}-fold0")
    command = dict(folds=folds, settings=chosen, gan_kimg=gan_kimg, student_kimg=student_kimg, rho=RHO,
                   fakes_per_class=PER_CLASS, fake_batch_share=SHARE, imbalance=IMBALANCE)
    study.finish(report(results, gan_kimg, student_kimg),
                 dict(command=command, primary=PRIMARY, versions=versions(), results=results),
                 ("table.md", "table.json"), picture, out)


def one_fold(study: harness.Study, folder: Path, data: Path, fold: int, setting: str, gan_kimg: int,
             student_kimg: float) -> dict:
    """Everything of one fold and setting; the figures."""
    from gantransfer.commands import distill
    from gantransfer.data.dataset import ImageDataset

    folder.mkdir(parents=True, exist_ok=True)
    _, gan_flags, sampling = SETTINGS[setting]
    train, test = folder / "train.json", folder / "test.json"
    if not test.exists():
        split(data, fold, setting, train, test)
    real, seed = [f"--data={data}", f"--fname={train}"], f"--seed={fold}"
    study.step()
    (snapshot,) = study.train([(f"{setting}{fold}", folder / "gan", f"seed{fold}", gan_kimg, [
        "--cfg=tiny", *real, "--cond=True", seed, "--metrics=none", "--threads=1", *gan_flags])])
    study.step()
    common = ["--preset=digits", *real, f"--test={data}", f"--test-fname={test}", seed, f"--sampling={sampling}",
              "--threads=1"]
    distill.call(distill.teacher, *common, f"--outdir={folder / 'teacher'}")
    teacher = f"--teacher={folder / 'teacher' / 'teacher.pkl'}"
    study.step()
    files = {"raw": folder / "raw.zip", "processed": folder / "processed.zip"}
    if not files["raw"].exists():
        distill.call(distill.fakes, *real, f"--network={snapshot}", teacher, seed, "--rho=1",
                     f"--num-per-label={PER_CLASS}", f"--dest={files['raw']}", "--threads=1")
    if not files["processed"].exists():
        distill.call(distill.refilter, f"--fakes={files['raw']}", f"--rho={RHO}", "--replace=True",
                     f"--dest={files['processed']}")
    study.step()
    out = dict(fold=fold, students={}, teacher=student_result(folder / "teacher"), fakes=agreements(files),
               train_counts=list(ImageDataset(data, fname=str(train), use_labels=True).spec.label.counts),
               tested=len(json_file.read(test)["labels"]))
    for name, arm in ARMS.items():
        words = [f"--fakes={files[arm.more]}", f"--fake_batch_share={SHARE}"] if arm.more else []
        words += [*arm.flags, teacher] if arm.flags else []
        distill.call(distill.student, *common, f"--kimg={student_kimg:g}", f"--outdir={folder / name}", *words)
        out["students"][name] = student_result(folder / name)
    return out


def split(data: Path, fold: int, setting: str, train: Path, test: Path) -> None:
    """Label files: a fifth of every class is tested. Long-tailed: a class order and a choice of images per fold."""
    from gantransfer.data.dataset import ImageDataset

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


def agreements(files: dict[str, Path]) -> dict[str, float]:
    """Share of fakes whose label is the choice of the teacher, and of a judge trained apart from all this."""
    import torch

    from gantransfer.data.dataset import ImageDataset
    from gantransfer.detectors.judge import DigitsJudge
    from gantransfer.detectors.weights import package_data, read_state
    from gantransfer.distillation import fakes

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
             f"Primary, fixed before the runs: {PRIMARY[3]}, {SETTINGS[PRIMARY[0]][0]}, {ARMS[PRIMARY[2]].title} minus "
             f"{ARMS[PRIMARY[1]].title}."]
    for setting, folds in results.items():
        columns = [c for c in COLUMNS[setting] if all(c in f["students"]["nokd"] for f in folds)]
        rows = {"teacher": [f["teacher"] for f in folds],
                **{arm.title: [f["students"][a] for f in folds] for a, arm in ARMS.items()}}
        lines += ["", f"{SETTINGS[setting][0]} ({spread([sum(f['train_counts']) for f in folds])} training images, "
                      f"{sum(f['tested'] for f in folds)} tested once):", ""]
        lines += table(["", *map(harness.name_of, columns)],
                       [[name, *(spread([v[c] for v in values]) for c in columns)] for name, values in rows.items()])
        if n > 1:
            lines += ["", f"Paired differences, mean +- standard error; bold beyond {critical_t(n):.2f} standard "
                          "errors (t, 5 %); tests are not corrected for their number.", ""]
            lines += harness.difference_table(
                "", columns, {f"{ARMS[b].title} minus {ARMS[a].title}": (a, b) for a, b in TESTED},
                lambda a, c, folds=folds: [[f["students"][a][c] for f in folds]])
        stages = {"the teacher": ("teacher_drawn", "teacher_filtered", "teacher_final"),
                  "an independent judge": ("judge_raw", "judge_filtered", "judge_processed")}
        lines += ["", *table(["label of a fake is the choice of", "drawn", "filtered", "relabelled"], [
            [who, *(spread([f["fakes"][k] for f in folds]) for k in keys)] for who, keys in stages.items()])]
    return "\n".join(lines)


def draw(path: Path, data: Path, folder: Path, columns: int = 8) -> None:
    """A row per class: training images | fakes with the smallest | with the largest errors, which the filter drops."""
    from gantransfer.data.dataset import ImageDataset
    from gantransfer.distillation import fakes

    real = ImageDataset(data, fname=str(folder / "train.json"), use_labels=True)
    scores, images = fakes.read(str(folder / "raw.zip")).scores, ImageDataset(folder / "raw.zip", use_labels=True)
    order = sorted(range(10), key=lambda k: -real.spec.label.counts[k])
    train, kept, dropped = sheets.reals(real, columns), [], []
    for k in order:
        mine = np.flatnonzero(scores["assigned"] == k)
        mine = mine[np.argsort(scores["error"][mine], kind="stable")]
        good = mine[: int(RHO * len(mine))]
        kept.append(images.images_uint8(good[np.linspace(0, len(good) - 1, columns).astype(int)]))
        dropped.append(images.images_uint8(mine[-columns:][::-1]))
    sheets.save_sheet(path, {"training images": [train[k] for k in order], "fakes that are kept": kept,
                             "fakes that are dropped": dropped}, [f"{k} ({real.spec.label.counts[k]})" for k in order])
