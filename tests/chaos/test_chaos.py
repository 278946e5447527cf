# SPDX-License-Identifier: Apache-2.0
"""Some seconds of the chaos suite; `python -m tests.chaos --minutes=10` runs it for longer."""

import re

import pytest
from click.testing import CliRunner

from tests.chaos.__main__ import PARTS, main
from tests.chaos.runs import the_field


@pytest.mark.slow
def test_it_holds():
    """The runs are forked from a process of their own. Mutations and the corpus: tests/test_fuzz.py."""
    parts = [p for p in PARTS if p not in ("mutations", "corpus")]
    minutes = 0.25 * sum(PARTS[p] for p in parts) / sum(PARTS.values())
    try:
        done = CliRunner().invoke(main, [f"--parts={','.join(parts)}", f"--minutes={minutes}"], catch_exceptions=False)
    finally:
        the_field().server.close()
    assert done.exit_code == 0, done.output[-3000:]
    for part in parts:
        row = next(line for line in done.output.splitlines() if line.startswith(f"| {part} |"))
        figures = dict(re.findall(r"(\w+) ([\d.e+]+)", row))
        assert sum(float(v) for k, v in figures.items() if k not in ("seconds", "peak_mb")) > 0, f"{part}: nothing"
