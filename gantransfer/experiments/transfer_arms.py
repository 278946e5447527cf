# SPDX-License-Identifier: Apache-2.0
"""Ways of transfer on the user's own images: a source of frequent classes, rare classes or another set as the target.

A quarter of each class is held out; judges know all classes, those of the target first, so that a generated image that
looks like a source class is wrong. One source serves all arms and seeds. What has a file in `results` is not trained
again, wherever the file was made.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np

from dnnlib.util import UserError
from gantransfer.commands.flags import PATH
from gantransfer.experiments import harness, own_images, sheets
from gantransfer.experiments.harness import Arm
from gantransfer.experiments.jobs import Job
from gantransfer.experiments.paired_arms import ROWS, fingerprint, only
from gantransfer.experiments.results import COLUMNS, Results
from gantransfer.metrics.paired import train_seconds, versions

STEPS = ("data", "judges", "trainings and figures", "picture", "table")
FREQUENT = "many,medium"
SOURCE = ["--seed=0", "--metrics=none", "--threads=1"]
FLAGS = (
    harness.DATA, harness.HELDOUT,
    click.option("--source-classes", metavar="LIST", help="With --data: classes of the source, or 'all', those of the "
                 f"target too [default: {FREQUENT}; with --target all]"),
    click.option("--target-classes", metavar="LIST", help="With --data: classes to transfer to [default: those that "
                 "the source has not; few where it has all]"),
    click.option("--target", type=PATH, metavar="ZIP", help="With --data: other images with classes to transfer to; "
                 "--heldout is then of them"))


@dataclass
class Sets:
    """Data sets of a transfer, and the commands that make the missing ones."""

    source: Path
    target: Path
    reference: Path  # held out of the target
    judge: Path
    judge_reference: Path
    jobs: list[list[Job]]  # those of a list need what the lists before have made
    old: str = ""  # names of the source's classes
    new: str = ""  # ... of the target's

    def note(self) -> str:
        """What is transferred to what; the sets are there."""
        from gantransfer.data.dataset import ImageDataset

        n, m = (len(ImageDataset(path)) for path in (self.source, self.target))
        return f"Source: {self.old}, {n} images; target: {self.new}, {m} images"


def sets_of(folder: Path, data: str, heldout: str | None, target: str | None, source_classes: str | None,
            target_classes: str | None, shots: int | None) -> Sets:
    """What to train on and to measure with. UserError for classes that do not go together."""
    from gantransfer.data.classes import parse_classes
    from gantransfer.data.dataset import ImageDataset

    whole = ImageDataset(data, use_labels=True)
    label = whole.spec.label
    if target and target_classes:
        raise UserError("--target-classes are of --data; omit them with --target=ZIP, or make that with "
                        "dataset_tool.py --classes")
    everything = source_classes == "all" or target is not None and source_classes is None

    def classes(text: str, flag: str) -> list[int]:
        found = parse_classes(text, label, flag, owner=data, twice=False)
        return [k for k in found if label.counts[k]]

    if not target or not everything:
        own_images.check_classes(Path(data))
        if source_classes is None and not label.shots:
            raise UserError(f"--data={data}: no class is frequent and none rare, so give --source-classes")
    old = None if everything else classes(source_classes or FREQUENT, "--source-classes")
    sources = Path(data) if old is None else folder / "source.zip"
    if target:
        own_images.check_classes(Path(target), *([Path(heldout)] if heldout else []))
        other = ImageDataset(target)
        if other.image_shape != whole.image_shape:
            raise UserError(f"images of --target={target} are {other.image_shape}, those of --data "
                            f"{whole.image_shape}: make both with the same --resolution and --channels")
        pool, ref, first = own_images.own_sets(folder, target, heldout)
        chosen = [] if old is None else [choice(data, sources, old)]
        return Sets(sources, folder / "target.zip", ref, pool, ref, [[*first, *chosen], [
            choice(pool, folder / "target.zip", range(ImageDataset(target, use_labels=True).label_dim), shots)]],
            names(label, old), f"classes of {Path(target).name}{at_most(shots)}")
    own_images.check_classes(Path(data), *([Path(heldout)] if heldout else []))
    new = (classes(target_classes, "--target-classes") if target_classes else list(label.shots.get("few", ()))
           if old is None else [k for k in range(label.dim) if label.counts[k] and k not in old])
    if len(new) < 2:
        raise UserError(f"the target has {len(new)} class{'es' * (len(new) != 1)}, and needs two: choose others with "
                        "--source-classes and --target-classes")
    if both := [k for k in new if old is not None and k in old]:
        raise UserError(f"--target-classes: {names(label, both[:1])} is a class of the source, too; omit it there, or "
                        "give --source-classes=all")
    pool, ref, first = own_images.own_sets(folder, data, heldout)
    rest = [k for k in range(label.dim) if label.counts[k] and k not in new]
    made = Sets(pool if old is None else sources, folder / "target.zip", folder / "target-ref.zip",
                folder / "judge.zip", folder / "judge-ref.zip", [], names(label, old),
                f"{names(label, new)}{at_most(shots)}")
    chosen = [choice(pool, sources, old)] if old is not None else []
    chosen += [choice(pool, made.target, new, shots), choice(ref, made.reference, new),
               choice(pool, made.judge, new + rest), choice(ref, made.judge_reference, new + rest)]
    made.jobs = [first, chosen]
    return made


def choice(source: str | Path, dest: Path, classes: Sequence[int], most: int | None = None) -> Job:
    """The command that writes these classes, renumbered in this order, `most` images of each."""
    return Job(dest.stem, ["dataset_tool", f"--source={source}", f"--classes={','.join(map(str, classes))}",
                           *([f"--per-class={most}"] if most else []), f"--dest={dest}", "--overwrite"])


def at_most(shots: int | None) -> str:
    return f", the first {shots} of each class" if shots else ""


def names(label: Any, classes: Sequence[int] | None) -> str:
    """'a, b, c, d, e, f and 3 more'."""
    if classes is None:
        return "all classes"
    shown = list(map(label.name, classes))
    more = f" and {len(shown) - 6} more" if len(shown) > 6 else ""
    return f"{', '.join(shown[:6])}{more}"


@dataclass
class TransferArms:
    """`whole` does it; then `values` and `seconds` hold what was measured, by arm, seed and kimg."""

    folder: Path
    arms: Mapping[str, Arm]
    seeds: range
    points: Sequence[int]  # kimg at which snapshots are measured
    judges: int
    settings: dict[str, Any]  # what all figures depend on beside the data
    source: Sequence[str]  # flags of its training, whose length is settings["source_kimg"]
    train: Callable[[TransferArms, str, int], dict[int, Path]]  # an arm and seed; its snapshots by kimg
    flags: Callable[[str], list[str]]  # of an arm
    clock: Callable[[TransferArms, str, int, int, Path], float] = lambda t, arm, seed, kimg, path: train_seconds(path)
    values: dict[tuple[str, int, int], list[dict[str, float]]] = field(default_factory=dict)
    seconds: dict[tuple[str, int, int], float] = field(default_factory=dict)

    def whole(self, data: str, columns: Sequence[str], primary: Sequence[str], clock: tuple[str, Callable],
              pairs: Sequence[tuple[str, str]], note: str, picture: Path, out: Path | None, **where: Any) -> None:
        """All steps. `note`: what the source is, and what else is to be said; `where`: as for `prepare`."""
        self.prepare(data, **where)
        self.run()
        self.draw(picture)
        self.finish(columns, primary, clock, pairs, note, picture, out)

    def prepare(self, data: str, heldout: str | None, target: str | None, source_classes: str | None,
                target_classes: str | None, shots: int | None = None, labelled: bool = False) -> None:
        """Data and judges. `labelled`: the source is of classes, of which the target's may not be one."""
        self.sets = sets_of(self.folder, data, heldout, target, source_classes, target_classes, shots)
        if labelled:
            own_images.check_classes(Path(data))
            if source_classes == "all" and not target:
                raise UserError("--source-classes=all: the source knows its classes, so the target's are not new; name "
                                "those of the source, or give --target=ZIP")
        self.study = harness.Study(self.folder, STEPS, digits=False)
        self.study.step()
        self.study.run([Job("check of the source", ["train", "--dry-run", *self.source, f"--data={data}", *SOURCE])],
                       quiet=True)  # before anything is made
        self.study.is_of(data=fingerprint(data), heldout=heldout and fingerprint(heldout),
                         target=target and fingerprint(target), classes=[self.sets.old, self.sets.new], **self.settings)
        for todo in self.sets.jobs:
            self.study.run([job for job in todo if not made(job)], quiet=True)
        self.label = own_images.check_classes(self.sets.target, self.sets.reference)
        self.study.step()
        self.judge_files = [self.folder / f"judge{j}.pt" for j in range(self.judges)]
        self.study.run(harness.judge_jobs(self.sets.judge, self.sets.judge_reference, self.judge_files))
        self.results = Results(self.folder / "results", dict(
            points=list(self.points), source=fingerprint(self.sets.source), target=fingerprint(self.sets.target),
            heldout=fingerprint(self.sets.reference), judges=[harness.sha256(p) for p in self.judge_files],
            **self.settings))

    def run(self) -> None:
        """Train and measure what no file tells of, seed after seed, so that a study stopped early has whole pairs."""
        self.study.step()
        pairs = [(a, s) for s in self.seeds for a in self.arms]
        found = {(a, s): self.results.read(a, s, self.flags(a)) for a, s in pairs}
        todo = [pair for pair in pairs if found[pair] is None]
        print(f"{len(todo)} of {len(pairs)} arms and seeds to do, one after another", flush=True)
        if todo:
            (self.source_file,) = self.study.train([("source", self.folder / "runs", "source", self.settings[
                "source_kimg"], [*self.source, f"--data={self.sets.source}", *SOURCE])])
        for i, (a, s) in enumerate(todo, 1):
            print(f"Training {i} of {len(todo)}: {self.arms[a].of(s)}", flush=True)
            snapshots = self.train(self, a, s)
            harness.measure(self.study, {f"{a}/{s} {k} kimg": p for k, p in snapshots.items()}, self.sets.reference,
                            self.judge_files)
            found[a, s] = self.results.write(a, s, self.flags(a), dict(
                lengths=[dict(kimg=k, judges=harness.measured(p, self.judge_files), snapshot=str(
                    p.relative_to(self.folder)), seconds=self.clock(self, a, s, k, p)) for k, p in snapshots.items()],
                machine=platform.processor() or platform.machine(), versions=versions()))
        for (a, s), values in found.items():
            for each in values["lengths"]:
                self.values[a, s, each["kimg"]], self.seconds[a, s, each["kimg"]] = each["judges"], each["seconds"]
        self.found = found

    def draw(self, path: Path) -> None:
        """A row per class with its number of training images: those | held-out ones | each arm, of the first seed."""
        self.study.step()

        def last(arm: str) -> list[np.ndarray] | None:
            found = self.folder / self.found[arm, self.seeds[0]]["lengths"][-1]["snapshot"]
            return sheets.generated(sheets.sampler_of(found), self.label.dim, COLUMNS) if found.exists() else None

        draw_target(path, self.sets, self.results, self.seeds[0], {
            a: (arm.title, lambda a=a: last(a)) for a, arm in self.arms.items()})

    def finish(self, columns: Sequence[str], primary: Sequence[str], clock: tuple[str, Callable],
               pairs: Sequence[tuple[str, str]], note: str, picture: Path, out: Path | None) -> None:
        """Table, values, where they are."""
        self.study.step()
        many = len(self.seeds) > 1
        lines = [f"{self.sets.note()}. {note} {len(self.seeds)} paired seed{'s' * many}, {self.judges} "
                 f"judge{'s' * (self.judges > 1)}{'; mean +- sample standard deviation' * many}. Primary: "
                 f"{' and '.join(map(harness.name_of, primary))}, fixed before the runs. All arms see equally many "
                 "images of the target.", *own_images.judges_note(self.judge_files)]
        lines += harness.tables_by_length({a: arm.title for a, arm in self.arms.items()}, self.seeds, self.points,
                                          self.values, columns, clock, self.seconds, pairs)
        self.study.finish("\n".join(lines), dict(
            command=dict(arms=list(self.arms), seeds=list(self.seeds), kimg=list(self.points), judges=self.judges,
                         **self.settings), primary=list(primary), versions=versions(),
            values=harness.rows_of(self.values, self.seconds)), picture=picture, out=out)


