# SPDX-License-Identifier: Apache-2.0
"""The harness of `train` and of `distill` stages, piece by piece; what whole commands do with it is in theirs."""

import hashlib
import json
import subprocess
from types import SimpleNamespace

import pytest
import torch

from dnnlib.run_folder import RunFolder
from dnnlib.util import UserError
from gantransfer.commands import run as harness
from gantransfer.method import RunConfig
from gantransfer.methods import METHODS
from gantransfer.snapshot import find_snapshots
from gantransfer.training_loop import find_states


@pytest.mark.parametrize("old, new, said", [
    ({"a": 1, "b": 2}, {"a": 1, "b": 2}, None), ({"a": 1}, {"a": 2}, "a=1, not 2"), ({"a": 1}, {}, "a=1, not None"),
    ({}, {"a": 1}, "a=None, not 1"), ({"g": {"x": 1, "y": 2}}, {"g": {"x": 1, "y": 3}}, "g.y=2, not 3"),
    ({"g": {"x": 1}}, {"g": {"x": 1, "y": 3}}, "g.y=None, not 3"), ({"free": 1, "a": 0}, {"free": 2, "a": 0}, None),
    ({"free": 1}, {}, None), ({"k": 0.1 + 0.2}, {"k": 2.0}, "k=0.3, not 2"), ({"k": 0.5}, {}, "k=0.5, not None"),
    ({"k": 0.1 + 0.2}, {"k": 0.3}, "k=0.30000000000000004, not 0.3")])
def test_what_differs_is_named_whichever_side_has_it(old, new, said):
    assert harness.differing(old, new, {"free"}) == said


@pytest.mark.parametrize("env, threads, share, expected", [
    (None, None, None, 4), (None, 3, 1, 3), (None, None, 1, 1), ("2", None, None, 2), ("2", 3, None, 3),
    ("2", None, 1, 1)])
def test_threads_are_those_asked_for_or_the_preset_s_or_the_environment_s_or_the_cores(
        env, threads, share, expected, monkeypatch):
    monkeypatch.setattr(harness.dist, "cpu_cores", lambda: 4)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if env:
        monkeypatch.setenv("OMP_NUM_THREADS", env)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(int(env or 4))  # what torch itself does at its start
        with harness.processes("cpu", threads, share):
            assert torch.get_num_threads() == expected
        assert torch.get_num_threads() == int(env or 4)
    finally:
        torch.set_num_threads(before)


def test_newest_snapshot_is_the_last_of_the_run_with_the_highest_number(tmp_path, capsys):
    for name in ("00099-a", "100000-b", "00100-c"):  # by name the second would be behind the third
        (tmp_path / name).mkdir()
        for k in ("000000", "000000_032", "000001"):
            (tmp_path / name / f"network-snapshot-{k}.pkl").touch()
    (tmp_path / "100001-empty").mkdir()
    (tmp_path / "notes").mkdir()
    newest = str(tmp_path / "100000-b" / "network-snapshot-000001.pkl")
    assert harness.newest_snapshot("none", str(tmp_path)) == newest
    assert newest in capsys.readouterr().out


@pytest.mark.parametrize("trained", [False, True])
def test_a_start_that_fails_removes_what_it_wrote_and_nothing_else(trained, tmp_path):
    known = tmp_path / "run"
    known.mkdir()
    (known / "log.txt").write_text("of an earlier start")
    (known / "notes.txt").write_text("somebody's")
    folder = RunFolder(known)
    with pytest.raises(UserError, match="no"), harness.tidy(known, folder, {"log.txt"}):
        (known / "training_options.json").write_text("{}")
        if trained:
            (known / "network-snapshot-000000.pkl").touch()
        raise UserError("no")
    left = {p.name for p in known.iterdir()} - {".lock"}
    assert left == {"log.txt", "notes.txt"} | ({"training_options.json", "network-snapshot-000000.pkl"} if trained
                                               else set())
    RunFolder(known).release()  # it is free


# ---- whether a run may go on -----------------------------------------------------------------------------------------


