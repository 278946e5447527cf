# SPDX-License-Identifier: Apache-2.0
"""Students of the user's own rare classes: what is started, what is kept, whose files count, and a whole run."""

import json
import shutil

import numpy as np
import pytest

from dnnlib.util import UserError
from gantransfer.experiments import folds
from gantransfer.experiments.folds import Folds
from gantransfer.experiments.students import result
from tests.conftest import write_image_zip
from tests.experiments.recorder import really, record

COUNTS = (40, 20, 10, 5)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """The darker, the more frequent."""
    ids = np.repeat(np.arange(4), COUNTS)
    images = 60 * ids[:, None, None] + np.random.RandomState(0).randint(0, 30, (len(ids), 16, 16))
    return write_image_zip(tmp_path_factory.mktemp("own") / "mine.zip", images.astype(np.uint8), ids.tolist(),
                           class_names=[*"abcd"])


@pytest.fixture
def seen(monkeypatch):
    """Networks that were not really trained: every student names the right class."""
    monkeypatch.setattr(Folds, "tested", lambda self, fold, student, spec: dict(
        confusion=np.diag([8, 4, 2, 1]).tolist(),
        figures=folds.recalls(np.diag([8, 4, 2, 1]), self.label.shots)))
    monkeypatch.setattr(folds, "provenance", lambda path: dict(
        images=9, agreement=dict(drawn=0.5, filtered=0.7, final=1.0), class_counts=[4, 3, 2, 0]))
    monkeypatch.setattr(folds, "result", lambda folder: dict(accuracy=0.9, accuracy_mean=0.8, images_seen=3, seconds=1))
    monkeypatch.setattr(Folds, "rows", lambda self, path, fname=None: [np.zeros((8, 1, 16, 16), np.uint8)] * 4)


def commands(done):
    return [(" ".join(c[: 2 if c[0] == "distill" else 1]), dict(w.partition("=")[::2] for w in c[1:] if "=" in w))
            for c in done if c[0] != "end"]


FLAGS = ["--gans=balanced,utlo8", "--gan-kimg=2", "--student-kimg=3", "--fakes=3x"]


def test_what_it_starts(own, tmp_path, monkeypatch, seen):
    done = record("distill", [f"--data={own}", "--folds=2", *FLAGS], tmp_path / "d", monkeypatch)
    started = commands([c for c in done if "--dry-run" not in c])
    trained = [w for name, w in started if name == "train"]
    assert [(w["--seed"], w["--cond"], w.get("--sampling"), w.get("--res_uc"), w["--kimg"]) for w in trained] == [
        (s, "True", *gan, "2") for s in "01" for gan in (("balanced", None), (None, "8"))]
    assert all((w["--cfg"], w["--data"], w["--fname"]) == ("small", str(own), f"DIR/fold{w['--seed']}/train.json")
               for w in trained)
    students = [w for name, w in started if name == "distill student"]
    assert [w["--outdir"].removeprefix("DIR/") for w in students] == [f"fold{k}/{a}" for k in range(2) for a in (
        "real", "oversampling", "balanced-raw", "balanced-cgankd", "utlo8-raw", "utlo8-cgankd")]
    assert {w["--kimg"] for w in students} == {"3"}, "all see equally many images"
    assert [w["--sampling"] for w in students[:6]] == ["empirical", *["balanced"] * 5]
    assert [(w.get("--fakes", "").removeprefix("DIR/"), w.get("--fake_batch_share")) for w in students[:3]] == [
        ("", None), ("", None), ("fold0/balanced-raw.zip", "0.5")]
    assert all(w["--test-fname"] == w["--fname"].replace("train", "test") for w in students)
    made = [w for name, w in started if name == "distill fakes"]
    assert len(made) == 4 and {w["--num-per-label"] for w in made} == {"12"}, "three times the 4 of the rarest class"
    filtered = [(w["--rho"], w["--replace"]) for name, w in started if name == "distill refilter"]
    assert filtered == [("0.9", "True")] * 4
    assert len([1 for name, _ in started if name == "distill teacher"]) == 2
    text = (tmp_path / "d/table.md").read_text()
    assert "12 fakes of each class (--fakes=3x), 3 times the images of the rarest class (4 in fold 0)" in text
    assert "75 images of 4 classes, 2 of 5 folds: 30 images are tested, once each" in text
    assert "| UTLO (res_uc 8): cGAN-KD | 1 +- 0 | 1 +- 0 | 1 +- 0 | 1 +- 0 | 1 +- 0 |" in text
    assert "| d (5) | 1.00 | 1.00 |" in text and "| raw fakes" not in text
    assert "| (the teacher, 0 thousand images) | 0.8 +- 0 | 0.9 +- 0 | - " in text


def test_shares_of_a_training_are_kimg_of_it(own, tmp_path, monkeypatch, seen):
    """Also in what all generators get."""
    flags = ["--gans=shift,transitional", "--gan-kimg=2", "--common=--cfg=small --ada_kimg=5%"]
    done = record("distill", [f"--data={own}", *flags], tmp_path / "d", monkeypatch)
    trained = [w for name, w in commands(done) if name == "train"]
    assert {w["--ada_kimg"] for w in trained} == {"0.1"} and len(trained) >= 2
    assert {(w.get("--sampling_shift"), w.get("--transition")) for w in trained} == {("0.5-1", None), (None, "0.5-1")}



