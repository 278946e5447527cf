# SPDX-License-Identifier: Apache-2.0
"""The forms that each CUDA source instantiates for NVRTC, compiled by NVRTC 12, in seconds: for sm_70, which CUDA 13
dropped, and for sm_90, where half a minute of nvcc for all forms is saved."""

from __future__ import annotations

import ctypes
import glob
import importlib.util
import os
import tempfile
from pathlib import Path

from tests.cuda import ptxas
from torch_utils import build

ARCHITECTURES = ("70", "90")


def library() -> str | None:
    """libnvrtc.so.12 of the package nvidia-cuda-nvrtc-cu12, if it is installed, or $GANTRANSFER_NVRTC12."""
    spec = importlib.util.find_spec("nvidia")
    found = [f for p in (spec.submodule_search_locations if spec else []) for f in
             glob.glob(os.path.join(p, "cuda_nvrtc", "lib", "libnvrtc.so.12"))]
    return os.environ.get("GANTRANSFER_NVRTC12") or (found[0] if found else None)


def report(source: Path, arch: str) -> list[dict]:
    """As `ptxas.report` of nvcc; CompileError where NVRTC refuses the source."""
    lib = ctypes.CDLL(library())
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    text = source.read_text(encoding="utf-8").encode()
    assert lib.nvrtcCreateProgram(ctypes.byref(program), text, source.name.encode(), 0, None, None) == 0
    options = [f"--gpu-architecture=sm_{arch}", "-default-device", "--std=c++17", "--ptxas-options=-v",
               f"-I{build.source_dir()}"]
    code = lib.nvrtcCompileProgram(program, len(options),
                                   (ctypes.c_char_p * len(options))(*[o.encode() for o in options]))
    lib.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    lib.nvrtcGetProgramLog(program, log)
    if code:
        raise ptxas.CompileError(log.value.decode()[-4000:])
    lib.nvrtcGetCUBINSize(program, ctypes.byref(size))
    binary = ctypes.create_string_buffer(size.value)
    lib.nvrtcGetCUBIN(program, binary)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "a.cubin").write_bytes(binary.raw)
        return ptxas.rows(source, log.value.decode(), {arch: ptxas.instructions(Path(folder, "a.cubin"))})


def version() -> str:
    """As '12.9': the release, which is all that the library tells."""
    numbers = [ctypes.c_int(), ctypes.c_int()]
    ctypes.CDLL(library()).nvrtcVersion(*map(ctypes.byref, numbers))
    return ".".join(str(n.value) for n in numbers)
