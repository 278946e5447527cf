# SPDX-License-Identifier: Apache-2.0
"""Compiling the kernels: modes and messages; the cache, what harms it and who shares it; the CUDA tools.

Most compilers here are scripts that write a file of known content at once, so that nothing waits for a real one.
"""

import ctypes
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import torch_utils
from dnnlib.util import UserError
from tests.conftest import ROOT
from torch_utils import build
from torch_utils.ops.bias_act import bias_act


def warnings_of_an_operator():
    """What three calls say, and that they compute the definition."""
    x = torch.randn(2, 3, 4, 4)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(3):
            y = bias_act(x, act="lrelu")
    assert (y - bias_act(x, act="lrelu", impl="ref")).abs().max() < 1e-6
    return [str(w.message) for w in said]


@pytest.fixture
def has_compiler():
    try:
        build.compiler()
    except build.BuildError as e:
        pytest.skip(str(e))


@pytest.fixture
def kernels():
    """True when compiled kernels serve CPU tensors."""
    return build.native("cpu")


def test_without_a_compiler_one_warning_and_the_reference(no_compiler):
    (said,) = warnings_of_an_operator()
    assert build.implementation() == build.describe()["implementation"]["cpu"] == "ref"
    assert "compiled kernels are not available" in said and "install g++" in said and "--kernels=ref" in said


def test_native_without_a_compiler_is_an_error(no_compiler, monkeypatch):
    monkeypatch.setenv("GANTRANSFER_KERNELS", "native")
    with pytest.raises(build.BuildError, match=r"--kernels=native: .*install g\+\+"):
        warnings_of_an_operator()


