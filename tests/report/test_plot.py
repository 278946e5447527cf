# SPDX-License-Identifier: Apache-2.0
"""Panels of curves."""

import numpy as np
import pytest

from gantransfer.report import curves, plot


def test_a_panel_as_svg():
    pytest.importorskip("matplotlib", reason="needs matplotlib (extra `report`)")
    x = np.arange(8.0)
    lines = [curves.Series(run, x, np.where(x == 7, 1e4, 1 + x + run), v) for run in range(2) for v in ("real", "fake")]
    svg = plot.panel_svg(curves.Panel("a<b> $x$", series=lines), 3, runs=2)
    assert svg.count(">real<") == svg.count(">fake<") == 1, "a variant is named once, not once per run"
    assert "a&lt;b&gt; $x$" in svg and "mathdefault" not in svg and ">10000<" in svg, "texts and ticks as they are"
    assert "currentColor" in svg and plot._INK not in svg and 'id="p3-' in svg
    empty = plot.panel_svg(curves.Panel("e", series=[curves.Series(0, x, np.full(8, np.nan))]), 0, runs=1)
    assert "no finite value" in empty
