# SPDX-License-Identifier: Apache-2.0
"""Which generated images are kept and what their labels become, from a teacher's predictions. Numpy only.

An image's error is the teacher's cross-entropy of the label it was generated for, or the distance between that label
and the prediction, in the label's own units. Kept are those with an error up to the quantile rho, over all images or
per group (class, or interval of a value).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dnnlib.util import UserError

TIES = ("keep", "strict")
QUANTILES = ("perclass", "global", "bins")  # over what a share of the images is taken


def classification_errors(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """float32 [n]: cross-entropy of class ids [n] under logits [n, K]."""
    x = np.asarray(logits, np.float64)
    x = x - x.max(1, keepdims=True)
    return (np.log(np.exp(x).sum(1)) - x[np.arange(len(x)), np.asarray(labels, np.int64)]).astype(np.float32)


def regression_errors(predicted: np.ndarray, assigned: np.ndarray) -> np.ndarray:
    """float32 [n]: |prediction - label| in the label's units."""
    return np.abs(np.asarray(predicted, np.float64) - np.asarray(assigned, np.float64)).reshape(-1).astype(np.float32)


def regression_labels(normalised: np.ndarray, offset: float, scale: float, *, clip: bool = True,
                      integers: bool = False) -> np.ndarray:
    """Predictions in label units: offset + scale * prediction, the prediction clipped to [0, 1] unless `clip` is off.

    `integers` truncates toward zero, as the published UTKFace code does; it biases by half a unit and makes ties.
    """
    y = np.asarray(normalised)
    y = y.dtype.type(scale) * (np.clip(y, 0, 1) if clip else y) + y.dtype.type(offset)
    return np.trunc(y) if integers else y


def check_rho(rho: float) -> None:
    if not 0 < rho <= 1:
        raise UserError(f"--rho={rho:g} is outside (0, 1]: it is the share of images to keep")


def cutoff(errors: np.ndarray, rho: float) -> float:
    """The linearly interpolated quantile of the errors."""
    check_rho(rho)
    return np.quantile(np.asarray(errors), rho)


def select(errors: np.ndarray, rho: float, groups: np.ndarray | None = None, burn_in: np.ndarray | None = None,
           ties: str = "keep", keep_all: bool = True) -> tuple[np.ndarray, dict[int, float]]:
    """(indices kept, in order; cut-off per group: key -1 without groups).

    `groups` int [n]: a cut-off for each value. `burn_in` bool [n]: cut-offs come from these images only.
    ties 'keep': an error equal to the cut-off stays, so that ties cannot lose a whole class; 'strict' is the published
    rule. `keep_all`: rho = 1 keeps everything whatever the burn-in saw.
    Raises UserError for rho outside (0, 1], and naming the group of which nothing is left.
    """
    check_rho(rho)
    if ties not in TIES:
        raise ValueError(f"ties {ties!r} is none of {TIES}")
    errors = np.asarray(errors)
    if not np.isfinite(errors).all():
        raise UserError(f"{int((~np.isfinite(errors)).sum())} of {len(errors)} errors are not finite; the teacher "
                        "diverged, or the images are not its kind")
    groups = np.full(len(errors), -1) if groups is None else np.asarray(groups)
    keep, cutoffs = np.zeros(len(errors), bool), {}
    for g in np.unique(groups):
        members = groups == g
        sample = errors[members if burn_in is None else members & burn_in]
        if not len(sample):
            raise UserError(f"no image of {_name(g)} to take the quantile of")
        q = cutoff(sample, rho)
        cutoffs[int(g)] = float(q)
        keep |= members & ((errors <= q) if ties == "keep" else (errors < q))
        if keep_all and rho == 1:
            keep |= members
        if not keep[members].any():
            raise UserError(f"--rho={rho:g} leaves no image of {_name(g)} ({int(members.sum())} before filtering); "
                            "raise it, or generate more")
    return np.flatnonzero(keep), cutoffs


def published_burn_in(groups: np.ndarray, size: int | None = None) -> np.ndarray:
    """bool [n]: the first `size` images of each group; None: the first half, at least two."""
    groups, out = np.asarray(groups), np.zeros(len(groups), bool)
    for g in np.unique(groups):
        members = np.flatnonzero(groups == g)
        out[members[: max(2, len(members) // 2) if size is None else size]] = True
    return out


def intervals(labels: np.ndarray, count: int) -> np.ndarray:
    """int [n]: which of `count` equal parts of their range float labels [n] fall into."""
    y = np.asarray(labels, np.float64).reshape(-1)
    low, high = y.min(), y.max()
    return np.zeros(len(y), int) if high <= low else np.minimum((y - low) / (high - low) * count, count - 1).astype(int)


def quota(available: Mapping[int, int] | np.ndarray, total: int) -> np.ndarray:
    """int64 [K]: how many images of each class make `total`: total // K each, the remainder goes to the last class.

    Never more than there are, as published, so that the sum may stay below `total`.
    """
    n = np.asarray([available[k] for k in sorted(available)] if isinstance(available, Mapping) else available, np.int64)
    share = np.full(len(n), total // len(n), np.int64)
    share[-1] = total - (total // len(n)) * (len(n) - 1)
    return np.minimum(share, n)


def even_quota(available: np.ndarray, total: int) -> np.ndarray:
    """int64 [K]: as even as the classes allow: what a small class lacks, larger ones give. Sums to `total`, or to all.

    The published `quota` returns fewer images where a class is short.
    """
    n = np.asarray(available, np.int64)
    left, out = min(int(total), int(n.sum())), np.zeros(len(n), np.int64)
    while left > 0:
        open_ = np.flatnonzero(out < n)
        share = max(left // len(open_), 1)
        for k in open_:
            take = int(min(share, n[k] - out[k], left))
            out[k] += take
            left -= take
    return out


def _name(group: int) -> str:
    return "the set" if group == -1 else f"class {int(group)}"
