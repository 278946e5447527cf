# SPDX-License-Identifier: Apache-2.0
"""Importance weights: expectations over draws, by hand and by sampling."""

import numpy as np
import pytest
import torch

from gantransfer.data.labels import class_weights
from gantransfer.losses.reweight import importance

COUNTS = (90, 9, 1, 0)


def test_values():
    # p = 0.9, 0.09, 0.01; q = 1/3 each
    assert torch.allclose(importance(COUNTS, "empirical", "balanced"), torch.tensor([10 / 27, 100 / 27, 100 / 3, 0]))
    assert importance((3, 3), "empirical", "balanced").tolist() == [1, 1]


@pytest.mark.parametrize("reals", ["empirical", "sqrt", "effective", "balanced"])
@pytest.mark.parametrize("labels", ["empirical", "sqrt", "effective", "balanced"])
def test_expectations(reals, labels):
    """E_p[w L] = E_q[L] for any loss, and E_p[w] = 1."""
    w, loss = importance(COUNTS, reals, labels).double().numpy(), np.array([0.3, -2.0, 5.0, 1e9])
    p, q = class_weights(COUNTS, reals), class_weights(COUNTS, labels)
    assert (p * w).sum() == pytest.approx(1)
    assert (p * w * loss).sum() == pytest.approx((q * loss).sum())
