# SPDX-License-Identifier: Apache-2.0
"""Metrics restricted to classes, groups of classes, or windows of a continuous label."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from gantransfer.metrics.feature_matrix import Array, MetricError
from gantransfer.metrics.fid import frechet_distance
from gantransfer.metrics.kid import kid_full


@dataclass(frozen=True)
class Table:
    """One value per class (or group, or label centre), with the number of rows behind it."""

    ids: list
    values: np.ndarray
    n_real: list[int] = field(default_factory=list)
    n_fake: list[int] = field(default_factory=list)

    @property
    def mean(self) -> float:
        return float(self.values.mean())

    @property
    def std(self) -> float:
        return float(self.values.std())


def rows_of(labels: np.ndarray, classes: int | Iterable[int]) -> torch.Tensor:
    """Row indices whose class id is in `classes`, ascending."""
    wanted = [classes] if np.isscalar(classes) else list(classes)
    return torch.as_tensor(np.flatnonzero(np.isin(np.asarray(labels), wanted)))


def per_group(real: Array, fake: Array, labels_real: np.ndarray, labels_fake: np.ndarray,
              groups: Sequence, metric: Callable[[torch.Tensor, torch.Tensor], float]) -> Table:
    """`metric(real rows, fake rows)` for every group: a class id or an iterable of class ids.

    Raises MetricError naming the group that has no real or no generated row.
    """
    real, fake = torch.as_tensor(real), torch.as_tensor(fake)
    values, n_real, n_fake = [], [], []
    for g in groups:
        r, f = real[rows_of(labels_real, g)], fake[rows_of(labels_fake, g)]
        if not len(r) or not len(f):
            raise MetricError(f"class {g} has {len(r)} real and {len(f)} generated rows; both are needed")
        values.append(metric(r, f))
        n_real.append(len(r))
        n_fake.append(len(f))
    return Table(list(groups), np.array(values, np.float64), n_real, n_fake)


def intra_fid(real: Array, fake: Array, labels_real: np.ndarray, labels_fake: np.ndarray,
              classes: Sequence, ddof: int = 1) -> Table:
    """Intra-class FID. Biased upwards for classes of fewer rows than features: report the counts beside it."""
    return per_group(real, fake, labels_real, labels_fake, classes, lambda r, f: frechet_distance(r, f, ddof))


def intra_kid(real: Array, fake: Array, labels_real: np.ndarray, labels_fake: np.ndarray, classes: Sequence) -> Table:
    """Intra-class KID: unbiased MMD^2 on the first min(n_real, n_fake) rows of each class, in row order."""
    return per_group(real, fake, labels_real, labels_fake, classes, kid_full)


def sliding_fid(real: Array, fake: Array, labels_real: np.ndarray, labels_fake: np.ndarray, centres: Sequence[float],
                radius: float, scale: float = 1.0, ddof: int = 1) -> Table:
    """Sliding FID of CcGAN (Ding et al. 2021): FID of rows whose label is within `radius` of each centre.

    Labels are multiplied by nothing: `centres` and `radius` are in label units and divided by `scale`, which is the
    value that normalised the labels. The window is closed, with 1e-9 tolerance.
    """
    real, fake = torch.as_tensor(real), torch.as_tensor(fake)
    labels_real, labels_fake = np.asarray(labels_real, np.float64), np.asarray(labels_fake, np.float64)
    values, n_real, n_fake = [], [], []
    for c in centres:
        r, f = (x[torch.as_tensor(np.flatnonzero(np.abs(y - c / scale) <= radius / scale + 1e-9))]
                for x, y in ((real, labels_real), (fake, labels_fake)))
        if not len(r) or not len(f):
            raise MetricError(f"label window around {c} has {len(r)} real and {len(f)} generated rows; both are needed")
        values.append(frechet_distance(r, f, ddof))
        n_real.append(len(r))
        n_fake.append(len(f))
    return Table([float(c) for c in centres], np.array(values), n_real, n_fake)


def diversity_ratio(real: Array, fake: Array, labels_real: np.ndarray, labels_fake: np.ndarray,
                    classes: Sequence) -> Table:
    """Per class sqrt(tr cov(fake)) / sqrt(tr cov(real)): 1 = as varied as reality; above 1 with low label accuracy
    means confusion, not variety."""
    def ratio(r: torch.Tensor, f: torch.Tensor) -> float:
        spread = [float((x.double() - x.double().mean(0)).pow(2).sum() / max(len(x) - 1, 1)) ** 0.5 for x in (f, r)]
        return spread[0] / spread[1] if spread[1] > 0 else float("nan")

    return per_group(real, fake, labels_real, labels_fake, classes, ratio)
