# SPDX-License-Identifier: Apache-2.0
"""What is drawn of a run's logs over thousands of images: which statistics share a panel, and in which section."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from gantransfer.metrics import directions, rating
from gantransfer.metrics.names import GROUPS, group_of, title
from gantransfer.metrics.rating import Rating
from gantransfer.report.read import Run, number

POINTS = 400  # of a line; more are averaged in equal numbers of neighbours


@dataclass
class Series:
    """One line: of which run, and of which variant of the panel's statistic ('real', 'few'; '' where there is one)."""

    run: int
    x: np.ndarray  # [n] kimg
    y: np.ndarray  # [n], NaN where it is not finite
    variant: str = ""
    spread: np.ndarray | None = None  # [n] standard deviation within a tick
    best: tuple[float, float] | None = None  # the best of a rated value


@dataclass
class Panel:
    title: str
    unit: str = ""
    series: list[Series] = field(default_factory=list)
    points: bool = False  # few measurements, each of which is shown

    @property
    def variants(self) -> list[str]:
        return list(dict.fromkeys(s.variant for s in self.series))


@dataclass
class Section:
    title: str
    panels: list[Panel]
    notes: list[str] = field(default_factory=list)


def of_training(runs: Sequence[Run]) -> list[Section]:
    """Losses, scores and signs, augmentation, gradients, seconds and memory."""
    keys = list(dict.fromkeys(k for r in runs for k in r.keys))

    def named(pattern: str) -> list[str]:
        return [k for k in keys if re.fullmatch(pattern, k)]

    scores = named(r"Loss/(scores|signs)/.*")
    rest = [k for k in named(r"(?!(Loss|Progress|Grad|Timing|Resources)/).+")]
    sections = [
        _section("Losses", runs, [k for k in named("Loss/.*") if k not in scores], spread=len(runs) == 1),
        _section("Scores and signs of the discriminator", runs, scores),
        _section("Augmentation and schedules", runs, [k for k in named("Progress/.*")
                                                      if k not in ("Progress/tick", "Progress/kimg")]),
        _section("Gradients", runs, [k for k in named("Grad/.*") if not k.startswith("Grad/nonfinite/")]),
        _seconds(runs, named("Timing/.*"), named("Resources/.*")),
        _section("Other statistics", runs, rest)]
    sections[3] = _gradients(runs, named("Grad/nonfinite/.*"), sections[3])
    return [s for s in sections if s.panels or s.notes]


def of_metrics(runs: Sequence[Run]) -> list[Section]:
    """A panel per measured value, its best one marked; groups of classes in it, or of several runs in panels."""
    found = list(dict.fromkeys((r.metric, r.key) for run in runs for r in run.measured))
    whole, grouped = Section("Metrics over images", []), Section("Metrics by groups of classes", [])
    for metric, key in found:
        base, group = group_of(key)
        way = rating.direction(metric, key)
        if way == directions.UNRATED:
            continue
        owner = f"{metric}: " if len({m for m, _ in found}) > 1 and key != metric else ""
        name = owner + value_name(metric, key) + {directions.LOWER: " (lower is better)",
                                                  directions.HIGHER: " (higher is better)"}.get(way, "")
        lines = [_measured(i, run.values(metric, key), rates=way is not None) for i, run in enumerate(runs)]
        panel = Panel(name, series=[s for s in lines if s is not None], points=True)
        if not group:
            whole.panels.append(panel)
        elif len(runs) > 1:
            grouped.panels.append(panel)
        else:
            by_group = f"{owner}{value_name(metric, base)} by group"
            here = next((p for p in grouped.panels if p.title == by_group), None)
            if here is None:
                grouped.panels.append(here := Panel(by_group, points=True))
            for s in panel.series:
                s.variant, s.best = group, None
                here.series.append(s)
            here.series.sort(key=lambda s: list(GROUPS).index(s.variant))
    return [s for s in (whole, grouped) if s.panels]


def value_name(metric: str, key: str) -> str:
    """'per-class FD' of report_x_class_fd, 'precision' of pr50k3_full_precision; the metric's name where it has one
    value."""
    known = title(metric, key)
    return known if known != key or key == metric else key.removeprefix(f"{metric}_").replace("_", " ")


