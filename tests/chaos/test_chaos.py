# SPDX-License-Identifier: Apache-2.0
"""Half a minute of the chaos suite; `python -m tests.chaos --minutes=10` runs it for longer."""

import re
import subprocess
import sys

import pytest

from tests.chaos.__main__ import PARTS
from tests.conftest import ROOT


@pytest.mark.slow
@pytest.mark.parametrize("part", [p for p in PARTS if p not in ("mutations", "corpus")])  # tests/test_fuzz.py
def test_it_holds(part):
    """In a process of its own, whose memory is measured."""
    minutes = 0.7 * PARTS[part] / sum(PARTS.values())
    done = subprocess.run([sys.executable, "-m", "tests.chaos", f"--parts={part}", f"--minutes={minutes}"], cwd=ROOT,
                          capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    row = next(line for line in done.stdout.splitlines() if line.startswith(f"| {part} |"))
    figures = dict(re.findall(r"(\w+) ([\d.e+]+)", row))
    assert sum(float(v) for k, v in figures.items() if k not in ("seconds", "peak_mb")) > 0, "nothing was tried"
