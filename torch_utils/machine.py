# SPDX-License-Identifier: Apache-2.0
"""Whether this machine can run and build what is needed, and if not, what to do."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil

import torch

from torch_utils import build


def checks() -> list[tuple[str, str, str]]:
    """[(verdict, what was looked at and found, remedy or '')]; verdict: 'ok', 'note' or 'bad'."""
    rows = []

    def add(verdict: str, text: str, remedy: str = "") -> None:
        rows.append((verdict, text, remedy))

    add("ok", f"Python {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} processors, "
              f"{torch.get_num_threads()} threads")
    try:
        path = build.compiler()
        version = build._version(path).splitlines()[0]
        number = int(version.split()[-1].split(".")[0]) if version.split()[-1][0].isdigit() else None
        old = "clang" not in version and number is not None and number < 10
        add("bad" if old else "ok", f"C++ compiler: {path} ({version})",
            "C++20 needs g++ 10 or newer; set CXX to one" if old else "")
    except build.BuildError as e:
        add("bad", "C++ compiler: none", str(e))
    add(*(("ok", f"ninja: {shutil.which('ninja')}") if shutil.which("ninja") else
          ("note", "ninja: none; sources are compiled by direct commands instead", "`pip install ninja` for parallel "
           "builds with fewer surprises")))
    add(*(("ok", "pyspng: present") if importlib.util.find_spec("pyspng") else
          ("note", "pyspng: none; PNG files are read by Pillow, several times slower", "`pip install pyspng`")))
    _gpu(add)
    try:
        folder = build.build_dir()
        folder.mkdir(parents=True, exist_ok=True)
        add("ok" if os.access(folder, os.W_OK) else "bad", f"build folder: {folder}",
            "" if os.access(folder, os.W_OK) else "set GANTRANSFER_BUILD_DIR to a folder you can write to")
    except OSError as e:
        add("bad", f"build folder: {e}", "set GANTRANSFER_BUILD_DIR to a folder you can write to")
    return rows


def _gpu(add) -> None:
    if torch.version.cuda is None:
        present = shutil.which("nvidia-smi") is not None
        add("note" if present else "ok", f"GPU: this torch is a CPU build{', but a driver is installed' * present}",
            "install a CUDA build of torch to use the GPU" if present else "")
        return
    if not torch.cuda.is_available():
        add("bad", f"GPU: torch is built for CUDA {torch.version.cuda} but sees no device",
            "check `nvidia-smi`, CUDA_VISIBLE_DEVICES and that the driver is new enough for this CUDA version")
    supported = torch.cuda.get_arch_list()
    for i in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(i)
        known = f"sm_{major}{minor}" in supported or any(a.startswith(f"sm_{major}") for a in supported)
        add("ok" if known else "bad", f"GPU {i}: {torch.cuda.get_device_name(i)}, sm_{major}{minor}",
            "" if known else f"this torch has kernels for {', '.join(supported)} only; install a build for your card "
                             f"(CUDA 12 builds still serve sm_70)")
    problem = build.cuda_problem()
    if problem:
        add("bad", "CUDA toolkit: not usable", problem)
        return
    path = build.nvcc()
    offered = build.offered_architectures(path)
    add("ok", f"CUDA toolkit: {path}, CUDA {'.'.join(map(str, build.nvcc_version(path)))}, torch {torch.version.cuda}, "
              f"architectures {', '.join(offered)}")
    if build.ignored_cuda_home():
        add("note", build.ignored_cuda_home(), "correct the variable, or unset it")
    try:
        add("ok", f"compiled for: {' '.join(build.architectures(path))}")
        todo = build.plan(cuda=True)
    except build.BuildError as e:
        add("bad", "CUDA compiler", str(e))
        return
    problem = build.toolchain_problem(todo)
    if problem:
        add("bad", f"CUDA link: {problem.splitlines()[0].rstrip(':')}", "\n         ".join(problem.splitlines()[1:]))
    else:
        add("ok", "CUDA link: a small kernel compiles and links, with the runtime of "
                  + {"toolkit": "the toolkit", "torch": f"torch ({build.torch_runtime()})"}[todo["cuda_runtime"]])
