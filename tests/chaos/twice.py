# SPDX-License-Identifier: Apache-2.0
"""Commands that meet: new runs started at the same moment, a run that is continued while it trains, two conversions to
one destination."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

from tests.chaos.runs import Field, the_field


def run(seconds: float, seed: int = 0) -> dict[str, float]:
    """For about `seconds`, at least one of each. Figures: starts, refused, shared (numbers), mixed (logs)."""
    rng, end = random.Random(seed), time.monotonic() + seconds
    figures = dict(starts=0, refused=0, shared=0, mixed=0)
    field, count = the_field(), 0
    while not count or time.monotonic() < end:
        _starts(field, field.folder / f"starts{count}", rng, figures)
        _continued(field, field.folder / f"continued{count}", rng, figures)
        _conversions(field, field.folder, count, figures)
        count += 1
    return figures


def _starts(field: Field, outdir: Path, rng: random.Random, figures: dict[str, float]) -> None:
    """Several new runs at once; one of them is refused after it has its folder, another is stopped."""
    n = 4
    children = [field.server.start(outdir.with_name(f"{outdir.name}-{i}.log"),
                                   *field.argv("stylegan2", outdir, f"--desc={'ab'[i % 2]}", "--kimg=0.04"))
                for i in range(n)]
    broken = field.server.start(outdir.with_name(f"{outdir.name}-x.log"),
                                *field.argv("stylegan2", outdir, "--glr=1e30", "--snap=100"))
    stopped = rng.randrange(n)
    time.sleep(rng.random() * 0.5)
    children[stopped].signal(signal.SIGTERM)
    for i, child in enumerate(children):
        assert child.wait() == 0 or i == stopped, child.output()[-2000:]
    assert broken.wait() == 2 and "diverged" in broken.output(), broken.output()[-2000:]
    names = [p.name for p in outdir.iterdir()]
    figures["starts"] += n
    figures["shared"] += len(names) - len({x.split("-")[0] for x in names})
    finished = [p for p in outdir.iterdir() if list(p.glob("network-snapshot-*.pkl"))]
    assert len(finished) >= n - 1, f"a run that went well has no folder: {names}"


def _continued(field: Field, outdir: Path, rng: random.Random, figures: dict[str, float]) -> None:
    argv = field.argv("stylegan2", outdir, "--kimg=50")
    first = field.server.start(outdir.with_suffix(".log"), *argv)
    ticks = rng.randint(1, 3)
    while first.poll() is None and first.output().count("\ntick ") < ticks:
        time.sleep(0.01)
    code, out = field.server.run(outdir.with_name(f"{outdir.name}-second.log"), *argv, "--resume=latest")
    assert first.poll() is None, first.output()[-2000:]
    first.signal(signal.SIGTERM)
    assert first.wait() == 0, first.output()[-2000:]
    assert code == 2 and "Traceback" not in out and out.strip().splitlines()[-1].startswith("Error: ") \
        and f"is in use by process {first.pid}" in out, f"the second was not refused: exit code {code}: {out[-2000:]}"
    figures["refused"] += 1
    (folder,) = outdir.glob("0*-*")
    kimg = [json.loads(line)["Progress/kimg"]["mean"] for line in (folder / "stats.jsonl").read_text().splitlines()]
    figures["mixed"] += kimg != sorted(set(kimg))


def _conversions(field: Field, scratch: Path, count: int, figures: dict[str, float]) -> None:
    for dest in (scratch / f"new{count}.zip", scratch / f"new{count}"):
        children = [field.server.start(scratch / f"convert{i}.log", "dataset_tool", f"--source={field.folder}/set.zip",
                                       f"--dest={dest}") for i in range(3)]
        codes = [c.wait() for c in children]
        assert 0 in codes, children[0].output()[-2000:]
        for code, child in zip(codes, children):
            assert code in (0, 2) and "Traceback" not in child.output(), child.output()[-2000:]
            figures["refused"] += code == 2
        assert dest.exists() and not [p for p in scratch.iterdir() if p.name.startswith(f".{dest.name}")]
