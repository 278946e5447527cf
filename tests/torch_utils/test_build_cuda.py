# SPDX-License-Identifier: Apache-2.0
"""The CUDA tools wherever they are found: wrappers, links, CUDA_HOME, other versions, tools that do not link."""

import os
from pathlib import Path

import pytest
import torch

from tests.torch_utils.test_build_cache import fake_compiler
from torch_utils import build

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


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


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
