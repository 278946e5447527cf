# SPDX-License-Identifier: Apache-2.0
"""gantransfer experiment longtail: long-tailed classes: baseline, UTLO, balanced sampling and more.

On digits, of which every seed has a long-tailed split of its own (a random class order and a random choice of images),
shared by all arms, so that neither a lucky split nor a hard class decides; or on images of your own (--data). The
primary column and the number of seeds are fixed before the runs. A difference counts only if it exceeds the critical t
value for that many pairs under every judge.
"""

from __future__ import annotations

import platform
from pathlib import Path

import click

from gantransfer.commands.flags import SEED, FloatRange, IntRange
from gantransfer.experiments import arm_tables, harness
from gantransfer.experiments.harness import Arm
from gantransfer.experiments.paired_arms import PairedArms
from gantransfer.metrics.paired import versions

ARMS = {
    "baseline": Arm("baseline", "--method=stylegan2"),
    "utlo": Arm("UTLO (res_uc 4)", "--add_uc=True --res_uc=4"),
    "balanced": Arm("balanced", "--method=stylegan2 --sampling=balanced"),
    "utlo-balanced": Arm("UTLO + balanced", "--add_uc=True --res_uc=4 --sampling=balanced"),
    "sqrt": Arm("square root", "--method=stylegan2 --sampling=sqrt"),
    "effective": Arm("effective number", "--method=stylegan2 --sampling=effective"),
    "utlo8": Arm("UTLO (res_uc 8)", "--add_uc=True --res_uc=8"),
    "transitional": Arm("transitional", "--transition=25%-50%"),
    "lecam": Arm("LeCam", "--method=stylegan2 --lecam=3e-4"),
    "utlo16": Arm("UTLO (res_uc 16)", "--add_uc=True --res_uc=16"),
    "utlo8-balanced": Arm("UTLO (res_uc 8) + balanced", "--add_uc=True --res_uc=8 --sampling=balanced"),
    "twins": Arm("NoisyTwins", "--method=stylegan2 --noisy_twins=0.01"),
    "gsr": Arm("gSR", "--method=stylegan2 --gsr=0.5"),
    "rpgan": Arm("relativistic pairs, R1 and R2", "--method=stylegan2 --gan_loss=rpgan --r2_gamma=1"),
    "ada-class": Arm("ADA by class", "--method=stylegan2 --aug=ada-class --ada_kimg=50%"),
    "shift": Arm("moving to balanced", "--method=stylegan2 --sampling=balanced --sampling_shift=25%-50%"),
    "reweight": Arm("balanced labels, re-weighted reals",
                    "--method=stylegan2 --sampling_labels=balanced --reweight_reals=True"),
    "rpgan-balanced": Arm("relativistic pairs + balanced", "--method=stylegan2 --sampling=balanced --gan_loss=rpgan "
                          "--gamma=0.05 --r2_gamma=0.05"),
    "rpgan-shift": Arm("relativistic pairs + moving to balanced", "--method=stylegan2 --sampling=balanced "
                       "--sampling_shift=25%-50% --gan_loss=rpgan --gamma=0.05 --r2_gamma=0.05"),
}
PRIMARY = "class_fd_few"
# Also compared, beside each with the first: what UTLO adds to what it is built on.
BESIDE = [("baseline", "utlo"), ("baseline", "utlo8"), ("baseline", "utlo16"), ("balanced", "utlo-balanced"),
          ("balanced", "utlo8-balanced")]


@harness.flags(
    "runs/compare",
    harness.DATA, harness.HELDOUT,
    click.option("--arms", default="baseline,utlo,balanced,utlo-balanced", show_default=True,
                 help=f"Comma-separated; the first is the opponent. Known: {', '.join(ARMS)}"),
    harness.ARM,
    harness.common(),
    click.option("--seeds", type=IntRange(min=1), default=5, show_default=True, help="Paired seeds"),
    click.option("--first-seed", type=SEED, default=0, show_default=True, help="Number of the first one"),
    click.option("--kimg", type=FloatRange(min=0.1), default=20, show_default=True, help="Length of each training"),
    click.option("--best", is_flag=True, help="Also report each run's best snapshot, chosen on half of --heldout"),
    click.option("--judges", type=IntRange(min=1), default=2, show_default=True, help="Judge networks"),
    click.option("--imf", type=FloatRange(min=1), help="Imbalance of the splits [default: 25; with --data the images "
                 "as they are]"),
    click.option("--groups", metavar="MANY,FEW", help="A class is frequent above MANY images, rare below FEW [default: "
                 "100,20, or else thirds of the classes by rank]"),
    harness.OUT_JSON)
def main(folder: Path | None, data: str | None, heldout: str | None, arms: str, own: tuple[str, ...],
         common: str | None, seeds: int, first_seed: int, kimg: float, best: bool, judges: int, imf: float | None,
         groups: str | None, out: Path | None) -> None:
    """Compare training recipes for classes with few images, with paired seeds, on digits or on your own images."""
    known = ARMS | harness.own_arms(own, ARMS)
    names = [*harness.chosen(arms, ARMS), *list(known)[len(ARMS):]]
    common = common or (harness.OWN if data else harness.TINY)
    folder = harness.place(folder, "longtail", data, "runs/compare")
    study = PairedArms(folder, {a: known[a] for a in names}, common, range(first_seed, first_seed + seeds), kimg,
                       judges, best)
    study.prepare(data, heldout, imf, groups)
    study.run()
    study.draw(folder / "compare.png")
    study.study.step()
    values, seconds = study.figures(), study.of("seconds")
    chosen = study.figures("best") if best else None
    result = dict(command=dict(arms=names, seeds=seeds, first_seed=first_seed, kimg=kimg, judges=judges,
                               imf=study.imf, common=common),
                  primary=PRIMARY, machine=platform.processor() or platform.machine(), versions=versions(),
                  flags={a: study.flags(a) for a in names}, notes=study.notes, values=values, seconds=seconds,
                  **(dict(best=chosen, best_kimg=study.of("best_kimg")) if best else {}))
    text = arm_tables.of_recipes(names, values, seconds, kimg, known, PRIMARY, BESIDE, study.notes, chosen)
    study.study.finish(text, result, ("compare.md", "compare.json"), folder / "compare.png", out)
