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

from dnnlib import seeding
from dnnlib.util import UserError
from gantransfer.commands.flags import INT, IntRange
from gantransfer.experiments import harness, jobs, transfer_arms
from gantransfer.experiments.harness import Arm
from gantransfer.experiments.transfer_arms import TransferArms
from gantransfer.metrics.paired import train_seconds, versions

COMMON = "--cond=True --metrics=none --threads=1 --tick=1"
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
def main(folder: Path | None, data: str | None, heldout: str | None, source_classes: str | None,
         target_classes: str | None, target: str | None, arms: str, seeds: int, lengths: str, shots: int | None,
         source_kimg: int, judges: int, parallel: int | None, picture_kimg: int | None, common: str | None,
         out: Path | None) -> None:
    """New classes from few images each and a BigGAN of others: train, measure, look."""
    names, points = harness.chosen(arms, ARMS, ALL), harness.kimg_points(lengths, 2)
    where = dict(heldout=heldout, source_classes=source_classes, target_classes=target_classes, target=target)
    harness.belong(data, where | dict(common=common), dict(parallel=parallel, picture_kimg=picture_kimg))
    folder = harness.place(folder, "cgantransfer", data, "runs/transfer_demo")
    pairs = [p for p in PAIRS if {*p} <= {*names}]
    if data:
        study = own_study(folder, names, range(seeds), points, judges, source_kimg, common or OWN)
        return study.whole(data, COLUMNS, PRIMARY, MINUTES, pairs, f"The source is a class-conditional BigGAN of "
                           f"{source_kimg} kimg, not counted below.", folder / "transfer.png", out, labelled=True,
                           shots=shots, **where)
    shots = shots or 10
    if picture_kimg is not None and picture_kimg not in points:
        raise UserError(f"--picture-kimg={picture_kimg} is none of --kimg={lengths}")
    study = harness.Study(folder, ("data", "judges and splits", "sources", *(
        f"{what} of seed {s}" for s in range(seeds) for what in ("trainings", "figures")), "table and picture"),
        parallel or jobs.cores())
    sets = [{n: folder / f"{n}{s}.zip" for n in ("source", "target", "reference", "judge", "judge-reference")}
            for s in range(seeds)]
    few = [folder / f"few{s}-{shots}.zip" for s in range(seeds)]
    judge_files = [[folder / f"judge{j}-split{s}.pt" for j in range(judges)] for s in range(seeds)]
    study.step()
    study.run([job for s in range(seeds) for job in data_jobs(sets[s], *digits(s))], quiet=True)
    study.step()
    study.run([job for s in range(seeds) for job in harness.judge_jobs(
        sets[s]["judge"], sets[s]["judge-reference"], judge_files[s], f"judge{{}}/{s}",
        lambda j: [f"--name=judge{j}", "--min-accuracy=0.98"])]
        + [job for s in range(seeds) for job in harness.split_job(sets[s]["target"], few[s], s, 1, shots)])
    study.step()
    sources = study.train([(f"source/{s}", folder / "runs", jobs.run_desc("source", s), source_kimg, [
        "--method=biggan", harness.TINY, f"--data={sets[s]['source']}", f"--seed={s}", *COMMON.split()])
        for s in range(seeds)])
    runs = folder / f"runs-{shots}shots-source{source_kimg}"
    snapshots: dict[tuple[str, int, int], Path] = {}
    for s in range(seeds):  # seed by seed, so that a comparison stopped early has whole pairs
        study.step()
        snapshots |= train_arms(study, runs, names, s, points, sources[s], [f"--data={few[s]}", "--fname=lt_1.json"])
        study.step()
        harness.report_all(study, {p: f"{p.parent.name.rsplit('-', 2)[-2]}/{s} {p.stem[-3:]}" for (_, seed, _), p in
                                   snapshots.items() if seed == s}, sets[s]["reference"], judge_files[s])
    study.step()
    values = {key: harness.reported(path, judge_files[key[1]]) for key, path in snapshots.items()}
    times = {(a, s, k): seconds_of(runs, a, s, k, points, path) for (a, s, k), path in snapshots.items()}
    picture = folder / "transfer.png"
    shown = picture_kimg or points[-1]
    harness.draw_few(picture, few[0], {ARMS[a].title: snapshots[a, 0, shown] for a in names}, 10, per_band=4,
                     title=f"New classes for a BigGAN: seed 0, {shown} kimg")
    result = dict(command=dict(arms=names, seeds=seeds, kimg=points, shots=shots, source_kimg=source_kimg,
                               judges=judges, parallel=study.parallel), headline=PRIMARY, versions=versions(),
                  digits=[dict(old=old, new=new) for old, new in map(digits, range(seeds))],
                  source_seconds=[train_seconds(p) for p in sources], values=harness.rows_of(values, times))
    study.finish(report(names, seeds, points, values, times, shots, source_kimg), result, picture=picture, out=out)