def shortened(x: np.ndarray, *values: np.ndarray) -> tuple[np.ndarray, ...]:
    """At most POINTS of each: means of neighbours, without those that are not finite."""
    if len(x) <= POINTS:
        return x, *values
    parts = np.array_split(np.arange(len(x)), POINTS)

    def mean(v: np.ndarray) -> np.ndarray:
        return np.array([v[p][np.isfinite(v[p])].mean() if np.isfinite(v[p]).any() else np.nan for p in parts])

    return mean(x), *map(mean, values)


def _measured(i: int, rows: list[Rating], rates: bool) -> Series | None:
    if not rows:
        return None
    top = rating.best_of(rows) if rates else None
    return Series(i, np.array([r.kimg for r in rows]), np.array([r.value for r in rows]),
                  best=top and (top.kimg, top.value))


def _section(title: str, runs: Sequence[Run], keys: Sequence[str], spread: bool = False) -> Section:
    panels: dict[str, Panel] = {}
    constant = []
    for key in keys:
        lines = [_line(i, run, key, spread) for i, run in enumerate(runs) if key in run.keys]
        name = key.split("/", 1)[1]
        if all(np.all(s.y == 0) for s in lines):
            constant.append(name)
            continue
        base, _, variant = name.rpartition("/")
        if variant not in ("real", "fake"):
            base, variant = name, ""
        panel = panels.setdefault(base, Panel(base))
        for s in lines:
            s.variant = variant
            s.spread = None if variant else s.spread
            panel.series.append(s)
    return Section(title, list(panels.values()), [f"Always 0: {', '.join(constant)}"] if constant else [])


def _line(i: int, run: Run, key: str, spread: bool) -> Series:
    (x, y), (_, std) = run.series(key), run.series(key, "std")
    x, y, std = shortened(x, y, std)
    return Series(i, x, y, spread=std if spread else None)


def _gradients(runs: Sequence[Run], keys: Sequence[str], known: Section) -> Section:
    """How many gradients were not finite, and were replaced, in each tick."""
    fine = []
    for key in keys:
        name, panel = key.rsplit("/", 1)[1], Panel(f"not finite in {key.rsplit('/', 1)[1]}", "per tick")
        for i, run in enumerate(runs):
            (x, mean), (_, num) = run.series(key), run.series(key, "num")
            panel.series += [Series(i, *shortened(x, mean * num))] if len(x) else []
        if all(np.all(s.y == 0) for s in panel.series):
            fine.append(name)
        else:
            known.panels.append(panel)
    if fine:
        known.notes.append(f"All gradients were finite in {', '.join(fine)}")
    return known


def _seconds(runs: Sequence[Run], timing: Sequence[str], memory: Sequence[str]) -> Section:
    out = Section("Seconds and memory", [])
    titles = {"Timing/sec_per_kimg": ("time per thousand images", "s"), "Timing/total_hours": ("time trained", "h"),
              "Timing/maintenance_sec": ("snapshots and metrics", "s per tick"),
              "Resources/cpu_mem_gb": ("memory of the process", "GiB"),
              "Resources/peak_gpu_mem_gb": ("peak memory on the GPU", "GiB")}
    plain = _section("", runs, [k for k in titles if k in (*timing, *memory)])
    for panel in plain.panels:
        panel.title, panel.unit = next(v for k, v in titles.items() if k.split("/", 1)[1] == panel.title)
        out.panels.append(panel)
    # Milliseconds of a phase in a tick, whose length may vary: per thousand images.
    phases = [k for k in timing if k not in titles and not re.search(r"/(total_|sec_per_)", k)]
    together = Panel("phases", "s per thousand images")
    for key in phases:
        name = key.split("/", 1)[1]
        panel = together if len(runs) == 1 else Panel(f"phase {name}", "s per thousand images")
        for i, run in enumerate(runs):
            if key not in run.keys:
                continue
            rows = [(t, number(t["Progress/kimg"].get("mean"))) for t in run.ticks if isinstance(t.get(key), dict)]
            y = [number(t[key].get("mean")) / 1000 * _mean(t, "Timing/sec_per_kimg") / (_mean(t, "Timing/sec_per_tick")
                 or np.nan) for t, _ in rows]
            x, y = shortened(np.array([k for _, k in rows]), np.array(y, np.float64))
            panel.series.append(Series(i, x, y, name if panel is together else ""))
        if panel is not together:
            out.panels.append(panel)
    if together.series:
        out.panels.append(together)
    return out


def _mean(tick: dict, key: str) -> float:
    return number(tick[key].get("mean")) if isinstance(tick.get(key), dict) else np.nan
