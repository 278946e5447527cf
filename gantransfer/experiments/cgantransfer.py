# SPDX-License-Identifier: Apache-2.0
"""gantransfer experiment cgantransfer: new classes from few images: cGANTransfer, MineGAN, fine-tuning and more.

Trains a small BigGAN on five digits, then adds the other five from ten images each, in several ways: cGANTransfer's
stage BN, BN then FT, residuals only, fine-tuning, FreezeD, and from scratch. All see equally many images of the new
digits. Measures each at several lengths against held-out digits, and draws the picture. With --seeds=5 it is the
published comparison: every seed has its own old and new digits, its own source and its own few images, shared by all
arms. On images of your own (--data) the source knows the frequent classes, and the rare ones, or those of another set,
are new.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np

from dnnlib.util import UserError
from gantransfer.commands.flags import INT, IntRange
from gantransfer.experiments import biggan_transfer, harness, transfer_arms
from gantransfer.experiments.harness import Arm
from gantransfer.metrics.paired import train_seconds, versions

# The last word: does it start from the source? 'bn-ft' continues 'bn' after a quarter of the images.
ARMS = {
    "bn": Arm("stage BN", "--method=cgantransfer --cfg=tiny --stage=BN", True),
    "bn-ft": Arm("BN, then FT", "--method=cgantransfer --cfg=tiny --stage=FT", True),
    "residual": Arm("residual only", "--method=cgantransfer --cfg=tiny --stage=BN --scores=none", True),
    "finetune": Arm("fine-tuning", "--method=biggan --cfg=tiny --ema_kimg=0.5", True),
    "freezed": Arm("FreezeD", "--method=biggan --cfg=tiny --ema_kimg=0.5 --freezed=2", True),
    "scratch": Arm("from scratch", "--method=biggan --cfg=tiny --ema_kimg=0.5", False),
    "minegan": Arm("MineGAN, stage mine", "--method=minegan --cfg=tiny", True),
}
ALL = ("bn", "bn-ft", "residual", "finetune", "freezed", "scratch")  # those of the published table
COLUMNS = ("diversity", "nearest", "class_fd", "accuracy", "fd_pix64")
PRIMARY = ("diversity", "nearest")
MINUTES = ("minutes", lambda seconds: f"{np.mean(seconds) / 60:.1f}")
OWN = "--cfg=tiny"  # flags of every training on the user's own images
PAIRS = (("bn", "finetune"), ("bn-ft", "finetune"), ("residual", "finetune"), ("freezed", "finetune"),
         ("scratch", "finetune"), ("minegan", "finetune"), ("bn", "residual"), ("bn", "scratch"), ("bn", "minegan"))


@harness.flags(
    "runs/transfer_demo", *transfer_arms.FLAGS,
    click.option("--arms", default="bn,bn-ft,finetune,scratch", show_default=True,
                 help=f"Known: {', '.join(ARMS)}; all: {', '.join(ALL)}"),
    click.option("--seeds", type=IntRange(min=1), default=1, show_default=True,
                 help="Repetitions: other digits, source and images"),
    click.option("--kimg", "lengths", default="2,4", show_default=True,
                 help="Where to measure; the last is the length"),
    harness.SHOTS, harness.source_kimg(10), harness.JUDGES, harness.PARALLEL,
    click.option("--picture-kimg", type=INT, help="Length that the picture shows, one of --kimg [default: the last]"),
    click.option("--common", metavar="FLAGS", help=f"With --data: flags of train for every arm [default: {OWN}]"),
    harness.OUT_JSON)
def main(folder: Path | None, data: str | None, arms: str, seeds: int, lengths: str, shots: int | None,
         source_kimg: int, judges: int, parallel: int | None, picture_kimg: int | None, common: str | None,
         out: Path | None, **where: str | None) -> None:
    """New classes from few images each and a BigGAN of others: train, measure, look."""
    names, points = harness.chosen(arms, ARMS, ALL), harness.kimg_points(lengths, 2)
    harness.belong(data, where | dict(common=common), dict(parallel=parallel, picture_kimg=picture_kimg))
    folder = harness.place(folder, "cgantransfer", data, "runs/transfer_demo")
    if data:
        study = biggan_transfer.own_study(folder, ARMS, names, range(seeds), points, judges, source_kimg,
                                           common or OWN)
        return study.whole(data, COLUMNS, PRIMARY, MINUTES, pairs(names), "The source is a class-conditional BigGAN "
                           f"of {source_kimg} kimg, not counted below.", folder / "transfer.png", out, labelled=True,
                           shots=shots, **where)
    shots, shown = shots or 10, points[-1] if picture_kimg is None else picture_kimg
    if shown not in points:
        raise UserError(f"--picture-kimg={picture_kimg} is none of --kimg={lengths}")
    study, sources, few, snapshots, values, times = biggan_transfer.on_digits(
        folder, ARMS, names, range(seeds), points, shots, source_kimg, judges, parallel)
    harness.draw_few(folder / "transfer.png", few[0], {ARMS[a].title: snapshots[a, 0, shown] for a in names}, 10,
                     per_band=4, title=f"New classes for a BigGAN: seed 0, {shown} kimg")
    result = dict(command=dict(arms=names, seeds=seeds, kimg=points, shots=shots, source_kimg=source_kimg,
                               judges=judges, parallel=study.parallel), headline=PRIMARY, versions=versions(),
                  digits=[dict(old=old, new=new) for old, new in map(biggan_transfer.digits, range(seeds))],
                  source_seconds=[train_seconds(p) for p in sources], values=harness.rows_of(values, times))
    study.finish(report(names, seeds, points, values, times, shots, source_kimg), result,
                 picture=folder / "transfer.png", out=out)


def pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    return [p for p in PAIRS if {*p} <= {*names}]


def report(names: list[str], seeds: int, points: list[int], values: dict, times: dict, shots: int,
           source_kimg: int) -> str:
    """Markdown: a table per length, a row per arm; with several seeds also paired differences."""
    many = seeds > 1
    return "\n".join([
        f"Five digits from {shots} images each and a BigGAN of the other five ({source_kimg} kimg, not counted below); "
        f"{seeds} seed{'s' * many}{', mean +- sample standard deviation' * many}. Primary columns: "
        f"{' and '.join(map(harness.name_of, PRIMARY))}; 1 = as varied, and as far from the training images, as "
        "held-out digits.",
        *harness.tables_by_length({a: ARMS[a].title for a in names}, range(seeds), points, values, COLUMNS,
                                  MINUTES, times, pairs(names))])
