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
from gantransfer.experiments import harness
from gantransfer.experiments.folds import FIRST, FOLDS, Folds, Recipe, folds_from
from gantransfer.experiments.harness import Arm
from gantransfer.experiments.students import Students, draw_values, few_labels, label_errors, result
from gantransfer.metrics.paired import critical_t, difference, spread, table, versions

# Students; the last word: which fakes they see
ARMS = {"real": Arm("real only"), "raw": Arm("+ raw fakes", more="raw"), "filtered": Arm("+ filtered", more="filtered"),
        "cgankd": Arm("+ filtered, relabelled (cGAN-KD)", more="relabelled")}
PRIMARY = ("real", "cgankd", "mae")
TESTED = [("real", "raw"), ("raw", "filtered"), ("filtered", "cgankd"), ("real", "cgankd")]
PER_ANGLE, RHO, SHARE = 40, 0.7, 0.5
STAGES = {"raw": None, "filtered": (RHO, False), "relabelled": (RHO, True)}


CODE = 32  # kimg of the label code
# On the user's own images: kimg of the GAN and of students, and fakes.
OWN = dict(gan_kimg=40, student_kimg=60, fakes="2x")
OWN_ARMS = {a: Arm(arm.title, more=("ccgan", arm.more) if arm.more else None) for a, arm in ARMS.items()}
COLUMNS = ("mae", "macro_mae", "rmse")


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
                        common or harness.TINY, student or harness.SMALL, fakes or OWN["fakes"], RHO, SHARE)
        return on_own_images(folder, data, recipe, folds_from(first_fold, folds or 1), out)
    first_seed, images, gan_kimg, student_kimg = first_seed or 0, images or 150, gan_kimg or 16, student_kimg or 20
    chosen = range(first_seed, first_seed + (seeds or 1))
    study = harness.Study(folder, [*(f"{what} of seed {s}" for s in chosen for what in (
        "data", "GAN", "teacher", "fakes", "students")), "table and picture"])
    study.is_of(images=images, gan_kimg=gan_kimg, student_kimg=student_kimg)
    results = [one_seed(study, folder / f"seed{s}", s, images, gan_kimg, student_kimg) for s in chosen]
    study.step()
    picture = folder / "ccgan.png"
    draw_values(picture, folder / f"seed{first_seed}", np.linspace(0, 90, 10), "degrees")
    command = dict(seeds=list(chosen), images=images, gan_kimg=gan_kimg, student_kimg=student_kimg, rho=RHO,
                   fakes_per_angle=PER_ANGLE, fake_batch_share=SHARE)
    study.finish(report(results, images, gan_kimg, student_kimg),
                 dict(command=command, primary=PRIMARY, versions=versions(), results=results),
                 ("table.md", "table.json"), picture, out)


def on_own_images(folder: Path, data: str, recipe: Recipe, chosen: range, out: Path | None) -> None:
    """The same students on folds of images with a number each."""
    study = Folds(folder, data, "value", {"ccgan": Arm("CcGAN", f"--method=ccgan --embed_kimg={CODE}")}, OWN_ARMS,
                  STAGES, recipe, chosen)
    study.prepare()
    study.run()
    study.draw(folder / "ccgan.png")
    study.study.step()
    study.finish(own_report(study), PRIMARY[2], folder / "ccgan.png", out)


def one_seed(study: harness.Study, folder: Path, seed: int, images: int, gan_kimg: float, student_kimg: float) -> dict:
    """Everything of one seed; the figures."""
    folder.mkdir(parents=True, exist_ok=True)
    study.step()
    pool, test, others = (folder / f"{n}.zip" for n in ("pool", "test", "others"))
    study.run(harness.data_jobs("rotated-digits", {
        pool: dict(split="pool", seed=seed), test: dict(split="reference", seed=seed),
        others: dict(split="all", seed=seed + 1000)}), quiet=True)
    train = folder / "train.json"
    if not train.exists():
        few_labels(pool, seed, images, train)
    taught = Students(study, folder, [f"--data={pool}", f"--fname={train}"], seed, [f"--test={test}"])
    study.step()
    snapshot = taught.gan(f"gan{seed}", gan_kimg + CODE, "--method=ccgan")
    (folder / "snapshot.txt").write_text(str(snapshot))
    study.step()
    taught.train_teacher()
    study.step()
    made = taught.make(snapshot, PER_ANGLE, STAGES, "--num-labels=91")
    study.step()
    return dict(seed=seed, students=taught.teach(ARMS, made, student_kimg, SHARE), teacher=result(taught.teacher),
                label_score=label_errors(folder, others, test, made, seed))


