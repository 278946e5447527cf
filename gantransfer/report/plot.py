# SPDX-License-Identifier: Apache-2.0
"""Panels as SVG by Matplotlib. Texts and axes have the page's colour, so that light and dark need one drawing."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dnnlib.util import UserError, printable
from gantransfer.report.curves import Panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Readable on white and on nearly black, and apart for most colour-blind eyes in this order (after Okabe and Ito).
COLOURS = ("#2b83ba", "#d95f02", "#1b9e77", "#cc4c9a", "#8a7ad6", "#b8860b", "#5aa832", "#9a6a4a", "#d64545", "#7f7f7f")
DASHES = ("-", "--", ":", "-.")
GROUP_COLOURS = {"many": COLOURS[0], "medium": COLOURS[2], "few": COLOURS[1], "": COLOURS[9]}
_INK = "#010203"  # stands for the page's own colour


def check_installed() -> None:
    """UserError where Matplotlib, which is optional, is not there."""
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise UserError("the report's curves are drawn with Matplotlib, which is not installed: pip install "
                        "matplotlib (report --video does without)")


def colour_of(run: int) -> tuple[str, str]:
    """(colour, dashes) of a run beside others."""
    return COLOURS[run % len(COLOURS)], DASHES[run // len(COLOURS) % len(DASHES)]


def panel_svg(panel: Panel, number: int, runs: int) -> str:
    """One panel; `number` keeps its ids apart from those of others in the page."""
    def draw(ax: Axes) -> None:
        named: list[str] = []
        for s in panel.series:
            variant = panel.variants.index(s.variant)
            colour, dash = colour_of(s.run) if runs > 1 else (COLOURS[variant % len(COLOURS)], "-")
            if s.variant in GROUP_COLOURS and s.variant:
                colour = GROUP_COLOURS[s.variant]
            if runs > 1 and len(panel.variants) > 1:
                dash = DASHES[variant % len(DASHES)]
            ax.plot(s.x, s.y, dash, color=colour, linewidth=1.4,
                    label=None if s.variant in ("", *named) else s.variant,
                    **(dict(marker="o", markersize=3) if panel.points or np.isfinite(s.y).sum() < 3 else {}))
            named.append(s.variant)
            if s.spread is not None and np.isfinite(s.spread).any():
                ax.fill_between(s.x, s.y - s.spread, s.y + s.spread, color=colour, alpha=0.15, linewidth=0)
            if s.best is not None:
                ax.plot(*s.best, marker="o", markersize=9, markerfacecolor="none", markeredgecolor=colour,
                        markeredgewidth=1.6)
        values = np.concatenate([s.y[np.isfinite(s.y)] for s in panel.series] or [np.zeros(0)])
        if len(values) > 3 and values.min() > 0 and values.max() > 30 * np.median(values):
            _logarithmic(ax)
        if not len(values):
            ax.text(0.5, 0.5, "no finite value", ha="center", va="center", transform=ax.transAxes, color=_INK)
        elif len(panel.variants) > 1:
            legend = ax.legend(fontsize=7, frameon=False, ncols=2 if len(panel.variants) > 3 else 1)
            if runs > 1:  # of what differs in dashes
                for handle in legend.legend_handles:
                    handle.set_color(_INK)
        ax.set_xlabel("thousands of images", fontsize=8)
        ax.set_ylabel(printable(panel.unit), fontsize=8)

    return _svg(draw, panel.title, number)


def bars_svg(title: str, names: Sequence[str], counts: Sequence[int], groups: Sequence[str], number: int) -> str:
    """Images per class, largest first, coloured by group; names where they fit."""
    def draw(ax: Axes) -> None:
        ax.bar(range(len(counts)), counts, color=[GROUP_COLOURS.get(g, COLOURS[9]) for g in groups], width=0.85)
        if len(names) <= 24:
            ax.set_xticks(range(len(names)), [printable(n)[:16] for n in names], rotation=60, ha="right", fontsize=7)
        else:
            ax.set_xlabel(f"{len(names)} classes, by images", fontsize=8)
        ax.set_ylabel("training images", fontsize=8)
        if max(counts) > 30 * max(min(counts), 1):
            _logarithmic(ax)

    return _svg(draw, title, number, width=5.4)


def histogram_svg(title: str, values: np.ndarray, unit: str, number: int) -> str:
    """Of continuous labels."""
    def draw(ax: Axes) -> None:
        ax.hist(values, bins=40, color=COLOURS[0])
        ax.set_xlabel(printable(unit), fontsize=8)
        ax.set_ylabel("training images", fontsize=8)

    return _svg(draw, title, number, width=5.4)


def _logarithmic(ax: Axes) -> None:
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter(lambda v, _: f"{v:g}")  # Matplotlib's own are formulas
    ax.yaxis.set_minor_formatter(lambda v, _: "")


def _svg(draw: Any, title: str, number: int, width: float = 3.7) -> str:
    import warnings

    import matplotlib
    from matplotlib.figure import Figure

    style = {"svg.fonttype": "none", "text.parse_math": False, "svg.hashsalt": "gantransfer",
             "font.family": ["DejaVu Sans"], "font.size": 8, "text.color": _INK, "axes.labelcolor": _INK,
             "axes.edgecolor": _INK, "xtick.color": _INK, "ytick.color": _INK, "axes.linewidth": 0.6,
             "xtick.labelsize": 7, "ytick.labelsize": 7, "axes.spines.top": False, "axes.spines.right": False,
             "axes.formatter.useoffset": False, "path.simplify": True}
    out = io.StringIO()
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the browser has the letters
        figure = Figure(figsize=(width, 2.35), layout="constrained")
        ax = figure.add_subplot()
        draw(ax)
        ax.set_title(printable(title), fontsize=9, loc="left", color=_INK, wrap=True)
        ax.grid(alpha=0.25, linewidth=0.4, color=_INK)
        ax.set_axisbelow(True)
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None,
                                                                       "Type": None})
    return _inline(out.getvalue(), title, number)


def _inline(source: str, title: str, number: int) -> str:
    """The <svg> element, with ids of its own, the page's colour, and nothing that names another place."""
    from gantransfer.report.markup import text

    svg = source[source.index("<svg"):]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.S)
    svg = re.sub(r'\bid="', f'id="p{number}-', svg)
    svg = re.sub(r'((?:xlink:)?href="#|url\(#)', rf"\g<1>p{number}-", svg)
    svg = svg.replace(_INK, "currentColor").replace("'DejaVu Sans'", "'DejaVu Sans', sans-serif")
    svg = re.sub(r"\n\s*", "\n", svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{text(title)}"', 1)
