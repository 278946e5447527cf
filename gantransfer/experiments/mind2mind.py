# SPDX-License-Identifier: Apache-2.0
"""gantransfer experiment mind2mind: a new domain through a frozen auto-encoder: Mind2Mind, fine-tuning, FreezeD.

From digits 0-4 to digits 5-9: trains a small StyleGAN2 on the source digits and an encoder for it, encodes the target
digits once, trains Mind2Mind, and, from the same source, full fine-tuning and FreezeD. Measures all at several lengths
against held-out digits: when does each come within 5 % of the way from the start to the auto-encoder's floor? With
--seeds=5 it is the published comparison.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click
import numpy as np

from gantransfer.commands.flags import IntRange
from gantransfer.experiments import harness, jobs, reach
from gantransfer.experiments.harness import Arm
from gantransfer.metrics.paired import spread, table, versions

ARMS = {
    "mind": Arm("Mind2Mind", "--method=mind2mind --hidden_g=128,128 --hidden_d=128,128"),
    "finetune": Arm("fine-tuning", "--method=stylegan2 --cfg=tiny"),
    "freezed": Arm("FreezeD", "--method=stylegan2 --cfg=tiny --freezed=4"),
}
BASELINES = {"gaussian": "Gaussian", "class_gaussian": "class-Gaussian"}
COLUMNS = ("class_fd", "accuracy", "diversity", "nearest", "fd_pix64")
SIZES = ["--z_dim=16", "--w_dim=16"]
PRIMARY = reach.PRIMARY


@harness.flags(
    "runs/mind_demo",
    click.option("--arms", default="mind,finetune", show_default=True, help=f"Known: {', '.join(ARMS)}; all"),
    click.option("--seeds", type=IntRange(min=1), default=1, show_default=True, help="Paired repetitions"),
    click.option("--kimg", type=IntRange(min=1), default=4, show_default=True, help="Length of fine-tuning"),
    click.option("--epochs", type=IntRange(min=1), default=150, show_default=True, help="Length of Mind2Mind"),
    harness.source_kimg(20),
    click.option("--encoder-kimg", type=IntRange(min=1), default=10, show_default=True, help="... of the encoder"),
    harness.JUDGES,
    click.option("--parallel", type=IntRange(min=1), default=1, show_default=True,
                 help="Trainings at once; more than one distorts the times"))
def main(folder: Path, arms: str, seeds: int, kimg: int, epochs: int, source_kimg: int, encoder_kimg: int, judges: int,
         parallel: int) -> None:
    """Digits 5-9 in the latent space of a StyleGAN2 of digits 0-4: train, measure, look."""
    names = harness.chosen(arms, ARMS, [*ARMS])
    study = harness.Study(folder, ("data", "judges", "source", "encoder", "latents", "trainings", "figures",
                                   "table and picture"), parallel)
    study.step()
    sets = [folder / f"{name}.zip" for name in ("source", "target", "target-ref")]
    study.run(harness.data_jobs("digits", dict(zip(sets, (
        dict(split=split, classes=classes) for classes, split in (
            ("0-4", "pool"), ("5-9", "pool"), ("5-9", "reference")))))))
    study.step()
    study.run(harness.judge_jobs(sets[1], sets[2], [folder / f"judge{j}.pt" for j in range(judges)]), quiet=True)
    common = [f"--data={sets[0]}", "--cfg=tiny", "--threads=1", "--metrics=none"]
    study.step()
    (source,) = study.train([("source", folder / "runs", "source", source_kimg,
                              ["--method=stylegan2", *SIZES, *common])])
    study.step()
    (encoder,) = study.train([("encoder", folder / "runs", "encoder", encoder_kimg,
                               ["--method=encoder", f"--source={source}", *common])])
    study.step()
    study.run([jobs.Job("encode", ["encode", f"--data={sets[1]}", f"--network={encoder}", "--accept", "--device=cpu"])])
    study.step()
    snapshots = train_arms(study, names, seeds, kimg, epochs, source, encoder)
    study.step()
    values = reach.measure(folder, snapshots, encoder, judges, BASELINES)
    result = reach.summary(folder, names, seeds, snapshots, values, encoder, judges, BASELINES)
    result |= dict(command=dict(arms=names, seeds=seeds, kimg=kimg, epochs=epochs, source_kimg=source_kimg,
                                encoder_kimg=encoder_kimg, judges=judges), primary=PRIMARY, versions=versions())
    study.step()
    reach.draw(folder / "mind.png", folder, {ARMS[a].title: snapshots[a, 0][-1] for a in names}, encoder)
    study.finish(report(names, seeds, judges, result), result, picture=folder / "mind.png")


def train_arms(study: harness.Study, names: list[str], seeds: int, kimg: int, epochs: int, source: Path,
               encoder: Path) -> dict[tuple[str, int], list[Path]]:
    """Snapshots of every arm and seed, in order of length."""
    from gantransfer.data.dataset import ImageDataset
    from gantransfer.snapshot import find_snapshots

    target = study.folder / "target.zip"
    length = math.ceil(epochs * len(ImageDataset(target)) / 1000)
    own = {a: [f"--source={source}", *SIZES, "--snap=1", "--tick=1"] for a in names}
    if "mind" in names:
        own["mind"] = [f"--source={encoder}", "--accept_encoder=True", "--snap=1", f"--tick={length / 6:g}"]
    pairs = [(a, s) for s in range(seeds) for a in names]
    found = study.train([(f"{a}/{s}", study.folder / "runs", jobs.run_desc(a, s), length if a == "mind" else kimg, [
        f"--data={target}", "--cond=True", f"--seed={s}", "--metrics=none", "--threads=1", *ARMS[a].flags, *own[a]])
        for a, s in pairs])
    return {pair: find_snapshots(path.parent) for pair, path in zip(pairs, found)}


def report(names: list[str], seeds: int, judges: int, r: dict[str, Any]) -> str:
    """Markdown: final figures, when the bound is reached, cost, and with several seeds paired differences."""
    title = {a: ARMS[a].title for a in names}
    last = {a: [c[-1]["judges"] for c in r["curves"][a]] for a in names}  # [seeds][judges]
    rows = {"reconstructions (floor)": [r["floor"]],
            **{f"{BASELINES[n]} latents": rows for n, rows in r["baselines"].items()},
            **{f"{title[a]}, {r['curves'][a][0][-1]['kimg']:.0f} kimg": last[a] for a in names}}
    lines = [f"Digits 5-9 in the latent space of a StyleGAN2 of digits 0-4, class-conditional; {seeds} paired seed(s), "
             f"{judges} judge(s). Primary column, fixed before the runs: {harness.NAMES[PRIMARY]}.", ""]
    lines += table(["", *map(harness.name_of, COLUMNS)], [
        [name, *(spread([float(np.mean([j[c] for j in one])) for one in of]) for c in COLUMNS)]
        for name, of in rows.items()])
    lines += reach.reached(title, seeds, r, encoded="mind")
    if seeds > 1 and "mind" in names:
        others = {**{title[a]: last[a] for a in names if a != "mind"},
                  **{f"{BASELINES[n]} latents": rows for n, rows in r["baselines"].items()}}
        lines += ["", f"Mind2Mind minus each, paired; {harness.bold(seeds)}.", ""]
        others[""] = last["mind"]
        lines += harness.difference_table("", COLUMNS, {name: (name, "") for name in others if name},
                                          lambda a, c: [[one[j][c] for one in others[a]] for j in range(judges)])
    return "\n".join(lines)
