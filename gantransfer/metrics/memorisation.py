# SPDX-License-Identifier: Apache-2.0
"""Copying: how near generated images are to training images, compared with how near new real images are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from gantransfer.metrics.distances import nearest
from gantransfer.metrics.feature_matrix import Array, MetricError, as_pair
from gantransfer.metrics.intra import rows_of


@dataclass(frozen=True)
class NearestTraining:
    """Nearest-training-image distances per class.

    ratio [K]: mean distance of generated rows over that of held-out real rows (NaN where a class has no held-out row):
    1 = as far as new real images, well below 1 = copying. fake_distance / fake_index [M]: per generated row the
    distance to, and row index of, its nearest training row of the same class. excluded: held-out rows left out because
    they are training images themselves.
    """

    ids: list[int]
    ratio: np.ndarray
    fake_distance: np.ndarray
    fake_index: np.ndarray
    excluded: int

    def mean(self, classes=None) -> float:
        """Mean ratio over `classes` (default all) that have one."""
        chosen = np.array([r for c, r in zip(self.ids, self.ratio) if classes is None or c in classes])
        known = chosen[np.isfinite(chosen)]
        return float(known.mean()) if len(known) else float("nan")


def nearest_training(train: Array, fake: Array, heldout: Array, labels_train: np.ndarray, labels_fake: np.ndarray,
                     labels_heldout: np.ndarray, classes) -> NearestTraining:
    """Compare generated [M, D] and held-out real rows [H, D] with training rows [N, D], class by class.

    Held-out rows at distance 0 from a training row are the same image and are left out (a reference that contains the
    training set would otherwise hide copying). Raises MetricError when nothing remains, or a class has no training row.
    """
    train, fake = as_pair(train, fake)
    heldout = as_pair(train, heldout)[1]
    labels_fake = np.asarray(labels_fake)
    ratios, excluded, kept = [], 0, 0
    distance = np.full(len(fake), np.nan)
    index = np.full(len(fake), -1, np.int64)
    for c in classes:
        t, f, h = rows_of(labels_train, c), rows_of(labels_fake, c), rows_of(labels_heldout, c)
        if not len(t) or not len(f):
            raise MetricError(f"class {c} has {len(t)} training and {len(f)} generated rows; both are needed")
        df, i = nearest(fake[f], train[t])
        distance[f], index[f] = df.cpu().numpy(), t[i.cpu()].numpy()
        dh = nearest(heldout[h], train[t])[0] if len(h) else torch.zeros(0)
        new = dh[dh > 0]
        excluded += len(dh) - len(new)
        kept += len(new)
        ratios.append(float(df.mean() / new.mean()) if len(new) else float("nan"))
    if not kept:
        raise MetricError("every reference image is a training image: the ratio needs held-out real images")
    return NearestTraining([int(c) for c in classes], np.array(ratios), distance, index, excluded)