def test_ref_never_compiles_or_warns(no_compiler, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("GANTRANSFER_KERNELS", "ref")
    assert warnings_of_an_operator() == [] and capfd.readouterr() == ("", "")
    assert build.implementation() == build.describe()["implementation"]["cpu"] == "ref"
    assert not (tmp_path / "kernels").exists()


def test_a_broken_compiler_shows_its_output_and_the_log(has_compiler, fresh_kernels, tmp_path, monkeypatch):
    fake = script(tmp_path / "g++", "#!/bin/sh\necho 'fatal error: the disk ate it' >&2\nexit 1\n")
    monkeypatch.setenv("CXX", str(fake))
    monkeypatch.setenv("GANTRANSFER_BUILD_DIR", str(tmp_path / "kernels"))
    (said,) = warnings_of_an_operator()
    assert build.implementation() == "ref" and "the disk ate it" in said and "build.log" in said
    log = next((tmp_path / "kernels").glob("*/build.log")).read_text()
    assert f"{build.BINDINGS}.cpp" in log and "the disk ate it" in log


def test_an_unwritable_cache_is_named(has_compiler, fresh_kernels, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GANTRANSFER_BUILD_DIR", str(tmp_path / "file" / "kernels"))
    (said,) = warnings_of_an_operator()
    assert build.implementation() == "ref" and "GANTRANSFER_BUILD_DIR" in said


def test_later_starts_find_the_library(kernels):
    if not kernels or "key" not in build.describe()["build"]:
        pytest.skip("no compiled kernels of this machine")
    path, info = build.build()
    assert path.is_file() and info["key"] == path.parent.name == build.plan()["key"]
    assert json.loads((path.parent / "build.json").read_text())["devices"] == info["devices"]
    assert "warning: " not in (path.parent / "build.log").read_text()  # such as a function without its return


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


def test_a_constant_is_marked_as_torch_marks_it():
    assert vars(build.assume_constant(lambda: 1)) == vars(torch.compiler.assume_constant_result(lambda: 1)) != {}


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


@pytest.mark.parametrize("ninja", [True, False])
def test_sources_compile_wherever_they_lie(has_compiler, ninja, tmp_path, monkeypatch):
    """Folders of sources and of the library whose names no C++ string and no UTF-8 file can hold as they are."""
    odd = tmp_path / os.fsdecode(b'a "b" \\n it\'s $HOME: |\xff')
    csrc = odd / "csrc"
    csrc.mkdir(parents=True)
    (csrc / "value.h").write_text("#pragma once\ninline int value() { return 7; }\n")
    for name in ("one", "two", "three_cpu"):
        (csrc / f"{name}.cpp").write_text(f'#include "value.h"\nextern "C" int gt_{name}() {{ return value(); }}\n')
    monkeypatch.setattr(build, "source_dir", lambda: csrc)
    todo = dict(cxx=build.compiler(), cxx_flags=["-fPIC"], nvcc=None)
    if not ninja:
        monkeypatch.setattr(build.shutil, "which", lambda name: None)
    build.compile_library(todo, odd / build.LIBRARY, odd / "build.log")
    library = ctypes.CDLL(str(odd / build.LIBRARY))
    assert library.gt_one() == library.gt_two() == library.gt_three_cpu() == 7


COMPILER = """#!/bin/sh
[ "$1" = --version ] && echo "fake (build 1) 12.2.0" && exit 0
echo run >> "$0.runs"
{wait}
while [ $# -gt 1 ]; do [ "$1" = -o ] && out="$2"; shift; done
head -c 200000 /dev/zero | tr '\\0' k > "$out"
"""


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def fake_compiler(folder: Path, wait: str = "") -> Path:
    return script(folder / "g++", COMPILER.format(wait=wait))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """(folder of the library, path of the compiler's list of runs), built once."""
    compiler = fake_compiler(tmp_path / "bin")
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("GANTRANSFER_BUILD_DIR", str(tmp_path / "kernels"))
    path, info = build.build(cuda=False)
    assert info["size"] == path.stat().st_size == 200000
    return path.parent, Path(f"{compiler}.runs")


def zeroed(folder):
    with open(folder / build.LIBRARY, "r+b") as f:
        f.seek(100000)
        f.write(bytes(5000))


def wrong_fields(folder):
    record = json.loads((folder / build.RECORD).read_text())
    (folder / build.RECORD).write_text(json.dumps({**record, "devices": 3}))


HARMS = {"cut": lambda folder: os.truncate(folder / build.LIBRARY, 4096),
         "empty": lambda folder: os.truncate(folder / build.LIBRARY, 0), "zeroed": zeroed,
         "gone": lambda folder: (folder / build.LIBRARY).unlink(),
         "half json": lambda folder: (folder / build.RECORD).write_text('{"devices": 3'),
         "other json": lambda folder: (folder / build.RECORD).write_text("[1, 2]"), "wrong fields": wrong_fields,
         "no text": lambda folder: (folder / build.RECORD).write_bytes(b"\xff\xfe\x00"),
         "no json": lambda folder: (folder / build.RECORD).unlink()}


@pytest.mark.parametrize("harm", HARMS)
def test_damage_is_said_once_and_mended(cache, harm, capsys):
    folder, runs = cache
    before = len(runs.read_text().split())
    capsys.readouterr()
    HARMS[harm](folder)
    path, info = build.build(cuda=False)
    said = capsys.readouterr().err
    assert said.count("damaged") == 1 and str(folder) in said and "Traceback" not in said
    assert len(runs.read_text().split()) == 2 * before and path.read_bytes() == b"k" * 200000
    assert json.loads((folder / build.RECORD).read_text()) == info
    assert build.build(cuda=False) == (path, info)
    assert capsys.readouterr().err == "" and len(runs.read_text().split()) == 2 * before


def test_what_a_killed_build_left_is_swept(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", str(fake_compiler(tmp_path / "bin", wait="sleep 30")))
    monkeypatch.setenv("GANTRANSFER_BUILD_DIR", str(tmp_path / "kernels"))
    command = [sys.executable, "-c", "from torch_utils import build; build.build(cuda=False)"]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while not list((tmp_path / "kernels").glob("*/build-*/in-use")):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    (folder,) = (p.parent for p in (tmp_path / "kernels").glob("*/build-*"))
    (folder / ".build.json.abc.tmp").write_text("{")  # killed while writing the record
    fake_compiler(tmp_path / "bin")
    build.build(cuda=False)
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
    (folder / build.LIBRARY).unlink()
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


NVCC = """#!/bin/sh
case "$*" in
--version) echo "Cuda compilation tools, release {version}, V{version}.88"; exit 0;;
--list-gpu-arch) echo compute_75; exit 0;;
*-shared*) {link};;
esac
while [ $# -gt 1 ]; do [ "$1" = -o ] && echo object > "$2"; shift; done
"""
FLAGS = ["-std=c++17", "-O3", "-Xcompiler", "-fPIC", "-gencode=arch=compute_75,code=sm_75"]
CANNOT = "echo 'ld: cannot find -lcudart_static' >&2; exit 1"


def fake_nvcc(folder: Path, version: str = "13.0", link: str = ":") -> Path:
    return script(folder / "nvcc", NVCC.format(version=version, link=link))


@pytest.fixture
def clean(monkeypatch):
    """No toolkit is named, and torch is a build for CUDA 13."""
    for name in ("CUDA_HOME", "CUDA_PATH", "TORCH_CUDA_ARCH_LIST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")


@pytest.fixture
def real_nvcc():
    path = build.nvcc()
    if path is None:
        pytest.skip("no nvcc on this machine")
    try:
        return path, build.compiler()
    except build.BuildError as e:
        pytest.skip(str(e))


@pytest.mark.parametrize("how", ["itself", "wrapper", "link", "link to a wrapper"])
def test_a_kernel_links_wherever_nvcc_is(real_nvcc, how, tmp_path, monkeypatch, clean):
    path, cxx = real_nvcc
    place = tmp_path / "bin" / "nvcc"
    place.parent.mkdir()
    wrapper = script(tmp_path / "sub" / "nvcc-wrapper", f'#!/bin/sh\nexec {path} "$@"\n')
    if how == "wrapper":
        os.replace(wrapper, place)
    elif how == "link":
        # What the wrapper on this machine's path calls, if it is one: the program itself.
        program = Path(path) if Path(path).read_bytes()[:2] != b"#!" else Path("/usr/local/cuda/bin/nvcc")
        if not program.is_file():
            pytest.skip("only a wrapper is known")
        place.symlink_to(program)
    elif how == "link to a wrapper":
        place.symlink_to(wrapper)
    if how != "itself":
        monkeypatch.setenv("PATH", f"{place.parent}{os.pathsep}{os.environ['PATH']}")
    assert how == "itself" or build.nvcc() in (str(place), os.path.realpath(place))
    todo = {"nvcc": build.nvcc(), "nvcc_flags": FLAGS, "cxx": cxx}
    assert build.toolchain_problem(todo) is None and todo["cuda_runtime"] == "toolkit"


def test_without_a_runtime_of_its_own_torchs_serves(real_nvcc, tmp_path, monkeypatch, clean):
    path, cxx = real_nvcc
    nvcc = script(tmp_path / "nvcc", f'#!/bin/sh\ncase "$*" in *-shared*) {CANNOT};; esac\nexec {path} "$@"\n')
    todo = {"nvcc": str(nvcc), "nvcc_flags": FLAGS, "cxx": cxx}
    monkeypatch.setattr(build, "torch_runtime", lambda: None)
    assert "cannot find -lcudart_static" in build.toolchain_problem(todo)
    shared = sorted(Path("/usr/local/cuda/lib64").glob("libcudart.so.*"))
    if not shared:
        pytest.skip("no shared CUDA runtime on this machine")
    monkeypatch.setattr(build, "torch_runtime", lambda: str(shared[0]))
    assert build.toolchain_problem(todo) is None and todo["cuda_runtime"] == "torch"
    assert build.link_command(todo, todo["cuda_runtime"])[0] == cxx and str(shared[0]) in build.link_flags(todo)


def test_cuda_home_decides_and_a_wrong_one_is_said(tmp_path, monkeypatch, clean):
    on_path, at_home = fake_nvcc(tmp_path / "path"), fake_nvcc(tmp_path / "home" / "bin")
    monkeypatch.setenv("PATH", f"{on_path.parent}{os.pathsep}{os.environ['PATH']}")
    assert build.nvcc() == str(on_path) and build.ignored_cuda_home() is None and build.cuda_problem() is None
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "home"))
    assert build.nvcc() == str(at_home) and build.ignored_cuda_home() is None
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", "~/home")
    assert build.nvcc() == str(at_home)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "nowhere"))
    assert build.nvcc() == str(on_path)
    assert f"CUDA_HOME={tmp_path / 'nowhere'} has no bin/nvcc" in build.ignored_cuda_home()


