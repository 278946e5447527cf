# SPDX-License-Identifier: Apache-2.0
"""Some seconds of the chaos suite; `python -m tests.chaos --minutes=10` runs it for longer."""

import re
import subprocess
import sys

import pytest

from tests.chaos.__main__ import PARTS
from tests.conftest import ROOT


@pytest.mark.slow
def test_it_holds():
    """In a process of its own, which forks the runs. Mutations and the corpus: tests/test_fuzz.py."""
    parts = [p for p in PARTS if p not in ("mutations", "corpus")]
    minutes = 0.25 * sum(PARTS[p] for p in parts) / sum(PARTS.values())
    done = subprocess.run([sys.executable, "-m", "tests.chaos", f"--parts={','.join(parts)}", f"--minutes={minutes}"],
                          cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for part in parts:
        row = next(line for line in done.stdout.splitlines() if line.startswith(f"| {part} |"))
        figures = dict(re.findall(r"(\w+) ([\d.e+]+)", row))
        assert sum(float(v) for k, v in figures.items() if k not in ("seconds", "peak_mb")) > 0, f"{part}: nothing"
