# SPDX-License-Identifier: Apache-2.0
"""Which snapshot of a run is the best by a metric measured in its folder: `RUN:best` as a path, and when to stop."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

from dnnlib.util import UserError
from gantransfer.snapshot import find_snapshots

HIGHER = ("is", "pr", "accuracy", "lpips", "dc", "label")  # beginnings of metrics where more is better


@dataclass(frozen=True)
class Rating:
    metric: str  # as in --metrics
    key: str  # one of its values
    value: float
    kimg: float
    snapshot: str  # file name


def ratings(run_dir: Path) -> list[Rating]:
    """Every finite value measured in a run folder, metric by metric, by length."""
    out = []
    for path in sorted(run_dir.glob("metric-*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                r = json.loads(line)
                name, snapshot, results = r["metric"], r["snapshot_pkl"], r["results"]
            except (ValueError, KeyError, TypeError):
                continue  # half a line from a killed run
            out += [Rating(name, key, value, r.get("kimg") or 0, snapshot) for key, value in results.items()
                    if isinstance(value, int | float) and math.isfinite(value) and snapshot]
    return sorted(out, key=lambda r: r.kimg)


def of_metric(rows: list[Rating], metric: str | None) -> list[Rating]:
    """The rows of one value: `metric` is its name, or that of a metric (its first value); None: the first there is."""
    files = sorted({r.metric for r in rows})
    first = {name: next(r.key for r in rows if r.metric == name) for name in files}
    if metric is None:
        metric = first[files[0]] if files else None
    keys = {r.key for r in rows}
    return [r for r in rows if r.key == (metric if metric in keys else first.get(metric))]


def best_of(rows: list[Rating]) -> Rating:
    """The first of the best rows of one value."""
    key = rows[0].key
    return (max if key.startswith(HIGHER) or "accuracy" in key else min)(rows, key=lambda r: r.value)


def since_best(run_dir: Path, metric: str | None) -> tuple[int, Rating | None]:
    """(snapshots measured after the best one, the best one)."""
    rows = of_metric(ratings(run_dir), metric)
    if not rows:
        return 0, None
    best = best_of(rows)
    return len(rows) - 1 - rows.index(best), best


def keep_best(run_dir: Path, metric: str | None) -> None:
    """Remove the run's snapshots other than the best and the newest."""
    _, best = since_best(run_dir, metric)
    for path in find_snapshots(run_dir)[:-1]:
        if best is not None and path.name != best.snapshot:
            path.unlink(missing_ok=True)


def resolve(text: str | None) -> str | None:
    """'RUN:best' or 'RUN:best:METRIC' -> path of the snapshot; any other text as it is. UserError if none is rated.

    Without METRIC it is the one that the run was rated by (train.py --best), or the first there is.
    """
    match = re.fullmatch(r"(.+):best(?::(\w+))?", text or "")
    if not match or not Path(match[1]).is_dir():
        if match and "://" not in text:
            raise UserError(f"{text}: {match[1]} is not a run folder")
        return text
    run_dir = Path(match[1])
    rows = [r for r in ratings(run_dir) if (run_dir / r.snapshot).exists()]
    rated = of_metric(rows, match[2] or _recorded(run_dir)) or ([] if match[2] else of_metric(rows, None))
    if not rated:
        known = list(dict.fromkeys(r.key for r in rows))
        what = f"no value of {match[2]}; it has {', '.join(known[:4]) or 'none'}" if known else "no measured snapshot"
        raise UserError(f"{text}: the folder has {what}; train with --metrics=..., or measure with calc_metrics.py")
    best = best_of(rated)
    print(f"{text}: {best.snapshot}, {best.key} {best.value:.4g}")
    return str(run_dir / best.snapshot)


def _recorded(run_dir: Path) -> str | None:
    try:
        return json.loads((run_dir / "training_options.json").read_text(encoding="utf-8")).get("best")
    except (OSError, ValueError, AttributeError):
        return None