Rows = Sequence[np.ndarray]  # per class


def draw_target(path: Path, sets: Sets, results: Results, seed: int,
                arms: Mapping[str, tuple[str, Callable[[], Rows | None]]]) -> None:
    """A row per class of the target: its images | held-out ones | each arm's: name -> (title, what makes them)."""
    from gantransfer.data.dataset import ImageDataset, reference_dataset

    target = ImageDataset(sets.target, use_labels=True)
    label, held = target.spec.label, reference_dataset(target.spec, path=str(sets.reference))
    rows = sorted(np.flatnonzero(label.counts).tolist(), key=lambda k: -label.counts[k])[:ROWS]
    blocks = {"training images": only(sheets.reals(target, COLUMNS), rows),
              "held out": only(sheets.reals(held, COLUMNS), rows)}
    for name, (title, make) in arms.items():
        images = results.shown(name, seed, title, len(rows), lambda make=make: (
            None if (each := make()) is None else only(each, rows)))
        if images is not None:
            blocks[title] = images
    sheets.save_sheet(path, blocks, list(map(label.counted, rows)), per_band=3,
                      title=f"{target.spec.name}, seed {seed}")


def made(job: Job) -> bool:
    """Whether the data set of a command is there."""
    return any(w.startswith("--dest=") and Path(w.removeprefix("--dest=")).exists() for w in job.argv)
