# SPDX-License-Identifier: Apache-2.0
"""Which snapshot of a run `RUN`, `RUN:latest` or `RUN:best` means: the best by a metric measured in its folder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from dnnlib import json_file
from dnnlib.util import UserError
from gantransfer.metrics import directions
from gantransfer.snapshot import find_snapshots


@dataclass(frozen=True)
class Rating:
    metric: str  # as in --metrics
    key: str  # one of its values
    value: float
    kimg: float
    snapshot: str  # file name
    protocol: str = ""  # `table.protocol` of the line


def ratings(run_dir: Path) -> list[Rating]:
    """Every finite value measured in a run folder, metric by metric, by length."""
    from gantransfer.metrics.table import protocol

    out = []
    for path in sorted(run_dir.glob("metric-*.jsonl")):
        for r in json_file.lines(path):
            name, snapshot, results = r.get("metric"), r.get("snapshot_pkl"), r.get("results")
            if not (isinstance(name, str) and isinstance(snapshot, str | None) and isinstance(results, dict)
                    and isinstance(r.get("kimg"), int | float | None)):
                continue
            if r.get("truncation"):
                continue  # of truncated images: no match for the others
            same = protocol(r)
            out += [Rating(name, key, value, _kimg(r), snapshot, same) for key, value in results.items()
                    if isinstance(value, int | float) and abs(value) < 2**1023 and snapshot]
    return sorted(out, key=lambda r: r.kimg)


def _kimg(line: dict) -> float:
    """Of a line; lines of other programs have it in the snapshot's name only."""
    if line.get("kimg") is not None:
        return line["kimg"]
    found = re.search(r"(\d+)(?:_(\d{3}))?\.pkl$", line["snapshot_pkl"] or "")
    return int(found[1]) + int(found[2] or 0) / 1000 if found else 0


def direction(metric: str, key: str) -> str | None:
    """directions.LOWER, HIGHER or UNRATED, as the metric or method called `metric` declares its value `key`.

    None: there is no such declaration, as for files that another program, or another version, has written.
    """
    from gantransfer.methods import METHODS
    from gantransfer.metrics import table

    found = METHODS[metric] if metric in METHODS else table.find(metric)
    return None if found is None else directions.of(found.better, key)


def rates(metric: str, key: str) -> bool:
    """Whether snapshots can be compared by this value."""
    return direction(metric, key) in (directions.LOWER, directions.HIGHER)


def of_metric(rows: list[Rating], metric: str | None) -> list[Rating]:
    """The rows of one value: `metric` is its name, or that of a metric (its first value that rates); None: the first
    there is that rates. A row per snapshot, all measured in the same way: see `comparable`."""
    return comparable(_of_value(rows, metric))


def comparable(rows: list[Rating]) -> list[Rating]:
    """The rows of the protocol that has rated most snapshots, the newest one of several: values against other reals,
    or of other seeds, are no match for each other, and calc_metrics.py may have added some."""
    rated: dict[str, set[str]] = {}
    for r in rows:
        rated.setdefault(r.protocol, set()).add(r.snapshot)
    last = {r.protocol: i for i, r in enumerate(rows)}
    chosen = max(rated, key=lambda p: (len(rated[p]), last[p]), default="")
    return [r for r in rows if r.protocol == chosen]


def _of_value(rows: list[Rating], metric: str | None) -> list[Rating]:
    first: dict[str, str] = {}  # metric -> its first value that rates, by the metrics' names
    for name, key in sorted(dict.fromkeys((r.metric, r.key) for r in rows), key=lambda pair: pair[0]):
        if name not in first and rates(name, key):
            first[name] = key
    if any(r.key == metric for r in rows) and metric not in first:
        owner = next(r.metric for r in rows if r.key == metric)
        return [r for r in rows if (r.metric, r.key) == (owner, metric)]
    if metric is None:
        metric = next(iter(first), None)
    return [r for r in rows if r.metric == metric and r.key == first.get(metric)]


def best_of(rows: list[Rating]) -> Rating:
    """The first of the best rows of one value. UserError where it is not said which way the value is better."""
    metric, key = rows[0].metric, rows[0].key
    if not rates(metric, key):
        raise UserError(f"{key} of {metric} rates no snapshots: it is not declared whether more or less of it is "
                        f"better; name another value")
    return (max if direction(metric, key) == directions.HIGHER else min)(rows, key=lambda r: r.value)


def best(rows: list[Rating], run_dir: Path, metric: str | None = None) -> Rating | None:
    """The best row of a run by `metric`; without one by what the run was rated by (train.py --best, or the first of its
    --metrics), or else the first there is. None where nothing rates."""
    rated = of_metric(rows, metric or _recorded(run_dir)) or ([] if metric else of_metric(rows, None))
    return best_of(rated) if rated else None


def since_best(run_dir: Path, metric: str | None) -> tuple[int, Rating | None]:
    """(snapshots measured after the best one, the best one)."""
    rows = of_metric(ratings(run_dir), metric)
    if not rows:
        return 0, None
    top = best_of(rows)
    return len(rows) - 1 - rows.index(top), top


def keep_best(run_dir: Path, metric: str | None) -> None:
    """Remove the run's snapshots other than the best and the newest; none where nothing rates them."""
    rows = of_metric([r for r in ratings(run_dir) if (run_dir / r.snapshot).is_file()], metric)
    if not rows:
        return
    top = best_of(rows)
    for path in find_snapshots(run_dir)[:-1]:
        if path.name != top.snapshot:
            path.unlink(missing_ok=True)


def resolve(text: str | None) -> str | None:
    """'RUN:latest', 'RUN:best' or 'RUN:best:METRIC' -> path of the snapshot; any other text as it is. UserError if
    there is none, or none is rated.

    Without METRIC the best is the one that the run was rated by (train.py --best), or the first there is.
    """
    match = re.fullmatch(r"(.+):(?:latest|best(?::(\w+))?)", text or "")
    if not match or not Path(match[1]).is_dir():
        if match and "://" not in text:
            raise UserError(f"{text}: {match[1]} is not a run folder")
        return text
    run_dir = Path(match[1])
    if text.endswith(":latest") and not text.endswith(":best:latest"):
        found = find_snapshots(run_dir)
        if not found:
            raise UserError(f"{text}: the folder has no network-snapshot-*.pkl")
        print(f"{text}: {found[-1].name}")
        return str(found[-1])
    rows = [r for r in ratings(run_dir) if (run_dir / r.snapshot).exists()]
    found = best(rows, run_dir, match[2])
    if found is None:
        known = list(dict.fromkeys(r.key for r in rows))
        what = "no measured snapshot" if not known else (f"no value of {match[2]}" if match[2] else
                                                         "no value that rates snapshots")
        what += f"; it has {', '.join(known[:4])}" if known else ""
        raise UserError(f"{text}: the folder has {what}; train with --metrics=..., or measure with calc_metrics.py")
    print(f"{text}: {found.snapshot}, {found.key} {found.value:.4g}")
    return str(run_dir / found.snapshot)


def named(text: str) -> str:
    """`resolve`, and a run folder alone is its newest snapshot: for flags that name a model and nothing else."""
    if Path(text).is_dir() and find_snapshots(text):
        text += ":latest"
    return resolve(text)


def _recorded(run_dir: Path) -> str | None:
    """What training rated the run's snapshots by: --best, or the first of --metrics."""
    try:
        options = json_file.read(run_dir / "training_options.json")
    except UserError:
        return None
    metrics = options.get("metrics")
    named = options.get("best") or (metrics[0] if isinstance(metrics, list) and metrics else None)
    return named if isinstance(named, str) else None
