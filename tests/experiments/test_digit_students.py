# SPDX-License-Identifier: Apache-2.0
"""Digits of a fold, images by angle, and how wrong their labels are."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from gantransfer.data.dataset import ImageDataset
from gantransfer.distillation import fakes
from gantransfer.experiments import digit_students
from tests.conftest import write_image_zip
from tests.experiments.recorder import really
from tests.made import made

pytest.importorskip("sklearn", reason="the demo's digits come with scikit-learn")


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
        digit_students.fold_labels(ten, fold, 5, imbalance, train, test)
        sets = [ImageDataset(ten, fname=str(p), use_labels=True) for p in (train, test)]
        names = [{d.get_details(i).name for i in range(len(d))} for d in sets]
        assert not names[0] & names[1] and sets[1].spec.label.counts == (10,) * 10
        assert sorted(sets[0].spec.label.counts, reverse=True) == counts
        tested += names[1]
    assert len(tested) == len(set(tested)) == 500


def test_images_are_chosen_and_drawn_by_angle(tmp_path):
    really("dataset_tool", ["--source=sklearn:rotated-digits", "--split=pool", f"--dest={tmp_path / 'pool.zip'}",
                            "--max-images=60"])
    for name, seed in (("train", 0), ("again", 0), ("other", 1)):
        digit_students.few_labels(tmp_path / "pool.zip", seed, 24, tmp_path / f"{name}.json")
    texts = [(tmp_path / f"{n}.json").read_text() for n in ("train", "again", "other")]
    assert texts[0] == texts[1] != texts[2] and len(json.loads(texts[0])["labels"]) == 24
    data = ImageDataset(tmp_path / "pool.zip", fname=str(tmp_path / "train.json"), use_labels=True)
    assert data.spec.label.meta["scale"] == 90  # the range is the set's, not that of the chosen images
    m = made("ccgan", data.spec, dict(kimg=1), cfg="tiny", ch=1, z_dim=4, h_dim=16, embed_width=1, standing=0,
             embed_kimg=0.01)
    m.prepare(data)
    m.snapshot(0).save(tmp_path / "s.pkl")
    (tmp_path / "snapshot.txt").write_text(str(tmp_path / "s.pkl"))
    digit_students.draw_values(tmp_path / "p.png", tmp_path, np.linspace(0, 90, 10), "degrees")
    picture = np.asarray(Image.open(tmp_path / "p.png").convert("L"))
    assert picture.shape[0] >= 20 + 10 * 32 and picture[40:, -8 * 32:].std() > 1


def test_fakes_with_the_smallest_errors_are_shown_as_kept(ten, tmp_path, monkeypatch):
    """Ten fakes of each class, the lighter the larger their error: half are kept, the eight worst shown as dropped."""
    digit_students.fold_labels(ten, 0, 5, 1, tmp_path / "train.json", tmp_path / "test.json")
    error, assigned = np.tile(np.arange(10), 10), np.repeat(np.arange(10), 10)
    images = np.broadcast_to((101 + 10 * error).astype(np.uint8)[:, None, None], (100, 16, 16))
    write_image_zip(tmp_path / "raw.zip", images, assigned.tolist())
    monkeypatch.setattr(fakes, "read", lambda path: SimpleNamespace(scores=dict(assigned=assigned, error=error)))
    digit_students.draw_filtered(tmp_path / "p.png", ten, tmp_path, 0.5)
    grey, each = np.asarray(Image.open(tmp_path / "p.png").convert("L")), 10 * 32 * 32
    counts = [round((grey == 101 + 10 * k).sum() / each) for k in range(10)]
    assert counts[:2] == [2, 2] and counts[5:] == [1] * 5 and sum(counts) == 16


def test_judges_are_asked_of_the_labels_of_their_stage(tmp_path, monkeypatch):
    """Digits under their own labels, where the teacher has corrected every second one."""
    really("dataset_tool", ["--source=sklearn:digits", f"--dest={tmp_path / 'processed.zip'}", "--max-images=40"])
    truth = ImageDataset(tmp_path / "processed.zip", use_labels=True).class_ids
    assigned = np.where(np.arange(40) % 2, truth, (truth + 1) % 10)
    monkeypatch.setattr(fakes, "read", lambda path: SimpleNamespace(
        scores=dict(assigned=assigned), provenance=dict(agreement=dict(drawn=0.25, filtered=0.5, final=1.0))))
    got = digit_students.agreements(dict(processed=tmp_path / "processed.zip"))
    assert got["judge_processed"] >= 0.95 and abs(got["judge_filtered"] - 0.5) < 0.06
    assert got["teacher_drawn"] == 0.25 and got["images_processed"] == 40


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
    got = digit_students.label_errors(tmp_path, paths["others"], paths["test"], {"raw": paths["raw"]}, 0)
    assert got["held-out reals"] < 6 and got["raw"] == pytest.approx(30, abs=6)
    assert digit_students.label_errors(tmp_path, None, None, {}, 0) == got  # kept
