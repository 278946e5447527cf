# SPDX-License-Identifier: Apache-2.0
"""python -m tests.chaos [--minutes=10] [--seed=0] [--parts=kills,signals,...]: every part in turn, and its figures.

Exit code 1 when something did not hold.
"""

from __future__ import annotations

import importlib
import importlib.util
import resource
import sys
import time

import click

# Part -> its share of the time. A part is a module with `run(seconds, seed) -> figures`.
PARTS = {"kills": 4, "signals": 2, "disks": 2, "twice": 1, "mutations": 3, "corpus": 1}
NONE = ("unequal", "shared", "mixed", "uncaught", "executed")  # figures that must be 0
MAX_MB = 1024  # peak_mb must stay below


def run_part(name: str, seconds: float, seed: int) -> tuple[dict[str, float], str | None]:
    """(figures, what did not hold)"""
    start = time.monotonic()
    try:
        figures, wrong = dict(importlib.import_module(f"tests.chaos.{name}").run(seconds, seed)), None
    except AssertionError as e:
        figures, wrong = {}, str(e) or "an assertion"
    figures["seconds"] = round(time.monotonic() - start, 1)
    bad = [f"{k} {figures[k]:g}" for k in NONE if figures.get(k)]
    if figures.get("peak_mb", 0) > MAX_MB:
        bad.append(f"peak_mb {figures['peak_mb']:g}")
    return figures, wrong or ("; ".join(bad) or None)


@click.command()
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), default=10.0, show_default=True,
              help="Time for all parts together; each finishes what it has begun")
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed, other moments and inputs")
@click.option("--parts", default=",".join(PARTS), show_default=True, help="Which parts")
def main(minutes: float, seed: int, parts: str) -> None:
    """Whole runs under kills, signals, full disks and company; hostile and damaged files."""
    names = [p.strip() for p in parts.split(",") if p.strip()]
    unknown = [n for n in names if n not in PARTS]
    if unknown:
        raise click.UsageError(f"--parts: {unknown[0]} is not one of {', '.join(PARTS)}")
    names = [n for n in names if importlib.util.find_spec(f"tests.chaos.{n}")]
    total, failed = sum(PARTS[n] for n in names), False
    print("| part | figures | holds |\n|---|---|---|", flush=True)
    for name in names:
        figures, wrong = run_part(name, 60 * minutes * PARTS[name] / total, seed)
        failed |= wrong is not None
        text = ", ".join(f"{k} {v:g}" for k, v in figures.items())
        print(f"| {name} | {text} | {'yes' if wrong is None else 'NO: ' + wrong} |", flush=True)
    peak = max(resource.getrusage(w).ru_maxrss for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024
    print(f"\nPeak memory of one process: {peak:.0f} MB")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
