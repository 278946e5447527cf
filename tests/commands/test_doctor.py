# SPDX-License-Identifier: Apache-2.0
"""`gantransfer doctor`."""

import shutil

import pytest
import torch

from tests.torch_utils.test_build import fake_compiler, fake_nvcc
from torch_utils import build, machine


def test_names_what_it_found(call):
    try:
        build.compiler()
    except build.BuildError as e:
        pytest.skip(str(e))
    out = call("doctor", "--no-build", check=None)
    assert "C++ compiler: " in out.stdout and "torch" in out.stdout and "build folder" in out.stdout
    assert (out.returncode == 0) == (" bad  " not in out.stdout)


def test_without_tools_every_line_has_a_remedy(call, no_compiler):
    out = call("doctor", check=2)
    assert " bad  C++ compiler: none" in out.stdout and "apt install g++" in out.stdout
    assert "--kernels=ref" in out.stderr and "Traceback" not in out.stderr


@pytest.mark.slow
def test_wheel_with_prebuilt_kernels(run_script, tmp_path):
    """GANTRANSFER_PREBUILD=1 puts a library and its description beside torch_utils/build.py."""
    pytest.importorskip("pybind11")
    if not shutil.which("g++") and not shutil.which("c++"):
        pytest.skip("no C++ compiler")
    run_script("setup.py", "-q", "build", "--build-base", tmp_path / "b", "--build-lib", tmp_path / "lib",
               env={"GANTRANSFER_PREBUILD": "1"}, timeout=900)
    folder = tmp_path / "lib"
    assert (folder / "torch_utils" / build.LIBRARY).is_file() and list((folder / "torch_utils").glob("_build_info*"))
    program = ("import torch_utils, torch; from torch_utils import build; assert build.native('cpu'); "
               "print(torch_utils.__file__, build.describe()['build'].get('prebuilt'))")
    out = run_script("-c", program, cwd=folder,
                     env={"GANTRANSFER_BUILD_DIR": str(tmp_path / "k"), "GANTRANSFER_KERNELS": "native"})
    assert str(folder) in out.stdout and "True" in out.stdout and not (tmp_path / "k").exists()


@pytest.mark.parametrize("link, verdict", [("echo 'ld: cannot find -lcudart_static' >&2; exit 1", "bad"), (":", "ok")])
def test_looks_at_the_cuda_link_too(link, verdict, tmp_path, monkeypatch):
    nvcc = fake_nvcc(tmp_path / "toolkit" / "bin", link=link)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(build, "torch_runtime", lambda: None)
    monkeypatch.setenv("CXX", str(fake_compiler(tmp_path / "bin")))
    monkeypatch.setenv("CUDA_HOME", str(nvcc.parents[1]))
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    rows = []
    machine._gpu(lambda *row: rows.append(row))
    (row,) = [r for r in rows if r[1].startswith("CUDA link")]
    assert row[0] == verdict
    assert verdict == "ok" or "cannot find -lcudart_static" in row[2] and "CUDA_HOME" in row[2]
    monkeypatch.setenv("CUDA_PATH", str(tmp_path / "nowhere"))
    machine._gpu(lambda *row: rows.append(row))
    assert any(r[0] == "note" and "nowhere has no bin/nvcc" in r[1] for r in rows)
