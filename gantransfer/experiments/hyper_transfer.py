# SPDX-License-Identifier: Apache-2.0
"""Classes for an unconditional StyleGAN2: trainings of experiment hypermod, on the digits or on the user's images.

`Arm.more` is the kimg of self-alignment before training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from dnnlib.util import UserError
from gantransfer.experiments import harness, jobs, transfer_arms
from gantransfer.experiments.harness import Arm
from gantransfer.experiments.transfer_arms import TransferArms
from gantransfer.metrics.paired import train_seconds


def on_digits(folder: Path, arms: Mapping[str, Arm], seeds: range, points: Sequence[int], shots: int, source_kimg: int,
              judges: int, flags: str | None, more: Mapping[str, list[str]], validate: bool,
              parallel: int | None) -> tuple:
    """All steps and the picture: the study, what was measured against, figures, seconds."""
    study = harness.Study(folder, ("data", "judges and splits", "source", "trainings", "figures", "table and picture"),
                          parallel or jobs.cores())
    study.is_of(shots=shots, source_kimg=source_kimg, flags=flags)
    study.step()
    data, ref, todo = harness.digits(folder)
    study.run(todo)
    study.step()
    judge_files = [folder / f"judge{j}.pt" for j in range(judges)]
    study.run([*harness.judge_jobs(data, ref, judge_files),
               *(job for s in seeds for job in harness.split_job(data, few(folder, s), s, 1, shots))])
    study.step()
    (source,) = study.train([("source", folder / "runs", "source", source_kimg, [
        "--method=stylegan2", harness.TINY, f"--data={data}", *transfer_arms.SOURCE])])
    study.step()
    study.train([run(folder, source, a, arm, s, points[-1], more.get(a, ())) for s in seeds for a, arm in arms.items()])
    snapshots = {(a, s, k): jobs.run_folder(folder / "runs", jobs.run_desc(a, s), points[-1] + arm.more)
                 / f"network-snapshot-{k + arm.more:06d}.pkl" for s in seeds for a, arm in arms.items() for k in points}
    study.step()
    reference = data if validate else ref
    harness.measure(study, {f"{a}/{s} {k} kimg": path for (a, s, k), path in snapshots.items()}, reference, judge_files)
    study.step()
    shown = {"the source": source, **{arm.title: snapshots[a, seeds[0], points[-1]] for a, arm in arms.items()}}
    harness.draw_few(folder / "hypermod.png", few(folder, seeds[0]), shown, 8, unlabelled=["the source"],
                     title=f"Classes for an unlabelled source: seed {seeds[0]}, {points[-1]} kimg")
    return (study, reference, {key: harness.measured(path, judge_files) for key, path in snapshots.items()},
            {key: train_seconds(path) for key, path in snapshots.items()})


def extra_flags(text: str, arms: Mapping[str, Arm]) -> dict[str, list[str]]:
    """'hypermod:--glr=0.002,finetune:--glr=0.001' -> flags per arm. UserError for an unknown arm."""
    out: dict[str, list[str]] = {}
    for part in filter(None, text.split(",")):
        arm, colon, flag = part.partition(":")
        if arm not in arms or not colon or not flag.startswith("--"):
            raise UserError(f"--flags={text}: {part} is not ARM:--flag=value with an arm of {', '.join(arms)}")
        out.setdefault(arm, []).append(flag)
    return out


def few(folder: Path, seed: int) -> Path:
    return folder / f"few{seed}.zip"


def arm_flags(arm: Arm, more: Sequence[str]) -> list[str]:
    return [*arm.flags, *more, *([f"--align-kimg={arm.more}"] if arm.more else [])]


def run(folder: Path, source: Path, name: str, arm: Arm, seed: int, kimg: int, more: Sequence[str],
        data: Path | None = None, common: Sequence[str] = (harness.TINY,)) -> tuple:
    """The training of an arm, for Study.train: all arms see `kimg`; alignment comes on top. `data`: not the digits."""
    images = [f"--data={data}"] if data else [f"--data={few(folder, seed)}", "--fname=lt_1.json"]
    return arm.of(seed), folder / "runs", jobs.run_desc(name, seed), kimg + arm.more, [
        *arm_flags(arm, more), *common, f"--source={source}", *images, "--cond=True", f"--seed={seed}", "--snap=1",
        "--ema-kimg=0.5", "--metrics=none", "--threads=1"]


def own_study(folder: Path, arms: Mapping[str, Arm], seeds: range, points: Sequence[int], judges: int, source_kimg: int,
              common: str, flags: str, more: Mapping[str, list[str]]) -> TransferArms:
    """The same on the user's own images."""
    words = harness.train_flags(common, "--common")

    def train(t: TransferArms, arm: str, seed: int) -> dict[int, Path]:
        (last,) = t.study.train([run(folder, t.source_file, arm, arms[arm], seed, points[-1], more.get(arm, ()),
                                     t.sets.target, words)])
        return {k: last.parent / f"network-snapshot-{k + arms[arm].more:06d}.pkl" for k in points}

    return TransferArms(folder, arms, seeds, points, judges,
                        dict(source_kimg=source_kimg, common=common, extra=flags), ["--method=stylegan2", *words],
                        train, lambda a: arm_flags(arms[a], more.get(a, ())))
