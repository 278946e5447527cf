# SPDX-License-Identifier: Apache-2.0
"""Result lines as lines for people: which figures, under which names, with three digits. Files keep all of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from dnnlib.util import three
from gantransfer.metrics import rating
from gantransfer.metrics.names import GROUPS, title


def figures(result: Mapping[str, Any]) -> dict[str, float | None]:
    """Value name -> value of one result line: those that rate a snapshot, of a class or a group of classes only where
    there is no value for all."""
    results = result["results"]
    rated = [k for k in results if rating.rates(result["metric"], k)] or list(results)
    parts = [re.fullmatch(rf"(.+)_({'|'.join(GROUPS)}|\d+)", k) for k in rated]  # of groups, of single classes
    return {k: results[k] for k, part in zip(rated, parts) if not (part and part[1] in rated)}


def line(results: Sequence[Mapping[str, Any]]) -> str:
    """The figures of result lines side by side, in columns that stay in place from one line to the next."""
    found = [(r["metric"], title(r["metric"], k), v) for r in results for k, v in figures(r).items()]
    titles = [t for _, t, _ in found]
    return "  ".join(f"{f'{m} ' * (titles.count(t) > 1)}{t} {three(v):<7}" for m, t, v in found).rstrip()


def row(result: Mapping[str, Any]) -> str:
    """One result line: its metric, and its figures."""
    metric, found = result["metric"], figures(result)
    return f"{metric:<24} {three(found[metric]) if list(found) == [metric] else line([result])}"
