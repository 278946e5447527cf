# SPDX-License-Identifier: Apache-2.0
"""gantransfer experiment mind2mind: a new domain through a frozen auto-encoder: Mind2Mind, fine-tuning, FreezeD.

From digits 0-4 to digits 5-9: trains a small StyleGAN2 on the source digits and an encoder for it, encodes the target
digits once, trains Mind2Mind, and, from the same source, full fine-tuning and FreezeD. Measures all at several lengths
against held-out digits: when does each come within 5 % of the way from the start to the auto-encoder's floor? With
--seeds=5 it is the published comparison. On images of your own (--data) the source is of the frequent classes, or of
all images, and the target are the rare ones or another set.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from gantransfer.commands.flags import IntRange
from gantransfer.experiments import harness, jobs, own_images, reach, sheets, transfer_arms
from gantransfer.experiments.harness import Arm
from gantransfer.experiments.paired_arms import fingerprint
from gantransfer.experiments.results import COLUMNS as SHOWN
from gantransfer.experiments.results import Results
from gantransfer.experiments.transfer_arms import Sets
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
DIGITS = "Source: digits 0-4; target: digits 5-9."


OWN_SIZES = ["--z_dim=64", "--w_dim=64"]  # on the user's own images
OWN_HIDDEN = ["--hidden_g=256,256", "--hidden_d=256,256"]
STEPS = ("data", "judges", "source", "encoder", "latents", "trainings", "figures", "table and picture")


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
def main(folder: Path | None, data: str | None, heldout: str | None, source_classes: str | None,
         target_classes: str | None, target: str | None, arms: str, seeds: int, kimg: int, epochs: int,
         source_kimg: int, encoder_kimg: int, judges: int, common: str | None, parallel: int) -> None:
    """A new domain in the latent space of a StyleGAN2 of another: train, measure, look."""
    names = harness.chosen(arms, ARMS, [*ARMS])
    where = dict(heldout=heldout, source_classes=source_classes, target_classes=target_classes, target=target)
    harness.belong(data, where | dict(common=common), {})
    folder = harness.place(folder, "mind2mind", data, "runs/mind_demo")
    command = dict(arms=names, seeds=seeds, kimg=kimg, epochs=epochs, source_kimg=source_kimg,
                   encoder_kimg=encoder_kimg, judges=judges)
    lengths = {k: v for k, v in command.items() if k.endswith("kimg") or k == "epochs"}
    cfg = harness.train_flags(common or harness.TINY, "--common") if data else [harness.TINY]
    sets = transfer_arms.sets_of(folder, data, **where, shots=None) if data else digits(folder)
    study = harness.Study(folder, STEPS, parallel, digits=not data)
    study.step()
    if data:
        study.run([jobs.Job("check of the source", ["train", "--dry-run", "--method=stylegan2", *OWN_SIZES, *cfg,
                                                    f"--data={data}", "--metrics=none"])], quiet=True)
    study.is_of(source_kimg=source_kimg, encoder_kimg=encoder_kimg, **(dict(
        data=fingerprint(data), target=target and fingerprint(target), classes=[sets.old, sets.new], common=cfg,
        heldout=heldout and fingerprint(heldout)) if data else {}))
    for todo in sets.jobs:
        study.run([job for job in todo if not transfer_arms.made(job)])
    study.step()
    judge_files = [folder / f"judge{j}.pt" for j in range(judges)]
    study.run(harness.judge_jobs(sets.judge, sets.judge_reference, judge_files), quiet=True)
    results, pairs = None, [(a, s) for s in range(seeds) for a in names]
    each: dict[tuple[str, int], Any] = dict.fromkeys(pairs)
    if data:
        own_images.check_classes(sets.target, sets.reference)
        results = Results(folder / "results", dict(
            source=fingerprint(sets.source), target=fingerprint(sets.target), heldout=fingerprint(sets.reference),
            judges=[harness.sha256(p) for p in judge_files], common=cfg, **lengths))
        each = {(a, s): results.read(a, s, ARMS[a].flags) for a, s in pairs}
    todo, snapshots, encoder = [pair for pair, what in each.items() if what is None], {}, None
    if todo:
        encoder = encoded(study, sets, source_kimg, encoder_kimg, cfg, OWN_SIZES if data else SIZES)
        study.step()
        snapshots = train_arms(study, todo, kimg, epochs, encoder, cfg if data else [], bool(data))
        study.step()
        values = reach.measure(folder, snapshots, encoder[1], judges, BASELINES, sets.reference)
        for (a, s), what in reach.found(folder, snapshots, values, encoder[1], BASELINES).items():
            each[a, s] = results.write(a, s, ARMS[a].flags, dict(what, versions=versions())) if results else what
    else:
        study.done = len(STEPS) - 1
    result = reach.summary(names, seeds, each, judges) | dict(command=command, primary=PRIMARY, versions=versions())
    study.step()
    if results:
        draw_own(folder / "mind.png", sets, results, names, snapshots, encoder and encoder[1])
    else:
        reach.draw(folder / "mind.png", folder, {ARMS[a].title: snapshots[a, 0][-1] for a in names}, encoder[1])
    about = " ".join([f"{sets.note()}.", *own_images.judges_note(judge_files)]) if data else DIGITS
    study.finish(report(names, seeds, judges, result, about), result, picture=folder / "mind.png")


def digits(folder: Path) -> Sets:
    source, target, reference = (folder / f"{name}.zip" for name in ("source", "target", "target-ref"))
    return Sets(source, target, reference, target, reference, [harness.data_jobs("digits", {
        path: dict(split=split, classes=classes) for path, classes, split in (
            (source, "0-4", "pool"), (target, "5-9", "pool"), (reference, "5-9", "reference"))})])


def encoded(study: harness.Study, sets: Sets, source_kimg: int, encoder_kimg: int, cfg: Sequence[str],
            sizes: Sequence[str]) -> tuple[Path, Path]:
    """(source, its encoder), trained; the target's latents lie beside it."""
    rest = [f"--data={sets.source}", "--threads=1", "--metrics=none"]
    study.step()
    (source,) = study.train([("source", study.folder / "runs", "source", source_kimg, [
        "--method=stylegan2", *sizes, *cfg, *rest])])
    study.step()
    (encoder,) = study.train([("encoder", study.folder / "runs", "encoder", encoder_kimg, [
        "--method=encoder", f"--source={source}", harness.TINY, *rest])])
    study.step()
    study.run([jobs.Job("encode", ["encode", f"--data={sets.target}", f"--network={encoder}", "--accept",
                                   "--device=cpu"])])
    return source, encoder


