# SPDX-License-Identifier: Apache-2.0
"""The build: cache, lock, modes, and what users read when something is missing."""

import fcntl
import json
import os
import subprocess
import sys
import time
import warnings

import pytest
import torch

from dnnlib.util import UserError
from tests.conftest import ROOT
from torch_utils import build

PROGRAM = """
import warnings, torch
warnings.simplefilter("always")
from torch_utils.ops.bias_act import bias_act
from torch_utils import build
x = torch.randn(2, 3, 4, 4)
for _ in range(3):
    y = bias_act(x, act="lrelu")
assert (y - bias_act(x, act="lrelu", impl="ref")).abs().max() < 1e-6
print("IMPLEMENTATION", build.implementation(), build.describe()["implementation"]["cpu"])
"""


def program(mode=None, check=True, **env):
    env = {**os.environ, **env}
    env.pop("GANTRANSFER_KERNELS", None)
    if mode:
        env["GANTRANSFER_KERNELS"] = mode
    return subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, env=env, capture_output=True, text=True,
                          check=check)


@pytest.fixture
def has_compiler():
    try:
        build.compiler()
    except build.BuildError as e:
        pytest.skip(str(e))


@pytest.fixture
def no_compiler(tmp_path):
    """A search path with nothing on it."""
    return {"PATH": str(tmp_path), "CXX": "", "GANTRANSFER_BUILD_DIR": str(tmp_path / "kernels")}


def test_without_a_compiler_one_warning_and_the_reference(no_compiler):
    done = program(**no_compiler)
    assert "IMPLEMENTATION ref ref" in done.stdout
    assert done.stderr.count("compiled kernels are not available") == 1
    assert "install g++" in done.stderr and "--kernels=ref" in done.stderr


def test_native_without_a_compiler_is_an_error(no_compiler):
    done = program("native", check=False, **no_compiler)
    assert done.returncode != 0 and "install g++" in done.stderr and "--kernels=native" in done.stderr


def test_ref_never_compiles_or_warns(no_compiler, tmp_path):
    done = program("ref", **no_compiler)
    assert "IMPLEMENTATION ref ref" in done.stdout and done.stderr == ""
    assert not (tmp_path / "kernels").exists()


def test_a_broken_compiler_shows_its_output_and_the_log(has_compiler, tmp_path):
    fake = tmp_path / "g++"
    fake.write_text("#!/bin/sh\necho 'fatal error: the disk ate it' >&2\nexit 1\n")
    fake.chmod(0o755)
    done = program(CXX=str(fake), GANTRANSFER_BUILD_DIR=str(tmp_path / "kernels"))
    assert "IMPLEMENTATION ref" in done.stdout
    assert "the disk ate it" in done.stderr and "build.log" in done.stderr
    log = next((tmp_path / "kernels").glob("*/build.log")).read_text()
    assert "bias_act.cpp" in log and "the disk ate it" in log


def test_an_unwritable_cache_is_named(has_compiler, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    done = program(GANTRANSFER_BUILD_DIR=str(blocked / "kernels"))
    assert "IMPLEMENTATION ref" in done.stdout and "GANTRANSFER_BUILD_DIR" in done.stderr


def test_later_starts_find_the_library(kernels):
    if not kernels or "key" not in build.describe()["build"]:
        pytest.skip("no compiled kernels of this machine")
    start = time.perf_counter()
    path, info = build.build()
    assert time.perf_counter() - start < 1
    assert path.is_file() and info["key"] == path.parent.name == build.plan()["key"]
    assert json.loads((path.parent / "build.json").read_text())["devices"] == info["devices"]
    assert (path.parent / "build.log").is_file()


def test_the_library_records_no_folder_of_its_torch(kernels):
    """Another environment with the same torch loads it, when the one that compiled it may be gone."""
    path = build.build_dir() / build.describe()["build"].get("key", "none") / build.LIBRARY
    if not kernels or not path.is_file():
        pytest.skip("no compiled kernels of this machine")
    assert os.path.join(os.path.dirname(torch.__file__), "lib").encode() not in path.read_bytes()


def test_key_changes_with_sources_flags_and_torch(has_compiler, monkeypatch, tmp_path):
    keys = {build.plan(cuda=False)["key"]}
    monkeypatch.setenv("CXXFLAGS", "-DSOMETHING")
    keys.add(build.plan(cuda=False)["key"])
    monkeypatch.setattr(torch, "__version__", "9.9.9")
    keys.add(build.plan(cuda=False)["key"])
    for f in build.source_dir().iterdir():
        (tmp_path / f.name).write_bytes(f.read_bytes())
    (tmp_path / "bias_act.h").write_text("// changed")
    monkeypatch.setattr(build, "source_dir", lambda: tmp_path)
    keys.add(build.plan(cuda=False)["key"])
    assert len(keys) == 4


def test_a_held_lock_never_hangs(tmp_path, capsys):
    path = tmp_path / "lock"
    with open(path, "w") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        start = time.monotonic()
        with build._lock(path, timeout=0.3) as held:
            assert not held
        assert 0.2 < time.monotonic() - start < 5
    assert "waiting" in capsys.readouterr().err
    with build._lock(path, timeout=0.3) as held:  # its file is still there: a left-over lock file holds nothing
        assert held


def test_modes():
    before = build.mode()
    with pytest.raises(UserError, match="--kernels must be one of auto, native, ref"):
        build.configure("fast")
    try:
        build.configure("ref")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert build.implementation("cpu") == "ref" and build.describe()["mode"] == "ref"
    finally:
        build.configure(before)


def test_other_devices_take_the_reference():
    assert build.implementation("meta") == "ref"


def test_cuda_architectures(monkeypatch):
    monkeypatch.setattr(build, "offered_architectures", lambda path: ["75", "80", "90"])
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "7.5;9.0a+PTX")
    assert build.architectures("nvcc") == [
        "-gencode=arch=compute_75,code=sm_75", "-gencode=arch=compute_90a,code=sm_90a",
        "-gencode=arch=compute_90,code=compute_90"]
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "7.0")
    with pytest.raises(build.BuildError, match="CUDA 12"):
        build.architectures("nvcc")
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "Volta")
    with pytest.raises(build.BuildError, match="7.5;8.6"):
        build.architectures("nvcc")
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST")
    if not torch.cuda.is_available():
        assert build.architectures("nvcc")[-1] == "-gencode=arch=compute_90,code=compute_90"


def test_direct_commands_and_ninja_agree(tmp_path, monkeypatch):
    good = [(str(tmp_path / "a"), [], ["sh", "-c", f"echo one; touch {tmp_path}/a"]),
            (str(tmp_path / "all"), [str(tmp_path / "a")], ["sh", "-c", f"cp {tmp_path}/a {tmp_path}/all"])]
    bad = [(str(tmp_path / "b"), [], ["sh", "-c", "echo broken >&2; exit 3"]), good[1]]
    for ninja in (True, False):
        if not ninja:
            monkeypatch.setattr(build.shutil, "which", lambda name: None)
        for name in ("a", "all"):
            (tmp_path / name).unlink(missing_ok=True)
        output, failed = build._run(good, tmp_path)
        assert not failed and (tmp_path / "all").is_file(), output
        output, failed = build._run(bad, tmp_path)
        assert failed and "broken" in output
