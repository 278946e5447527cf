# SPDX-License-Identifier: Apache-2.0
"""Folds of a data set, and the figures of students that are taught with generated images."""

import numpy as np
import pytest

from dnnlib.util import UserError
from gantransfer.data.dataset import ImageDataset
from gantransfer.experiments import folds
from gantransfer.experiments.folds import FOLDS, Folds, Recipe
from tests.conftest import write_image_zip


def test_each_class_is_dealt_out_evenly_and_once():
    ids = np.repeat(np.arange(3), (23, 5, 11))
    parts = folds.parts_by_class(ids, FOLDS)
    for k in range(3):
        each = np.bincount(parts[ids == k], minlength=FOLDS)
        assert each.sum() == (ids == k).sum() and each.max() - each.min() <= 1 and each.min() >= 1
    assert (parts == folds.parts_by_class(ids, FOLDS)).all()


def test_values_are_dealt_out_along_their_range():
    y = np.repeat([0.0, 1 / 3, 2 / 3, 1.0], (57, 11, 7, 26))
    parts = folds.parts_by_value(y, FOLDS)
    assert sorted(np.bincount(parts)) == [20, 20, 20, 20, 21]
    for v in np.unique(y):  # blocks of five cross the border of a value once at each end
        each = np.bincount(parts[y == v], minlength=FOLDS)
        assert each.max() - each.min() <= 2 and each.min() >= 1
    even = np.linspace(0, 1, 100)
    means = [even[folds.parts_by_value(even, FOLDS) == k].mean() for k in range(FOLDS)]
    assert np.ptp(means) < 0.05


def test_planted_classifiers_get_their_figures():
    truth = np.repeat(np.arange(3), (10, 6, 4))
    groups = {"many": (0,), "medium": (1,), "few": (2,)}
    perfect = folds.recalls(folds.confusion(truth, truth, 3), groups)
    assert perfect == dict(macro_recall=1, accuracy=1, recall_many=1, recall_medium=1, recall_few=1, recall=[1, 1, 1])
    constant = folds.recalls(folds.confusion(np.zeros(20, int), truth, 3), groups)
    assert constant["macro_recall"] == pytest.approx(1 / 3) and constant["accuracy"] == 0.5
    assert constant["recall"] == [1, 0, 0] and (constant["recall_many"], constant["recall_few"]) == (1, 0)
    some = truth.copy()
    some[16:18] = 0  # half of the rarest are called the most frequent
    seen = folds.confusion(some, truth, 3)
    assert seen.tolist() == [[10, 0, 0], [0, 6, 0], [2, 0, 2]]
    assert folds.recalls(seen, groups)["macro_recall"] == pytest.approx(2.5 / 3)


def test_planted_regressors_get_their_figures():
    truth = np.array([0.0] * 8 + [1.0] * 2)
    bins = np.array([0.0, 1.0])
    assert folds.errors(truth, truth, bins) == dict(mae=0, macro_mae=0, rmse=0)
    zero = folds.errors(np.zeros(10), truth, bins)
    assert zero == pytest.approx(dict(mae=0.2, macro_mae=0.5, rmse=0.2**0.5))


def study(tmp_path, path, kind="class", fakes="10x", **more):
    recipe = Recipe(**{**dict(gan_kimg=1, student_kimg=1, common="--cfg=tiny", student="--preset=small", fakes=fakes,
                              rho=0.9, share=0.5), **more})
    return Folds(tmp_path / "d", str(path), kind, {}, {}, {}, recipe, range(1))


def test_fakes_follow_the_rarest_class_or_all_images(tmp_path):
    counts = {0: 700, 1: 40, 2: 90}
    assert [study(tmp_path, "x", fakes=f).per_label(counts) for f in ("10x", "0.5x", "400")] == [400, 20, 400]
    assert study(tmp_path, "x", "value", "2x").per_label(counts) == round(2 * 830 / 3)
    assert study(tmp_path, "x", "value", "300").per_label(counts) == 100
    assert study(tmp_path, "x", "value", "2x").per_label({k: 3 for k in range(1000)}) == 60, "at most 100 values"
    for bad in ("x", "0x", "-1", "1.5", "ten"):
        with pytest.raises(UserError, match=f"--fakes={bad}: write a number"):
            study(tmp_path, "x", fakes=bad).per_label(counts)


@pytest.mark.parametrize("labels, kind, says", [
    ([0] * 9 + [1] * 4, "class", "4 images of class elm, fewer than the 5 folds"),
    ([0] * 9 + [1] * 9, "value", "has 2 classes; this study needs a continuous label"),
    ([[0.5]] * 6 + [[0.1]] * 6, "class", "has continuous labels; this study needs classes"),
    (None, "class", "has no labels"), ([0] * 9, "class", "has 1 class; this study needs classes, two at least"),
    ([[0.5]] * 12, "value", "12 images with 1 different labels"),
    ([[0.5]] * 6 + [[0.1]] * 3, "value", "9 images with 2 different"),
])
def test_data_that_cannot_be_folded_are_one_line(tmp_path, labels, kind, says):
    images = np.zeros((len(labels or [0] * 9), 16, 16), np.uint8)
    names = dict(class_names=["ash", "elm"]) if labels and labels[-1] == 1 else {}
    path = write_image_zip(tmp_path / "x.zip", images, labels, **names)
    with pytest.raises(UserError, match=says) as e:
        study(tmp_path, path, kind).prepare()
    assert "x.zip" in str(e.value) and "\n" not in str(e.value) and not (tmp_path / "d").exists()


@pytest.mark.parametrize("more, says", [
    (dict(student="--seed=3"), "--student: --seed is given by the study"),
    (dict(student="--kd=blkd"), "--student: --kd=blkd is no flag of teacher"),
    (dict(student="--arch=vgg99"), "vgg99"), (dict(common="--data=x"), "--common: --data is given by the study"),
    (dict(fakes="many"), "--fakes=many"),
])
def test_flags_are_checked_before_anything_trains(tmp_path, more, says):
    path = write_image_zip(tmp_path / "x.zip", np.zeros((12, 16, 16), np.uint8), [0] * 6 + [1] * 6)
    with pytest.raises(UserError, match=says):
        study(tmp_path, path, **more).prepare()
    assert not (tmp_path / "d/study.json").exists(), "the mended command may use the folder"


def test_white_stands_for_a_class_without_fakes(tmp_path):
    images = np.repeat(np.arange(10, 130, 10, dtype=np.uint8), 256).reshape(12, 16, 16)
    path = write_image_zip(tmp_path / "x.zip", images, [0] * 7 + [1] * 5)
    made = write_image_zip(tmp_path / "fakes.zip", images[:3], [0] * 3)
    s = study(tmp_path, path)
    s.whole = ImageDataset(path, use_labels=True)
    s.label = s.whole.spec.label
    rows = s.rows(made)
    assert rows[0][:, 0, 0, 0].tolist() == [10, 20, 30, 10, 20, 30, 10, 20] and (rows[1] == 255).all()
    values = write_image_zip(tmp_path / "v.zip", images, [[v / 11] for v in range(12)])
    s = study(tmp_path, values, "value")
    s.whole = ImageDataset(values, use_labels=True)
    assert len(s.bins()) == folds.BINS and s.bins()[[0, -1]].tolist() == [0, 1]
    rows = s.rows(values)
    assert rows[0][:2, 0, 0, 0].tolist() == [10, 10] and rows[-1][0, 0, 0, 0] == 120
