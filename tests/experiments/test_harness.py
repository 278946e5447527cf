# SPDX-License-Identifier: Apache-2.0
"""What studies share: names of figures, choice of arms, steps, files, the list of studies, the picture."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from dnnlib.util import UserError
from gantransfer.commands import experiment
from gantransfer.experiments import harness, sheets
from gantransfer.experiments.jobs import Job
from gantransfer.pictures import grids
from tests.conftest import ROOT
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


def test_children_do_not_take_packages_of_the_current_folder(tmp_path, monkeypatch, capsys):
    if sys.version_info < (3, 11):
        pytest.skip("before Python 3.11 the current folder comes first")
    (tmp_path / "dnnlib").mkdir()
    (tmp_path / "dnnlib" / "__init__.py").write_text("raise SystemExit('a stranger')")
    monkeypatch.chdir(tmp_path)
    harness.jobs.run_jobs([Job("who", ["experiment", "--help"])])
    assert "[who]   longtail" in capsys.readouterr().out


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


def test_a_file_is_a_study():
    listed = experiment.studies()
    files = {p.stem for p in (ROOT / "gantransfer" / "experiments").glob("*.py") if "def main(" in p.read_text("utf-8")}
    assert set(listed) == files - {"demo"} and all(20 < len(line) < 100 for line in listed.values())
    code = ("import sys; from gantransfer.commands.experiment import main\n"
            "for name in main.list_commands(None): main.get_command(None, name)\n"
            "assert 'torch' not in sys.modules and 'scipy' not in sys.modules and 'PIL' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_sheet(tmp_path):
    """Two rows, blocks beside each other, wrapped after two; the strip beneath."""
    def coloured(value, n, size):  # text is grey
        return np.broadcast_to(np.array([value, 0, 200], np.uint8)[:, None, None], (n, 3, size, size))

    def block(value):
        return [coloured(value + k, 3, 8) for k in range(2)]

    sheets.save_sheet(tmp_path / "p.png", {"a": block(10), "b": block(20), "c": block(30)}, ["x", "y"], per_band=2,
                      strip=("small", coloured(77, 4, 4)))
    rgb = np.asarray(Image.open(tmp_path / "p.png").convert("RGB"))
    where = {v: (rgb == [v, 0, 200]).all(2) for v in (10, 11, 20, 21, 30, 31, 77)}
    assert all(where[v].sum() == 3 * 16 * 16 for v in (10, 11, 20, 21, 30, 31)) and where[77].sum() == 4 * 32 * 32
    x, y = ({v: np.flatnonzero(m.any(axis))[0] for v, m in where.items()} for axis in (0, 1))
    assert x[20] == x[10] + 3 * (2 * 8 + grids.GAP) + 8 and x[30] == x[10] == x[77]
    assert 13 < y[10] == y[20] < y[11] < y[30] < y[31] < y[77]  # the words above need as much