@pytest.fixture
def stopped(tmp_path):
    """(a run that is to go on, its folder): the files are those of the run itself."""
    weights = tmp_path / "w.pkl"
    weights.write_bytes(b"weights")
    dataset = SimpleNamespace(fingerprint=lambda: "data")
    config = RunConfig(batch=8, batch_gpu=4, num_procs=1, resume=str(weights))
    options = dict(total_kimg=1, batch_size=8, batch_gpu=4, resume_pkl=str(weights), options={"gamma": 1},
                   training_set_kwargs={"path": "a.zip", "xflip": False})
    run = SimpleNamespace(options=options, config=config, dataset=dataset)
    (tmp_path / "training_options.json").write_text(json.dumps(dict(options, num_gpus=1)))
    (tmp_path / "environment.json").write_text(json.dumps(dict(
        data_fingerprint="data", weights=hashlib.sha256(b"weights").hexdigest())))
    return run, tmp_path


def test_the_same_run_goes_on_where_its_files_have_moved(stopped):
    run, folder = stopped
    harness.check_continues(run, folder, "a.zip")
    moved = folder / "moved.pkl"
    moved.write_bytes(b"weights")
    run.config.resume = run.options["resume_pkl"] = str(moved)
    run.options["training_set_kwargs"]["path"] = "b.zip"
    run.options["total_kimg"] = 2
    harness.check_continues(run, folder, "b.zip")


def refuse(run, folder, says):
    with pytest.raises(UserError, match=says) as e:
        harness.check_continues(run, folder, "a.zip")
    assert "\n" not in str(e.value)


def test_another_run_does_not(stopped):
    run, folder = stopped
    other = folder / "other.pkl"
    other.write_bytes(b"others")
    run.options["resume_pkl"] = run.config.resume = str(other)
    refuse(run, folder, "resume_pkl=.*w.pkl, not .*other.pkl")
    run.options["resume_pkl"] = run.config.resume = str(folder / "w.pkl")
    run.dataset.fingerprint = lambda: "other data"
    refuse(run, folder, "other data than --data=a.zip")
    run.dataset.fingerprint = lambda: "data"
    run.options["training_set_kwargs"]["xflip"] = True
    refuse(run, folder, "training_set_kwargs.xflip=False, not True")
    run.options["training_set_kwargs"]["xflip"] = False
    run.options["sampling_shift"] = [1, 2]
    refuse(run, folder, r"sampling_shift=None, not \[1, 2\]")
    del run.options["sampling_shift"]
    run.config.batch_gpu = 8
    refuse(run, folder, "2 rounds of 4 images per step, not 1 of 8")


@pytest.mark.parametrize("text", ["none", "{\"weights\": null}"])
def test_weights_that_nothing_recorded_are_known_by_their_path(text, stopped):
    """Runs of earlier versions have no hash of them."""
    run, folder = stopped
    (folder / "environment.json").write_text(text)
    harness.check_continues(run, folder, "a.zip")
    moved = folder / "moved.pkl"
    moved.write_bytes(b"weights")
    run.config.resume = run.options["resume_pkl"] = str(moved)
    refuse(run, folder, "resume_pkl=")


@pytest.mark.parametrize("method, metrics, best", [
    ("stylegan2", ["fid50k_full"], "fid50k_full"), ("stylegan2", ["report_digits32"], "report_digits32"),
    ("stylegan2", ["kid5k", "report_digits32"], "report_digits32_accuracy_few"), ("alae", [], "psnr"),
    ("alae", [], "alae"), ("alae", ["kid5k"], None)])
def test_what_may_rate_snapshots(method, metrics, best):
    flags = dict(best=best, stop_after=3, keep="best")
    harness.check_rating(flags, METHODS[method], metrics)
    with pytest.raises(UserError, match="--best=nothing is not measured; there are "):
        harness.check_rating(dict(flags, best="nothing"), METHODS[method], metrics)


def test_the_commit_is_that_of_the_repository_the_code_belongs_to(tmp_path):
    """Installed inside a repository of the user's own, the package has no commit to record."""
    def git(*words):
        return subprocess.run(["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b.invalid", *words],
                              check=True, capture_output=True, text=True).stdout.strip()

    own, installed = tmp_path / "own.py", tmp_path / "site-packages" / "run.py"
    installed.parent.mkdir()
    own.touch(), installed.touch()
    assert harness.commit_of(str(own)) is None
    git("init")
    git("add", "own.py")
    git("commit", "-m", "one")
    assert harness.commit_of(str(own)) == git("rev-parse", "HEAD") and len(git("rev-parse", "HEAD")) == 40
    assert harness.commit_of(str(installed)) is None


# ---- what a killed run has written after its last training state -----------------------------------------------------

