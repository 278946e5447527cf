# SPDX-License-Identifier: Apache-2.0
"""gantransfer experiment distill: classifiers taught by generated images: cGAN-KD.

For every fold of the digits: a GAN, a teacher, fakes, filtered fakes, and students that all see equally many images:
real ones only (NOKD), with a distillation loss (KD), with generated images as they come (raw), filtered and relabelled
(cGAN-KD), and with both. Tested on the fold's own images, so that with five folds every image is tested once. Every
step is a command; what is there already is kept. With --folds=5 this is the published comparison.
"""

from __future__ import annotations

from pathlib import Path

import click

from dnnlib import json_file
from gantransfer.commands.flags import IntRange
from gantransfer.experiments import harness
from gantransfer.experiments.harness import Arm
from gantransfer.experiments.students import Students, agreements, draw_filtered, fold_labels, result
from gantransfer.metrics.paired import critical_t, spread, table, versions

FOLDS = 5
# Settings of the real data: (title, flags of the GAN, sampling of every classifier, imbalance)
SETTINGS = {
    "longtail": ("long-tailed, imbalance 25", "--add_uc=True --res_uc=4 --sampling=balanced", "balanced", 25),
    "balanced": ("all images of four folds", "", "empirical", 1),
}
# Students; the last word: which fakes they see
KD = "--kd=blkd"  # with the teacher
ARMS = {
    "nokd": Arm("NOKD"), "kd": Arm("KD", KD), "raw": Arm("raw fakes", more="raw"),
    "raw-kd": Arm("raw fakes + KD", KD, "raw"), "cgankd": Arm("cGAN-KD", more="processed"),
    "cgankd-kd": Arm("cGAN-KD + KD", KD, "processed"),
}
PRIMARY = ("longtail", "nokd", "cgankd-kd", "accuracy")
TESTED = [("nokd", "kd"), ("nokd", "raw"), ("raw", "cgankd"), ("nokd", "cgankd"), ("nokd", "cgankd-kd"),
          ("kd", "cgankd-kd"), ("raw-kd", "cgankd-kd")]
COLUMNS = {"longtail": ("accuracy", "accuracy_many", "accuracy_medium", "accuracy_few"), "balanced": ("accuracy",)}
PER_CLASS, RHO, SHARE = 500, 0.9, 0.5
STAGES = {"raw": None, "processed": (RHO, True)}


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
    draw_filtered(picture, data, folder / f"{chosen[0]}-fold0", RHO)
    command = dict(folds=folds, settings=chosen, gan_kimg=gan_kimg, student_kimg=student_kimg, rho=RHO,
                   fakes_per_class=PER_CLASS, fake_batch_share=SHARE, imbalance=SETTINGS["longtail"][3])
    study.finish(report(results, gan_kimg, student_kimg),
                 dict(command=command, primary=PRIMARY, versions=versions(), results=results),
                 ("table.md", "table.json"), picture, out)


def one_fold(study: harness.Study, folder: Path, data: Path, fold: int, setting: str, gan_kimg: int,
             student_kimg: float) -> dict:
    """Everything of one fold and setting; the figures."""
    from gantransfer.data.dataset import ImageDataset

    folder.mkdir(parents=True, exist_ok=True)
    _, gan_flags, sampling, imbalance = SETTINGS[setting]
    train, test = folder / "train.json", folder / "test.json"
    if not test.exists():
        fold_labels(data, fold, FOLDS, imbalance, train, test)
    taught = Students(study, folder, [f"--data={data}", f"--fname={train}"], fold, [
        f"--test={data}", f"--test-fname={test}", f"--sampling={sampling}"])
    study.step()
    snapshot = taught.gan(f"{setting}{fold}", gan_kimg, "--cond=True", *gan_flags.split())
    files = taught.make(snapshot, PER_CLASS, STAGES)
    return dict(fold=fold, students=taught.teach(ARMS, files, student_kimg, SHARE), teacher=result(taught.teacher),
                fakes=agreements(files),
                train_counts=list(ImageDataset(data, fname=str(train), use_labels=True).spec.label.counts),
                tested=len(json_file.read(test)["labels"]))


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
