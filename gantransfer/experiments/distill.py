# SPDX-License-Identifier: Apache-2.0
"""gantransfer experiment distill: classifiers taught by generated images: cGAN-KD.

For every fold of the digits: a GAN, a teacher, fakes, filtered fakes, and students that all see equally many images:
real ones only (NOKD), with a distillation loss (KD), with generated images as they come (raw), filtered and relabelled
(cGAN-KD), and with both. Tested on the fold's own images, so that with five folds every image is tested once. Every
step is a command; what is there already is kept. With --folds=5 this is the published comparison.

On images of your own (--data): does a small classifier get better with generated rare classes? Real images as they are,
real ones with classes drawn evenly, and with the fakes of each recipe for tails, raw and as cGAN-KD has them.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from dnnlib import json_file
from gantransfer.commands.flags import FloatRange, IntRange
from gantransfer.experiments import harness, longtail, own_images
from gantransfer.experiments.folds import FIRST, FOLDS, Folds, Recipe, fold_labels, folds_from
from gantransfer.experiments.harness import Arm
from gantransfer.experiments.students import Students, agreements, draw_filtered, result
from gantransfer.metrics.names import GROUPS
from gantransfer.metrics.paired import critical_t, spread, table, versions

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


# On the user's own images: the generators by default, kimg of each and of students, and fakes of each class.
OWN = dict(gans="balanced,utlo8-balanced", gan_kimg=40, student_kimg=60, fakes="10x")
OWN_PRIMARY = "macro_recall"


@harness.flags(
    "runs/distill_demo", harness.DATA,
    click.option("--folds", type=IntRange(1, FOLDS), default=1, show_default=True,
                 help="Folds tested, each with a seed and networks of its own; 5 = every image once"),
    FIRST,
    click.option("--settings", help=f"Of the digits: {', '.join(SETTINGS)} [default: longtail]"),
    click.option("--gans", help=f"With --data: generators, arms of experiment longtail: {', '.join(longtail.ARMS)} "
                 f"[default: {OWN['gans']}]"),
    harness.common(),
    click.option("--gan-kimg", type=FloatRange(min=0.1),
                 help=f"Length of the GANs [default: 12; {OWN['gan_kimg']} with --data]"),
    harness.STUDENT, harness.student_kimg(40, OWN["student_kimg"]),
    harness.fakes_flag("generated images of each class, or how many times the images of the rarest", OWN["fakes"]),
    harness.OUT_TABLE)
def main(folder: Path | None, data: str | None, folds: int, first_fold: int | None, settings: str | None,
         gans: str | None, common: str | None, gan_kimg: float | None, student: str | None, student_kimg: float | None,
         fakes: str | None, out: Path | None) -> None:
    """Teach small networks through generated images, of digits or of your own rare classes: compare, look."""
    harness.belong(data, dict(first_fold=first_fold, gans=gans, common=common, student=student, fakes=fakes),
                   dict(settings=settings))
    folder = harness.place(folder, "distill", data, "runs/distill_demo")
    if data:
        recipe = Recipe(gan_kimg or OWN["gan_kimg"], student_kimg or OWN["student_kimg"], common or harness.OWN,
                        student or harness.SMALL, fakes or OWN["fakes"], RHO, SHARE)
        return on_own_images(folder, data, gans or OWN["gans"], recipe, folds_from(first_fold, folds), out)
    gan_kimg, student_kimg = gan_kimg or 12, student_kimg or 40
    chosen = harness.chosen(settings or "longtail", SETTINGS, flag="--settings")
    study = harness.Study(folder, ["data", *(f"{what} of {s}, fold {f}" for s in chosen for f in range(folds) for what
                                             in ("GAN", "teacher", "fakes", "students")), "table and picture"])
    study.is_of(gan_kimg=gan_kimg, student_kimg=student_kimg)
    study.step()
    source = folder / "digits.zip"
    study.run(harness.data_jobs("digits", {source: {}}))
    results = {s: [one_fold(study, folder / f"{s}-fold{fold}", source, fold, s, gan_kimg, student_kimg)
                   for fold in range(folds)] for s in chosen}
    study.step()
    picture = folder / "distill.png"
    draw_filtered(picture, source, folder / f"{chosen[0]}-fold0", RHO)
    command = dict(folds=folds, settings=chosen, gan_kimg=gan_kimg, student_kimg=student_kimg, rho=RHO,
                   fakes_per_class=PER_CLASS, fake_batch_share=SHARE, imbalance=SETTINGS["longtail"][3])
    study.finish(report(results, gan_kimg, student_kimg),
                 dict(command=command, primary=PRIMARY, versions=versions(), results=results),
                 ("table.md", "table.json"), picture, out)


def on_own_images(folder: Path, data: str, gans: str, recipe: Recipe, chosen: range, out: Path | None) -> None:
    """Students of real images, drawn as they are or evenly by class, and with the fakes of each generator."""
    names = harness.chosen(gans, longtail.ARMS, flag="--gans")
    students = {"real": Arm("real only", "--sampling=empirical"), "oversampling": Arm("real + oversampling")}
    for g in names:
        title = longtail.ARMS[g].title
        students |= {f"{g}-raw": Arm(f"{title}: raw fakes", more=(g, "raw")),
                     f"{g}-cgankd": Arm(f"{title}: cGAN-KD", more=(g, "cgankd"))}
    study = Folds(folder, data, "class", {g: longtail.ARMS[g] for g in names}, students,
                  dict(raw=None, cgankd=(recipe.rho, True)), recipe, chosen)
    study.prepare()
    study.run()
    study.draw(folder / "distill.png")
    study.study.step()
    study.finish(own_report(study), OWN_PRIMARY, folder / "distill.png", out)


def one_fold(study: harness.Study, folder: Path, data: Path, fold: int, setting: str, gan_kimg: float,
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
    study.step()
    taught.train_teacher()
    study.step()
    files = taught.make(snapshot, PER_CLASS, STAGES)
    study.step()
    return dict(fold=fold, students=taught.teach(ARMS, files, student_kimg, SHARE), teacher=result(taught.teacher),
                fakes=agreements(files),
                train_counts=list(ImageDataset(data, fname=str(train), use_labels=True).spec.label.counts),
                tested=len(json_file.read(test)["labels"]))


def report(results: dict[str, list[dict]], gan_kimg: float, student_kimg: float) -> str:
    """Markdown: students per setting, paired differences, label agreement per stage."""
    n = len(next(iter(results.values())))
    lines = [f"Real digits, {n} of {FOLDS} folds, each with its own seed, GAN, teacher and students; every student "
             f"sees {student_kimg:g} thousand images; half of them generated where there are fakes; GANs of "
             f"{gan_kimg:g} kimg; {PER_CLASS} fakes per class, rho {RHO}. Mean +- sample standard deviation over "
             f"folds. Primary, fixed before the runs: {PRIMARY[3]}, {SETTINGS[PRIMARY[0]][0]}, "
             f"{ARMS[PRIMARY[2]].title} minus {ARMS[PRIMARY[1]].title}."]
    for setting, folds in results.items():
        columns = [c for c in COLUMNS[setting] if all(c in f["students"]["nokd"] for f in folds)]
        rows = {"teacher": [f["teacher"] for f in folds],
                **{arm.title: [f["students"][a] for f in folds] for a, arm in ARMS.items()}}
        lines += ["", f"{SETTINGS[setting][0]} ({spread([sum(f['train_counts']) for f in folds])} training images, "
                      f"{sum(f['tested'] for f in folds)} tested once):", ""]
        lines += table(["", *map(harness.student_name, columns)],
                       [[name, *(spread([v[c] for v in values]) for c in columns)] for name, values in rows.items()])
        if n > 1:
            lines += ["", f"Paired differences, mean +- standard error; bold beyond {critical_t(n):.2f} standard "
                          "errors (t, 5 %); tests are not corrected for their number.", ""]
            lines += harness.difference_table(
                "", columns, {f"{ARMS[b].title} minus {ARMS[a].title}": (a, b) for a, b in TESTED},
                lambda a, c, folds=folds: [[f["students"][a][c] for f in folds]], harness.student_name)
        stages = {"the teacher": ("teacher_drawn", "teacher_filtered", "teacher_final"),
                  "an independent judge": ("judge_raw", "judge_filtered", "judge_processed")}
        lines += ["", *table(["label of a fake is the choice of", "drawn", "filtered", "relabelled"], [
            [who, *(spread([f["fakes"][k] for f in folds]) for k in keys)] for who, keys in stages.items()])]
    return "\n".join(lines)


def own_report(study: Folds) -> str:
    """Markdown: macro recall, groups, classes, paired differences over folds, and what the fakes are."""
    r, label = study.recipe, study.label
    arms, counts = study.students, study.found[next(iter(study.students)), study.chosen[0]]["counts"]
    groups = [f"recall_{g}" for g in GROUPS if label.shots.get(g)]
    columns = [OWN_PRIMARY, "accuracy", *groups]
    of_fakes = {a: [study.found[a, k]["generated"] for k in study.chosen] for a, arm in arms.items() if arm.more}
    lines = [f"{study.tested_note()} Every student ({r.student}) sees {r.student_kimg:g} thousand images; "
             f"'{arms['real'].title}' draws them as they are, all others draw classes evenly."]
    if of_fakes:
        each = sorted({f["per_label"] for f in next(iter(of_fakes.values()))})
        count = f"{each[0]}" + f" to {each[-1]}" * (len(each) > 1)
        lines[0] += (f" {r.share:.0%} of what a student with fakes sees is generated: {count} fakes of each "
                     f"class (--fakes={r.fakes}), {each[0] / min(counts):.3g} times the images of the rarest class "
                     f"({min(counts)} in fold {study.chosen[0]}) and {each[0] / max(counts):.2g} times those of the "
                     f"most frequent ({max(counts)}); raw, or (cGAN-KD) the {r.rho:.0%} of each class that the "
                     f"teacher is surest of, with its labels. GANs: {r.common}, {r.gan_kimg:g} kimg.")
    lines[0] += (f" Primary column, fixed before the runs: {harness.student_name(OWN_PRIMARY)}, each arm minus "
                 f"'{arms['oversampling'].title}'.")
    if label.shots:
        lines.append(f"Classes by images: {own_images.groups_note(label)}.")
    rows = [[arm.title, *(spread(study.of(a, c)) for c in columns),
             spread([study.found[a, k]["seconds"] for k in study.chosen])] for a, arm in arms.items()]
    if of_fakes:
        taught = [f["teacher"] for f in next(iter(of_fakes.values()))]
        rows.append([f"(the teacher, {taught[0]['images_seen'] / 1000:.0f} thousand images)",
                     *(spread([t[c] for t in taught]) for c in ("accuracy_mean", "accuracy")), *["-"] * len(groups),
                     spread([t["seconds"] for t in taught])])
    lines += ["", *table(["", *(harness.student_name(c, OWN_PRIMARY) for c in columns), "seconds"], rows)]
    recall = {a: np.array([study.found[a, k]["figures"]["recall"] for k in study.chosen]).mean(0) for a in arms}
    order = sorted(range(label.dim), key=lambda k: -label.counts[k])
    lines += ["", "Recall of each class, mean over folds:", "", *table(
        ["class (images)", *(arm.title for arm in arms.values())],
        [[f"{label.name(k)} ({label.counts[k]})", *(f"{recall[a][k]:.2f}" for a in arms)] for k in order])]
    lines += study.differences(columns, [("oversampling", a) for a in arms if a != "oversampling"] + [
        (f"{g}-raw", f"{g}-cgankd") for g in study.gans])
    if of_fakes:
        keys = ("drawn", "filtered", "final")
        lines += ["", *table(["label of a fake is the choice of the teacher", *keys, "images", "least of a class",
                              "GAN seconds"], [
            [arms[a].title, *(spread([f["agreement"][k] for f in fs]) for k in keys),
             *(f"{np.mean(n):.0f}" for n in ([f["images"] for f in fs], [min(f["class_counts"]) for f in fs])),
             spread([f["gan_seconds"] for f in fs])] for a, fs in of_fakes.items()])]
    return "\n".join(lines)
