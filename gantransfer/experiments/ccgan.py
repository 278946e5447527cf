# SPDX-License-Identifier: Apache-2.0
"""gantransfer experiment ccgan: regressors taught by generated images of a continuous label: CcGAN and cGAN-KD.

Handwritten digits turned by a known angle. For every seed: a few training images, a CcGAN of the angle, a teacher,
generated images for all angles, and small networks that read the angle. These all see equally many images: real ones
only, or half generated ones: as they come, filtered by the teacher, or filtered and relabelled (cGAN-KD). Tested on
held-out digits. Every step is a command, what is there already is kept; with --seeds=5 it is the published comparison.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from gantransfer.commands.flags import SEED, IntRange
from gantransfer.experiments import harness
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


@harness.flags(
    "runs/ccgan_demo",
    click.option("--seeds", type=IntRange(min=1), default=1, show_default=True,
                 help="Repetitions: other images, angles, held-out digits and networks"),
    click.option("--first-seed", type=SEED, default=0, show_default=True, help="Number of the first one"),
    click.option("--images", type=IntRange(min=20, max=400), default=150, show_default=True, help="Training images"),
    click.option("--gan-kimg", type=IntRange(min=1), default=16, show_default=True,
                 help="Length of the GAN, without its label code"),
    harness.student_kimg(20), harness.OUT_TABLE)
def main(folder: Path, seeds: int, first_seed: int, images: int, gan_kimg: int, student_kimg: float,
         out: Path | None) -> None:
    """Turned digits: train a CcGAN, generate by angle, teach small networks, compare, look."""
    chosen = range(first_seed, first_seed + seeds)
    study = harness.Study(folder, [*(f"{what} of seed {s}" for s in chosen for what in (
        "data", "GAN", "teacher", "fakes", "students")), "table and picture"])
    results = [one_seed(study, folder / f"seed{s}", s, images, gan_kimg, student_kimg) for s in chosen]
    study.step()
    picture = folder / "ccgan.png"
    draw_values(picture, folder / f"seed{first_seed}", np.linspace(0, 90, 10), "degrees")
    command = dict(seeds=list(chosen), images=images, gan_kimg=gan_kimg, student_kimg=student_kimg, rho=RHO,
                   fakes_per_angle=PER_ANGLE, fake_batch_share=SHARE)
    study.finish(report(results, images, gan_kimg, student_kimg),
                 dict(command=command, primary=PRIMARY, versions=versions(), results=results),
                 ("table.md", "table.json"), picture, out)


def one_seed(study: harness.Study, folder: Path, seed: int, images: int, gan_kimg: int, student_kimg: float) -> dict:
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
    snapshot = taught.gan(f"gan{seed}", gan_kimg + 32, "--method=ccgan")
    made = taught.make(snapshot, PER_ANGLE, STAGES, "--num-labels=91")
    return dict(seed=seed, students=taught.teach(ARMS, made, student_kimg, SHARE), teacher=result(taught.teacher),
                label_score=label_errors(folder, others, test, made, seed))


def report(results: list[dict], images: int, gan_kimg: int, student_kimg: float) -> str:
    """Markdown: error of the angle by student, label error of the fakes by stage, paired differences."""
    n = len(results)
    mae = {a: [r["students"][a]["mae"] for r in results] for a in ARMS}
    lines = [f"{images} training images, {n} seed{'s' * (n > 1)}, every student sees {student_kimg:g} thousand images, "
             f"with fakes half of them generated; {gan_kimg} kimg of GAN, rho {RHO:g}. Mean +- sample standard "
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
