# SPDX-License-Identifier: Apache-2.0
"""Folds and long tails of the digits that students are taught with."""

from __future__ import annotations

import numpy as np
import pytest

from gantransfer.data.dataset import ImageDataset
from gantransfer.experiments import students
from tests.conftest import write_image_zip


@pytest.fixture(scope="module")
def ten(tmp_path_factory):
    labels = np.repeat(np.arange(10), 50).tolist()
    images = np.zeros((500, 16, 16), np.uint8)
    return write_image_zip(tmp_path_factory.mktemp("ten") / "ten.zip", images, labels)


@pytest.mark.parametrize("imbalance, counts", [(1, [40] * 10), (20, [40, 29, 21, 15, 11, 8, 5, 4, 3, 2])])
def test_every_image_is_tested_once_and_never_trained_on(ten, tmp_path, imbalance, counts):
    tested = []
    for fold in range(5):
        train, test = tmp_path / f"train{fold}.json", tmp_path / f"test{fold}.json"
        students.fold_labels(ten, fold, 5, imbalance, train, test)
        sets = [ImageDataset(ten, fname=str(p), use_labels=True) for p in (train, test)]
        names = [{d.get_details(i).name for i in range(len(d))} for d in sets]
        assert not names[0] & names[1] and sets[1].spec.label.counts == (10,) * 10
        assert sorted(sets[0].spec.label.counts, reverse=True) == counts
        tested += names[1]
    assert len(tested) == len(set(tested)) == 500
