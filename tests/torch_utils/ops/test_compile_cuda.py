# SPDX-License-Identifier: Apache-2.0
"""Every CUDA source compiles without a GPU, spills nothing and does not grow: kernels with nvcc (and NVRTC 12 for
sm_70). `python -m tests.cuda.ptxas` prints registers, spills and instructions. The bindings' halves for CUDA are
compiled, against whatever torch is installed, in test_cuda_emulated.py."""

import functools
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cuda import nvrtc, prebuilt, ptxas, remembered
from torch_utils import build

SRC = build.source_dir()
KERNELS = sorted(SRC.glob("*.cu"))
# An architecture takes half a minute; GANTRANSFER_CUDA_ARCHS=75,80,86,89,90,100,120 compiles for all. What is there for
# sm_80 and later only is looked at through NVRTC where that is.
DEFAULT = "75" if nvrtc.library() else "75,90"
ARCHITECTURES = tuple(os.environ.get("GANTRANSFER_CUDA_ARCHS", DEFAULT).split(","))
nvcc = build.nvcc()
PTXAS = Path(ptxas.__file__)  # how the kernels are compiled and what is read off
needs_nvcc = pytest.mark.skipif(nvcc is None, reason="no nvcc on this machine")
needs_nvrtc = pytest.mark.skipif(nvrtc.library() is None, reason="CUDA 13 has no sm_70; to check it, `pip install "
                                 "nvidia-cuda-nvrtc-cu12` or set GANTRANSFER_NVRTC12=libnvrtc.so.12")
needs_binutils = pytest.mark.skipif(not (shutil.which("readelf") and shutil.which("c++filt")),
                                    reason="no binutils on this machine")
some_forms = functools.cache(nvrtc.report)


def compiled(source):
    """(rows of ptxas.report, a reason to skip where nvcc does not offer all of ARCHITECTURES)"""
    offered = build.offered_architectures(nvcc)
    archs = [a for a in ARCHITECTURES if a in offered]
    missing = [a for a in ARCHITECTURES if a not in offered]  # those that are offered are looked at
    rows = remembered.value(f"ptxas-{'-'.join(archs)}-{source.stem}", (PTXAS,),
                            lambda: ptxas.report(source, archs)) if archs else []
    assert {r["arch"] for r in rows} == set(archs)
    return rows, f"{nvcc} does not offer sm_{', sm_'.join(missing)}" if missing else None


@needs_nvcc
@pytest.mark.slow
@pytest.mark.parametrize("source", KERNELS, ids=lambda p: p.name)
def test_kernels_compile_and_spill_nothing(source):
    rows, skipped = compiled(source)
    assert all(0 < r["registers"] <= 128 for r in rows)
    assert not [r for r in rows if r["spilled"]], "registers are spilled to memory"
    if skipped:
        pytest.skip(skipped)


@needs_nvcc
@pytest.mark.slow
@needs_binutils
@pytest.mark.parametrize("source", KERNELS, ids=lambda p: p.name)
def test_instructions_do_not_grow(source):
    """Against limits read with this very nvcc only: another one's code of the same source is some percent longer or
    shorter, so that a margin wide enough for all would let pass what this is to find."""
    known = json.loads(ptxas.LIMITS.read_text(encoding="utf-8"))
    if known["nvcc"] != ptxas.compiler_version():
        pytest.skip(f"limits are of nvcc {known['nvcc']}, this is {ptxas.compiler_version()}; to compare two commits, "
                    "`python -m tests.cuda.ptxas --limits` on the older one first")
    limits = known["limits"].get(source.name, {})
    rows, skipped = compiled(source)
    assert known["limits"].keys() == {p.name for p in KERNELS}
    now = ptxas.totals(rows).get(source.name, {})
    wrong = [f"sm_{a} {w}" for a in now.keys() & limits.keys() for w in ptxas.exceeded(now[a], limits[a])]
    assert not wrong, f"{wrong}; where that is meant: `python -m tests.cuda.ptxas --limits` and commit the difference"
    if skipped or not now.keys() & limits.keys():
        pytest.skip(skipped or f"compiled for sm_{', sm_'.join(now)}, limits are of sm_{', sm_'.join(limits)}")


def test_limits_of_instructions():
    form = {"source": "a.cu", "arch": "90", "kernel": "blur<float, 2>", "instructions": 1000}
    now = ptxas.totals([form, {**form, "kernel": "blur<double, 2>", "instructions": 408}])["a.cu"]["90"]
    assert now == {"blur": [1000, 1408]}
    assert ptxas.exceeded(now, {"blur": [984, 1384]}) == []  # by less than 2 %
    assert ptxas.exceeded(now, {"blur": [976, 1408]}) == ["blur: 1000 instructions in its largest form instead of 976"]
    assert ptxas.exceeded(now, {"blur": [1000, 1376]}) == ["blur: 1408 instructions in all forms instead of 1376"]
    assert ptxas.exceeded(now, {"cut": [8, 8]}) == ["blur has no limit", "cut is gone"]


@needs_nvcc
def test_harness_compiles(tmp_path):
    source = SRC.parent / "tests" / "cuda" / "harness.cu"
    command = [nvcc, "-std=c++17", "-Werror", "all-warnings", f"-I{SRC}", "-c", str(source), "-o"]

    def size() -> int:
        done = subprocess.run([*command, str(tmp_path / "h.o")], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-4000:]
        return (tmp_path / "h.o").stat().st_size

    assert remembered.value("harness", (*command, source), size) > 1000


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


def test_operators_without_a_cuda_kernel_are_named():
    """What .github/workflows/cuda.yml asks of a wheel that was built there."""
    found = {"conv3x3": {"CPU"}, **{p.stem: {"CPU", "CUDA"} for p in KERNELS}}
    assert prebuilt.missing(found) == []
    del found["weight_sq"]
    assert prebuilt.missing({**found, "cond_bn_dx": {"CPU"}}) == ["cond_bn_dx", "weight_sq.cu: no operator"]


@needs_nvrtc
@pytest.mark.parametrize("arch", nvrtc.ARCHITECTURES)
@pytest.mark.parametrize("source", KERNELS, ids=lambda p: p.name)
def test_some_forms_through_nvrtc(source, arch):
    rows = some_forms(source, arch)
    assert rows and all(0 < r["registers"] <= 128 for r in rows) and not [r for r in rows if r["spilled"]]


@needs_nvrtc
@needs_binutils
@pytest.mark.parametrize("source", KERNELS, ids=lambda p: p.name)
def test_instructions_of_volta_do_not_grow(source):
    known = json.loads(ptxas.LIMITS.read_text(encoding="utf-8"))
    if known["nvrtc"] != nvrtc.version():
        pytest.skip(f"limits are of NVRTC {known['nvrtc']}, this is {nvrtc.version()}")
    wrong = ptxas.exceeded(ptxas.totals(some_forms(source, "70"))[source.name]["70"],
                           known["limits"][source.name]["70"])
    assert not wrong, f"{wrong}; where that is meant: `python -m tests.cuda.ptxas --limits` and commit the difference"
