# SPDX-License-Identifier: Apache-2.0
"""gantransfer experiment longtail: arms against each other on real digits, with paired seeds and random splits.

Every seed has a long-tailed split of its own (a random class order and a random choice of images), shared by all arms,
so that neither a lucky split nor a hard class decides. The primary column and the number of seeds are fixed before the
runs. A difference counts only if it exceeds the critical t value for that many pairs under every judge.
"""

from __future__ import annotations

import json
import platform
import shutil
import time
import zipfile
from pathlib import Path

import click

from dnnlib.util import UserError, atomic_path, atomic_write, format_time
from gantransfer.commands import kernels
from gantransfer.commands.flags import FloatRange, IntRange, PathObject
from gantransfer.experiments import jobs
from gantransfer.experiments.jobs import Job
from gantransfer.metrics.paired import critical_t, difference, read_result, spread, train_seconds, versions

ARMS = {
    "baseline": ["--method=stylegan2"],
    "utlo": ["--add_uc=True", "--res_uc=4"],
    "balanced": ["--method=stylegan2", "--sampling=balanced"],
    "utlo-balanced": ["--add_uc=True", "--res_uc=4", "--sampling=balanced"],
    "sqrt": ["--method=stylegan2", "--sampling=sqrt"],
    "effective": ["--method=stylegan2", "--sampling=effective"],
    "utlo8": ["--add_uc=True", "--res_uc=8"],
    "transitional": ["--transition=5-10"],
    "lecam": ["--method=stylegan2", "--lecam=3e-4"],
}
PRIMARY = "class_fd_few"


@click.command()
@click.option("--dir", "folder", type=PathObject(file_okay=False, path_type=Path), default="runs/compare",
              show_default=True, help="Where everything goes; running again continues")
@click.option("--arms", default="baseline,utlo,balanced,utlo-balanced", show_default=True,
              help=f"Comma-separated; the first is the opponent. Known: {', '.join(ARMS)}")
@click.option("--seeds", type=IntRange(min=1), default=5, show_default=True, help="Paired seeds")
@click.option("--kimg", type=FloatRange(min=0.1), default=20, show_default=True, help="Length of each training")
@click.option("--judges", type=IntRange(min=1), default=2, show_default=True, help="Judge networks")
@click.option("--imf", type=FloatRange(min=1), default=25, show_default=True, help="Imbalance of the splits")
@click.option("--kernels", **kernels.FLAG)
@click.option("--parallel", type=IntRange(min=1), help="Trainings at once [default: cores]")
@click.option("--out", type=PathObject(dir_okay=False, path_type=Path), help="Also write the results here (JSON)")
def main(folder: Path, arms: str, seeds: int, kimg: float, judges: int, imf: float, parallel: int | None,
         out: Path | None) -> None:
    """Compare training recipes on long-tailed digits with paired seeds and randomised splits."""
    start, names = time.time(), [a.strip() for a in arms.split(",") if a.strip()]
    unknown = [a for a in names if a not in ARMS]
    if unknown or len(names) != len(set(names)) or not names:
        raise UserError(f"--arms={arms}: {unknown[0] if unknown else 'an arm'} is not known or given twice; "
                        f"there are {', '.join(ARMS)}")
    folder.mkdir(parents=True, exist_ok=True)
    parallel = parallel or jobs.cores()
    jobs.run_jobs(jobs.digits_jobs(folder))
    data, ref = folder / "digits16.zip", folder / "digits16-ref.zip"
    todo = [Job(f"judge{j}", ["-m", "gantransfer", "judge", f"--data={data}", f"--heldout={ref}", f"--seed={j}",
                              f"--out={judge_file(folder, j)}"])
            for j in range(judges) if not judge_file(folder, j).exists()]
    label_file = f"lt_{imf:g}.json"
    for s in range(seeds):
        if not split_zip(folder, s).exists():
            with atomic_path(split_zip(folder, s)) as tmp:
                shutil.copyfile(data, tmp)
        if label_file not in zipfile.ZipFile(split_zip(folder, s)).namelist():
            todo.append(Job(f"split{s}", ["lt_dataset.py", f"--fn={split_zip(folder, s)}", f"--imf={imf:g}",
                                          "--n-max=114", "--order=random", f"--seed={s}"]))
    jobs.run_jobs(todo, parallel=parallel)

    # Seed by seed, so that a comparison stopped early still has whole pairs.
    todo, snapshots = [], {}
    for s in range(seeds):
        for arm in names:
            job, _ = jobs.train_job(f"{arm}/{s}", folder / "runs", arm_desc(arm, s, imf), kimg, [
                "--cfg=tiny", f"--data={split_zip(folder, s)}", f"--fname={label_file}", "--cond=True", f"--seed={s}",
                "--metrics=none", "--threads=1", *ARMS[arm]])
            todo += [job] if job else []
    print(f"{len(todo)} of {seeds * len(names)} trainings to do, {parallel} at a time")
    jobs.run_jobs(todo, parallel=parallel)
    todo = []
    for s in range(seeds):
        for arm in names:
            snapshot = jobs.final_snapshot(jobs.run_folder(folder / "runs", arm_desc(arm, s, imf), kimg), kimg)
            if snapshot is None:
                raise UserError(f"{arm}, seed {s} has no final snapshot in {folder / 'runs'}; run again to continue")
            snapshots[arm, s] = snapshot
            for j in range(judges):
                if read_result(snapshot, j) is None:
                    todo.append(Job(f"{arm}/{s} judge{j}", [
                        "calc_metrics.py", "--metrics=report_digits32", f"--network={snapshot}", f"--data={ref}",
                        f"--detector=digits32={judge_file(folder, j)}",
                        f"--outdir={snapshot.parent / f'judge{j}'}"]))
    jobs.run_jobs(todo, parallel=parallel, quiet=True)

    values = {a: [[read_result(snapshots[a, s], j) for s in range(seeds)] for j in range(judges)] for a in names}
    seconds = {a: [train_seconds(snapshots[a, s]) for s in range(seeds)] for a in names}
    result = dict(command=dict(arms=names, seeds=seeds, kimg=kimg, judges=judges, imf=imf), primary=PRIMARY,
                  machine=platform.processor() or platform.machine(), versions=versions(),
                  values=values, seconds=seconds)
    text = report(names, values, seconds, kimg)
    with atomic_write(folder / "compare.md") as f:
        f.write(text + "\n")
    for path in filter(None, [folder / "compare.json", out]):
        with atomic_write(path) as f:
            json.dump(result, f, indent=1)
    print(f"\n{text}\n\nTables: {folder / 'compare.md'}   values per seed: {folder / 'compare.json'}")
    print(f"Done in {format_time(time.time() - start)}.")


