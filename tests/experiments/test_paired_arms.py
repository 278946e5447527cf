# SPDX-License-Identifier: Apache-2.0
"""The study of long tails on images of the user's own: its processes, files of other machines, bad input."""

import json
import shutil

import numpy as np
import pytest

from dnnlib.util import UserError
from gantransfer.experiments import harness, longtail
from gantransfer.experiments.paired_arms import PairedArms
from gantransfer.snapshot import Snapshot
from tests.conftest import write_image_zip
from tests.experiments.recorder import record

COUNTS = (40, 24, 16, 16)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    labels = np.repeat(np.arange(4), COUNTS).tolist()
    images = np.random.RandomState(0).randint(0, 256, (len(labels), 16, 16), dtype=np.uint8)
    return write_image_zip(tmp_path_factory.mktemp("own") / "mine.zip", images, labels, class_names=[*"abcd"])


def words(commands, name):
    return [dict(w.partition("=")[::2] for w in c[1:]) for c in commands if c[0] == name]


def test_what_it_starts(own, tmp_path, monkeypatch):
    flags = [f"--data={own}", "--arms=baseline,utlo8", "--arm=wide: --add_uc=True --res_uc=16",
             "--common=--cfg=tiny --mirror=True", "--seeds=2", "--kimg=3"]
    done = record("longtail", flags, tmp_path / "d", monkeypatch)
    (held,) = words(done, "dataset_tool")
    assert held == {"--source": str(own), "--dest": "DIR/train.zip", "--holdout": "0.25", "--overwrite": ""}
    judges = words(done, "judge")
    assert [(j["--data"], j["--heldout"], j["--seed"]) for j in judges] == [
        ("DIR/train.zip", "DIR/train-heldout.zip", s) for s in "01"]
    runs = [w for w in words(done, "train") if "--dry-run" not in w]
    checked = [w.get("--res_uc") for w in words(done, "train")[:3] if "--dry-run" in w]
    assert checked == [None, "8", "16"], "what the user wrote is checked before the first training"
    assert len(runs) == 6 and not words(done, "lt_dataset")
    assert [(r.get("--res_uc"), r["--seed"]) for r in runs] == [
        (None, "0"), ("8", "0"), ("16", "0"), (None, "1"), ("8", "1"), ("16", "1")]
    assert all(r["--mirror"] == "True" and r["--data"] == "DIR/train.zip" and "--fname" not in r for r in runs)
    assert len({r["--desc"] for r in runs}) == 6
    measured = words(done, "calc_metrics")
    assert len(measured) == 12 and {m["--data"] for m in measured} == {"DIR/train-heldout.zip"}
    order = [c[0] for c in done if c[0] in ("train", "calc_metrics") and "--dry-run" not in c]
    assert order == ["train", "calc_metrics", "calc_metrics"] * 6, "an arm is measured before the next one trains"
    files = sorted(p.name for p in (tmp_path / "d/results").iterdir())
    assert files == [f"{a}-seed{s}.json" for a in ("baseline", "utlo8", "wide") for s in (0, 1)]
    found = json.loads((tmp_path / "d/results/wide-seed1.json").read_text())
    assert found["flags"] == ["--cfg=tiny", "--mirror=True", "--add_uc=True", "--res_uc=16"] and len(found["last"]) == 2
    assert found["seconds"] == 1


def test_files_of_another_machine_are_enough(own, tmp_path, monkeypatch):
    flags = [f"--data={own}", "--arms=baseline,balanced", "--seeds=1", "--kimg=3"]
    record("longtail", flags, tmp_path / "there", monkeypatch)
    (tmp_path / "here").mkdir()
    for name in ("results", "train.zip", "train-heldout.zip", "judge0.pt", "judge1.pt"):
        copy = shutil.copytree if name == "results" else shutil.copy
        copy(tmp_path / "there" / name, tmp_path / "here" / name)
    (tmp_path / "here/results/balanced-seed0.json").unlink()
    done = record("longtail", flags, tmp_path / "here", monkeypatch)
    (run,) = words(done, "train")
    assert run["--sampling"] == "balanced" and not words(done, "judge") and not words(done, "dataset_tool")
    record("longtail", [*flags, "--first-seed=1"], tmp_path / "here", monkeypatch)
    assert not words(record("longtail", [*flags[:2], "--seeds=2", "--kimg=3"], tmp_path / "here", monkeypatch), "train")
    (tmp_path / "here/judge1.pt").write_text("another one")
    with pytest.raises(UserError, match="another judges.*copy the judges"):
        record("longtail", flags, tmp_path / "here", monkeypatch)
    with pytest.raises(UserError, match="another kimg"):
        record("longtail", [*flags[:3], "--kimg=4"], tmp_path / "there", monkeypatch)
    with pytest.raises(UserError, match="holds a study of other images"):
        other = write_image_zip(tmp_path / "o.zip", np.zeros((16, 16, 16), np.uint8), [0] * 8 + [1] * 8)
        record("longtail", [f"--data={other}", *flags[1:]], tmp_path / "there", monkeypatch)


def test_figures_of_another_judge_do_not_count(tmp_path):
    network, judge = tmp_path / "network-snapshot-000001.pkl", tmp_path / "j.pt"
    judge.write_bytes(b"one")
    (tmp_path / "judge0").mkdir()
    line = dict(snapshot_pkl=network.name, results={f"{harness.METRIC}_fd": 2.0}, detector=dict(
        sha256=harness.sha256(judge)))
    (tmp_path / "judge0" / f"metric-{harness.METRIC}.jsonl").write_text(json.dumps(line) + "\n")
    assert harness.measured(network, [judge]) == [{"fd": 2.0}]
    judge.write_bytes(b"two")
    assert harness.measured(network, [judge]) == [None]


