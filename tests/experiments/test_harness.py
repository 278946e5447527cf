# SPDX-License-Identifier: Apache-2.0
"""What studies share: names of figures, choice of arms, steps, files."""

import json

import pytest

from dnnlib.util import UserError
from gantransfer.experiments import harness
from tests.experiments.recorder import record


def test_figures_have_names():
    assert harness.name_of("class_fd_few", "class_fd_few") == "per-class FD, rare classes (primary)"
    assert harness.name_of("class_fd", "class_fd_few") == "per-class FD"
    assert harness.name_of("diversity", ("nearest", "diversity")) == "diversity ratio (primary)"
    assert harness.name_of("something_else") == "something_else"


def test_choices():
    known = {"a": 1, "b": 2, "c": 3}
    assert harness.chosen("b, a", known) == ["b", "a"] and harness.chosen("all", known, ["a", "b"]) == ["a", "b"]
    for text in ("d", "a,a", "", "all"):
        with pytest.raises(UserError, match="not known or given twice; there are a, b, c"):
            harness.chosen(text, known)
    assert harness.kimg_points("4,2", 2) == [2, 4] and harness.kimg_points("3", 1) == [3]
    for text, every in (("3", 2), ("0", 1), ("x", 1), ("1", 2)):
        with pytest.raises(UserError, match=f"--kimg={text}"):
            harness.kimg_points(text, every)


def test_steps_are_numbered_and_files_written(tmp_path, capsys):
    study = harness.Study(tmp_path / "d", ("data", "trainings"))
    study.step()
    study.step("some")
    study.finish("| table |", dict(x=1), ("t.md", "v.json"), out=tmp_path / "copy.json")
    study.finish("| table |", dict(x=1), out=tmp_path / "copy.md")
    out = capsys.readouterr().out
    assert "Step 1 of 2: data\n" in out and "Step 2 of 2: trainings (some)\n" in out
    assert {p.name for p in (tmp_path / "d").iterdir()} == {"t.md", "v.json", "table.md", "values.json"}
    assert json.loads((tmp_path / "copy.json").read_text()) == {"x": 1}
    assert (tmp_path / "copy.md").read_text() == "| table |\n"


@pytest.mark.parametrize("study, flag", [("distill", "--gan-kimg"), ("ccgan", "--images"), ("hypermod", "--shots"),
                                         ("mind2mind", "--source-kimg")])
def test_what_was_made_at_another_length_is_not_taken_for_this(study, flag, tmp_path, monkeypatch):
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    record(study, [f"{flag}=20"], tmp_path / "d", monkeypatch)
    with pytest.raises(UserError, match=f"study of other images or settings.*{flag[2:].replace('-', '_')} was 20"):
        record(study, [f"{flag}=21"], tmp_path / "d", monkeypatch)


def test_trainings_are_counted_and_called_as_in_the_tables(tmp_path, monkeypatch, capsys):
    class Child:
        returncode, stdout = 0, ('{"results": {"fd": 1.23456789}}\n', "tick 1\n")

        def __init__(self, *args, **kwargs):
            pass

        def poll(self):
            return 0

    monkeypatch.setattr(harness.jobs.subprocess, "Popen", Child)
    monkeypatch.setattr(harness.jobs, "final_snapshot", lambda folder, kimg: None)
    arms = {"a": harness.Arm("UTLO + balanced"), "b": harness.Arm("baseline")}
    study = harness.Study(tmp_path, ("data", "trainings"), digits=False)
    with pytest.raises(UserError, match="UTLO [+] balanced, seed 0 has no final snapshot"):
        study.train([(arm.of(s), tmp_path, f"{a}{s}", 1, []) for a, arm in arms.items() for s in range(2)])
    out = capsys.readouterr().out
    told = [line for line in out.splitlines() if line.startswith("Training")]
    assert out.count("[baseline, seed 1] tick 1\n") == 1 and "{" not in out
    assert told == ["Training 1 of 4: UTLO + balanced, seed 0", "Training 2 of 4: UTLO + balanced, seed 1",
                    "Training 3 of 4: baseline, seed 0", "Training 4 of 4: baseline, seed 1"]
    assert harness.name_of("accuracy") == "label accuracy" and harness.student_name("accuracy") == "accuracy"
