# SPDX-License-Identifier: Apache-2.0
"""gantransfer experiment mind2mind: a new domain through a frozen auto-encoder: Mind2Mind, fine-tuning, FreezeD.

From digits 0-4 to digits 5-9: trains a small StyleGAN2 on the source digits and an encoder for it, encodes the target
digits once, trains Mind2Mind, and, from the same source, full fine-tuning and FreezeD. Measures all at several lengths
against held-out digits: when does each come within 5 % of the way from the start to the auto-encoder's floor? With
--seeds=5 it is the published comparison. On images of your own (--data) the source is of the frequent classes, or of
all images, and the target are the rare ones or another set.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np

from gantransfer.commands.flags import IntRange
from gantransfer.experiments import harness, latent_transfer, reach, transfer_arms
from gantransfer.experiments.harness import Arm
from gantransfer.metrics.paired import spread, table, versions

ARMS = {
    "mind": Arm("Mind2Mind", "--method=mind2mind --hidden_g=128,128 --hidden_d=128,128"),
    "finetune": Arm("fine-tuning", "--method=stylegan2 --cfg=tiny"),
    "freezed": Arm("FreezeD", "--method=stylegan2 --cfg=tiny --freezed=4"),
}
BASELINES = {"gaussian": "Gaussian", "class_gaussian": "class-Gaussian"}
COLUMNS = ("class_fd", "accuracy", "diversity", "nearest", "fd_pix64")
PRIMARY = reach.PRIMARY
DIGITS = "Source: digits 0-4; target: digits 5-9."


@harness.flags(
    "runs/mind_demo", *transfer_arms.FLAGS,
    click.option("--arms", default="mind,finetune", show_default=True, help=f"Known: {', '.join(ARMS)}; all"),
    click.option("--seeds", type=IntRange(min=1), default=1, show_default=True, help="Paired repetitions"),
    click.option("--kimg", type=IntRange(min=1), default=4, show_default=True, help="Length of fine-tuning"),
    click.option("--epochs", type=IntRange(min=1), default=150, show_default=True, help="Length of Mind2Mind"),
    harness.source_kimg(20),
    click.option("--encoder-kimg", type=IntRange(min=1), default=10, show_default=True, help="... of the encoder"),
    harness.JUDGES, harness.common(harness.TINY),
    click.option("--parallel", type=IntRange(min=1), default=1, show_default=True,
                 help="Trainings at once; more than one distorts the times"))
def main(folder: Path | None, data: str | None, arms: str, seeds: int, kimg: int, epochs: int, source_kimg: int,
         encoder_kimg: int, judges: int, common: str | None, parallel: int, **where: str | None) -> None:
    """A new domain in the latent space of a StyleGAN2 of another: train, measure, look."""
    names = harness.chosen(arms, ARMS, [*ARMS])
    harness.belong(data, where | dict(common=common), {})
    folder = harness.place(folder, "mind2mind", data, "runs/mind_demo")
    command = dict(arms=names, seeds=seeds, kimg=kimg, epochs=epochs, source_kimg=source_kimg,
                   encoder_kimg=encoder_kimg, judges=judges)
    study = latent_transfer.LatentTransfer(folder, {a: ARMS[a] for a in names}, BASELINES, parallel,
                                           **{k: v for k, v in command.items() if k != "arms"})
    if data:
        study.on_images(data, common or harness.TINY, **where)
    else:
        study.on_digits()
    study.run()
    result = reach.summary(names, seeds, study.found, judges) | dict(command=command, primary=PRIMARY,
                                                                     versions=versions())
    study.draw(folder / "mind.png")
    study.study.finish(report(names, seeds, judges, result, study.about() or DIGITS), result,
                       picture=folder / "mind.png")


def report(names: list[str], seeds: int, judges: int, r: dict[str, Any], about: str = DIGITS) -> str:
    """Markdown: final figures, when the bound is reached, cost, and with several seeds paired differences."""
    title = {a: ARMS[a].title for a in names}
    last = {a: [c[-1]["judges"] for c in r["curves"][a]] for a in names}  # [seeds][judges]
    rows = {"reconstructions (floor)": [r["floor"]],
            **{f"{BASELINES[n]} latents": rows for n, rows in r["baselines"].items()},
            **{f"{title[a]}, {r['curves'][a][0][-1]['kimg']:.0f} kimg": last[a] for a in names}}
    lines = [f"{about} In the latent space of a StyleGAN2 of the source, class-conditional; {seeds} paired seed(s), "
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