def judge_file(folder: Path, j: int) -> Path:
    return folder / f"judge{j}.pt"


def arm_desc(arm: str, seed: int, imf: float) -> str:
    return jobs.run_desc(arm, seed) + ("" if imf == 25 else f"-imf{imf:g}")


def split_zip(folder: Path, seed: int) -> Path:
    return folder / f"split{seed}.zip"


def report(names: list[str], values: dict, seconds: dict, kimg: float) -> str:
    """Markdown: mean and spread per arm, then paired differences against the first arm, per judge."""
    seeds, judges = len(values[names[0]][0]), len(values[names[0]])
    keys = [k for k in values[names[0]][0][0] if all(k in v for a in names for js in values[a] for v in js)]
    lines = [f"{kimg:g} kimg, {seeds} paired seeds with randomised splits; mean +- sample standard deviation. "
             f"Primary column, fixed before the runs: {PRIMARY}."]
    for j in range(judges):
        lines += ["", f"Judge {j}:", "", "| | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
        for k in keys:
            lines.append(f"| {k} | " + " | ".join(spread([v[k] for v in values[a][j]]) for a in names) + " |")
        if j == 0:
            lines.append("| seconds | " + " | ".join(spread(seconds[a]) for a in names) + " |")
    bound = critical_t(seeds)
    for a, b in [(names[0], other) for other in names[1:]] + (
            [("balanced", "utlo-balanced")] if {"balanced", "utlo-balanced"} <= set(names[1:]) else []):
        lines += ["", f"{b} minus {a}, paired; mean +- standard error, in brackets the pairs in which {b} is lower. "
                      f"Bold: beyond {bound:.2f} standard errors (t, 5 %) under every judge.", "",
                  "| | " + " | ".join(f"judge {j}" for j in range(judges)) + " |", "|---|" + "---|" * judges]
        for k in keys:
            d = difference(*([[v[k] for v in judge] for judge in values[x]] for x in (a, b)))
            lines.append(f"| {k} | " + " | ".join(d.cells()) + " |")
    return "\n".join(lines)
