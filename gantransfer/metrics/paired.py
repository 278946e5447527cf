# SPDX-License-Identifier: Apache-2.0
"""Arms against each other with paired seeds: reading results, spreads, paired differences, when one counts.

A difference counts only if it exceeds the critical t value for that many pairs under every judge.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dnnlib import json_file


def read_result(snapshot: Path, judge: int, metric: str = "report_digits32") -> dict[str, float] | None:
    """The numbers of one snapshot under one judge (folder `judge<j>` beside it), or None."""
    path = snapshot.parent / f"judge{judge}" / f"metric-{metric}.jsonl"
    for r in json_file.lines(path):
        if Path(r["snapshot_pkl"]).name == snapshot.name:
            return {k.removeprefix(f"{metric}_"): v for k, v in r["results"].items() if isinstance(v, int | float)}
    return None


def train_seconds(snapshot: Path) -> float:
    """Training time of a run until this snapshot; NaN if its log does not reach so far."""
    kimg = int(snapshot.stem[-6:])
    for r in json_file.lines(snapshot.parent / "stats.jsonl"):
        if r["Progress/kimg"]["mean"] >= kimg:
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
        """One cell of Markdown per judge, bold if the difference counts."""
        text = [f"{m:+.3g} +- {e:.2g} ({k}/{self.pairs})" for m, e, k in zip(self.mean, self.error, self.lower)]
        return [f"**{t}**" for t in text] if self.sure else text

    def cell(self) -> str:
        """The same in one cell: averages over judges."""
        text = f"{self.mean.mean():+.3g} +- {self.error.mean():.2g}"
        return f"**{text}**" if self.sure else text


def difference(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]]) -> Difference:
    """Compare values [judges][seeds] of two arms whose seeds are pairs."""
    d = np.asarray(b, np.float64) - np.asarray(a, np.float64)
    n = d.shape[1]
    error = d.std(1, ddof=1) / math.sqrt(n) if n > 1 else np.full(len(d), math.nan)
    mean = d.mean(1)
    with np.errstate(invalid="ignore"):
        beyond = (error > 0) & (np.abs(mean) > critical_t(n) * error)
    sure = bool(beyond.all()) and len(set(np.sign(mean))) == 1
    return Difference(mean, error, (d < 0).sum(1), n, sure)
