# SPDX-License-Identifier: Apache-2.0
"""Which statistics share a panel, and with which values."""

import numpy as np
import pytest

from gantransfer.report import curves, read


def panels(sections):
    return {p.title: p for s in sections for p in s.panels}


def test_training(planted):
    sections = curves.of_training([read.read(planted)])
    found = panels(sections)
    assert [s.variant for s in found["scores"].series] == ["real", "fake"]
    assert found["not finite in Gmain"].series[0].y.tolist() == [0, 0, 0, 2, 0, 0], "0.5 of 4 updates"
    assert found["augment"].series[0].y[-1] == 0.5
    # 5 s in a tick of 20 s, which is a thousand images at 20 s
    assert found["phases"].series[0].y.tolist() == [5.0] * 6 and found["phases"].series[0].variant == "Gmain"
    notes = [n for s in sections for n in s.notes]
    assert "All gradients were finite in Dmain" in notes and "peak memory on the GPU" not in found, "it is always 0"
    assert "G/loss" in found and found["G/loss"].series[0].spread[0] == 0.1


def test_metrics_have_their_best_marked(planted, planted_once):
    one = panels(curves.of_metrics([read.read(planted)]))
    line = one["per-class FD (lower is better)"].series[0]
    assert line.x.tolist() == [0, 2, 4] and line.y.tolist() == [90, 41.26, 55] and line.best == (2, 41.26)
    assert one["label accuracy (higher is better)"].series[0].best == (0, 0.123456)
    assert one["per-class FD by group"].variants == ["many", "medium", "few"]
    both = panels(curves.of_metrics([read.read(planted), read.read(planted_once)]))
    assert [s.run for s in both["per-class FD, rare classes (lower is better)"].series] == [0, 1]


def test_long_logs_are_shortened_by_means_that_miss_nothing():
    x = np.arange(4000.0)
    y = np.where(x == 5, np.nan, x)
    sx, sy = curves.shortened(x, y)
    assert len(sx) == len(sy) == curves.POINTS
    assert sy[0] == pytest.approx(np.delete(y[:10], 5).mean()) and sy[-1] == x[-10:].mean()
