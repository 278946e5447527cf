# SPDX-License-Identifier: Apache-2.0
"""Runs of every method are killed at random moments, and while a file is being written, and continued: they end with
the networks of the uninterrupted run, bit for bit."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

from gantransfer.training_loop import find_states
from tests.chaos.runs import Field, order, the_field
from tests.chaos.server import Child


def run(seconds: float, seed: int = 0) -> dict[str, float]:
    """For about `seconds`, at least one run. Figures: methods, kills, in_write (of them), restarts, unequal."""
    rng, end = random.Random(seed), time.monotonic() + seconds
    figures = dict(methods=0, kills=0, in_write=0, restarts=0, unequal=0)
    field = the_field()
    names = order(seconds, rng)
    done: set[str] = set()
    count = 0
    while not done or time.monotonic() < end:
        name = names[count % len(names)]
        storm(field, name, field.folder / f"storm{count}", rng, figures)
        done.add(name)
        count += 1
    return figures | dict(methods=len(done))


def storm(field: Field, name: str, outdir: Path, rng: random.Random, figures: dict[str, float]) -> None:
    """One run, killed up to five times."""
    field.finished(name)
    code = None
    for _ in range(rng.randint(2, 6)):
        run_dirs = list(outdir.glob("0*-*"))
        argv = field.argv(name, outdir, *["--resume=latest"] * bool(run_dirs))
        figures["restarts"] += bool(run_dirs)
        child = field.server.start(outdir.with_suffix(".log"), *argv)
        if rng.random() < 0.5:
            _during_a_write(child, outdir, skip=rng.randint(0, 12))
        else:
            _after_a_while(child, rng)
        child.signal(signal.SIGKILL)
        code = child.wait()
        if code == -signal.SIGKILL:
            figures["kills"] += 1
            figures["in_write"] += any(outdir.glob("0*/.*.tmp"))
        else:
            assert code == 0, f"{name}: {child.output()[-2000:]}"
    run_dirs = list(outdir.glob("0*-*"))
    code, out = field.server.run(outdir.with_suffix(".log"),
                                 *field.argv(name, outdir, *["--resume=latest"] * bool(run_dirs)))
    assert code == 0, f"{name}: {out[-2000:]}"
    assert not any(outdir.glob("0*/.*.tmp")), f"{name}: temporary files are left"
    assert find_states(next(outdir.glob("0*-*"))), f"{name}: no state"
    figures["unequal"] += field.compare(name, outdir)


def _after_a_while(child: Child, rng: random.Random) -> None:
    # Counted in lines of the log, not in seconds: a busy machine is slower, and is killed as early in the run.
    lines, extra = rng.randint(0, 14), rng.random() * 0.3
    while child.poll() is None and child.output().count("\n") < lines:
        time.sleep(0.005)
    time.sleep(extra)


def _during_a_write(child: Child, outdir: Path, skip: int) -> None:
    """Return while a temporary file is there, after `skip` others, or when the run has ended."""
    last: set[Path] = set()
    while child.poll() is None:
        try:
            now = set(outdir.glob("0*/.*.tmp"))
        except FileNotFoundError:  # the run's folder takes its name just now
            continue
        skip -= bool(now - last)
        if now and skip < 0:
            return
        last = now
        time.sleep(0.0005)  # a file is there for longer; without a pause this process takes a core from the run
