# SPDX-License-Identifier: Apache-2.0
"""gantransfer experiment longtail: long-tailed classes: baseline, UTLO, balanced sampling and more.

Every seed has a long-tailed split of its own (a random class order and a random choice of images), shared by all arms,
so that neither a lucky split nor a hard class decides. The primary column and the number of seeds are fixed before the
runs. A difference counts only if it exceeds the critical t value for that many pairs under every judge.
"""

from __future__ import annotations

import platform
from pathlib import Path

import click

from gantransfer.commands.flags import FloatRange, IntRange
from gantransfer.experiments import harness, jobs
from gantransfer.experiments.harness import Arm
from gantransfer.metrics.paired import difference, spread, table, train_seconds, versions

ARMS = {
    "baseline": Arm("baseline", ["--method=stylegan2"]),
    "utlo": Arm("UTLO (res_uc 4)", ["--add_uc=True", "--res_uc=4"]),
    "balanced": Arm("balanced", ["--method=stylegan2", "--sampling=balanced"]),
    "utlo-balanced": Arm("UTLO + balanced", ["--add_uc=True", "--res_uc=4", "--sampling=balanced"]),
    "sqrt": Arm("square root", ["--method=stylegan2", "--sampling=sqrt"]),
    "effective": Arm("effective number", ["--method=stylegan2", "--sampling=effective"]),
    "utlo8": Arm("UTLO (res_uc 8)", ["--add_uc=True", "--res_uc=8"]),
    "transitional": Arm("transitional", ["--transition=5-10"]),
    "lecam": Arm("LeCam", ["--method=stylegan2", "--lecam=3e-4"]),
}
PRIMARY = "class_fd_few"


@harness.flags(
    "runs/compare",
    click.option("--arms", default="baseline,utlo,balanced,utlo-balanced", show_default=True,
                 help=f"Comma-separated; the first is the opponent. Known: {', '.join(ARMS)}"),
    click.option("--seeds", type=IntRange(min=1), default=5, show_default=True, help="Paired seeds"),
    click.option("--kimg", type=FloatRange(min=0.1), default=20, show_default=True, help="Length of each training"),
    click.option("--judges", type=IntRange(min=1), default=2, show_default=True, help="Judge networks"),
    click.option("--imf", type=FloatRange(min=1), default=25, show_default=True, help="Imbalance of the splits"),
    harness.PARALLEL, harness.OUT_JSON)
def main(folder: Path, arms: str, seeds: int, kimg: float, judges: int, imf: float, parallel: int | None,
         out: Path | None) -> None:
    """Compare training recipes on long-tailed digits with paired seeds and randomised splits."""
    names = harness.chosen(arms, ARMS)
    study = harness.Study(folder, ("data", "judges and splits", "trainings", "figures", "tables"),
                          parallel or jobs.cores())
    study.step()
    data, ref, todo = harness.digits(folder)
    study.run(todo)
    study.step()
    judge_files = [folder / f"judge{j}.pt" for j in range(judges)]
    splits = [folder / f"split{s}.zip" for s in range(seeds)]
    study.run([*harness.judge_jobs(data, ref, judge_files),
               *(job for s in range(seeds) for job in harness.split_job(data, splits[s], s, imf, 114, "random"))])
    study.step()
    pairs = [(a, s) for s in range(seeds) for a in names]  # stopped early, it has whole pairs
    snapshots = dict(zip(pairs, study.train([(
        f"{a}/{s}", folder / "runs", jobs.run_desc(a, s) + ("" if imf == 25 else f"-imf{imf:g}"), kimg,
        ["--cfg=tiny", f"--data={splits[s]}", f"--fname=lt_{imf:g}.json", "--cond=True", f"--seed={s}",
         "--metrics=none", "--threads=1", *ARMS[a].flags]) for a, s in pairs])))
    study.step()
    harness.measure(study, {f"{a}/{s}": path for (a, s), path in snapshots.items()}, ref, judge_files)
    study.step()
    found = {key: harness.measured(path, judges) for key, path in snapshots.items()}
    values = {a: [[found[a, s][j] for s in range(seeds)] for j in range(judges)] for a in names}
    seconds = {a: [train_seconds(snapshots[a, s]) for s in range(seeds)] for a in names}
    result = dict(command=dict(arms=names, seeds=seeds, kimg=kimg, judges=judges, imf=imf), primary=PRIMARY,
                  machine=platform.processor() or platform.machine(), versions=versions(),
                  values=values, seconds=seconds)
    study.finish(report(names, values, seconds, kimg), result, ("compare.md", "compare.json"), out=out)


def report(names: list[str], values: dict, seconds: dict, kimg: float) -> str:
    """Markdown: mean and spread per arm, then paired differences against the first arm, per judge."""
    seeds, judges = len(values[names[0]][0]), range(len(values[names[0]]))
    keys = [k for k in values[names[0]][0][0] if all(k in v for a in names for js in values[a] for v in js)]
    title = {a: ARMS[a].title if a in ARMS else a for a in names}
    lines = [f"{kimg:g} kimg, {seeds} paired seeds with randomised splits; mean +- sample standard deviation. "
             f"Primary column, fixed before the runs: {harness.name_of(PRIMARY)}."]
    for j in judges:
        rows = [[harness.name_of(k, PRIMARY), *(spread([v[k] for v in values[a][j]]) for a in names)] for k in keys]
        rows += [["seconds", *(spread(seconds[a]) for a in names)]] if j == 0 else []
        lines += ["", f"Judge {j}:", "", *table(["", *title.values()], rows)]
    also = [("balanced", "utlo-balanced")] if {"balanced", "utlo-balanced"} <= set(names[1:]) else []
    for a, b in [*((names[0], other) for other in names[1:]), *also]:
        lines += ["", f"{title[b]} minus {title[a]}, paired; mean +- standard error, in brackets the pairs in which "
                      f"{title[b]} is lower; {harness.bold(seeds)}.", ""]
        lines += table(["", *(f"judge {j}" for j in judges)], [[harness.name_of(k, PRIMARY), *difference(
            *([[v[k] for v in judge] for judge in values[x]] for x in (a, b))).cells()] for k in keys])
    return "\n".join(lines)
