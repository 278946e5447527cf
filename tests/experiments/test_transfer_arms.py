# SPDX-License-Identifier: Apache-2.0
"""Transfer on the user's own images: which classes go where, what is started, whose files count, the picture.
With experiments/latent_transfer.py."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from dnnlib.util import UserError
from gantransfer.data.dataset import ImageDataset
from gantransfer.experiments import harness, latent_transfer, transfer_arms
from gantransfer.experiments.harness import Arm
from gantransfer.experiments.paired_arms import fingerprint
from gantransfer.experiments.results import COLUMNS, Results
from gantransfer.experiments.transfer_arms import Sets, sets_of
from tests.conftest import write_image_zip
from tests.experiments.recorder import really, record

COUNTS = (16, 60, 12, 40, 24, 30)  # by rank: b, d | f, e | c, a
NAMES = [*"abcdef"]


def write(path, counts=COUNTS, names=NAMES, size=16):
    """Every class has a brightness of its own."""
    ids = np.repeat(np.arange(len(counts)), counts)
    images = 40 * ids[:, None, None] + np.random.RandomState(0).randint(0, 30, (len(ids), size, size))
    return write_image_zip(path, images.astype(np.uint8), ids.tolist(), class_names=names)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    return write(tmp_path_factory.mktemp("own") / "mine.zip")


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return write(tmp_path_factory.mktemp("other") / "theirs.zip", (12, 8, 8), [*"xyz"])


def words(commands, name):
    return [dict(w.partition("=")[::2] for w in c[1:]) for c in commands if c[0] == name and "--dry-run" not in c]


def classes_of(sets):
    return [[w.removeprefix("--classes=") for w in job.argv if w.startswith("--classes=")] for todo in sets.jobs
            for job in todo]


@pytest.mark.parametrize("flags, source, target, judge", [
    ({}, "1,3,4,5", "0,2", "0,2,1,3,4,5"),
    (dict(source_classes="b,d"), "1,3", "0,2,4,5", "0,2,4,5,1,3"),
    (dict(source_classes="b", target_classes="c,a"), "1", "2,0", "2,0,1,3,4,5"),
    (dict(source_classes="all"), None, "0,2", "0,2,1,3,4,5"),
    (dict(source_classes="all", target_classes="d,e"), None, "3,4", "3,4,0,1,2,5")])
def test_which_classes_go_where(own, tmp_path, flags, source, target, judge):
    sets = sets_of(tmp_path, str(own), None, **{**dict(target=None, source_classes=None, target_classes=None), **flags},
                   shots=None)
    made = dict(zip([job.name for job in sets.jobs[1]], [c for (c,) in classes_of(sets)[1:]]))
    wanted = {"target": target, "target-ref": target, "judge": judge, "judge-ref": judge}
    assert made == ({"source": source} if source else {}) | wanted
    assert sets.source == tmp_path / ("source.zip" if source else "train.zip"), "nothing that is held out"


def test_another_set_as_the_target(own, other, tmp_path):
    sets = sets_of(tmp_path, str(own), None, str(other), None, None, None)
    assert str(sets.source) == str(own) and sets.judge == tmp_path / "train.zip"
    assert sets.reference == sets.judge_reference == tmp_path / "train-heldout.zip"
    assert sets.jobs[0][0].argv[1] == f"--source={other}", "held out of the target"
    sets = sets_of(tmp_path, str(own), None, str(other), "b,d", None, 5)
    assert sets.source == tmp_path / "source.zip" and "--per-class=5" in sets.jobs[1][0].argv


@pytest.mark.parametrize("flags, says", [
    (dict(source_classes="b", target_classes="b,a"), "--target-classes: b is a class of the source, too"),
    (dict(source_classes="a,b,c,d,f"), "the target has 1 class, and needs two"),
    (dict(source_classes="q"), "--source-classes=q: no such class"),
    (dict(target="{other}", target_classes="a"), "--target-classes are of --data"),
    (dict(target="{large}"), "images of --target=.*large.zip are \\[1, 32, 32\\]"),
])
def test_what_does_not_go_together_is_one_line(own, other, tmp_path, flags, says):
    large = write(tmp_path / "large.zip", size=32)
    flags = {k: v.format(other=other, large=large) for k, v in flags.items()}
    with pytest.raises(UserError, match=says) as e:
        sets_of(tmp_path / "d", str(own), None, **{**dict(target=None, source_classes=None, target_classes=None),
                                                   **flags}, shots=None)
    assert "\n" not in str(e.value) and not (tmp_path / "d").exists()
    equal = write(tmp_path / "equal.zip", (12, 12), ["p", "q"])
    with pytest.raises(UserError, match="no class is frequent"):
        sets_of(tmp_path / "d", str(equal), None, None, None, None, None)


def test_hypermod_starts_the_same_for_all_arms(own, tmp_path, monkeypatch):
    flags = [f"--data={own}", "--arms=hypermod,finetune,aligned", "--seeds=2", "--kimg=2,3", "--source-kimg=5",
             "--common=--cfg=tiny --mirror=True", "--flags=hypermod:--glr=0.01"]
    done = record("hypermod", flags, tmp_path / "d", monkeypatch)
    source, *runs = words(done, "train")
    assert source["--data"] == "DIR/source.zip" and "--cond" not in source and source["--kimg"] == "5"
    assert [(r["--seed"], r["--kimg"], r.get("--align-kimg"), r.get("--glr")) for r in runs] == [
        (s, *rest) for s in "01" for rest in (("3", None, "0.01"), ("3", None, None), ("5", "2", None))]
    assert all(r["--data"] == "DIR/target.zip" and "--fname" not in r and r["--mirror"] == "True" for r in runs)
    assert len({r["--source"] for r in runs}) == 1
    assert [(j["--data"], j["--heldout"]) for j in words(done, "judge")] == [("DIR/judge.zip", "DIR/judge-ref.zip")]
    assert ImageDataset(tmp_path / "d/target.zip", use_labels=True).spec.label.names == ("a", "c")
    assert ImageDataset(tmp_path / "d/judge.zip", use_labels=True).spec.label.names == ("a", "c", "b", "d", "e", "f")
    assert ImageDataset(tmp_path / "d/target.zip", use_labels=True).spec.label.counts == (12, 9)
    measured = words(done, "calc_metrics")
    assert len(measured) == 12 and {m["--data"] for m in measured} == {"DIR/target-ref.zip"}
    assert [m["--network"][-5:-4] for m in measured[:6]] == ["2", "3", "2", "3", "4", "5"]
    found = json.loads((tmp_path / "d/results/aligned-seed1.json").read_text())
    assert [each["kimg"] for each in found["lengths"]] == [2, 3] and found["lengths"][0]["judges"][0]["class_fd"] == 0.5
    assert str(tmp_path) not in json.dumps(found), "files are for other machines"
    assert not words(record("hypermod", flags, tmp_path / "d", monkeypatch), "train")
    with pytest.raises(UserError, match="other images or settings.*extra was"):
        record("hypermod", flags[:-1], tmp_path / "d", monkeypatch)


def test_files_of_another_machine_are_enough(own, tmp_path, monkeypatch):
    flags = [f"--data={own}", "--arms=bn,bn-ft,finetune", "--kimg=8"]
    done = record("cgantransfer", flags, tmp_path / "there", monkeypatch)
    source, *runs = words(done, "train")
    assert source["--cond"] == "True" and source["--method"] == "biggan"
    assert [(r["--method"], r.get("--stage"), r["--kimg"]) for r in runs] == [
        ("cgantransfer", "BN", "8"), ("cgantransfer", "FT", "6"), ("biggan", None, "8")]
    seconds = {a: json.loads((tmp_path / f"there/results/{a}-seed0.json").read_text())["lengths"][0]["seconds"]
               for a in ("bn", "bn-ft")}
    assert seconds == {"bn": 1, "bn-ft": 2}, "with the stage before"
    (tmp_path / "here").mkdir()
    for name in ("results", "train.zip", "train-heldout.zip", "judge0.pt"):
        copy = shutil.copytree if name == "results" else shutil.copy
        copy(tmp_path / "there" / name, tmp_path / "here" / name)
    assert not words(record("cgantransfer", flags, tmp_path / "here", monkeypatch), "train")
    (tmp_path / "here/results/finetune-seed0.json").unlink()
    again = words(record("cgantransfer", flags, tmp_path / "here", monkeypatch), "train")
    assert [r.get("--source", "the source")[:3] for r in again] == ["the", "DIR"]
    (tmp_path / "here/study.json").unlink()
    with pytest.raises(UserError, match="another points"):
        record("cgantransfer", [*flags[:2], "--kimg=4"], tmp_path / "here", monkeypatch)
    (tmp_path / "here/study.json").unlink()
    with pytest.raises(UserError, match="another source_kimg"):
        record("cgantransfer", [*flags, "--source-kimg=4"], tmp_path / "here", monkeypatch)


@pytest.mark.parametrize("study, flags, says", [
    ("hypermod", ["--target=x.zip"], "--target is for --data"),
    ("mind2mind", ["--heldout=x"], "--heldout is for --data"),
    ("hypermod", ["--data={own}", "--validate"], "--validate is for the digits"),
    ("cgantransfer", ["--data={own}", "--source-classes=all"], "the target's are not new"),
    ("cgantransfer", ["--data={own}", "--common=--seed=3"], "--seed is given by the study"),
    ("mind2mind", ["--data={own}", "--common=--outdir=3"], "--outdir is given by the study"),
    ("hypermod", ["--data=nowhere.zip"], "nowhere.zip")])
def test_bad_input_is_one_line(own, tmp_path, monkeypatch, study, flags, says):
    with pytest.raises(UserError, match=says):
        record(study, [f.format(own=own) for f in flags], tmp_path / "d", monkeypatch)


def test_mind2mind_starts_with_one_source_and_encoder(own, tmp_path, monkeypatch):
    done = record("mind2mind", [f"--data={own}", "--source-classes=all", "--seeds=2", "--kimg=3", "--epochs=100"],
                  tmp_path / "d", monkeypatch)
    source, encoder, *runs = words(done, "train")
    assert source["--data"] == encoder["--data"] == "DIR/train.zip" and "--cond" not in source
    assert [(r["--method"], r["--seed"], r["--kimg"], r["--data"], r["--cond"]) for r in runs] == [
        (m, s, k, "DIR/target.zip", "True") for s in "01" for m, k in (("mind2mind", "3"), ("stylegan2", "3"))]
    assert [(r.get("--hidden_g"), r.get("--w_dim")) for r in runs] == [("256,256", None), (None, "64")] * 2
    assert words(done, "encode")[0]["--data"] == "DIR/target.zip"


def test_mind2mind_counts_files_of_the_same_judges_and_images_only(own, tmp_path, monkeypatch, capsys):
    """One figure is there: it stands for the training, unless it is of another judge or of other held-out images."""
    def start():
        study = latent_transfer.LatentTransfer(tmp_path, {"mind": Arm("Mind2Mind", "--method=mind2mind")}, {}, 1, 1, 3,
                                               100, 20, 10, 1)
        monkeypatch.setattr(harness.Study, "run", lambda self, todo, **_: [really(j.argv[0], j.argv[1:]) for j in todo
                                                                          if j.argv[0] == "dataset_tool"])
        (tmp_path / "judge0.pt").write_bytes(judge)
        study.on_images(str(own), "--cfg=tiny", source_classes="all", target_classes=None, target=None, heldout=None)
        return study

    judge = b"one"
    study = start()
    study.results.write("mind", 0, ["--method=mind2mind"], dict(curve=[]))
    study.run()
    assert study.found["mind", 0]["curve"] == [] and not study.snapshots
    study.study.step()
    assert "Step 8 of 8: table and picture" in capsys.readouterr().out, "what is skipped has had its number"
    assert study.results.settings["heldout"] == fingerprint(tmp_path / "target-ref.zip")
    judge = b"another"
    with pytest.raises(UserError, match="another judges"):
        start().run()


def test_the_picture_has_what_is_kept(tmp_path, capsys):
    target, held = write(tmp_path / "target.zip", (5, 9), ["a", "b"]), write(tmp_path / "ref.zip", (2, 2), ["a", "b"])
    results = Results(tmp_path / "results", {})
    results.folder.mkdir()
    sets = Sets(target, target, held, target, held, [])
    grey = [np.full((COLUMNS, 1, 16, 16), v, np.uint8) for v in (251, 77)]  # of class a, b; b has more images: first
    transfer_arms.draw_target(tmp_path / "p.png", sets, results, 0, {
        "one": ("One", lambda: grey), "two": ("Two", lambda: None)})
    assert "no images of Two" in capsys.readouterr().out
    for make in (lambda: grey, lambda: None):  # made, then kept
        transfer_arms.draw_target(tmp_path / "p.png", sets, results, 0, {"one": ("One", make)})
        picture = np.asarray(Image.open(tmp_path / "p.png").convert("L"))
        rows = [np.flatnonzero((picture == v).sum(1) > 200).mean() for v in (77, 251)]
        assert (picture == 77).sum() >= COLUMNS * 32 * 32 and rows[0] < rows[1]