def test_another_major_version_is_named_with_the_remedy(tmp_path, monkeypatch, clean):
    monkeypatch.setenv("CUDA_HOME", str(fake_nvcc(tmp_path / "bin", "12.4").parents[1]))
    problem = build.cuda_problem()
    assert "is CUDA 12.4" in problem and "built for 13.0" in problem and "CUDA_HOME" in problem
    fake_nvcc(tmp_path / "bin", "13.2")
    assert build.cuda_problem() is None


@pytest.mark.parametrize("text", ["#!/bin/sh\necho 'licence expired' >&2; exit 3\n", "not a program at all"])
def test_an_nvcc_that_does_not_answer(text, tmp_path, monkeypatch, clean):
    monkeypatch.setenv("CUDA_HOME", str(script(tmp_path / "bin" / "nvcc", text).parents[1]))
    problem = build.cuda_problem()
    assert "does not tell its version" in problem and ("licence expired" in problem or "format error" in problem)


def test_where_cuda_does_not_link_the_cpu_is_still_served(tmp_path, monkeypatch, clean, capsys):
    nvcc = fake_nvcc(tmp_path / "toolkit" / "bin", link=CANNOT)
    monkeypatch.setenv("CUDA_HOME", str(nvcc.parents[1]))
    monkeypatch.setenv("CXX", str(fake_compiler(tmp_path / "bin")))
    monkeypatch.setenv("GANTRANSFER_BUILD_DIR", str(tmp_path / "kernels"))
    monkeypatch.setattr(build, "torch_runtime", lambda: None)
    path, info = build.build()
    assert info["devices"] == ["cpu"] and path.is_file() and "cannot find -lcudart_static" in info["cuda_missing"]
    with pytest.raises(build.BuildError, match="do not link a kernel"):
        build.build(cuda=True)
    fake_nvcc(nvcc.parent)  # mended: the next start has both
    path, info = build.build()
    assert info["devices"] == ["cpu", "cuda"] and info["cuda_missing"] is None
    last = (path.parent / "build.log").read_text().split("\n\n")[0].splitlines()[-1]
    assert last.startswith(f"{nvcc} -shared ") and "-lcudart" not in last  # nvcc knows its own place
