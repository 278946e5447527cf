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

from gantransfer.commands.flags import FloatRange, IntRange
from gantransfer.experiments import digit_students, harness, longtail, student_tables
from gantransfer.experiments.folds import FIRST, FOLDS, Folds, Recipe, folds_from
from gantransfer.experiments.harness import Arm
from gantransfer.metrics.paired import versions

SETTINGS = {  # of the real data: (title, flags of the GAN, sampling of every classifier, imbalance)
    "longtail": ("long-tailed, imbalance 25", ["--add_uc=True", "--res_uc=4", "--sampling=balanced"], "balanced", 25),
    "balanced": ("all images of four folds", [], "empirical", 1),
}
KD = "--kd=blkd"  # with the teacher
DESIGN = student_tables.Design(
    arms={"nokd": Arm("NOKD"), "kd": Arm("KD", KD), "raw": Arm("raw fakes", more="raw"),  # the last word: its fakes
          "raw-kd": Arm("raw fakes + KD", KD, "raw"), "cgankd": Arm("cGAN-KD", more="processed"),
          "cgankd-kd": Arm("cGAN-KD + KD", KD, "processed")},
    tested=[("nokd", "kd"), ("nokd", "raw"), ("raw", "cgankd"), ("nokd", "cgankd"), ("nokd", "cgankd-kd"),
            ("kd", "cgankd-kd"), ("raw-kd", "cgankd-kd")],
    primary=("longtail", "nokd", "cgankd-kd", "accuracy"), per_label=500, rho=0.9, share=0.5,
    columns={"longtail": ("accuracy", "accuracy_many", "accuracy_medium", "accuracy_few"), "balanced": ("accuracy",)},
    settings={name: title for name, (title, *_) in SETTINGS.items()})
STAGES = {"raw": None, "processed": (DESIGN.rho, True)}
# On the user's own images: the generators by default, kimg of each and of students, and fakes of each class.
OWN = dict(gans="balanced,utlo8-balanced", gan_kimg=40, student_kimg=60, fakes="10x")
OWN_STUDENTS = {"real": Arm("real only", "--sampling=empirical"), "oversampling": Arm("real + oversampling")}
OWN_STAGES = {"raw": ("raw fakes", None), "cgankd": ("cGAN-KD", (DESIGN.rho, True))}  # of each generator
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
                        student or harness.SMALL, fakes or OWN["fakes"], DESIGN.rho, DESIGN.share)
        known = {g: longtail.ARMS[g] for g in harness.chosen(gans or OWN["gans"], longtail.ARMS, flag="--gans")}
        students = OWN_STUDENTS | {f"{g}-{stage}": Arm(f"{arm.title}: {title}", more=(g, stage))
                                   for g, arm in known.items() for stage, (title, _) in OWN_STAGES.items()}
        return Folds(folder, data, "class", known, students, {k: how for k, (_, how) in OWN_STAGES.items()}, recipe,
                     folds_from(first_fold, folds)).whole(
            lambda study: student_tables.of_own_classes(study, OWN_PRIMARY), OWN_PRIMARY, "distill.png", out)
    lengths = gan_kimg, student_kimg = gan_kimg or 12, student_kimg or 40
    chosen = harness.chosen(settings or "longtail", SETTINGS, flag="--settings")
    study = harness.Study(folder, ["data", *(f"{what} of {s}, fold {f}" for s in chosen for f in range(folds) for what
                                             in ("GAN", "teacher", "fakes", "students")), "table and picture"])
    study.is_of(gan_kimg=gan_kimg, student_kimg=student_kimg)
    study.step()
    source = folder / "digits.zip"
    study.run(harness.data_jobs("digits", {source: {}}))
    results = {s: [digit_students.of_fold(study, source, s, k, SETTINGS[s], DESIGN, STAGES, *lengths)
                   for k in range(folds)] for s in chosen}
    study.step()
    digit_students.draw_filtered(folder / "distill.png", source, folder / f"{chosen[0]}-fold0", DESIGN.rho)
    command = dict(folds=folds, settings=chosen, gan_kimg=gan_kimg, student_kimg=student_kimg, rho=DESIGN.rho,
                   fakes_per_class=DESIGN.per_label, fake_batch_share=DESIGN.share, imbalance=SETTINGS["longtail"][3])
    study.finish(student_tables.of_classes(DESIGN, results, *lengths),
                 dict(command=command, primary=DESIGN.primary, versions=versions(), results=results),
                 ("table.md", "table.json"), folder / "distill.png", out)