def train_arms(study: harness.Study, pairs: Sequence[tuple[str, int]], kimg: int, epochs: int,
               frozen: tuple[Path, Path], cfg: Sequence[str], own: bool) -> dict[tuple[str, int], list[Path]]:
    """Snapshots of arms and seeds, in order of length."""
    from gantransfer.data.dataset import ImageDataset
    from gantransfer.snapshot import find_snapshots

    target, (source, encoder) = study.folder / "target.zip", frozen
    length = math.ceil(epochs * len(ImageDataset(target)) / 1000)
    tune = [*cfg, f"--source={source}", *(OWN_SIZES if own else SIZES), "--snap=1", "--tick=1"]
    mind = [*OWN_HIDDEN * own, f"--source={encoder}", "--accept_encoder=True", "--snap=1", f"--tick={length / 6:g}"]
    found = study.train([(ARMS[a].of(s), study.folder / "runs", jobs.run_desc(a, s), length if a == "mind" else kimg, [
        f"--data={target}", "--cond=True", f"--seed={s}", "--metrics=none", "--threads=1", *ARMS[a].flags,
        *(mind if a == "mind" else tune)]) for a, s in pairs])
    return {pair: find_snapshots(path.parent) for pair, path in zip(pairs, found)}


def draw_own(path: Path, sets: Sets, results: Results, names: Sequence[str],
             snapshots: dict[tuple[str, int], list[Path]], encoder: Path | None) -> None:
    """A row per target class: its images | held-out ones | reconstructions | each arm, of the first seed."""
    classes = len(own_images.check_classes(sets.target).counts)
    arms = {"reconstructions": ("reconstructions", lambda: (
        reach.reconstructions(sets.target.parent, encoder, SHOWN) if encoder else None))}
    arms |= {a: (ARMS[a].title, lambda a=a: sheets.generated(
        sheets.sampler_of(snapshots[a, 0][-1]), classes, SHOWN) if (a, 0) in snapshots else None) for a in names}
    transfer_arms.draw_target(path, sets, results, 0, arms)


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
