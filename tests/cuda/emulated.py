# SPDX-License-Identifier: Apache-2.0
"""Build the library of CUDA kernels compiled for the CPU (tests/cuda/emulate.h): `python -m tests.cuda.emulated
FOLDER` prints its path. It takes the place of the CPU kernels of the library that users get (`load`), so that what the
two have in common, the operators' schemas and gradients, is compiled once. Tests use it where GANTRANSFER_TEST_LIBRARY
names it."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from tests.cuda import remembered
from torch_utils import build

HERE = Path(__file__).resolve().parent
MARK = "gantransfer-emulated"  # in the place of the folder in the names of the sources, which torch tells
# A schema stands once; the body that follows is of a function that nobody calls.
UNIT = """#include <torch/library.h>
#undef TORCH_LIBRARY_FRAGMENT
#define TORCH_LIBRARY_FRAGMENT(ns, m) \\
  [[maybe_unused]] static void C10_CONCATENATE(gt_schemas_, __COUNTER__)(torch::Library & m)
"""


class CompileError(RuntimeError):
    """The compiler refused a source; the text is what it said."""


def run(command: list) -> None:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode:
        raise CompileError(done.stderr[-4000:])


def kernel_command() -> list:
    """Compiles a file of kernels; the source and `-o` follow."""
    return [build.compiler(), "-std=c++20", "-O1", "-fPIC", "-DGT_EMULATE", "-include", HERE / "emulate.h",
            f"-I{build.source_dir()}", "-x", "c++"]


def sources() -> list[Path]:
    return sorted(build.source_dir().glob("*.cu"), key=lambda p: -p.stat().st_size)


def kernels() -> list[Path]:
    """The object files of csrc/*.cu, emulated; those of the same sources are kept."""

    def compiled(source: Path) -> Path:
        def make(folder: Path) -> Path:
            run([*kernel_command(), "-c", source, "-o", folder / "kernels.o"])
            return folder / "kernels.o"

        return remembered.file(f"{source.stem}.o", tuple(kernel_command()), make)

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(compiled, sources()))


def binding_flags() -> list[str]:
    """The C++ files know nothing of the emulator's header, as they know nothing of CUDA's; of them only what calls the
    kernels runs, so that nothing is optimized."""
    src, kept = build.source_dir(), [f for f in build.plan(cuda=False)["cxx_flags"] if f != "-O3"]
    return [*kept, "-O0", "-DGT_WITH_CUDA", "-DGT_EMULATE", "-Wall", "-Werror=return-type", f"-I{src}",
            f"-fmacro-prefix-map={src}={MARK}"]


def emulated_library() -> Path:
    """`build_emulated`, or what it made of the same sources before."""
    return remembered.file("library", (binding_flags(), *kernel_command(), UNIT), build_emulated)


def build_emulated(folder: Path) -> Path:
    """Compile into `folder` the operators with a CUDA kernel, which CPU tensors are to run, emulated."""
    todo, unit, library = build.plan(cuda=False), folder / "emulated.cpp", folder / "gantransfer_emulated.so"
    unit.write_text(UNIT + "".join(f'#include "{f.stem}.cpp"\n' for f in sources()), encoding="utf-8")
    run([todo["cxx"], *binding_flags(), "-c", unit, "-o", unit.with_suffix(".o")])
    # Both libraries have functions of these names: each is to call its own.
    run([todo["cxx"], "-shared", "-Wl,-Bsymbolic", unit.with_suffix(".o"), *kernels(), "-o", library,
         *build.link_flags(todo)])
    return library


def load(library: Path) -> None:
    """The emulated kernels serve CPU tensors, all that there are; the rest is of the library that users get."""
    if not build.native("cpu"):
        raise CompileError(build._State.failure)
    torch.ops.load_library(str(library))
    served = {}
    for name in torch._C._dispatch_get_all_op_names():
        lines = torch._C._dispatch_dump(name).splitlines() if name.startswith("gantransfer::") else []
        if any(line.startswith("CUDA: ") for line in lines):
            served[name.split("::")[1]] = any(line.startswith("CPU: ") and MARK in line for line in lines)
    assert all(served.values()) and {f.stem for f in sources()} <= served.keys(), served


if __name__ == "__main__":
    print(build_emulated(Path(sys.argv[1])))
