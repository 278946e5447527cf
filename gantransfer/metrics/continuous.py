# SPDX-License-Identifier: Apache-2.0
"""Metrics along a continuous label: sliding FID and label score of CcGAN (Ding et al. 2021), as tables over windows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dnnlib.util import UserError
from gantransfer.metrics.context import MetricContext, Plan
from gantransfer.metrics.feature_matrix import MetricError
from gantransfer.metrics.intra import Table, sliding_fid
from gantransfer.metrics.label_score import label_score
from gantransfer.metrics.stats import FeatureSet

WINDOWS = 10


@dataclass(frozen=True)
class Windows:
    """Centres and radius, in label units."""

    centres: np.ndarray
    radius: float

    @classmethod
    def over(cls, labels: np.ndarray, count: int, radius: float | None) -> Windows:
        """`count` even windows over the labels' range, side by side unless `radius` says otherwise; those without a
        label are left out."""
        low, high = float(labels.min()), float(labels.max())
        step = (high - low) / count
        radius = step / 2 if radius is None else radius
        centres = low + step * (np.arange(count) + 0.5)
        near = np.abs(labels[None, :] - centres[:, None]) <= radius + 1e-9
        return cls(centres[near.any(1)], radius)

    def members(self, labels: np.ndarray) -> list[np.ndarray]:
        """Rows within each window."""
        return [np.flatnonzero(np.abs(labels - c) <= self.radius + 1e-9) for c in self.centres]


def reals_of(ctx: MetricContext, name: str) -> np.ndarray:
    """The reference's labels [n] in label units. UserError unless it has one number per image."""
    label = ctx.reals.spec.label
    if label.kind != "value" or label.dim != 1:
        raise UserError(f"metric '{name}' needs one continuous label per image; {ctx.reals.spec.path} has none")
    return ctx.reals.labels(np.arange(len(ctx.reals)))[:, 0].astype(np.float64)


def requested(ctx: MetricContext, plan: Plan, name: str) -> np.ndarray:
    """The labels [n] that the plan's images were made for, in label units."""
    if ctx.label.kind != "value" or ctx.label.dim != 1:
        raise UserError(f"metric '{name}' needs images made for one continuous label; these have none")
    c = ctx.generated.labels(plan.seeds) if ctx.generated is not None else plan.c.numpy()
    return c[:, 0].astype(np.float64)


def sfid(real: FeatureSet, fake: FeatureSet, y_real: np.ndarray, y_fake: np.ndarray, windows: Windows,
         scale: float = 1.0) -> Table:
    """Frechet distance per window (covariances divided by n - 1), features multiplied by `scale`."""
    return sliding_fid(real.features * scale, fake.features * scale, y_real, y_fake, windows.centres.tolist(),
                       windows.radius)


def score(fake: FeatureSet, y: np.ndarray, windows: Windows) -> tuple[float, float, Table]:
    """(mean, std, means per window) of |prediction - requested label|; the judge's only logit is the label itself.
    Windows without images are left out."""
    if fake.logits is None or fake.logits.shape[1] != 1:
        raise MetricError("the judge does not predict one number; train one with `gantransfer judge` on a "
                          "set with continuous labels")
    predicted = fake.logits[:, 0].double().numpy()
    mean, std = label_score(predicted, y)
    error = np.abs(predicted - y)
    parts = [(c, rows) for c, rows in zip(windows.centres, windows.members(y)) if len(rows)]
    return mean, std, Table([float(c) for c, _ in parts], np.array([error[rows].mean() for _, rows in parts]), [],
                            [len(rows) for _, rows in parts])
