# SPDX-License-Identifier: Apache-2.0
"""The walk-through of continuous labels: its table, its choice of images, its picture, bad input."""

import json

import numpy as np
import pytest
from PIL import Image

from dnnlib.util import UserError
from gantransfer.data.dataset import ImageDataset
from gantransfer.experiments import ccgan, students
from tests.conftest import write_image_zip
from tests.experiments.recorder import children_within, really
from tests.made import made

pytest.importorskip("sklearn", reason="the demo's digits come with scikit-learn")


def result(seed, real, other):
    rows = {a: dict(mae=real if a == "real" else other) for a in ccgan.ARMS}
    return dict(seed=seed, students=rows, teacher=dict(mae=1.0), label_score={"held-out reals": 2.0, "raw": 9.0})


def test_the_table_marks_what_is_beyond_chance():
    clear = ccgan.report([result(s, 6 + s / 10, 4 + s / 11) for s in range(5)], 150, 24, 30)
    assert "| real only | 6.2 +- 0.16 |" in clear
    assert "| + filtered, relabelled (cGAN-KD) minus real only | **-2.02 +- 0.0064 (5/5)** |" in clear
    unclear = ccgan.report([result(s, 6, 6 + (-1) ** s) for s in range(5)], 150, 24, 30)
    assert "**" not in unclear and "(2/5)" in unclear
    assert "does not rank" in ccgan.report([result(0, 6, 4)], 150, 24, 30)


def test_images_are_chosen_and_drawn_by_angle(tmp_path):
    really("dataset_tool", ["--source=sklearn:rotated-digits", "--split=pool", f"--dest={tmp_path / 'pool.zip'}",
                            "--max-images=60"])
    for name, seed in (("train", 0), ("again", 0), ("other", 1)):
        students.few_labels(tmp_path / "pool.zip", seed, 24, tmp_path / f"{name}.json")
    texts = [(tmp_path / f"{n}.json").read_text() for n in ("train", "again", "other")]
    assert texts[0] == texts[1] != texts[2] and len(json.loads(texts[0])["labels"]) == 24
    data = ImageDataset(tmp_path / "pool.zip", fname=str(tmp_path / "train.json"), use_labels=True)
    assert data.spec.label.meta["scale"] == 90  # the range is the set's, not that of the chosen images
    m = made("ccgan", data.spec, dict(kimg=1), cfg="tiny", ch=1, z_dim=4, h_dim=16, embed_width=1, standing=0,
             embed_kimg=0.01)
    m.prepare(data)
    m.snapshot(0).save(tmp_path / "s.pkl")
    (tmp_path / "snapshot.txt").write_text(str(tmp_path / "s.pkl"))
    students.draw_values(tmp_path / "p.png", tmp_path, np.linspace(0, 90, 10), "degrees")
    picture = np.asarray(Image.open(tmp_path / "p.png").convert("L"))
    assert picture.shape[0] >= 20 + 10 * 32 and picture[40:, -8 * 32:].std() > 1


def test_label_error_of_sets_by_a_judge(tmp_path):
    """Sets whose images are what their label says, and whose labels are 30 off."""
    rng = np.random.RandomState(0)
    level = rng.randint(0, 91, 80)
    images = (level[:, None, None] * 2 + 5 * rng.randn(80, 16, 16)).clip(0, 255).astype(np.uint8)
    meta = dict(kind="regression", unit="degree", offset=0.0, scale=90.0, min=-60.0, max=150.0)
    paths = {}
    for name, off in (("others", 0), ("test", 0), ("raw", 30)):
        paths[name] = write_image_zip(tmp_path / f"{name}.zip", images, [[float(v + off)] for v in level],
                                      label_meta=meta)
    got = students.label_errors(tmp_path, paths["others"], paths["test"], {"raw": paths["raw"]}, 0)
    assert got["held-out reals"] < 6 and got["raw"] == pytest.approx(30, abs=6)
    assert students.label_errors(tmp_path, None, None, {}, 0) == got  # kept


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
    found = {a: json.loads((tmp_path / f"d/results/{a}-fold0.json").read_text()) for a in ccgan.ARMS}
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