def digits(seed: int) -> tuple[list[int], list[int]]:
    """(old, new) digits of a seed: a random half each."""
    order = seeding.numpy_rng(seed).permutation(10).tolist()
    return sorted(order[:5]), sorted(order[5:])


def data_jobs(paths: dict[str, Path], old: list[int], new: list[int]) -> list[jobs.Job]:
    """Old and new digits. Judges number the new digits first, as the trainings do; one that looks old is wrong."""
    kinds = {"source": (old, "pool"), "target": (new, "pool"), "reference": (new, "reference"),
             "judge": (new + old, "pool"), "judge-reference": (new + old, "reference")}
    return harness.data_jobs("digits", {paths[n]: dict(split=split, classes=",".join(map(str, classes)))
                                        for n, (classes, split) in kinds.items()})


def own_study(folder: Path, names: Sequence[str], seeds: range, points: Sequence[int], judges: int, source_kimg: int,
              common: str) -> TransferArms:
    """The same on the user's own images; one source serves all seeds."""
    words, runs = harness.train_flags(common, "--common"), folder / "runs"

    def train(t: TransferArms, arm: str, seed: int) -> dict[int, Path]:
        made = train_arms(t.study, runs, [arm], seed, points, t.source_file, [f"--data={t.sets.target}"], words)
        return {k: path for (_, _, k), path in made.items()}

    return TransferArms(folder, {a: ARMS[a] for a in names}, seeds, points, judges,
                        dict(source_kimg=source_kimg, common=common),
                        ["--method=biggan", *words, "--cond=True", "--tick=1"], train, lambda a: ARMS[a].flags,
                        lambda t, arm, seed, k, path: seconds_of(runs, arm, seed, k, points, path))


def ft_from(points: Sequence[int]) -> int:
    """kimg of stage BN before stage FT: a quarter of the length."""
    return max(points[-1] // 8 * 2, 2)


def bn_at(runs: Path, seed: int, points: Sequence[int]) -> Path:
    run_dir = jobs.run_folder(runs, jobs.run_desc("bn", seed), points[-1])
    return run_dir / f"network-snapshot-{ft_from(points):06d}.pkl"


def seconds_of(runs: Path, arm: str, seed: int, kimg: int, points: Sequence[int], snapshot: Path) -> float:
    """Seconds of training; FT's own clock starts where BN's stopped."""
    before = train_seconds(bn_at(runs, seed, points)) if arm == "bn-ft" and kimg > ft_from(points) else 0.0
    return before + train_seconds(snapshot)


def train_arms(study: harness.Study, runs: Path, names: Sequence[str], seed: int, points: Sequence[int], source: Path,
               training: Sequence[str], common: Sequence[str] = ()) -> dict[tuple[str, int, int], Path]:
    """Snapshot of every arm and length. `training`: the flags that name the images."""
    total, early = points[-1], ft_from(points)
    first = [a for a in names if a != "bn-ft"] + (["bn"] if "bn-ft" in names and "bn" not in names else [])
    lengths = {a: total - early if a == "bn-ft" else total for a in [*first, "bn-ft"]}
    for group in (first, [a for a in names if a == "bn-ft" and total > early]):
        study.train([(ARMS[a].of(seed), runs, jobs.run_desc(a, seed), lengths[a], [
            *ARMS[a].flags, *common, *training, f"--seed={seed}", "--snap=2", *COMMON.split(),
            *([f"--source={bn_at(runs, seed, points) if a == 'bn-ft' else source}"] if ARMS[a].more else [])])
            for a in group])
    out = {}
    for arm in names:
        for k in points:
            later = arm == "bn-ft" and k > early
            run = "bn" if arm == "bn-ft" and not later else arm
            run_dir = jobs.run_folder(runs, jobs.run_desc(run, seed), lengths[run])
            out[arm, seed, k] = run_dir / f"network-snapshot-{k - early if later else k:06d}.pkl"
    return out


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
                                  MINUTES, times, [p for p in PAIRS if {*p} <= {*names}])])
