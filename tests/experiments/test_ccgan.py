# SPDX-License-Identifier: Apache-2.0
"""The walk-through of continuous labels: its table, its picture, bad input."""

import json

import numpy as np
import pytest

from dnnlib.util import UserError
from gantransfer.data.dataset import ImageDataset
from gantransfer.experiments import ccgan, student_tables
from tests.conftest import write_image_zip
from tests.experiments.recorder import children_within, really

pytest.importorskip("sklearn", reason="the demo's digits come with scikit-learn")


def result(seed, real, other):
    rows = {a: dict(mae=real if a == "real" else other) for a in ccgan.DESIGN.arms}
    return dict(seed=seed, students=rows, teacher=dict(mae=1.0), label_score={"held-out reals": 2.0, "raw": 9.0})


def test_the_table_marks_what_is_beyond_chance():
    clear = student_tables.of_angles(ccgan.DESIGN, [result(s, 6 + s / 10, 4 + s / 11) for s in range(5)], 150, 24, 30)
    assert "| real only | 6.2 +- 0.16 |" in clear
    assert "| + filtered, relabelled (cGAN-KD) minus real only | **-2.02 +- 0.0064 (5/5)** |" in clear
    unclear = student_tables.of_angles(ccgan.DESIGN, [result(s, 6, 6 + (-1) ** s) for s in range(5)], 150, 24, 30)
    assert "**" not in unclear and "(2/5)" in unclear
    assert "does not rank" in student_tables.of_angles(ccgan.DESIGN, [result(0, 6, 4)], 150, 24, 30)


def test_without_scikit_learn_the_remedy_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "sklearn", None)
    with pytest.raises(UserError, match="pip install scikit-learn"):
        really("ccgan", [f"--dir={tmp_path / 'x'}"], "experiments")
    assert not (tmp_path / "x").exists()


@pytest.fixture(scope="module")
def valued(tmp_path_factory):
    """Four degrees, as bright as their number."""
    y = np.repeat([0.0, 1 / 3, 2 / 3, 1.0], (30, 10, 6, 14))
    images = 200 * y[:, None, None] + np.random.RandomState(0).randint(0, 30, (len(y), 16, 16))
    return write_image_zip(tmp_path_factory.mktemp("valued") / "own.zip", images.astype(np.uint8),
                           [[float(v)] for v in y],
                           label_meta=dict(kind="regression", unit="degree", offset=0.0, scale=1.0, min=0.0, max=1.0))


@pytest.mark.slow
def test_a_whole_fold_of_own_images(valued, tmp_path, monkeypatch):
    """Really trained, for moments: errors are those of the students that lie there; running again changes nothing."""
    from gantransfer.methods import cgan_kd

    monkeypatch.setattr(ccgan, "CODE", 1)
    children_within(monkeypatch)
    words = [f"--data={valued}", f"--dir={tmp_path / 'd'}", "--common=--cfg=tiny --ch=2", "--gan-kimg=0.1",
             "--student-kimg=1", "--student=--preset=small --arch=conv4-8", "--fakes=2x"]
    really("ccgan", words, "experiments")
    folder = tmp_path / "d/fold0"
    train, test = (ImageDataset(valued, fname=str(folder / f"{n}.json"), use_labels=True) for n in ("train", "test"))
    assert len(train) == 48 and len(test) == 12
    truth = test.labels(range(12))[:, 0]
    found = {a: json.loads((tmp_path / f"d/results/{a}-fold0.json").read_text()) for a in ccgan.DESIGN.arms}
    for arm, f in found.items():
        net = cgan_kd.load(str(folder / arm / "student.pkl"), train.spec, "x")
        says = train.spec.label.raw(cgan_kd.predict(net, test, np.arange(12)).astype(float))[:, 0]
        error = np.abs(says - truth)
        assert f["figures"]["mae"] == pytest.approx(error.mean())
        assert f["figures"]["macro_mae"] == pytest.approx(np.mean([error[truth == v].mean() for v in set(truth)]))
    assert len({f["images_seen"] for f in found.values()}) == 1
    assert found["raw"]["generated"]["per_label"] == 24 and found["raw"]["generated"]["images"] == 96
    assert found["filtered"]["generated"]["images"] == found["cgankd"]["generated"]["images"] == 67
    before = (tmp_path / "d/table.md").read_text()
    assert "96 in all (--fakes=2x), 2 times the 48 training images" in before
    really("ccgan", words, "experiments")
    assert (tmp_path / "d/table.md").read_text() == before


@pytest.mark.parametrize("flags, says", [
    (["--folds=2"], "--folds is for --data=ZIP"), (["--data={own}", "--images=30"], "--images is for the digits"),
    (["--data={own}", "--common=--cfg=tiny --seed=1"], "--seed is given by the study")])
def test_flags_of_the_other_data_are_one_line(valued, tmp_path, flags, says):
    with pytest.raises(UserError, match=says):
        really("ccgan", [f"--dir={tmp_path / 'x'}", *(f.format(own=valued) for f in flags)], "experiments")