def test_continuing_trains_nothing_and_files_of_another_machine_count(own, tmp_path, monkeypatch, seen):
    flags = [f"--data={own}", *FLAGS]
    record("distill", flags, tmp_path / "there", monkeypatch)
    again = record("distill", flags, tmp_path / "there", monkeypatch)
    assert commands([c for c in again if "--dry-run" not in c]) == []
    files = sorted(p.name for p in (tmp_path / "there/results").iterdir())
    assert files[:4] == ["balanced-cgankd-fold0.json", "balanced-cgankd-fold0.png", "balanced-raw-fold0.json",
                         "balanced-raw-fold0.png"] and "real-fold0.json" in files and "real-fold0.png" not in files
    shutil.copytree(tmp_path / "there/results", tmp_path / "here/results")
    (tmp_path / "here/results/utlo8-raw-fold0.json").unlink()
    (tmp_path / "here/results/real-fold0.json").unlink()
    done = commands([c for c in record("distill", flags, tmp_path / "here", monkeypatch) if "--dry-run" not in c])
    assert [w.get("--res_uc") for name, w in done if name == "train"] == ["8"]
    assert [w["--outdir"] for name, w in done if name == "distill student"] == ["DIR/fold0/real", "DIR/fold0/utlo8-raw"]
    more = commands(record("distill", [*flags, "--folds=1", "--first-fold=3"], tmp_path / "here", monkeypatch))
    assert {w["--seed"] for name, w in more if name == "train" and "--fname" in w and "--seed" in w} == {"3"}
    assert (tmp_path / "here/results/real-fold3.json").exists()
    alone = shutil.copytree(tmp_path / "there/results", tmp_path / "other/results").parent
    for more, says in (("--student-kimg=4", "another student_kimg"), ("--fakes=4x", "another fakes"),
                       ("--common=--cfg=tiny --mirror=True", "another common"), ("--gan-kimg=3", "another gan_kimg")):
        (alone / "study.json").unlink(missing_ok=True)
        with pytest.raises(UserError, match=says):
            record("distill", [*flags, more], alone, monkeypatch)
    labels = np.repeat(range(4), COUNTS).tolist()
    other = write_image_zip(tmp_path / "other.zip", np.ones((75, 16, 16), np.uint8), labels)
    (alone / "study.json").unlink(missing_ok=True)
    with pytest.raises(UserError, match="another data"):
        record("distill", [f"--data={other}", *FLAGS], alone, monkeypatch)
    with pytest.raises(UserError, match="other images or settings.*student_kimg was 3.0"):
        record("distill", [*flags, "--student-kimg=4"], tmp_path / "there", monkeypatch)


@pytest.mark.parametrize("flags, says", [
    (["--gans=balanced"], "--gans is for --data=ZIP"), (["--fakes=3x"], "--fakes is for --data"),
    (["--data={own}", "--folds=2", "--first-fold=4"], "there are 5 folds, 0 to 4"),
    (["--data={own}", "--settings=longtail"], "--settings is for the digits"),
    (["--data={own}", "--gans=utlo9"], "utlo9 is not known"), (["--data=nowhere.zip"], "nowhere.zip"),
])
def test_bad_input_is_one_line(own, tmp_path, monkeypatch, flags, says):
    with pytest.raises(UserError, match=says):
        record("distill", [f.format(own=own) for f in flags], tmp_path / "d", monkeypatch)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:dataset.json of .*cgankd.zip")  # relabelling may leave a class without fakes
def test_a_whole_fold(own, tmp_path, capsys):
    """Really trained, for moments: figures are those of the students that lie there, and all saw equally much."""
    from gantransfer.data.dataset import ImageDataset
    from gantransfer.methods import cgan_kd

    words = [f"--data={own}", f"--dir={tmp_path / 'd'}", "--gans=balanced", "--common=--cfg=tiny --cbase=64 --cmax=8",
             "--gan-kimg=0.1", "--student-kimg=1", "--student=--preset=small --arch=conv4-8", "--fakes=3x"]
    really("distill", words, "experiments")
    found = {a: json.loads((tmp_path / f"d/results/{a}-fold0.json").read_text()) for a in (
        "real", "oversampling", "balanced-raw", "balanced-cgankd")}
    assert len({f["images_seen"] for f in found.values()}) == 1
    train = ImageDataset(own, fname=str(tmp_path / "d/fold0/train.json"), use_labels=True)
    test = ImageDataset(own, fname=str(tmp_path / "d/fold0/test.json"), use_labels=True)
    assert train.spec.label.counts == (32, 16, 8, 4) and test.spec.label.counts == (8, 4, 2, 1)
    for arm, f in found.items():
        assert result(tmp_path / "d/fold0" / arm)["images_seen"] == f["images_seen"]
        net = cgan_kd.load(str(tmp_path / f"d/fold0/{arm}/student.pkl"), train.spec, "x")
        says = cgan_kd.predict(net, test, np.arange(len(test))).argmax(1)
        right = [float((says[test.class_ids == k] == k).mean()) for k in range(4)]
        assert f["figures"]["recall"] == right and f["figures"]["macro_recall"] == pytest.approx(np.mean(right))
        assert np.sum(f["confusion"], 1).tolist() == [8, 4, 2, 1]
    raw = found["balanced-raw"]["generated"]
    assert raw["per_label"] == 12 and raw["class_counts"] == [12] * 4 and raw["gan_seconds"] > 0
    before = (tmp_path / "d/table.md").read_text()
    capsys.readouterr()
    really("distill", words, "experiments")
    assert (tmp_path / "d/table.md").read_text() == before
