# SPDX-License-Identifier: Apache-2.0
"""A run folder as a value. The run may be going on, killed, or have half-written lines: what is missing is a note."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dnnlib import json_file
from dnnlib.run_folder import owner
from dnnlib.util import UserError, three
from gantransfer import snapshot
from gantransfer.data.labels import DataSpec
from gantransfer.method import Method
from gantransfer.methods import METHODS
from gantransfer.metrics import rating
from gantransfer.metrics.rating import Rating
from gantransfer.model import Model, load

# What is asked of the records by kind; a value of another kind, as a hand or another program may leave, is a note.
KINDS = {"training_options": dict(method=str, stage=str, metrics=list, best=str),
         "environment": dict(command=list, gpus=list)}


@dataclass(eq=False)
class Run:
    """What a folder tells. `ticks` are the lines of stats.jsonl, `lines` those of metric-*.jsonl. `labels` and `tail`
    ask for the data set, and are filled by who wants them."""

    folder: Path
    options: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    ticks: list[dict[str, Any]] = field(default_factory=list)
    lines: list[dict[str, Any]] = field(default_factory=list)
    measured: list[Rating] = field(default_factory=list)
    best: Rating | None = None
    snapshots: list[Path] = field(default_factory=list)
    data: DataSpec | None = None
    state: str = ""
    notes: list[str] = field(default_factory=list)
    labels: np.ndarray | None = None  # continuous labels of the training set [n]
    tail: Any = None  # what tail.py found, or why it found nothing

    def part(self, key: str) -> dict[str, Any]:
        """A group of options; empty where there is none."""
        value = self.options.get(key)
        return value if isinstance(value, dict) else {}

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def kimg(self) -> float:
        """Thousands of images shown at the last tick; 0 before the first."""
        return max((k for k in map(kimg_of, self.ticks) if math.isfinite(k)), default=0.0)

    @property
    def keys(self) -> list[str]:
        """Names of statistics, in the order in which they appear."""
        return list(dict.fromkeys(k for t in self.ticks for k, v in t.items() if isinstance(v, dict)))

    def series(self, key: str, part: str = "mean") -> tuple[np.ndarray, np.ndarray]:
        """(kimg [n], values [n]) of a statistic, `part` being num, mean or std; NaN where a tick has no finite one."""
        rows = [(kimg_of(t), number(t[key].get(part))) for t in self.ticks if isinstance(t.get(key), dict)]
        x, y = np.array(rows, np.float64).reshape(-1, 2).T
        return x, y

    def values(self, metric: str, key: str) -> list[Rating]:
        """The comparable measurements of one value, by length."""
        return rating.comparable([r for r in self.measured if (r.metric, r.key) == (metric, key)])

    def line_of(self, row: Rating) -> dict[str, Any]:
        """The whole line of a measurement."""
        return next((x for x in self.lines if x.get("metric") == row.metric and x.get("snapshot_pkl") == row.snapshot
                     and isinstance(x.get("results"), dict) and x["results"].get(row.key) == row.value), {})


def kimg_of(tick: dict[str, Any]) -> float:
    progress = tick.get("Progress/kimg")
    return number(progress.get("mean")) if isinstance(progress, dict) else math.nan


def number(value: Any) -> float:
    """As a float; NaN for null and all that is no number, as logs have for what was not finite."""
    return float(value) if isinstance(value, int | float) and abs(value) < 2**1023 else math.nan


def is_run(folder: Path) -> bool:
    return any((folder / n).is_file() for n in ("training_options.json", "stats.jsonl")) or bool(
        snapshot.find_snapshots(folder))


def read(folder: Path) -> Run:
    """UserError where the folder is no run, or a record in it is damaged."""
    if not is_run(folder):
        raise UserError(f"{folder} is no run: it has neither training_options.json nor stats.jsonl nor a "
                        "network-snapshot-*.pkl")
    run = Run(folder)
    for name in KINDS:
        path = folder / f"{name}.json"
        if path.is_file():
            content = json_file.read(path)
            for key, kind in KINDS[name].items():
                if content.get(key) is not None and not isinstance(content[key], kind):
                    run.notes.append(f"{path.name}: {key} is left out, for it is no {kind.__name__}")
                    del content[key]
            setattr(run, name.removeprefix("training_"), content)
        else:
            run.notes.append(f"there is no {path.name}")
    run.ticks = [t for t in json_file.lines(folder / "stats.jsonl") if math.isfinite(kimg_of(t))]
    if not run.ticks:
        run.notes.append("no tick is logged yet (stats.jsonl)")
    for path in sorted(folder.glob("metric-*.jsonl")):
        run.lines += [x for x in json_file.lines(path) if x.get("metric")]
    failed = [str(x.get("metric")) for x in run.lines if "error" in x]
    if failed:
        run.notes.append(f"failed measurements: {', '.join(dict.fromkeys(failed))}")
    run.measured = rating.ratings(folder)
    try:
        there = [r for r in run.measured if (folder / r.snapshot).is_file()]  # as RUN:best
        run.best = rating.best(there or run.measured, folder)
    except UserError as e:
        run.notes.append(str(e))
    run.snapshots = snapshot.find_snapshots(folder)
    run.data = _data(run)
    run.state = _state(run)
    run.notes += _not_finite(run)
    return run


def _data(run: Run) -> DataSpec | None:
    """What the newest readable snapshot says of the training set."""
    for path in run.snapshots[::-1]:
        try:
            return DataSpec.from_dict(snapshot.load(path).data)
        except UserError as e:
            run.notes.append(str(e))
        except (KeyError, TypeError, ValueError, AttributeError):
            run.notes.append(f"{path.name} does not say what it was trained on")
    if not run.snapshots:
        run.notes.append("no snapshot is written yet, or all were removed: nothing is known of classes")
    return None


def _state(run: Run) -> str:
    """How far training came, and whether it goes on."""
    total, at = number(run.options.get("total_kimg")), run.kimg
    far = f"{three(at)} of {three(total)} kimg" if math.isfinite(total) else f"{three(at)} kimg"
    if who := owner(run.folder):
        return f"training now: {far} ({who})"
    if at >= total - 1e-6:
        return f"finished: {far}"
    try:
        with open(run.folder / "log.txt", encoding="utf-8", errors="replace") as f:
            last = [line.strip() for line in f][-8:]
    except OSError:
        last = []
    said = next((x for x in last[::-1] if re.match(r"Stopped at .*kimg: ", x)), "")
    return said or f"stopped, or killed: {far}"


def _not_finite(run: Run) -> list[str]:
    out = []
    for key in run.keys:
        x, y = run.series(key)
        bad = ~np.isfinite(y)
        if bad.any():
            out.append(f"{key} is not a finite number in {bad.sum()} of {len(y)} ticks, first at "
                       f"{three(float(x[bad][0]))} kimg")
    return out




def rarest_last(data: DataSpec) -> list[int]:
    """Ids of classes with training images, by descending count."""
    counts = data.label.counts
    return sorted((k for k in range(len(counts)) if counts[k] > 0), key=lambda k: (-counts[k], k))


def chosen_snapshot(run: Run) -> Path | None:
    """The best one by its metric if its file is there, else the newest."""
    if run.best and (run.folder / run.best.snapshot).is_file():
        return run.folder / run.best.snapshot
    return run.snapshots[-1] if run.snapshots else None


def generator(path: Path) -> Model:
    """The model of a snapshot. UserError where its run trains no generator: an encoder's makes its source's images."""
    model = load(path)
    model.check_makes_images()
    if METHODS[model.method].sampler is Method.sampler:
        raise UserError(f"{model.method} trains no generator of images")
    return model


def distinct_names(runs: Sequence[Run]) -> list[str]:
    """What to call them beside each other: the folder's name, with the one above it where names repeat."""
    names = [r.name for r in runs]
    return [n if names.count(n) == 1 else f"{r.folder.resolve().parent.name}/{n}" for r, n in zip(runs, names)]
