# SPDX-License-Identifier: Apache-2.0
"""Locks and numbers of run folders, and destinations that only one process writes. With dnnlib/lock.py."""

import os
import subprocess
import sys
import threading
import time

import pytest

from dnnlib import run_folder, util
from dnnlib.util import UserError
from tests.conftest import ROOT

HOLD = """
import sys, time
from pathlib import Path
from dnnlib import run_folder, util
kind, path = sys.argv[1:]
if kind == "folder":
    held = run_folder.hold(path)
elif kind == "writer":
    held = util.sole_writer(path)
    held.__enter__()
else:
    held = util.atomic_path(path)
    held.__enter__()
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def holder():
    """Another process that holds something until it is killed."""
    started = []

    def start(kind, path):
        p = subprocess.Popen([sys.executable, "-c", HOLD, kind, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        started.append(p)
        assert p.stdout.readline() == "held\n"
        return p

    yield start
    for p in started:
        p.kill()
        p.wait()
        p.stdout.close()


def test_a_held_folder_is_refused_until_its_owner_is_dead(tmp_path, holder, capsys):
    (tmp_path / "run").mkdir()
    p = holder("folder", tmp_path / "run")
    with pytest.raises(UserError, match=rf"run is in use by process {p.pid} on .*; wait for it to end"):
        run_folder.hold(tmp_path / "run", wait=0, lost=1000)  # of this machine: it lives
    (tmp_path / "run" / ".lock").write_text("process 1 on elsewhere")
    with pytest.raises(UserError, match="run is in use by process 1 on elsewhere"):
        run_folder.hold(tmp_path / "run", wait=0)
    assert capsys.readouterr().out == ""
    threading.Timer(0.3, p.kill).start()  # SIGKILL: nothing is tidied up
    folder = run_folder.hold(tmp_path / "run", wait=0, lost=30)
    assert "run is held by process 1 on elsewhere, which may be lost; waiting 30 seconds" in capsys.readouterr().out
    with pytest.raises(UserError, match=f"process {os.getpid()}"):  # in one process too
        run_folder.hold(tmp_path / "run", wait=0)
    folder.release()
    run_folder.hold(tmp_path / "run", wait=0).release()


def test_numbers_are_never_shared(tmp_path):
    """Many claims at the same moment, under different names."""
    made, lock = [], threading.Lock()
    start = threading.Barrier(8)

    def claim(name):
        start.wait()
        for _ in range(10):
            folder = run_folder.claim(tmp_path / "runs", name)
            with lock:
                made.append(folder)

    threads = [threading.Thread(target=claim, args=(f"n{i}",)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    names = sorted(p.name for p in (tmp_path / "runs").iterdir())
    assert len(names) == 80 and [int(n.split("-")[0]) for n in names] == list(range(80))
    assert all(f.path.is_dir() and f.made for f in made)


def test_claims_go_on_from_the_largest_number(tmp_path):
    for name in ("00007-a", "00003", "x"):
        (tmp_path / name).mkdir()
    (tmp_path / "00008").write_text("a file")
    assert run_folder.claim(tmp_path, "b").path == tmp_path / "00009-b"


def test_only_what_was_made_is_removed(tmp_path):
    new = run_folder.claim(tmp_path / "a" / "runs", "x")
    (new.path / "log.txt").write_text("x")
    new.discard()
    assert not (tmp_path / "a").exists()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "keep").write_text("x")
    run_folder.hold(mine).discard()
    assert (mine / "keep").exists()
    other = run_folder.claim(tmp_path, "y")
    os.rename(other.path, tmp_path / "moved")
    other.path.mkdir()  # somebody else's, under the old name
    other.discard()
    assert other.path.is_dir() and (tmp_path / "moved").is_dir()


@pytest.mark.parametrize("how", ["moved", "removed", "replaced"])
def test_a_folder_that_went_away_is_noticed(tmp_path, how):
    folder = run_folder.claim(tmp_path, "x")
    folder.check()
    os.rename(folder.path, tmp_path / "elsewhere")
    if how == "removed":
        (tmp_path / "elsewhere" / ".lock").unlink()
        (tmp_path / "elsewhere").rmdir()
    if how == "replaced":
        folder.path.mkdir()
    with pytest.raises(UserError, match=r"00000-x was moved"):
        folder.check()
    if how == "moved" and os.path.isdir("/proc/self"):
        with pytest.raises(UserError, match=f"was moved to {tmp_path}/elsewhere"):
            folder.check()


def test_sweeping_spares_what_a_living_process_writes(tmp_path, holder):
    p = holder("atomic", tmp_path / "a.bin")
    (tmp_path / ".b.bin.dead.tmp").write_text("x")
    util.sweep_temporaries(tmp_path)
    (living,) = tmp_path.iterdir()
    assert living.name.startswith(".a.bin.")
    p.kill()
    p.wait()
    util.sweep_temporaries(tmp_path)
    assert not list(tmp_path.iterdir())


def test_one_writer_at_a_time(tmp_path, holder):
    p = holder("writer", tmp_path / "set.zip")
    with pytest.raises(UserError, match=rf"^--dest={tmp_path}/set.zip is being written by process {p.pid}"):
        with util.sole_writer(tmp_path / "set.zip", "--dest="):
            pass
    threading.Timer(0.5, p.kill).start()
    start = time.monotonic()
    with util.sole_writer(tmp_path / "set.zip", wait=True):
        assert time.monotonic() - start > 0.2
    assert not list(tmp_path.iterdir())  # no lock file is left


def test_who_trains_in_a_folder_is_told_without_a_trace(tmp_path, holder):
    assert run_folder.owner(tmp_path) is None and not list(tmp_path.iterdir())
    p = holder("folder", tmp_path / "run")
    assert run_folder.owner(tmp_path / "run").startswith(f"process {p.pid}")
    before = (tmp_path / "run" / ".lock").read_bytes()
    p.kill()
    p.wait()
    assert run_folder.owner(tmp_path / "run") is None
    assert (tmp_path / "run" / ".lock").read_bytes() == before
    run_folder.hold(tmp_path / "run").release()
