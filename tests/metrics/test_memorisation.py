# SPDX-License-Identifier: Apache-2.0
"""Copies are told from new images."""

import numpy as np
import pytest

from gantransfer.metrics import memorisation
from gantransfer.metrics.feature_matrix import MetricError

rng = np.random.RandomState(0)


def test_memorisation_tells_copies_from_new_images():
    train, held = rng.randn(50, 8), rng.randn(40, 8)
    zeros = [np.zeros(n, int) for n in (50, 30, 40)]
    copied = memorisation.nearest_training(train, train[:30] + 0.001, held, *zeros, [0])
    fresh = memorisation.nearest_training(train, rng.randn(30, 8), held, *zeros, [0])
    assert copied.ratio[0] < 0.01 and 0.8 < fresh.ratio[0] < 1.2
    assert copied.fake_index.tolist() == list(range(30))


def test_training_images_in_the_reference_do_not_count_as_held_out():
    train, held, fake = rng.randn(50, 8), rng.randn(40, 8), rng.randn(30, 8)
    clean = memorisation.nearest_training(train, fake, held, *[np.zeros(n, int) for n in (50, 30, 40)], [0])
    mixed = memorisation.nearest_training(train, fake, np.vstack([train, held]),
                                          *[np.zeros(n, int) for n in (50, 30, 90)], [0])
    assert mixed.ratio[0] == pytest.approx(clean.ratio[0]) and mixed.excluded == 50
    with pytest.raises(MetricError, match="held-out"):
        memorisation.nearest_training(train, fake, train, *[np.zeros(n, int) for n in (50, 30, 50)], [0])


def test_classes_are_not_mixed():
    """A copy of another class's training image is not memorisation of this class."""
    train = np.vstack([rng.randn(20, 4), rng.randn(20, 4) + 50])
    labels = np.repeat([0, 1], 20)
    fake, held = train[20:25].copy(), rng.randn(10, 4)
    result = memorisation.nearest_training(train, fake, held, labels, np.zeros(5, int), np.zeros(10, int), [0])
    assert result.ratio[0] > 10
