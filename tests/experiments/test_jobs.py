# SPDX-License-Identifier: Apache-2.0
"""Trainings of a study: which are done, go on, or failed."""

import sys

import pytest

from dnnlib.util import UserError
from gantransfer.experiments import harness, jobs
from gantransfer.experiments.jobs import Job
from gantransfer.snapshot import Snapshot


def test_children_do_not_take_packages_of_the_current_folder(tmp_path, monkeypatch, capsys):
    if sys.version_info < (3, 11):
        pytest.skip("before Python 3.11 the current folder comes first")
    (tmp_path / "dnnlib").mkdir()
    (tmp_path / "dnnlib" / "__init__.py").write_text("raise SystemExit('a stranger')")
    monkeypatch.chdir(tmp_path)
    harness.jobs.run_jobs([Job("who", ["experiment", "--help"])])
    assert "[who]   longtail" in capsys.readouterr().out


def test_children_know_that_a_study_goes_on_with_them(monkeypatch):
    seen = []
    monkeypatch.setattr(jobs.subprocess, "Popen", lambda *a, env, **k: seen.append(env) or sys.exit())
    with pytest.raises(SystemExit):
        jobs.run_jobs([Job("train", ["train"])])
    assert seen[0][jobs.STUDY]


def finished_run(folder, name, kimg=20):
    run = folder / name
    run.mkdir(parents=True)
    Snapshot("stylegan2", {}, cur_nimg=kimg * 1000).save(run / f"network-snapshot-{kimg:06d}.pkl")
    (run / f"training-state-{kimg:06d}.pt").write_bytes(b"")
    return run


def test_a_finished_run_is_not_trained_again(tmp_path):
    job, done = jobs.train_job("x", tmp_path, "arm-a-seed0", 20, ["--cond=True"])
    assert done is None and "--resume=latest" not in job.argv
    run = finished_run(tmp_path, "00000-set-kimg20-res-uc4-arm-a-seed0")
    assert jobs.train_job("x", tmp_path, "arm-a-seed0", 20, [])[1] == run / "network-snapshot-000020.pkl"
    assert jobs.train_job("x", tmp_path, "arm-a-seed0", 40, [])[1] is None, "a longer run is another run"
    (run / "training-state-000020.pt").unlink()  # stopped between the two
    job, done = jobs.train_job("x", tmp_path, "arm-a-seed0", 20, [])
    assert done is None and "--resume=latest" in job.argv


def test_failing_command_is_named(tmp_path):
    with pytest.raises(UserError, match="broken failed.*exit code 2.*Error: no such file or folder: nowhere"):
        jobs.run_jobs([jobs.Job("broken", ["dataset_tool", "check", "nowhere"])])
