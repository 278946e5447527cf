# SPDX-License-Identifier: Apache-2.0
"""gantransfer experiment hypermod: classes for an unconditional generator: Hyper-Modulation, fine-tuning and more.

Trains a small StyleGAN2 on unlabelled digits, then gives it the ten classes from ten labelled images each, in several
ways: hyper-modulation from the exact start; conditional fine-tuning of the same snapshot; hyper-modulation from random
hypernetworks after self-alignment; and more. All see equally many real images. Measures each against held-out digits
and draws the picture. With --seeds=5 it is the comparison of docs/methods/hypermod.md. On images of your own (--data)
the source is of the frequent classes, or of all images, without labels; the target are the rare ones or another set.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from gantransfer.commands.flags import SEED, IntRange
from gantransfer.experiments import harness, hyper_transfer, transfer_arms
from gantransfer.experiments.harness import Arm
from gantransfer.metrics.paired import spread, versions

ARMS = {  # the last number: kimg of self-alignment before training
    "hypermod": Arm("hypermod", "--method=hypermod", 0),
    "projection": Arm("hypermod, projection", "--method=hypermod --d-head=projection", 0),
    "finetune": Arm("fine-tuning", "--method=stylegan2", 0),
    "aligned": Arm("random, aligned", "--method=hypermod --hyper-init=random", 2),
    "random": Arm("random, not aligned", "--method=hypermod --hyper-init=random", 0),
    "full": Arm("full rank", "--method=hypermod --hyper-rank=full", 0),
    "table": Arm("no class network", "--method=hypermod --class-vectors=onehot", 0),
    "contrastive": Arm("contrastive", "--method=hypermod --contrastive=True", 0),
    "base-too": Arm("base trained too", "--method=hypermod --finetune=True", 0),
    "freezed": Arm("FreezeD", "--method=stylegan2 --freezed=2", 0),
}
COLUMNS = ("class_fd", "accuracy", "diversity", "nearest", "fd_pix64")
PRIMARY = "class_fd"


@harness.flags(
    "runs/hypermod_demo", *transfer_arms.FLAGS,
    click.option("--arms", default="hypermod,projection,finetune", show_default=True,
                 help=f"Comma-separated; the first is compared with the others. Known: {', '.join(ARMS)}; all"),
    click.option("--seeds", type=IntRange(min=1), default=1, show_default=True, help="Repetitions, other images"),
    click.option("--first-seed", type=SEED, default=0, show_default=True, help="Number of the first one"),
    click.option("--kimg", "lengths", default="8", show_default=True, help="Where to measure; the last is the length"),
    harness.SHOTS, harness.source_kimg(20), harness.JUDGES,
    click.option("--flags", metavar="LIST", help="More flags for an arm: ARM:--flag=value,..."),
    click.option("--validate", is_flag=True,
                 help="Measure against pool images that no arm trains on, for choosing flags"),
    harness.common(), harness.PARALLEL, harness.OUT_JSON)
def main(folder: Path | None, data: str | None, arms: str, seeds: int, first_seed: int, lengths: str, shots: int | None,
         source_kimg: int, judges: int, flags: str | None, validate: bool, common: str | None, parallel: int | None,
         out: Path | None, **where: str | None) -> None:
    """Classes from few labelled images each and an unconditional StyleGAN2: train, measure, look."""
    names, points = harness.chosen(arms, ARMS, [*ARMS]), harness.kimg_points(lengths, 1)
    numbers, chosen = range(first_seed, first_seed + seeds), {a: ARMS[a] for a in names}
    more = hyper_transfer.extra_flags(flags or "", ARMS)
    harness.belong(data, where | dict(common=common), dict(validate=validate or None, parallel=parallel))
    folder = harness.place(folder, "hypermod", data, "runs/hypermod_demo")
    if data:
        study = hyper_transfer.own_study(folder, chosen, numbers, points, judges, source_kimg, common or harness.OWN,
                                         flags or "", more)
        return study.whole(data, COLUMNS, [PRIMARY], ("seconds", spread), [(names[0], a) for a in names[1:]],
                           f"The source is an unconditional StyleGAN2 of {source_kimg} kimg.{aligned(names)}",
                           folder / "hypermod.png", out, shots=shots, **where)
    shots = shots or 10
    study, reference, values, seconds = hyper_transfer.on_digits(
        folder, chosen, numbers, points, shots, source_kimg, judges, flags, more, validate, parallel)
    result = dict(command=dict(arms=names, seeds=list(numbers), kimg=points, shots=shots, source_kimg=source_kimg,
                               judges=judges, flags=flags, reference=reference.name),
                  primary=PRIMARY, versions=versions(), values=harness.rows_of(values, seconds))
    study.finish(report(names, numbers, points, values, seconds), result, picture=folder / "hypermod.png", out=out)


def aligned(names: Sequence[str]) -> str:
    """What alignment adds, for a report."""
    said = [f"'{ARMS[a].title}' was aligned for {ARMS[a].more} kimg before" for a in names if ARMS[a].more]
    return f" {'; '.join(said)}." if said else ""


def report(names: list[str], seeds: Sequence[int], points: list[int], values: dict, seconds: dict) -> str:
    """Markdown: a table per length, a row per arm; with several seeds paired differences."""
    judges = len(values[names[0], seeds[0], points[-1]])
    return "\n".join([
        f"Ten digit classes from one unconditional source; {len(seeds)} seed(s), {judges} judge(s). Primary column, "
        f"fixed before the runs: {harness.NAMES[PRIMARY]}. All arms see equally many real images.{aligned(names)}",
        *harness.tables_by_length({a: ARMS[a].title for a in names}, seeds, points, values, COLUMNS,
                                  ("seconds", spread), seconds, [(names[0], a) for a in names[1:]])])
