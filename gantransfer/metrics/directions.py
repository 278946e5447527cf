# SPDX-License-Identifier: Apache-2.0
"""Which way a measured value is better.

It is declared where the value is defined (`Metric.better` in metrics/metrics.py, `Method.better` for a method's own
figures), because a name does not tell: best.py rates snapshots by it, and removes the others.

A declaration maps value names, as regular expressions that match in full, to LOWER, HIGHER or UNRATED. UNRATED is for
what is no measure of quality: spreads, errors of measurement, seconds, figures that do not change in a run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

LOWER, HIGHER, UNRATED = "lower", "higher", "unrated"


def of(better: Mapping[str, str], value: str) -> str | None:
    """LOWER, HIGHER or UNRATED for the name of a value; None: it is not declared. The first match counts."""
    return next((d for pattern, d in better.items() if pattern == value or re.fullmatch(pattern, value)), None)


def check(owner: str, better: Mapping[str, str], values: Iterable[str]) -> None:
    """Every value must be declared; AssertionError names one that is not."""
    for name in values:
        assert of(better, name) is not None, f"{owner} does not declare which way its value {name} is better"
