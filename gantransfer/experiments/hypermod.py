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

from dnnlib.util import UserError
from gantransfer.commands.flags import SEED, IntRange
from gantransfer.experiments import harness, jobs, transfer_arms
from gantransfer.experiments.harness import Arm
from gantransfer.experiments.transfer_arms import TransferArms
from gantransfer.metrics.paired import spread, train_seconds, versions

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
def main(folder: Path | None, data: str | None, heldout: str | None, source_classes: str | None,
         target_classes: str | None, target: str | None, arms: str, seeds: int, first_seed: int, lengths: str,
         shots: int | None, source_kimg: int, judges: int, flags: str | None, validate: bool, common: str | None,
         parallel: int | None, out: Path | None) -> None:
    """Classes from few labelled images each and an unconditional StyleGAN2: train, measure, look."""
    names, points, more = harness.chosen(arms, ARMS, [*ARMS]), harness.kimg_points(lengths, 1), extra_flags(flags or "")
    numbers = range(first_seed, first_seed + seeds)
    where = dict(heldout=heldout, source_classes=source_classes, target_classes=target_classes, target=target)
    harness.belong(data, where | dict(common=common), dict(validate=validate or None, parallel=parallel))
    folder = harness.place(folder, "hypermod", data, "runs/hypermod_demo")
    if data:
        study = own_study(folder, names, numbers, points, judges, source_kimg, common or harness.OWN, flags or "")
        return study.whole(data, COLUMNS, [PRIMARY], ("seconds", spread), [(names[0], a) for a in names[1:]],
                           f"The source is an unconditional StyleGAN2 of {source_kimg} kimg.{aligned(names)}",
                           folder / "hypermod.png", out, shots=shots, **where)
    shots = shots or 10
    study = harness.Study(folder, ("data", "judges and splits", "source", "trainings", "figures", "table and picture"),
                          parallel or jobs.cores())
    study.is_of(shots=shots, source_kimg=source_kimg, flags=flags)
    study.step()
    data, ref, todo = harness.digits(folder)
    study.run(todo)
    study.step()
    judge_files = [folder / f"judge{j}.pt" for j in range(judges)]
    study.run([*harness.judge_jobs(data, ref, judge_files),
               *(job for s in numbers for job in harness.split_job(data, few(folder, s), s, 1, shots))])
    study.step()
    (source,) = study.train([("source", folder / "runs", "source", source_kimg, [
        "--method=stylegan2", harness.TINY, f"--data={data}", *transfer_arms.SOURCE])])
    study.step()
    study.train([run(folder, source, a, s, points[-1], more) for s in numbers for a in names])
    snapshots = {(a, s, k): jobs.run_folder(folder / "runs", jobs.run_desc(a, s), points[-1] + ARMS[a].more)
                 / f"network-snapshot-{k + ARMS[a].more:06d}.pkl" for s in numbers for a in names for k in points}
    study.step()
    reference = data if validate else ref
    harness.measure(study, {f"{a}/{s} {k} kimg": path for (a, s, k), path in snapshots.items()}, reference, judge_files)
    study.step()
    values = {key: harness.measured(path, judge_files) for key, path in snapshots.items()}
    seconds = {key: train_seconds(path) for key, path in snapshots.items()}
    picture = folder / "hypermod.png"
    shown = {"the source": source, **{ARMS[a].title: snapshots[a, numbers[0], points[-1]] for a in names}}
    harness.draw_few(picture, few(folder, numbers[0]), shown, 8, unlabelled=["the source"],
                     title=f"Classes for an unlabelled source: seed {numbers[0]}, {points[-1]} kimg")
    result = dict(command=dict(arms=names, seeds=list(numbers), kimg=points, shots=shots, source_kimg=source_kimg,
                               judges=judges, flags=flags, reference=reference.name),
                  primary=PRIMARY, versions=versions(), values=harness.rows_of(values, seconds))
    study.finish(report(names, numbers, points, values, seconds), result, picture=picture, out=out)


def extra_flags(text: str) -> dict[str, list[str]]:
    """'hypermod:--glr=0.002,finetune:--glr=0.001' -> flags per arm. UserError for an unknown arm."""
    out: dict[str, list[str]] = {}
    for part in filter(None, text.split(",")):
        arm, colon, flag = part.partition(":")
        if arm not in ARMS or not colon or not flag.startswith("--"):
            raise UserError(f"--flags={text}: {part} is not ARM:--flag=value with an arm of {', '.join(ARMS)}")
        out.setdefault(arm, []).append(flag)
    return out


def few(folder: Path, seed: int) -> Path:
    return folder / f"few{seed}.zip"


def arm_flags(arm: str, more: dict[str, list[str]]) -> list[str]:
    align = ARMS[arm].more
    return [*ARMS[arm].flags, *more.get(arm, []), *([f"--align-kimg={align}"] if align else [])]


def run(folder: Path, source: Path, arm: str, seed: int, kimg: int, more: dict[str, list[str]],
        data: Path | None = None, common: Sequence[str] = (harness.TINY,)) -> tuple:
    """The training of an arm, for Study.train: all arms see `kimg`; alignment comes on top. `data`: not the digits."""
    images = [f"--data={data}"] if data else [f"--data={few(folder, seed)}", "--fname=lt_1.json"]
    return ARMS[arm].of(seed), folder / "runs", jobs.run_desc(arm, seed), kimg + ARMS[arm].more, [
        *arm_flags(arm, more), *common, f"--source={source}", *images, "--cond=True", f"--seed={seed}", "--snap=1",
        "--ema-kimg=0.5", "--metrics=none", "--threads=1"]


def own_study(folder: Path, names: Sequence[str], seeds: range, points: Sequence[int], judges: int, source_kimg: int,
              common: str, flags: str) -> TransferArms:
    """The same on the user's own images."""
    words, more = harness.train_flags(common, "--common"), extra_flags(flags)

    def train(t: TransferArms, arm: str, seed: int) -> dict[int, Path]:
        (last,) = t.study.train([run(folder, t.source_file, arm, seed, points[-1], more, t.sets.target, words)])
        return {k: last.parent / f"network-snapshot-{k + ARMS[arm].more:06d}.pkl" for k in points}

    return TransferArms(folder, {a: ARMS[a] for a in names}, seeds, points, judges,
                        dict(source_kimg=source_kimg, common=common, extra=flags), ["--method=stylegan2", *words],
                        train, lambda a: arm_flags(a, more))


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
