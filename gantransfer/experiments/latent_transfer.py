# SPDX-License-Identifier: Apache-2.0
"""A target in the latent space of a StyleGAN2 of a source: trainings of experiment mind2mind, on the digits or on the
user's images. Arm 'mind' trains on latents of the target, the others continue the source on its images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gantransfer.experiments import harness, jobs, own_images, reach, sheets, transfer_arms
from gantransfer.experiments.harness import Arm
from gantransfer.experiments.paired_arms import fingerprint
from gantransfer.experiments.results import COLUMNS, Results
from gantransfer.experiments.transfer_arms import Sets
from gantransfer.metrics.paired import versions

SIZES = ["--z_dim=16", "--w_dim=16"]
OWN_SIZES = ["--z_dim=64", "--w_dim=64"]  # on the user's own images
OWN_HIDDEN = ["--hidden_g=256,256", "--hidden_d=256,256"]
STEPS = ("data", "judges", "source", "encoder", "latents", "trainings", "figures", "table and picture")


@dataclass
class LatentTransfer:
    """`on_digits` or `on_images`, then `run`, `draw`; `found` holds what was measured, by arm and seed."""

    folder: Path
    arms: Mapping[str, Arm]
    baselines: Mapping[str, str]  # latents without a training
    parallel: int
    seeds: int
    kimg: int  # of fine-tuning
    epochs: int  # of Mind2Mind
    source_kimg: int
    encoder_kimg: int
    judges: int

    def on_digits(self) -> None:
        source, target, reference = (self.folder / f"{name}.zip" for name in ("source", "target", "target-ref"))
        sets = Sets(source, target, reference, target, reference, [harness.data_jobs("digits", {
            path: dict(split=split, classes=classes) for path, classes, split in (
                (source, "0-4", "pool"), (target, "5-9", "pool"), (reference, "5-9", "reference"))})])
        self._prepare(sets, [harness.TINY], SIZES)

    def on_images(self, data: str, common: str, **where: str | None) -> None:
        """`where`: as for `transfer_arms.sets_of`."""
        cfg = harness.train_flags(common, "--common")
        self._prepare(transfer_arms.sets_of(self.folder, data, **where, shots=None), cfg, OWN_SIZES, data, dict(
            target=where["target"] and fingerprint(where["target"]), common=cfg,
            heldout=where["heldout"] and fingerprint(where["heldout"])))

    def _prepare(self, sets: Sets, cfg: list[str], sizes: list[str], data: str | None = None,
                 of: Mapping[str, Any] | None = None) -> None:
        """Data and judges."""
        self.sets, self.cfg, self.sizes, self.own = sets, cfg, sizes, data is not None
        self.study = harness.Study(self.folder, STEPS, self.parallel, digits=not self.own)
        self.study.step()
        if self.own:
            self.study.run([jobs.Job("check of the source", ["train", "--dry-run", "--method=stylegan2", *sizes, *cfg,
                                                             f"--data={data}", "--metrics=none"])], quiet=True)
            of = dict(of, data=fingerprint(data), classes=[sets.old, sets.new])
        self.study.is_of(source_kimg=self.source_kimg, encoder_kimg=self.encoder_kimg, **(of or {}))
        for todo in sets.jobs:
            self.study.run([job for job in todo if not transfer_arms.made(job)])
        self.study.step()
        self.judge_files = [self.folder / f"judge{j}.pt" for j in range(self.judges)]
        self.study.run(harness.judge_jobs(sets.judge, sets.judge_reference, self.judge_files), quiet=True)
        if self.own:
            own_images.check_classes(sets.target, sets.reference)
            self.results = Results(self.folder / "results", dict(
                source=fingerprint(sets.source), target=fingerprint(sets.target), heldout=fingerprint(sets.reference),
                judges=[harness.sha256(p) for p in self.judge_files], common=cfg, kimg=self.kimg, epochs=self.epochs,
                source_kimg=self.source_kimg, encoder_kimg=self.encoder_kimg))

    def run(self) -> None:
        """Train and measure; on the user's images what no file tells of."""
        pairs, self.snapshots, self.encoder = [(a, s) for s in range(self.seeds) for a in self.arms], {}, None
        self.found: dict[tuple[str, int], Any] = {
            (a, s): self.results.read(a, s, self.arms[a].flags) if self.own else None for a, s in pairs}
        todo = [pair for pair, what in self.found.items() if what is None]
        if not todo:
            self.study.done = len(STEPS) - 1
            return
        source = self.encode()
        self.study.step()
        self.train(todo, source)
        self.study.step()
        values = reach.measure(self.folder, self.snapshots, self.encoder, self.judges, self.baselines,
                               self.sets.reference)
        for (a, s), what in reach.found(self.folder, self.snapshots, values, self.encoder, self.baselines).items():
            self.found[a, s] = self.results.write(a, s, self.arms[a].flags, dict(
                what, versions=versions())) if self.own else what

    def encode(self) -> Path:
        """The source and its encoder, trained; the target's latents lie beside it."""
        rest = [f"--data={self.sets.source}", "--threads=1", "--metrics=none"]
        runs = self.folder / "runs"
        self.study.step()
        (source,) = self.study.train([("source", runs, "source", self.source_kimg, [
            "--method=stylegan2", *self.sizes, *self.cfg, *rest])])
        self.study.step()
        (self.encoder,) = self.study.train([("encoder", runs, "encoder", self.encoder_kimg, [
            "--method=encoder", f"--source={source}", harness.TINY, *rest])])
        self.study.step()
        self.study.run([jobs.Job("encode", ["encode", f"--data={self.sets.target}", f"--network={self.encoder}",
                                            "--accept", "--device=cpu"])])
        return source

    def train(self, pairs: list[tuple[str, int]], source: Path) -> None:
        """Snapshots of arms and seeds, in order of length."""
        from gantransfer.data.dataset import ImageDataset
        from gantransfer.snapshot import find_snapshots

        target = self.folder / "target.zip"
        length = math.ceil(self.epochs * len(ImageDataset(target)) / 1000)
        tune = [*(self.cfg if self.own else []), f"--source={source}", *self.sizes, "--snap=1", "--tick=1"]
        mind = [*(OWN_HIDDEN if self.own else []), f"--source={self.encoder}", "--accept_encoder=True", "--snap=1",
                f"--tick={length / 6:g}"]
        last = self.study.train([(
            self.arms[a].of(s), self.folder / "runs", jobs.run_desc(a, s), length if a == "mind" else self.kimg, [
                f"--data={target}", "--cond=True", f"--seed={s}", "--metrics=none", "--threads=1", *self.arms[a].flags,
                *(mind if a == "mind" else tune)]) for a, s in pairs])
        self.snapshots = {pair: find_snapshots(path.parent) for pair, path in zip(pairs, last)}

    def about(self) -> str:
        """What a report says of the user's images."""
        return " ".join([f"{self.sets.note()}.", *own_images.judges_note(self.judge_files)]) if self.own else ""

    def draw(self, path: Path) -> None:
        """A row per target class: its images | reconstructions | each arm, of the first seed."""
        self.study.step()
        if not self.own:
            return reach.draw(path, self.folder, {arm.title: self.snapshots[a, 0][-1] for a, arm in self.arms.items()},
                              self.encoder)
        classes = len(own_images.check_classes(self.sets.target).counts)
        blocks = {"reconstructions": ("reconstructions", lambda: (
            reach.reconstructions(self.folder, self.encoder, COLUMNS) if self.encoder else None))}
        blocks |= {a: (arm.title, lambda a=a: sheets.generated(
            sheets.sampler_of(self.snapshots[a, 0][-1]), classes, COLUMNS) if (a, 0) in self.snapshots else None)
            for a, arm in self.arms.items()}
        transfer_arms.draw_target(path, self.sets, self.results, 0, blocks)
