# SPDX-License-Identifier: Apache-2.0
"""A minute of the chaos suite; `python -m tests.chaos --minutes=10` runs it for longer."""

import importlib.util

import pytest

from tests.chaos.__main__ import PARTS, run_part


@pytest.mark.slow
@pytest.mark.parametrize("part", [p for p in PARTS if importlib.util.find_spec(f"tests.chaos.{p}")])
def test_it_holds(part):
    figures, wrong = run_part(part, 60 * PARTS[part] / sum(PARTS.values()), seed=0)
    assert wrong is None, (part, figures, wrong)
    assert sum(v for k, v in figures.items() if k not in ("seconds", "peak_mb")) > 0, "nothing was tried"
