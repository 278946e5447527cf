# SPDX-License-Identifier: Apache-2.0
"""Effective number of samples: limits, and a value computed by hand."""

import numpy as np
import pytest

from gantransfer.losses.effective_number import inverse_effective_number


def test_values():
    # E(1) = 1, E(2) = 1 + alpha, E(3) = 1 + alpha + alpha^2
    got = inverse_effective_number([1, 2, 3], 0.5)
    raw = np.array([1, 1 / 1.5, 1 / 1.75])
    np.testing.assert_allclose(got, raw / raw.mean(), rtol=1e-12)


def test_limits():
    np.testing.assert_allclose(inverse_effective_number([1, 10, 1000], 0), 1)
    few = inverse_effective_number([1, 10, 100], 1 - 1e-9)  # almost 1 / n
    np.testing.assert_allclose(few / few[0], [1, 0.1, 0.01], rtol=1e-5)
    assert inverse_effective_number([7], 0.99).tolist() == [1.0]


def test_classes_without_images_have_no_weight():
    got = inverse_effective_number([5, 0, 1], 0.9)
    assert got[1] == 0 and got[[0, 2]].mean() == pytest.approx(1)


def test_more_images_never_weigh_more():
    got = inverse_effective_number(np.arange(1, 2000), 0.99)
    assert (np.diff(got) <= 0).all()


@pytest.mark.parametrize("counts, alpha", [([], 0.5), ([0, 0], 0.5), ([1], 1.0), ([1], -0.1)])
def test_refusals(counts, alpha):
    with pytest.raises(ValueError, match="expected images"):
        inverse_effective_number(counts, alpha)
