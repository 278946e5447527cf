# SPDX-License-Identifier: Apache-2.0
"""The disk fills up, or a file reaches the limit of its size, at any moment of a run: one line, exit code 2, and the
last state as it was. Also: the folder is moved away, and states and caches are damaged."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from gantransfer.training_loop import find_states
from tests.chaos.runs import Field, order, the_field


def run(seconds: float, seed: int = 0) -> dict[str, float]:
    """For about `seconds`, at least one of each. Figures: limits (of file size), full (disks), moved, damaged."""
    rng, end = random.Random(seed), time.monotonic() + seconds
    figures = dict(limits=0, full=0, moved=0, damaged=0, unequal=0)
    field = the_field()
    names = order(seconds, rng)
    count = 0
    while count < 1 or time.monotonic() < end:
        name, outdir = names[count % len(names)], field.folder / f"disk{count}"
        for part in (_limit, _full, _moved, _damaged):
            if part is not _limit and time.monotonic() > end and count:
                break
            part(field, name, outdir / part.__name__, rng, figures)
            shutil.rmtree(outdir, ignore_errors=True)
        count += 1
    return figures


def _one_line(name: str, code: int, out: str, *words: str) -> None:
    last = out.strip().splitlines()[-1] if out.strip() else ""
    assert code == 2 and "Traceback" not in out and last.startswith("Error: ") and any(w in last for w in words), \
        f"{name}: exit code {code}: {out[-2000:]}"


def _states_are_whole(outdir: Path) -> int:
    states = [s for p in outdir.glob("0*-*") for s in find_states(p)]
    for s in states:
        torch.load(s, weights_only=True)
    assert not [p for p in outdir.glob("0*-*/.*.tmp")], "half-written files are left"
    return len(states)


def _limit(field: Field, name: str, outdir: Path, rng: random.Random, figures: dict[str, float]) -> None:
    """ulimit -f somewhere below the size of the state: a run that was begun without it, and a new one."""
    outdir.mkdir(parents=True)
    folder = outdir / field.finished(name).name
    shutil.copytree(field.finished(name), folder)
    before = {p.name: p.read_bytes() for p in find_states(folder)}
    for resume in ([f"--resume={folder}", "--kimg=0.3"], []):
        size = find_states(folder)[0].stat().st_size
        limit = rng.randint(10_000, min(size, min(p.stat().st_size for p in folder.glob("network*"))) - 1)
        code, out = field.server.run(outdir.with_suffix(".log"), *field.argv(name, outdir, *resume), fsize=limit)
        _one_line(name, code, out, "File too large")
        _states_are_whole(outdir)
        figures["limits"] += 1
    assert {p.name: p.read_bytes() for p in find_states(folder)} == before, f"{name}: the last state is not what it was"


@contextlib.contextmanager
def _small_disk(folder: Path, size: int) -> Iterator[bool]:
    """A tmpfs at `folder`; False where that is not allowed."""
    folder.mkdir(parents=True)
    made = os.name == "posix" and hasattr(os, "geteuid") and os.geteuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True).returncode == 0
    try:
        yield made
    finally:
        if made:
            subprocess.run(["umount", "-l", str(folder)], capture_output=True)


def _full(field: Field, name: str, outdir: Path, rng: random.Random, figures: dict[str, float]) -> None:
    whole = field.finished(name)
    total = sum(p.stat().st_size for p in whole.iterdir())
    with contextlib.suppress(FileNotFoundError):
        with _small_disk(outdir, rng.randint(80_000, total * 2 // 3) // 4096 * 4096) as small:
            if not small:
                return
            code, out = field.server.run(outdir.with_suffix(".log"), *field.argv(name, outdir))
            _one_line(name, code, out, "No space left on device")
            _states_are_whole(outdir)
            figures["full"] += 1


def _moved(field: Field, name: str, outdir: Path, rng: random.Random, figures: dict[str, float]) -> None:
    """The run's folder goes away at a random tick."""
    field.finished(name)
    outdir.mkdir(parents=True)
    ticks, remove = rng.randint(1, 3), rng.random() < 0.5
    child = field.server.start(outdir.with_suffix(".log"), *field.argv(name, outdir, "--kimg=20"))
    while child.poll() is None and child.output().count("\ntick ") < ticks:
        time.sleep(0.005)
    folders = [p for p in outdir.iterdir()]
    assert len(folders) == 1 and child.poll() is None, f"{name}: {child.output()[-2000:]}"
    gone = outdir / "elsewhere"
    os.rename(folders[0], gone)
    if remove:
        shutil.rmtree(gone, ignore_errors=True)
    code, out = child.wait(), child.output()
    _one_line(name, code, out, "was moved to", "was moved or removed")
    left = {p.name for p in outdir.iterdir()} - {"elsewhere"}
    assert not left, f"{name}: {left} was made anew"
    figures["moved"] += 1


def _damaged(field: Field, name: str, outdir: Path, rng: random.Random, figures: dict[str, float]) -> None:
    """A cut-off state is refused in one line; with the one before it in its place the run goes on."""
    outdir.mkdir(parents=True)
    folder = outdir / field.finished(name).name
    shutil.copytree(field.finished(name), folder)
    good = find_states(folder)[0].read_bytes()
    state = find_states(folder)[0]
    state.write_bytes(good[: rng.randint(0, len(good) - 1)])
    argv = field.argv(name, outdir, f"--resume={folder}")
    code, out = field.server.run(outdir.with_suffix(".log"), *argv)
    _one_line(name, code, out, state.name)
    state.write_bytes(good)
    code, out = field.server.run(outdir.with_suffix(".log"), *argv)
    assert code == 0, f"{name}: {out[-2000:]}"
    figures["unequal"] += field.compare(name, outdir)
    figures["damaged"] += 1
