# SPDX-License-Identifier: Apache-2.0
"""The kernels' cache heals: damaged files, killed builds; and environments with equal tools share it.

A stand-in for the compiler writes a file of known content at once, so that nothing here waits for a real one.
"""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import torch_utils
from tests.conftest import ROOT
from torch_utils import build

COMPILER = """#!/bin/sh
[ "$1" = --version ] && echo "fake (build 1) 12.2.0" && exit 0
echo run >> "$0.runs"
{wait}
while [ $# -gt 1 ]; do [ "$1" = -o ] && out="$2"; shift; done
head -c 200000 /dev/zero | tr '\\0' k > "$out"
"""


def fake_compiler(folder: Path, wait: str = "", name: str = "g++") -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    path = folder / name
    path.write_text(COMPILER.format(wait=wait))
    path.chmod(0o755)
    return path


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """(folder of the library, path of the compiler's list of runs), built once."""
    compiler = fake_compiler(tmp_path / "bin")
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("GANTRANSFER_BUILD_DIR", str(tmp_path / "kernels"))
    path, info = build.build(cuda=False)
    assert info["size"] == path.stat().st_size == 200000
    return path.parent, Path(f"{compiler}.runs")


def cut(folder):
    os.truncate(folder / build.LIBRARY, 4096)


def empty(folder):
    os.truncate(folder / build.LIBRARY, 0)


def zeroed(folder):
    with open(folder / build.LIBRARY, "r+b") as f:
        f.seek(100000)
        f.write(bytes(5000))


def gone(folder):
    (folder / build.LIBRARY).unlink()


def half_json(folder):
    (folder / build.RECORD).write_text('{"devices": 3')


def other_json(folder):
    (folder / build.RECORD).write_text("[1, 2]")


def wrong_fields(folder):
    record = json.loads((folder / build.RECORD).read_text())
    (folder / build.RECORD).write_text(json.dumps({**record, "devices": 3}))


def no_text(folder):
    (folder / build.RECORD).write_bytes(b"\xff\xfe\x00")


def no_json(folder):
    (folder / build.RECORD).unlink()


@pytest.mark.parametrize("harm", [cut, empty, zeroed, gone, half_json, other_json, wrong_fields, no_text, no_json])
def test_damage_is_said_once_and_mended(cache, harm, capsys):
    folder, runs = cache
    before = len(runs.read_text().split())
    capsys.readouterr()
    harm(folder)
    path, info = build.build(cuda=False)
    said = capsys.readouterr().err
    assert said.count("damaged") == 1 and str(folder) in said and "Traceback" not in said
    assert len(runs.read_text().split()) == 2 * before and path.read_bytes() == b"k" * 200000
    assert json.loads((folder / build.RECORD).read_text()) == info
    assert build.build(cuda=False) == (path, info)
    assert capsys.readouterr().err == "" and len(runs.read_text().split()) == 2 * before


