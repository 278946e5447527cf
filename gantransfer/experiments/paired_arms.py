# SPDX-License-Identifier: Apache-2.0
"""Arms of one data set against each other: paired seeds, judges, a file of figures per arm and seed, a picture.

On long-tailed splits of the digits, one per seed, or on images of the user's own. Trainings follow one another and are
never at the same time, so that their seconds compare.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dnnlib.util import UserError
from gantransfer.experiments import harness, jobs, own_images, sheets
from gantransfer.experiments.harness import Arm
from gantransfer.experiments.results import COLUMNS, Results
from gantransfer.metrics.paired import train_seconds, versions

STEPS = ("data", "judges and splits", "trainings and figures", "picture", "tables")
SNAPSHOTS = 10  # of a run, of which --best chooses
CHOSEN_BY = "class_fd"
ROWS = 16  # classes of a picture


@dataclass
class PairedArms:
    """`prepare`, `run` and `draw` are the steps; then `figures` and `seconds` hold what was measured."""

    folder: Path
    arms: Mapping[str, Arm]  # those compared, in order
    common: str  # flags of `train` for all
    seeds: range
    kimg: float
    judges: int
    best: bool = False
    notes: list[str] = field(default_factory=list)  # of the data, for the report

    def __post_init__(self) -> None:
        self.for_all = harness.train_flags(self.common, "--common")

    def prepare(self, data: str | None, heldout: str | None, imf: float | None, groups: str | None) -> None:
        """Data, judges, splits."""
        if data is None and (heldout or groups):
            raise UserError(f"--{'heldout' if heldout else 'groups'} is for --data=ZIP")
        if groups and imf:
            raise UserError("--groups counts the images of --data, --imf takes some away; omit one of them")
        if groups:
            own_images.limits(groups)  # a mistake in it is said before there are data and judges
        self.own, folder = data is not None, self.folder
        if self.own:
            own_images.check_classes(Path(data), *([Path(heldout)] if heldout else []))
        self.imf = 25.0 if imf is None and not self.own else imf
        self.study = harness.Study(folder, STEPS, digits=not self.own)
        self.study.step()
        if self.own:
            self.study.is_of(data=fingerprint(data), heldout=heldout and fingerprint(heldout))
            pool, ref, todo = own_images.own_sets(folder, data, heldout)
        else:
            pool, ref, todo = harness.digits(folder)
        self.study.run(todo)
        self.test, self.validation, todo = own_images.halves(folder, ref) if self.best else (ref, ref, [])
        if self.own:
            own_images.check_classes(pool, ref)
        self.study.run(todo)
        if self.own:
            own_images.check_classes(pool, self.test, self.validation)
        # What the user has written is checked before anything trains for hours.
        self.splits: dict[int, tuple[Path, str | None]] = dict.fromkeys(self.seeds, (pool, None))
        self.study.run([jobs.Job(f"check of {a}", ["train", "--dry-run", *self.words(a, self.seeds[0])]) for a, arm in
                        self.arms.items() if arm.more is not None or self.common not in (harness.TINY, harness.OWN)],
                       quiet=True)

        self.study.step()
        self.judge_files = [folder / f"judge{j}.pt" for j in range(self.judges)]
        todo = harness.judge_jobs(pool, ref, self.judge_files)
        if self.imf is not None:
            self.splits = {s: (folder / f"split{s}.zip", f"lt_{self.imf:g}.json") for s in self.seeds}
            how = (None, "count") if self.own else (114, "random")
            todo += [job for s, (path, _) in self.splits.items()
                     for job in harness.split_job(pool, path, s, self.imf, *how)]
        elif groups is not None:
            self.splits = dict.fromkeys(self.seeds, (folder / "groups.zip", "lt_natural.json"))
            counts = own_images.check_classes(pool).counts
            todo += own_images.groups_job(pool, folder / "groups.zip", counts, groups)
        self.study.run(todo)
        self._settle(groups)

    def _settle(self, groups: str | None) -> None:
        """What all figures depend on, and what the report says of it."""
        from gantransfer.data.dataset import ImageDataset

        sets = {s: ImageDataset(s[0], fname=s[1], use_labels=True) for s in dict.fromkeys(self.splits.values())}
        self.prints = {s: sets[split].fingerprint() for s, split in self.splits.items()}
        self.data = sets[self.splits[self.seeds[0]]]
        label = self.data.spec.label
        self.results = Results(self.folder / "results", dict(
            kimg=self.kimg, heldout=fingerprint(self.test), groups=label.shots,
            chosen_on=fingerprint(self.validation) if self.best else None,
            judges=[harness.sha256(p) for p in self.judge_files]))
        if label.shots:
            self.notes.append(f"Classes by training images: {own_images.groups_note(label, groups)}.")
        else:
            self.notes.append("The classes fall into no groups (frequent, rare): they are equally large, or fewer than "
                              "three.")
        self.notes += own_images.judges_note(self.judge_files)

    def run(self) -> None:
        """Train and measure what no file tells of, arm after arm, so that a study stopped early has whole pairs."""
        self.study.step()
        pairs = [(a, s) for s in self.seeds for a in self.arms]
        self.found = {(a, s): self.results.read(a, s, self.flags(a), train=self.prints[s]) for a, s in pairs}
        todo = [pair for pair in pairs if self.found[pair] is None]
        print(f"{len(todo)} of {len(pairs)} trainings to do, one after another", flush=True)
        for i, (a, s) in enumerate(todo, 1):
            print(f"Training {i} of {len(todo)}: {self.arms[a].of(s)}", flush=True)
            self.found[a, s] = self.one(a, s)

    def flags(self, arm: str) -> list[str]:
        return [harness.in_kimg(word, self.kimg) for word in [*self.for_all, *self.arms[arm].flags]]

    def desc(self, arm: str, seed: int) -> str:
        """What the run is called. Whatever differs from the study's own is in a hash behind it."""
        plain = not self.own and not self.best and self.common == harness.TINY and self.arms[arm].more is None
        name = jobs.run_desc(arm, seed) + ("" if self.imf in (None, 25) else f"-imf{self.imf:g}")
        key = repr([self.flags(arm), self.best, self.imf, self.data.spec.label.shots])
        return name if plain else f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:6]}"

    def words(self, arm: str, seed: int) -> list[str]:
        """The flags of a training but its folder, name and length."""
        data, fname = self.splits[seed]
        return [f"--data={data}", *([f"--fname={fname}"] if fname else []), "--cond=True", f"--seed={seed}",
                "--metrics=none", "--threads=1", *self.flags(arm),
                *(["--snap=1", f"--tick={max(self.kimg / SNAPSHOTS, 1):g}"] if self.best else [])]

    def one(self, arm: str, seed: int) -> dict[str, Any]:
        """Train, measure, write the file."""
        name = self.arms[arm].of(seed)
        (path,) = self.study.train([
            (name, self.folder / "runs", self.desc(arm, seed), self.kimg, self.words(arm, seed))])
        harness.measure(self.study, {name: path}, self.test, self.judge_files)
        values = dict(last=harness.measured(path, self.judge_files), seconds=train_seconds(path))
        if self.best:
            values |= self.best_of(name, path)
        return self.results.write(arm, seed, self.flags(arm), dict(
            values, machine=platform.processor() or platform.machine(), versions=versions()), train=self.prints[seed])

    def best_of(self, name: str, last: Path) -> dict[str, Any]:
        """The snapshot of a run that is nearest to the validation part under the first judge, and its figures."""
        from gantransfer.snapshot import find_snapshots

        paths = find_snapshots(last.parent)
        first, room = self.judge_files[:1], "validation{}"
        names = {f"{name} {p.stem.rpartition('-')[2]}": p for p in paths}
        harness.measure(self.study, names, self.validation, first, room)
        curve = [harness.measured(p, first, room)[0][CHOSEN_BY] for p in paths]
        best = paths[int(np.argmin(curve))]
        harness.measure(self.study, {f"{name} best": best}, self.test, self.judge_files)
        return dict(best=harness.measured(best, self.judge_files), best_kimg=harness.kimg_of(best),
                    validation=[[harness.kimg_of(p), v] for p, v in zip(paths, curve)])

    def figures(self, which: str = "last") -> dict[str, list[list[dict[str, float]]]]:
        """{arm: [judges][seeds] figures} of the 'last' or the 'best' snapshots."""
        return {a: [[self.found[a, s][which][j] for s in self.seeds] for j in range(self.judges)]
                for a in self.arms}

    def of(self, key: str) -> dict[str, list[float]]:
        """{arm: per seed} of another entry of the files, such as 'seconds'."""
        return {a: [self.found[a, s][key] for s in self.seeds] for a in self.arms}

    def draw(self, path: Path) -> None:
        """A row per class with its number of training images: held-out images | each arm, of the first seed."""
        from gantransfer.data.dataset import reference_dataset

        self.study.step()
        label, first = self.data.spec.label, self.seeds[0]
        order = sorted(np.flatnonzero(label.counts), key=lambda k: -label.counts[k])
        rows = [int(order[i]) for i in np.unique(np.linspace(0, len(order) - 1, min(len(order), ROWS)).astype(int))]
        blocks = {"held out": only(sheets.reals(reference_dataset(self.data.spec, path=str(self.test)), COLUMNS), rows)}
        for a, arm in self.arms.items():
            images = self.results.shown(a, first, arm.title, len(rows), lambda a=a: self.draw_one(a, label.dim, rows))
            if images is not None:
                blocks[arm.title] = images
        sheets.save_sheet(path, blocks, list(map(label.counted, rows)), per_band=4,
                          title=f"{self.data.spec.name}, {self.kimg:g} kimg, seed {first}")

    def draw_one(self, arm: str, classes: int, rows: Sequence[int]) -> list[np.ndarray] | None:
        """Images of the last snapshot of the first seed, if it is here."""
        desc = self.desc(arm, self.seeds[0])
        last = jobs.final_snapshot(jobs.run_folder(self.folder / "runs", desc, self.kimg), self.kimg)
        return None if last is None else only(sheets.generated(sheets.sampler_of(last), classes, COLUMNS), rows)


def only(images: Sequence[np.ndarray], rows: Sequence[int]) -> list[np.ndarray]:
    return [images[k] for k in rows]


def fingerprint(path: str | Path) -> str:
    from gantransfer.data.dataset import ImageDataset

    return ImageDataset(path, use_labels=True).fingerprint()