def report(results: list[dict], images: int, gan_kimg: float, student_kimg: float) -> str:
    """Markdown: error of the angle by student, label error of the fakes by stage, paired differences."""
    n = len(results)
    mae = {a: [r["students"][a]["mae"] for r in results] for a in ARMS}
    lines = [f"{images} training images, {n} seed{'s' * (n > 1)}, every student sees {student_kimg:g} thousand images, "
             f"with fakes half of them generated; {gan_kimg:g} kimg of GAN, rho {RHO:g}. Mean +- sample standard "
             f"deviation over seeds. Primary, fixed before the runs: {PRIMARY[1]} minus {PRIMARY[0]}.", ""]
    lines += table(["student trained on", "mean absolute error on held-out digits, degrees"],
                   [*([ARMS[a].title, spread(mae[a])] for a in ARMS),
                    ["(the teacher, real only)", spread([r["teacher"]["mae"] for r in results])]])
    lines += ["", *table(["images", "label error by an independent judge, degrees"],
                         [[k, spread([r["label_score"][k] for r in results])] for k in results[0]["label_score"]])]
    if n > 1:
        lines += ["", f"Paired differences of the error, mean +- standard error (seeds in which it is lower). Bold: "
                      f"beyond {critical_t(n):.2f} standard errors (t, 5 %).", ""]
        lines += table(["", ""], [[f"{ARMS[b].title} minus {ARMS[a].title}", difference([mae[a]], [mae[b]]).cells()[0]]
                                  for a, b in TESTED])
    else:
        lines += ["", "One seed does not rank anything; --seeds=5 repeats it with others."]
    return "\n".join(lines)


def own_report(study: Folds) -> str:
    """Markdown: errors by student, paired differences over folds, how far the fakes are from their labels."""
    r, arms = study.recipe, study.students
    unit = study.label.meta.get("unit")
    made = {a: [study.found[a, k]["generated"] for k in study.chosen] for a, arm in arms.items() if arm.more}
    total, images = made["raw"][0]["images"], study.found["real", study.chosen[0]]["images"]
    lines = [f"{study.tested_note()} Every student ({r.student}) sees {r.student_kimg:g} thousand images; with fakes "
             f"{r.share:.0%} of them are generated: {total} in all (--fakes={r.fakes}), {total / images:.2g} times the "
             f"{images} training images, labels evenly over those of the data. Filtered: the {r.rho:.0%} that are "
             f"nearest to what the teacher sees. GAN: {r.common}, {r.gan_kimg - CODE:g} kimg after its label code."
             f"{' Errors are in units of the label' + f' ({unit})' * bool(unit)}. Primary column, fixed before the "
             f"runs: {harness.student_name(PRIMARY[2])}, {arms[PRIMARY[1]].title} minus {arms[PRIMARY[0]].title}.", ""]
    rows = [[arm.title, *(spread(study.of(a, c)) for c in COLUMNS),
             spread([study.found[a, k]["seconds"] for k in study.chosen])] for a, arm in arms.items()]
    taught = [f["teacher"] for f in made["raw"]]
    rows.append([f"(the teacher, {taught[0]['images_seen'] / 1000:.0f} thousand images)",
                 spread([t["mae"] for t in taught]), "-", spread([t["rmse"] for t in taught]),
                 spread([t["seconds"] for t in taught])])
    lines += table(["student trained on", *(harness.student_name(c, PRIMARY[2]) for c in COLUMNS), "seconds"], rows)
    lines += study.differences(COLUMNS, TESTED)
    lines += ["", *table(["mean distance of a fake's label to what the teacher sees", "images", "distance"], [
        [arms[a].title, f"{np.mean([f['images'] for f in fs]):.0f}", spread([f["agreement"]["final"] for f in fs])]
        for a, fs in made.items()])]
    return "\n".join(lines)
