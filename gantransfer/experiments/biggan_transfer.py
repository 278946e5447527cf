# SPDX-License-Identifier: Apache-2.0
"""New classes for a BigGAN: trainings of experiment cgantransfer, on halves of the digits or on the user's images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from dnnlib import seeding
from gantransfer.experiments import harness, jobs
from gantransfer.experiments.harness import Arm
from gantransfer.experiments.transfer_arms import TransferArms
from gantransfer.metrics.paired import train_seconds

COMMON = "--cond=True --metrics=none --threads=1 --tick=1"
Snapshots = dict[tuple[str, int, int], Path]  # arm, seed, kimg


def on_digits(folder: Path, arms: Mapping[str, Arm], names: Sequence[str], seeds: range, points: Sequence[int],
              shots: int, source_kimg: int, judges: int, parallel: int | None) -> tuple:
    """All steps up to the table, for `names` of the arms: the study, sources and sets of few images by seed, snapshots,
    figures, seconds."""
    study = harness.Study(folder, ("data", "judges and splits", "sources", *(
        f"{what} of seed {s}" for s in seeds for what in ("trainings", "figures")), "table and picture"),
        parallel or jobs.cores())
    sets = [{n: folder / f"{n}{s}.zip" for n in ("source", "target", "reference", "judge", "judge-reference")}
            for s in seeds]
    few = [folder / f"few{s}-{shots}.zip" for s in seeds]
    judge_files = [[folder / f"judge{j}-split{s}.pt" for j in range(judges)] for s in seeds]
    study.step()
    study.run([job for s in seeds for job in data_jobs(sets[s], *digits(s))], quiet=True)
    study.step()
    study.run([job for s in seeds for job in harness.judge_jobs(
        sets[s]["judge"], sets[s]["judge-reference"], judge_files[s], f"judge{{}}/{s}",
        lambda j: [f"--name=judge{j}", "--min-accuracy=0.98"])]
        + [job for s in seeds for job in harness.split_job(sets[s]["target"], few[s], s, 1, shots)])
    study.step()
    sources = study.train([(f"source/{s}", folder / "runs", jobs.run_desc("source", s), source_kimg, [
        "--method=biggan", harness.TINY, f"--data={sets[s]['source']}", f"--seed={s}", *COMMON.split()])
        for s in seeds])
    runs, snapshots = folder / f"runs-{shots}shots-source{source_kimg}", {}
    for s in seeds:  # seed by seed, so that a comparison stopped early has whole pairs
        study.step()
        made = train_arms(study, runs, arms, names, s, points, sources[s],
                          [f"--data={few[s]}", "--fname=lt_1.json"])
        study.step()
        harness.report_all(study, {p: f"{p.parent.name.rsplit('-', 2)[-2]}/{s} {p.stem[-3:]}" for p in made.values()},
                           sets[s]["reference"], judge_files[s])
        snapshots |= made
    study.step()
    values = {key: harness.reported(path, judge_files[key[1]]) for key, path in snapshots.items()}
    times = {(a, s, k): seconds_of(runs, a, s, k, points, path) for (a, s, k), path in snapshots.items()}
    return study, sources, few, snapshots, values, times


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


def own_study(folder: Path, arms: Mapping[str, Arm], names: Sequence[str], seeds: range, points: Sequence[int],
              judges: int, source_kimg: int, common: str) -> TransferArms:
    """The same on the user's own images; one source serves all seeds."""
    words, runs = harness.train_flags(common, "--common"), folder / "runs"

    def train(t: TransferArms, arm: str, seed: int) -> dict[int, Path]:
        made = train_arms(t.study, runs, arms, [arm], seed, points, t.source_file, [f"--data={t.sets.target}"], words)
        return {k: path for (_, _, k), path in made.items()}

    return TransferArms(folder, {a: arms[a] for a in names}, seeds, points, judges,
                        dict(source_kimg=source_kimg, common=common),
                        ["--method=biggan", *words, "--cond=True", "--tick=1"], train, lambda a: arms[a].flags,
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


def train_arms(study: harness.Study, runs: Path, arms: Mapping[str, Arm], names: Sequence[str], seed: int,
               points: Sequence[int], source: Path, training: Sequence[str], common: Sequence[str] = ()) -> Snapshots:
    """Snapshot of every arm and length. `training`: the flags that name the images."""
    total, early = points[-1], ft_from(points)
    first = [a for a in names if a != "bn-ft"] + (["bn"] if "bn-ft" in names and "bn" not in names else [])
    lengths = {a: total - early if a == "bn-ft" else total for a in [*first, "bn-ft"]}
    for group in (first, [a for a in names if a == "bn-ft" and total > early]):
        study.train([(arms[a].of(seed), runs, jobs.run_desc(a, seed), lengths[a], [
            *arms[a].flags, *common, *training, f"--seed={seed}", "--snap=2", *COMMON.split(),
            *([f"--source={bn_at(runs, seed, points) if a == 'bn-ft' else source}"] if arms[a].more else [])])
            for a in group])
    out = {}
    for arm in names:
        for k in points:
            later = arm == "bn-ft" and k > early
            run = "bn" if arm == "bn-ft" and not later else arm
            run_dir = jobs.run_folder(runs, jobs.run_desc(run, seed), lengths[run])
            out[arm, seed, k] = run_dir / f"network-snapshot-{k - early if later else k:06d}.pkl"
    return out
