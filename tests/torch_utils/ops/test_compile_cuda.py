# SPDX-License-Identifier: Apache-2.0
"""Every CUDA source compiles, for every architecture offered, without a GPU: kernels with nvcc (and NVRTC 12 for
sm_70). `python -m tests.cuda.ptxas` prints registers and spills. The bindings' halves for CUDA are compiled, against
whatever torch is installed, in test_cuda_emulated.py."""

import ctypes
import glob
import importlib.util
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.cuda import ptxas, remembered
from torch_utils import build

SRC = build.source_dir()
KERNELS = sorted(SRC.glob("*.cu"))
# An architecture takes half a minute; GANTRANSFER_CUDA_ARCHS=75,80,86,89,90,100,120 compiles for all.
ARCHITECTURES = tuple(os.environ.get("GANTRANSFER_CUDA_ARCHS", "75,90").split(","))
nvcc = build.nvcc()
PTXAS = Path(ptxas.__file__)  # how the kernels are compiled and what is read off
needs_nvcc = pytest.mark.skipif(nvcc is None, reason="no nvcc on this machine")


@needs_nvcc
@pytest.mark.slow
@pytest.mark.parametrize("source", KERNELS, ids=lambda p: p.name)
def test_kernels_compile_and_spill_nothing(source, tmp_path):
    offered = build.offered_architectures(nvcc)
    archs = [a for a in ARCHITECTURES if a in offered]
    if archs:
        rows = remembered.value(f"ptxas-{'-'.join(archs)}-{source.stem}", (PTXAS,),
                                lambda: ptxas.report(source, archs, tmp_path))
        assert {r["arch"] for r in rows} == set(archs) and all(0 < r["registers"] <= 128 for r in rows)
        assert not [r for r in rows if r["spilled"]], "registers are spilled to memory"
    if missing := [a for a in ARCHITECTURES if a not in offered]:  # those that are offered have been looked at
        pytest.skip(f"{nvcc} does not offer sm_{', sm_'.join(missing)}")


@needs_nvcc
def test_harness_compiles(tmp_path):
    source = SRC.parent / "tests" / "cuda" / "harness.cu"
    command = [nvcc, "-std=c++17", "-Werror", "all-warnings", f"-I{SRC}", "-c", str(source), "-o"]

    def compiled() -> int:
        done = subprocess.run([*command, str(tmp_path / "h.o")], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-4000:]
        return (tmp_path / "h.o").stat().st_size

    assert remembered.value("harness", (*command, source), compiled) > 1000


@needs_nvcc
def test_kernels_include_no_torch_header():
    """Nor do the headers that they include, at whatever remove."""
    seen, files = set(), list(KERNELS)
    while files:
        f = files.pop()
        includes = re.findall(r'^\s*#include\s+[<"]([^>"]+)', f.read_text(encoding="utf-8"), re.M)
        assert not [i for i in includes if i.startswith(("torch", "ATen", "c10"))], f
        files += [SRC / i for i in includes if (SRC / i).is_file() and i not in seen]
        seen.update(includes)
    assert len(seen) > 5


def nvrtc12():
    """libnvrtc.so.12 of the package nvidia-cuda-nvrtc-cu12, if it is installed."""
    spec = importlib.util.find_spec("nvidia")
    found = [f for p in (spec.submodule_search_locations if spec else []) for f in
             glob.glob(os.path.join(p, "cuda_nvrtc", "lib", "libnvrtc.so.12"))]
    extra = os.environ.get("GANTRANSFER_NVRTC12")
    return extra or (found[0] if found else None)


@pytest.mark.parametrize("source", KERNELS, ids=lambda p: p.name)
def test_volta_through_nvrtc(source):
    path = nvrtc12()
    if path is None:
        pytest.skip("CUDA 13 has no sm_70; to check it, `pip install nvidia-cuda-nvrtc-cu12` or set "
                    "GANTRANSFER_NVRTC12=libnvrtc.so.12")
    lib = ctypes.CDLL(path)
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    text = source.read_text(encoding="utf-8").encode()
    assert lib.nvrtcCreateProgram(ctypes.byref(program), text, source.name.encode(), 0, None, None) == 0
    options = [b"--gpu-architecture=sm_70", b"-default-device", b"--std=c++17", f"-I{SRC}".encode()]
    code = lib.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    lib.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    lib.nvrtcGetProgramLog(program, log)
    assert code == 0, log.value.decode()[-4000:]
    lib.nvrtcGetCUBINSize(program, ctypes.byref(size))
    assert size.value > 1000  # machine code of the kernels that the source instantiates for NVRTC
