# SPDX-License-Identifier: Apache-2.0
"""gantransfer experiment ccgan: regressors taught by generated images of a continuous label: CcGAN and cGAN-KD.

Handwritten digits turned by a known angle. For every seed: a few training images, a CcGAN of the angle, a teacher,
generated images for all angles, and small networks that read the angle. These all see equally many images: real ones
only, or half generated ones: as they come, filtered by the teacher, or filtered and relabelled (cGAN-KD). Tested on
held-out digits. Every step is a command, what is there already is kept; with --seeds=5 it is the published comparison.
On images of your own with a number each (--data) every fold is tested by networks that never saw it.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from gantransfer.commands.flags import SEED, FloatRange, IntRange
from gantransfer.experiments import digit_students, harness, student_tables
from gantransfer.experiments.folds import FIRST, FOLDS, Folds, Recipe, folds_from
from gantransfer.experiments.harness import Arm
from gantransfer.metrics.paired import versions

DESIGN = student_tables.Design(
    arms={"real": Arm("real only"), "raw": Arm("+ raw fakes", more="raw"),  # the last word: its fakes
          "filtered": Arm("+ filtered", more="filtered"),
          "cgankd": Arm("+ filtered, relabelled (cGAN-KD)", more="relabelled")},
    tested=[("real", "raw"), ("raw", "filtered"), ("filtered", "cgankd"), ("real", "cgankd")],
    primary=("real", "cgankd", "mae"), per_label=40, rho=0.7, share=0.5)
STAGES = {"raw": None, "filtered": (DESIGN.rho, False), "relabelled": (DESIGN.rho, True)}
CODE = 32  # kimg of the label code
# On the user's own images: kimg of the GAN and of students, and fakes.
OWN = dict(gan_kimg=40, student_kimg=60, fakes="2x")
OWN_ARMS = {a: Arm(arm.title, more=("ccgan", arm.more) if arm.more else None) for a, arm in DESIGN.arms.items()}
OWN_COLUMNS = ("mae", "macro_mae", "rmse")


@harness.flags(
    "runs/ccgan_demo", harness.DATA,
    click.option("--seeds", type=IntRange(min=1), help="Of the digits: repetitions: other images, angles, held-out "
                 "digits and networks [default: 1]"),
    click.option("--first-seed", type=SEED, help="Of the digits: number of the first one [default: 0]"),
    click.option("--images", type=IntRange(min=20, max=400), help="Of the digits: training images [default: 150]"),
    click.option("--folds", type=IntRange(1, FOLDS),
                 help=f"With --data: folds tested; {FOLDS} = every image once [default: 1]"),
    FIRST, harness.common(harness.TINY),
    click.option("--gan-kimg", type=FloatRange(min=0.1), help="Length of the GAN, without its label code [default: 16; "
                 f"{OWN['gan_kimg']} with --data]"),
    harness.STUDENT, harness.student_kimg(20, OWN["student_kimg"]),
    harness.fakes_flag("generated images in all, or how many times the training images", OWN["fakes"]),
    harness.OUT_TABLE)
def main(folder: Path | None, data: str | None, seeds: int | None, first_seed: int | None, images: int | None,
         folds: int | None, first_fold: int | None, common: str | None, gan_kimg: float | None, student: str | None,
         student_kimg: float | None, fakes: str | None, out: Path | None) -> None:
    """A CcGAN of turned digits, or of your own images with numbers: generate by label, teach small networks, look."""
    harness.belong(data, dict(folds=folds, first_fold=first_fold, common=common, student=student, fakes=fakes),
                   dict(seeds=seeds, first_seed=first_seed, images=images))
    folder = harness.place(folder, "ccgan", data, "runs/ccgan_demo")
    if data:
        recipe = Recipe((gan_kimg or OWN["gan_kimg"]) + CODE, student_kimg or OWN["student_kimg"],
                        common or harness.TINY, student or harness.SMALL, fakes or OWN["fakes"], DESIGN.rho,
                        DESIGN.share)
        return Folds(folder, data, "value", {"ccgan": Arm("CcGAN", f"--method=ccgan --embed_kimg={CODE}")}, OWN_ARMS,
                     STAGES, recipe, folds_from(first_fold, folds or 1)).whole(
            lambda study: student_tables.of_own_values(study, DESIGN, OWN_COLUMNS, CODE), DESIGN.primary[-1],
            "ccgan.png", out)
    first_seed, images, gan_kimg, student_kimg = first_seed or 0, images or 150, gan_kimg or 16, student_kimg or 20
    chosen = range(first_seed, first_seed + (seeds or 1))
    study = harness.Study(folder, [*(f"{what} of seed {s}" for s in chosen for what in (
        "data", "GAN", "teacher", "fakes", "students")), "table and picture"])
    study.is_of(images=images, gan_kimg=gan_kimg, student_kimg=student_kimg)
    results = [digit_students.of_seed(study, folder / f"seed{s}", s, DESIGN, STAGES, images, gan_kimg + CODE,
                                      student_kimg) for s in chosen]
    study.step()
    digit_students.draw_values(folder / "ccgan.png", folder / f"seed{first_seed}", np.linspace(0, 90, 10), "degrees")
    command = dict(seeds=list(chosen), images=images, gan_kimg=gan_kimg, student_kimg=student_kimg, rho=DESIGN.rho,
                   fakes_per_angle=DESIGN.per_label, fake_batch_share=DESIGN.share)
    study.finish(student_tables.of_angles(DESIGN, results, images, gan_kimg, student_kimg),
                 dict(command=command, primary=DESIGN.primary, versions=versions(), results=results),
                 ("table.md", "table.json"), folder / "ccgan.png", out)
