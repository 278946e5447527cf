# SPDX-License-Identifier: Apache-2.0
"""gantransfer experiment hypermod: classes for an unconditional generator: Hyper-Modulation, fine-tuning and more.

Trains a small StyleGAN2 on unlabelled digits, then gives it the ten classes from ten labelled images each, in several
ways: hyper-modulation from the exact start; conditional fine-tuning of the same snapshot; hyper-modulation from random
hypernetworks after self-alignment; and more. All see equally many real images. Measures each against held-out digits
and draws the picture. With --seeds=5 it is the comparison of docs/hypermod.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from dnnlib.util import UserError
from gantransfer.commands.flags import SEED, IntRange
from gantransfer.experiments import harness, jobs, sheets
from gantransfer.experiments.harness import Arm
from gantransfer.metrics.paired import spread, table, train_seconds, versions

HYPER, FINETUNE = ["--method=hypermod"], ["--method=stylegan2"]
ARMS = {  # the last number: kimg of self-alignment before training
    "hypermod": Arm("hypermod", HYPER, 0),
    "projection": Arm("hypermod, projection", [*HYPER, "--d-head=projection"], 0),
    "finetune": Arm("fine-tuning", FINETUNE, 0),
    "aligned": Arm("random, aligned", [*HYPER, "--hyper-init=random"], 2),
    "random": Arm("random, not aligned", [*HYPER, "--hyper-init=random"], 0),
    "full": Arm("full rank", [*HYPER, "--hyper-rank=full"], 0),
    "table": Arm("no class network", [*HYPER, "--class-vectors=onehot"], 0),
    "contrastive": Arm("contrastive", [*HYPER, "--contrastive=True"], 0),
    "base-too": Arm("base trained too", [*HYPER, "--finetune=True"], 0),
    "freezed": Arm("FreezeD", [*FINETUNE, "--freezed=2"], 0),
}
COLUMNS = ("class_fd", "accuracy", "diversity", "nearest", "fd_pix64")
PRIMARY = "class_fd"


@harness.flags(
    "runs/hypermod_demo",
    click.option("--arms", default="hypermod,projection,finetune", show_default=True,
                 help=f"Comma-separated; the first is compared with the others. Known: {', '.join(ARMS)}; all"),
    click.option("--seeds", type=IntRange(min=1), default=1, show_default=True, help="Repetitions, other images"),
    click.option("--first-seed", type=SEED, default=0, show_default=True, help="Number of the first one"),
    click.option("--kimg", "lengths", default="8", show_default=True, help="Where to measure; the last is the length"),
    harness.SHOTS, harness.source_kimg(20), harness.JUDGES,
    click.option("--flags", metavar="LIST", help="More flags for an arm: ARM:--flag=value,..."),
    click.option("--validate", is_flag=True,
                 help="Measure against pool images that no arm trains on, for choosing flags"),
    harness.PARALLEL, harness.OUT_JSON)
def main(folder: Path, arms: str, seeds: int, first_seed: int, lengths: str, shots: int, source_kimg: int, judges: int,
         flags: str | None, validate: bool, parallel: int | None, out: Path | None) -> None:
    """Ten digit classes from ten labelled images each and an unconditional StyleGAN2: train, measure, look."""
    names, points, more = harness.chosen(arms, ARMS, [*ARMS]), harness.kimg_points(lengths, 1), extra_flags(flags or "")
    numbers = range(first_seed, first_seed + seeds)
    study = harness.Study(folder, ("data", "judges and splits", "source", "trainings", "figures", "table and picture"),
                          parallel or jobs.cores())
    study.step()
    data, ref, todo = harness.digits(folder)
    study.run(todo)
    study.step()
    judge_files = [folder / f"judge{j}.pt" for j in range(judges)]
    study.run([*harness.judge_jobs(data, ref, judge_files),
               *(job for s in numbers for job in harness.split_job(data, few(folder, s), s, 1, shots))])
    study.step()
    (source,) = study.train([("source", folder / "runs", "source", source_kimg, [
        "--method=stylegan2", "--cfg=tiny", f"--data={data}", "--seed=0", "--metrics=none", "--threads=1"])])
    study.step()
    study.train([run(folder, source, a, s, points[-1], more) for s in numbers for a in names])
    snapshots = {(a, s, k): jobs.run_folder(folder / "runs", jobs.run_desc(a, s), points[-1] + ARMS[a].more)
                 / f"network-snapshot-{k + ARMS[a].more:06d}.pkl" for s in numbers for a in names for k in points}
    study.step()
    reference = data if validate else ref
    harness.measure(study, {f"{a}/{s} {k} kimg": path for (a, s, k), path in snapshots.items()}, reference, judge_files)
    study.step()
    values = {key: harness.measured(path, judges) for key, path in snapshots.items()}
    seconds = {key: train_seconds(path) for key, path in snapshots.items()}
    draw(folder / "hypermod.png", few(folder, numbers[0]),
         {"the source": source, **{ARMS[a].title: snapshots[a, numbers[0], points[-1]] for a in names}})
    result = dict(command=dict(arms=names, seeds=list(numbers), kimg=points, shots=shots, source_kimg=source_kimg,
                               judges=judges, flags=flags, reference=reference.name),
                  primary=PRIMARY, versions=versions(),
                  values=[dict(arm=a, seed=s, kimg=k, judges=v, seconds=seconds[a, s, k])
                          for (a, s, k), v in values.items()])
    study.finish(report(names, numbers, points, values, seconds), result,
                 picture=folder / "hypermod.png", out=out)


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


def run(folder: Path, source: Path, arm: str, seed: int, kimg: int, more: dict[str, list[str]]) -> tuple:
    """The training of an arm, for Study.train: all arms see `kimg`; alignment comes on top."""
    align = ARMS[arm].more
    return f"{arm}/{seed}", folder / "runs", jobs.run_desc(arm, seed), kimg + align, [
        *ARMS[arm].flags, *more.get(arm, []), *([f"--align-kimg={align}"] if align else []), "--cfg=tiny",
        f"--source={source}", f"--data={few(folder, seed)}", "--fname=lt_1.json", "--cond=True", f"--seed={seed}",
        "--snap=1", "--ema-kimg=0.5", "--metrics=none", "--threads=1"]


def report(names: list[str], seeds: Sequence[int], points: list[int], values: dict, seconds: dict) -> str:
    """Markdown: a table per length, a row per arm; with several seeds paired differences."""
    judges = range(len(values[names[0], seeds[0], points[-1]]))
    before = "".join(f"; '{ARMS[a].title}' was aligned for {ARMS[a].more} kimg before" for a in names if ARMS[a].more)
    lines = [f"Ten digit classes from one unconditional source; {len(seeds)} seed(s), {len(judges)} judge(s). Primary "
             f"column, fixed before the runs: {harness.NAMES[PRIMARY]}. All arms see equally many real images{before}."]
    tables = {k: lambda a, c, k=k: [[values[a, s, k][j][c] for s in seeds] for j in judges] for k in points}
    for k, of in tables.items():
        lines += ["", *table([f"{k} kimg", *map(harness.name_of, COLUMNS), "seconds"], [
            [ARMS[a].title, *(harness.mean_cell(of(a, c)) for c in COLUMNS),
             spread([seconds[a, s, k] for s in seeds])] for a in names])]
    for k, of in tables.items() if len(seeds) > 1 else ():
        lines += ["", f"{ARMS[names[0]].title} minus the arm, {k} kimg, paired: mean +- standard error; "
                      f"{harness.bold(len(seeds))}.", ""]
        lines += harness.difference_table("", COLUMNS, {ARMS[a].title: (a, names[0]) for a in names[1:]}, of)
    return "\n".join(lines)


def draw(path: Path, training: Path, snapshots: dict[str, Path]) -> None:
    """A row per class: its training images | the source without labels | each arm, from the same latents."""
    from gantransfer.data.dataset import ImageDataset

    data = ImageDataset(str(training), fname="lt_1.json", use_labels=True)
    blocks = {"training images": sheets.reals(data, 8)}
    for title, snapshot in snapshots.items():
        blocks[title] = sheets.generated(sheets.sampler_of(snapshot), data.label_dim, 8, labels=title != "the source")
    sheets.save_sheet(path, blocks, [str(n) for n in data.spec.label.names])