SMALL = ("--cfg=tiny", "--cbase=64", "--cmax=4", "--batch=8", "--kernels=ref", "--metrics=none")


def test_snapshots_after_the_state_go_when_training_goes_on(call, tiny_zip, tmp_path):
    """Under the other ticks of the continued run they would stay for good, the last of them as RUN:latest."""
    command = ("train", f"--data={tiny_zip}", f"--outdir={tmp_path}", *SMALL, "--snap=1")
    call(*command, "--tick=0.008", "--kimg=0.024")
    (run,) = tmp_path.iterdir()
    snapshots = {p.name for p in find_snapshots(run)}
    (run / "training-state-000000_024.pt").unlink()  # as if it had been killed before
    done = call(*command, "--tick=0.008", "--kimg=0.016", f"--resume={run}")
    assert "Removed" not in done.stdout and {p.name for p in find_snapshots(run)} == snapshots  # nothing is trained
    sheets = {p.name for p in run.glob("fakes0*.png")}
    done = call(*command, "--tick=0.02", "--kimg=0.032", f"--resume={run}")
    assert "its own again: fakes000000_024.png, network-snapshot-000000_024.pkl, written after" in done.stdout
    assert {p.name for p in find_snapshots(run)} == snapshots - {"network-snapshot-000000_024.pkl"} | {
        "network-snapshot-000000_032.pkl"}
    assert {p.name for p in run.glob("fakes0*.png")} == sheets - {"fakes000000_024.png"} | {"fakes000000_032.png"}


def test_the_console_has_a_line_of_metrics_per_snapshot_and_each_note_once(call, tiny_zip, tmp_path):
    """In files every number is whole, and a continued run tells what it measures."""
    command = ["train", f"--data={tiny_zip}", f"--outdir={tmp_path}", "--cond=True", *SMALL[:-1], "--tick=0.008",
               "--snap=1", "--metrics=smoke_fd_pixel16_16,report_digits32_8"]
    out = call(*command, "--kimg=0.024").stdout
    (run,) = tmp_path.iterdir()
    files = {p: [json.loads(line) for line in p.read_text().splitlines()] for p in sorted(run.glob("metric-*.jsonl"))}
    report, smoke = files.values()
    lines = [line for line in out.splitlines() if line.startswith("metrics ")]
    assert len(lines) == len(report) == len(smoke) == 2 and "{" not in out  # none is measured before the first step
    for line, r, s in zip(lines, report, smoke):
        fd, accuracy = (r["results"][f"report_digits32_8_{k}"] for k in ("class_fd", "accuracy"))
        assert f"smoke_fd_pixel16_16 {s['results']['smoke_fd_pixel16_16']:.3g} " in line
        assert f"per-class FD {fd:.3g} " in line and f"label accuracy {accuracy:.3g} " in line and "many" not in line
        assert len(str(fd)) > 10, "the file has all digits"
    assert lines[0].index("per-class FD") == lines[1].index("per-class FD")
    ticks = [line for line in out.splitlines() if line.startswith("tick ")]
    assert {line.index(" kimg ") for line in (*ticks, *lines)} == {ticks[0].index(" kimg ")}
    notes = [line for line in out.splitlines() if line.startswith("Note: ")]
    assert len(notes) == len(set(notes)) >= 2 and any("not FID" in n for n in notes)
    assert f"Figures:      per-class FD {fd:.3g} " in out and "40 images 16x16, 1 channel, 4 classes" in out
    again = call(*command, "--kimg=0.032", f"--resume={run}").stdout
    assert again.count("\nmetrics ") == 1 and "Figures:      per-class FD" in again


def test_a_run_without_states_is_not_started_anew_among_its_snapshots(call, tiny_zip, tmp_path):
    command = ("train", f"--data={tiny_zip}", f"--outdir={tmp_path}", *SMALL, "--tick=0.008", "--snap=1",
               "--kimg=0.016")
    call(*command)
    (run,) = tmp_path.iterdir()
    for state in find_states(run):
        state.unlink()
    before = {p: p.read_bytes() for p in run.iterdir() if p.is_file()}
    said = call(*command, "--resume=latest", check=2).stderr
    assert "has snapshots but no training-state-*.pt to continue from" in said and f"--resume={run}:latest" in said
    assert {p: p.read_bytes() for p in run.iterdir() if p.is_file()} == before
    find_snapshots(run)[-1].unlink()  # killed before its first state
    call(*command, "--resume=latest")
    assert find_states(run)
