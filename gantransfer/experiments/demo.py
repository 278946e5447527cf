# SPDX-License-Identifier: Apache-2.0
"""gantransfer demo: the whole story in minutes, on real handwritten digits.

Ten classes of digits, 114 training images of the most frequent, 4 of the rarest. Trains the judge network, a
class-conditional baseline, and UTLO with class-balanced sampling; measures both against held-out digits; draws the
picture. Every step is one of the commands of the README, printed before it runs. What is already there is kept.
"""

from __future__ import annotations

from pathlib import Path

import click

from gantransfer.commands.flags import SEED, FloatRange
from gantransfer.experiments import harness, jobs, longtail, sheets
from gantransfer.experiments.jobs import Job
from gantransfer.metrics.paired import read_result, table

ARMS = {a: longtail.ARMS[a] for a in ("baseline", "utlo-balanced", "balanced", "utlo")}  # the first two; --all: four
# Bars a correct implementation meets at 20 kimg with one seed (mean plus about three seed deviations):
# figure -> {arm: bound}; accuracies from above, distances from below
BARS = {
    "class_fd": {"baseline": 32, "utlo": 35, "balanced": 18, "utlo-balanced": 16},
    "class_fd_few": {"balanced": 18, "utlo-balanced": 17},
    "accuracy": {"baseline": 0.80, "utlo": 0.75, "balanced": 0.88, "utlo-balanced": 0.90},
    "accuracy_few": {"baseline": 0.50, "utlo": 0.40, "balanced": 0.88, "utlo-balanced": 0.88},
}


@harness.flags(
    "runs/demo",
    click.option("--kimg", type=FloatRange(min=0.1), default=20, show_default=True, help="Length of each training"),
    click.option("--seed", type=SEED, default=0, show_default=True),
    click.option("--all", "everything", is_flag=True, help="Also: baseline with balanced sampling, UTLO without"))
def main(folder: Path, kimg: float, seed: int, everything: bool) -> None:
    """Digits, 114 to 4 training images per class: train, measure, look. About three minutes on two cores."""
    names = list(ARMS) if everything else list(ARMS)[:2]
    study = harness.Study(folder, ("data", "a judge", "trainings", "figures", "table and picture"),
                          min(jobs.cores(), len(names)))
    study.step()
    data, ref, todo = harness.digits(folder)
    for job in todo:
        study.run([job], threads=jobs.cores())
    study.run(harness.split_job(data, data, None, 25, 114), threads=jobs.cores())
    study.step()
    judge = folder / "judge.pt"
    if not judge.exists():
        study.run([Job("judge", ["judge", f"--data={data}", f"--heldout={ref}", f"--out={judge}",
                               f"--name={harness.JUDGE}"])], threads=jobs.cores())
    study.step()
    snapshots = dict(zip(names, study.train([(ARMS[a].title, folder / "runs", jobs.run_desc(a, seed), kimg, [
        "--cfg=tiny", f"--data={data}", "--fname=lt_25.json", "--cond=True", f"--seed={seed}", "--metrics=none",
        "--threads=1", *ARMS[a].flags_for(kimg)]) for a in names])))
    study.step()
    results = {}
    for a, path in snapshots.items():
        if measured(path, judge) is None:
            study.run([harness.report_job(ARMS[a].title, path, ref, {harness.JUDGE: judge})], threads=jobs.cores())
        results[a] = measured(path, judge)
    study.step()
    picture = folder / "demo.png"
    sheets.save_with_small(picture, ref, {a: (ARMS[a].title, path) for a, path in snapshots.items()})
    where = "\n".join(f"{ARMS[a].title + ':':22s}{path}" for a, path in snapshots.items())
    study.finish(results_table(results, kimg), picture=picture)
    print(f"{where}\nOne seed does not rank methods; `gantransfer experiment longtail` repeats this with several.")


def measured(path: Path, judge: Path) -> dict[str, float] | None:
    return read_result(path.parent, harness.METRIC, path, harness.sha256(judge))


def results_table(results: dict[str, dict], kimg: float) -> str:
    """Markdown: a column per arm, and the bar a correct implementation meets at 20 kimg."""
    def cell(key: str, arm: str) -> str:
        value, bar = results[arm][key], BARS.get(key, {}).get(arm)
        if bar is None or kimg != 20:
            return f"{value:.3g}"
        sign, met = (">=", value >= bar) if "accuracy" in key else ("<=", value <= bar)
        return f"{value:.3g} ({sign} {bar:g}{'' if met else ', MISSED'})"

    keys = [k for k in next(iter(results.values())) if all(k in r for r in results.values())]
    return "\n".join(table([f"{kimg:g} kimg", *(ARMS[a].title for a in results)],
                           [[harness.name_of(k), *(cell(k, a) for a in results)] for k in keys]))