def test_the_best_snapshot_is_chosen_on_a_part_that_no_figure_is_of(own, tmp_path, monkeypatch):
    done = record("longtail", [f"--data={own}", "--arms=baseline", "--seeds=1", "--kimg=20", "--best", "--judges=1"],
                  tmp_path / "d", monkeypatch)
    halves = words(done, "dataset_tool")[1]
    assert halves["--source"] == "DIR/train-heldout.zip" and halves["--holdout"] == "0.5"
    (run,) = words(done, "train")
    assert (run["--snap"], run["--tick"]) == ("1", "2")
    measured = words(done, "calc_metrics")
    parts = [m["--data"] for m in measured]
    assert parts[0] == "DIR/test.zip" and set(parts[1:]) == {"DIR/validation.zip", "DIR/test.zip"}
    found = json.loads((tmp_path / "d/results/baseline-seed0.json").read_text())
    assert len(found["validation"]) == parts.count("DIR/validation.zip") > 10
    again = record("longtail", [f"--data={own}", "--arms=baseline", "--seeds=1", "--kimg=20", "--best", "--judges=1"],
                   tmp_path / "d", monkeypatch)
    assert not words(again, "train") and not words(again, "calc_metrics"), "its file is enough"


def test_the_best_is_the_nearest_under_the_first_judge(tmp_path, monkeypatch):
    study = PairedArms(tmp_path, longtail.ARMS, "--cfg=tiny", range(1), 20, judges=2, best=True)
    study.study, study.test, study.validation, study.judge_files = None, "test", "validation", ["judge0", "judge1"]
    on_validation = {2: 9.0, 4: 3.0, 6: 5.0}
    for k in on_validation:
        Snapshot("stylegan2", {}, cur_nimg=k * 1000).save(tmp_path / f"network-snapshot-{k:06d}.pkl")
    asked = []
    monkeypatch.setattr(harness, "measure", lambda _, paths, data, judges, room="judge{}": asked.append(
        (sorted(int(p.stem[-6:]) for p in paths.values()), data, judges, room)))
    monkeypatch.setattr(harness, "measured", lambda path, judges, room="judge{}": [
        dict(class_fd=on_validation[int(path.stem[-6:])] if "validation" in room else 100 + j) for j, _ in
        enumerate(judges)])
    found = study.best_of("x", tmp_path / "network-snapshot-000006.pkl")
    assert found == dict(best=[dict(class_fd=100), dict(class_fd=101)], best_kimg=4.0,
                         validation=[[2.0, 9.0], [4.0, 3.0], [6.0, 5.0]])
    assert asked == [([2, 4, 6], "validation", ["judge0"], "validation{}"),
                     ([4], "test", ["judge0", "judge1"], "judge{}")]


def test_groups_of_the_users_own_bounds(own, tmp_path, monkeypatch):
    done = record("longtail", [f"--data={own}", "--arms=baseline", "--seeds=1", "--groups=20,15", "--kimg=3"],
                  tmp_path / "d", monkeypatch)
    (split,) = words(done, "lt_dataset")  # 30, 18, 12 and 12 images are left to train on
    assert split == {"--fn": "DIR/groups.zip", "--keep-labels": "", "--shots": "0,1,2"}
    (run,) = words(done, "train")
    assert (run["--data"], run["--fname"]) == ("DIR/groups.zip", "lt_natural.json")
    found = json.loads((tmp_path / "d/results/baseline-seed0.json").read_text())
    assert found["groups"] == {"many": [0], "medium": [1], "few": [2, 3]}
    with pytest.raises(UserError, match="0 of fewer than 5"):
        record("longtail", [f"--data={own}", "--groups=20,5"], tmp_path / "e", monkeypatch)


def test_an_artificial_tail_of_own_images(own, tmp_path, monkeypatch):
    done = record("longtail", [f"--data={own}", "--arms=baseline", "--seeds=2", "--imf=10", "--kimg=3"],
                  tmp_path / "d", monkeypatch)
    assert [(w["--imf"], w["--order"], w["--seed"], "--n-max" in w) for w in words(done, "lt_dataset")] == [
        ("10", "count", "0", False), ("10", "count", "1", False)]


@pytest.mark.parametrize("flags, says", [
    (["--heldout=x.zip"], "--heldout is for --data"), (["--groups=100,20"], "--groups is for --data"),
    (["--data={own}", "--groups=20,15", "--imf=5"], "omit one"), (["--arm=UTLO"], "write NAME"),
    (["--data={own}", "--groups=3"], "MANY,FEW"),
    (["--arm=a: --ad_uc=True"], "--ad_uc=True is no flag of train"), (["--arm=a: --lecam 3"], "--FLAG=VALUE"),
    (["--arm=a: --seed=3"], "--seed is given by the study"), (["--common=--data=x"], "--data is given by the study"),
    (["--arm=a: --lecam=1", "--arm=a: --lecam=2"], "each name once"), (["--arm=a: --x='"], "quotation"),
    (["--data={own}", "--heldout={own}", "--best", "--arms=x"], "x is not known"),
    (["--data=nowhere.zip"], "nowhere.zip"), (["--arm=utlo8: --lecam=1"], "an arm of this name, --add_uc"),
])
def test_bad_input_is_one_line_before_anything_starts(own, tmp_path, monkeypatch, flags, says):
    with pytest.raises(UserError, match=says) as e:
        record("longtail", [f.format(own=own) for f in flags], tmp_path / "d", monkeypatch)
    assert "\n" not in str(e.value) and not list((tmp_path / "d").glob("*.[zp]*"))
