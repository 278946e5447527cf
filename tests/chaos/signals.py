# SPDX-License-Identifier: Apache-2.0
"""SIGTERM, SIGUSR1 and Ctrl-C at random moments of runs of every method: one line, the right exit code, and the state
of that very step, from which the run goes on to the networks of the uninterrupted one."""

from __future__ import annotations

import random
import re
import signal
import time
from pathlib import Path

import torch

from gantransfer.training_loop import find_states
from tests.chaos.runs import Field, order, the_field

CODES = {signal.SIGTERM: (0, 143), signal.SIGUSR1: (0, 138), signal.SIGINT: (130,)}


def run(seconds: float, seed: int = 0) -> dict[str, float]:
    """For about `seconds`, at least one run. Figures: signals, stopped (with their state), unequal."""
    rng, end = random.Random(seed), time.monotonic() + seconds
    figures = dict(methods=0, signals=0, stopped=0, unequal=0)
    field = the_field()
    names = order(seconds, rng)
    count = 0
    while not count or time.monotonic() < end:
        name = names[count % len(names)]
        _one(field, name, field.folder / f"signals{count}", rng, figures)
        count += 1
    return figures | dict(methods=min(count, len(names)))


def _one(field: Field, name: str, outdir: Path, rng: random.Random, figures: dict[str, float]) -> None:
    field.finished(name)
    for _ in range(rng.randint(1, 4)):
        resume = ["--resume=latest"] * bool(list(outdir.glob("0*-*")))
        child = field.server.start(outdir.with_suffix(".log"), *field.argv(name, outdir, *resume))
        lines, extra = rng.randint(0, 14), rng.random() * 0.2
        while child.poll() is None and child.output().count("\n") < lines:
            time.sleep(0.005)
        time.sleep(extra)
        signum = rng.choice(list(CODES))
        child.signal(signum)
        code, out = child.wait(), child.output()
        figures["signals"] += 1
        assert "Traceback" not in out and "Aborted" not in out, f"{name}: {out[-2000:]}"
        stopped = re.search(r"^Stopped at ([\d.]+) kimg as asked; continue with --resume=latest$", out, re.M)
        if "Run folder:   " in out and stopped:
            figures["stopped"] += 1
            assert code == CODES[signum][0], f"{name}: exit code {code} after {signal.Signals(signum).name}"
            (folder,) = outdir.glob("0*-*")
            kimg = torch.load(find_states(folder)[0], weights_only=True)["cur_nimg"] / 1000
            assert f"{kimg:.1f}" == stopped[1], f"{name}: stopped at {stopped[1]}, the state is of {kimg:g} kimg"
            ticks = [float(m) for m in re.findall(r"^tick \d+ +kimg ([\d.]+)", out, re.M)]
            assert not ticks or kimg >= ticks[-1] - 0.05
        elif code == 0:  # it had ended before
            assert any(line.startswith("Run folder: ") for line in out.splitlines()[-4:]), f"{name}: {out[-2000:]}"
        elif code > 0:
            assert code in CODES[signum], f"{name}: exit code {code}: {out[-2000:]}"
            assert f"Stopped by {signal.Signals(signum).name}" in out
        # Below 0: the signal came before the program had begun.
    resume = ["--resume=latest"] * bool(list(outdir.glob("0*-*")))
    code, out = field.server.run(outdir.with_suffix(".log"), *field.argv(name, outdir, *resume))
    assert code == 0, f"{name}: {out[-2000:]}"
    figures["unequal"] += field.compare(name, outdir)