def test_what_a_killed_build_left_is_swept(tmp_path):
    env = {**os.environ, "CXX": str(fake_compiler(tmp_path / "bin", wait="sleep 30")), "PYTHONPATH": str(ROOT),
           "GANTRANSFER_BUILD_DIR": str(tmp_path / "kernels")}
    command = [sys.executable, "-c", "from torch_utils import build; build.build(cuda=False)"]
    process = subprocess.Popen(command, env=env, cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while not list((tmp_path / "kernels").glob("*/build-*/in-use")):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    (folder,) = (p.parent for p in (tmp_path / "kernels").glob("*/build-*"))
    (folder / ".build.json.abc.tmp").write_text("{")  # killed while writing the record
    fake_compiler(tmp_path / "bin")
    subprocess.run(command, env=env, cwd=ROOT, check=True, capture_output=True)
    assert sorted(p.name for p in folder.iterdir()) == ["build.json", "build.log", build.LIBRARY, "lock"]


@pytest.mark.parametrize("ninja", [True, False])
def test_a_signal_ends_the_compilers_too(tmp_path, ninja):
    """What a compiler has started as well: the stand-in sleeps in a process of its own, and notes its number."""
    wait = 'sleep 300 & echo $! >> "$0.sleepers"; wait'
    compiler = fake_compiler(tmp_path / "bin", wait=wait)
    if not ninja:
        for name in ("sh", "sleep", "head", "tr", "env"):
            (tmp_path / "bin" / name).symlink_to(shutil.which(name))
    elif shutil.which("ninja") is None:
        pytest.skip("needs ninja")
    env = {**os.environ, "CXX": str(compiler), "PYTHONPATH": str(ROOT),
           "GANTRANSFER_BUILD_DIR": str(tmp_path / "kernels"), "MAX_JOBS": "2",
           **({} if ninja else {"PATH": str(tmp_path / "bin")})}
    code = "from dnnlib.util import run_cli; from torch_utils import build; run_cli(lambda: build.build(cuda=False))"
    process = subprocess.Popen([sys.executable, "-c", code], env=env, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    sleepers, end = Path(f"{compiler}.sleepers"), time.monotonic() + 120
    while not sleepers.exists() or len(sleepers.read_text().split()) < 2:
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + signal.SIGTERM and err.strip().splitlines()[-1] == "Stopped by SIGTERM"
    assert "Traceback" not in err
    for number in sleepers.read_text().split():
        state = Path(f"/proc/{number}/stat")
        assert not state.exists() or state.read_text().split()[2] == "Z", f"process {number} goes on"
    assert not list((tmp_path / "kernels").glob("*/build-*"))


def test_builds_that_live_are_spared(tmp_path):
    mine, other = tmp_path / "mine", tmp_path / "other"
    for name in ("alive", "dead", "old", "new"):
        (other / f"build-{name}").mkdir(parents=True)
    mine.mkdir()
    for name in ("alive", "dead"):
        (other / f"build-{name}" / "in-use").touch()
    os.utime(other / "build-old", (0, 0))
    with open(other / "build-alive" / "in-use") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        build._sweep(mine)
    # One without a mark is either left over, or a moment old.
    assert sorted(p.name for p in other.iterdir()) == ["build-alive", "build-new"]


def test_the_library_is_on_disk_before_it_has_its_name(cache, monkeypatch):
    folder, _ = cache
    gone(folder)
    order, fsync, replace = [], os.fsync, os.replace

    def synced(fd):
        order.append(("sync", os.readlink(f"/proc/self/fd/{fd}")))
        fsync(fd)

    def renamed(a, b):
        order.append(("rename", str(b)))
        replace(a, b)

    monkeypatch.setattr(build.os, "fsync", synced)
    monkeypatch.setattr(build.os, "replace", renamed)
    build.build(cuda=False)
    names = [(what, Path(p).name) for what, p in order]
    at = names.index(("rename", build.LIBRARY))
    assert ("sync", build.LIBRARY) in names[:at]
    assert ("sync", folder.name) in names[at:] and ("rename", build.RECORD) in names[at:]


def test_environments_with_equal_tools_share_the_library(cache, tmp_path, monkeypatch):
    folder, runs = cache
    before = runs.read_text()
    env = tmp_path / "other-env"
    monkeypatch.setattr(torch, "__file__", str(env / "lib/site-packages/torch/__init__.py"))
    monkeypatch.setattr(sys, "prefix", str(env))
    monkeypatch.setenv("CXX", str(fake_compiler(env / "bin")))
    assert str(env) in " ".join(build.cxx_flags())
    path, _ = build.build(cuda=False)
    assert path.parent == folder and runs.read_text() == before
    log = (folder / "build.log").read_text()
    assert "rpath" not in log  # the first environment's folders may be gone when the second loads it
    (env / "bin" / "g++").write_text(COMPILER.format(wait="").replace("12.2.0", "13.1.0"))
    assert build.plan(cuda=False)["key"] != folder.name


def test_a_launcher_is_not_taken_for_the_compiler(tmp_path, monkeypatch):
    compiler = fake_compiler(tmp_path)
    monkeypatch.setenv("CXX", f"ccache {compiler}")
    assert build.compiler() == str(compiler)


def test_a_damaged_prebuilt_library_is_not_loaded(cache, tmp_path, monkeypatch):
    folder, _ = cache
    record = json.loads((folder / build.RECORD).read_text())
    library = tmp_path / build.LIBRARY
    library.write_bytes((folder / build.LIBRARY).read_bytes())
    module = SimpleNamespace(__file__=str(tmp_path / "_build_info.so"),
                             record=json.dumps({**record, "sources": build.sources_digest(), "prebuilt": True}))
    monkeypatch.setattr(torch_utils, "_build_info", module, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert build._prebuilt()[0] == library
    zeroed(tmp_path)
    with pytest.warns(RuntimeWarning, match="it is damaged: .* other content"):
        assert build._prebuilt() is None
