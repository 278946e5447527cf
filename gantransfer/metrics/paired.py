# SPDX-License-Identifier: Apache-2.0
"""Arms against each other with paired seeds: reading results, spreads, paired differences, when one counts.

A difference counts only if it exceeds the critical t value for that many pairs under every judge.
"""

from __future__ import annotations

import math
import platform
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dnnlib import json_file


def read_result(folder: Path, metric: str, snapshot: Path, detector: str | None = None) -> dict[str, float] | None:
    """The numbers of one snapshot in `metric-<metric>.jsonl` of a folder, or None.

    `detector` is a SHA-256: a line that names other weights does not count.
    """
    for r in json_file.lines(folder / f"metric-{metric}.jsonl"):
        other = detector and r.get("detector", {}).get("sha256", detector) != detector
        if Path(r["snapshot_pkl"]).name == snapshot.name and not other:
            return {k.removeprefix(f"{metric}_"): v for k, v in r["results"].items() if isinstance(v, int | float)}
    return None


def train_seconds(snapshot: Path) -> float:
    """Training time of a run until this snapshot; NaN if its log does not reach so far."""
    whole, rest = re.search(r"-(\d+)(?:_(\d+))?$", snapshot.stem).groups()  # 12 kimg, or 12_300 of 12.3
    for r in json_file.lines(snapshot.parent / "stats.jsonl"):
        if round(r["Progress/kimg"]["mean"] * 1000) >= int(whole) * 1000 + int(rest or 0):
            return r["Timing/total_sec"]["mean"]
    return math.nan


def versions() -> dict[str, str]:
    """What a result depends on beside its command."""
    import torch

    import gantransfer

    return dict(gantransfer=gantransfer.__version__, torch=torch.__version__, numpy=np.__version__,
                python=platform.python_version())


def critical_t(pairs: int) -> float:
    """Two-sided 5 % point of Student's t for `pairs` paired differences; infinite for fewer than two."""
    from scipy.stats import t

    return float(t.ppf(0.975, pairs - 1)) if pairs > 1 else math.inf


def spread(v: Sequence[float]) -> str:
    """Mean +- sample standard deviation."""
    return f"{np.mean(v):.3g} +- {np.std(v, ddof=1):.2g}" if len(v) > 1 else f"{v[0]:.3g}"


@dataclass
class Difference:
    """`b - a` of one column over paired seeds, per judge."""

    mean: np.ndarray  # [judges]
    error: np.ndarray  # [judges] standard errors
    lower: np.ndarray  # [judges] pairs in which b is lower
    pairs: int
    sure: bool  # beyond the critical t under every judge, with one sign

    def cells(self) -> list[str]:
        """One cell of Markdown per judge, bold if the difference counts; of one pair without an error."""
        if self.pairs == 1:
            return [f"{m:+.3g}" for m in self.mean]
        text = [f"{m:+.3g} +- {e:.2g} ({k}/{self.pairs})" for m, e, k in zip(self.mean, self.error, self.lower)]
        return [f"**{t}**" for t in text] if self.sure else text

    def cell(self) -> str:
        """The same in one cell: averages over judges."""
        text = f"{self.mean.mean():+.3g}" + (f" +- {self.error.mean():.2g}" if self.pairs > 1 else "")
        return f"**{text}**" if self.sure else text


def difference(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]]) -> Difference:
    """Compare values [judges][seeds] of two arms whose seeds are pairs."""
    from scipy import stats

    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    d, n = b - a, a.shape[1]
    if n > 1:
        with warnings.catch_warnings():  # of equal pairs, whose error of 0 proves nothing
            warnings.simplefilter("ignore", RuntimeWarning)
            error, p = stats.sem(d, axis=1), stats.ttest_rel(b, a, axis=1).pvalue
        beyond = (error > 0) & (p < 0.05)
    else:
        error, beyond = np.full(len(d), math.nan), np.zeros(len(d), bool)
    mean = d.mean(1)
    sure = bool(beyond.all()) and len(set(np.sign(mean))) == 1
    return Difference(mean, error, (d < 0).sum(1), n, sure)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    first, *rest = [f"| {' | '.join(cells)} |".replace("|  |", "| |") for cells in (head, *rows)]
    return [first, "|" + "---|" * len(head), *rest]
