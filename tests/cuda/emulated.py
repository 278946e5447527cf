# SPDX-License-Identifier: Apache-2.0
"""Build the library with its CUDA kernels compiled for the CPU (tests/cuda/emulate.h): `python -m tests.cuda.emulated
FOLDER` prints the library's path. Tests use it where GANTRANSFER_TEST_LIBRARY names it."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.cuda import remembered
from torch_utils import build

HERE = Path(__file__).resolve().parent


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


def kernels() -> list[Path]:
    """The object files of csrc/*.cu, emulated; those of the same sources are kept."""
    sources = sorted(build.source_dir().glob("*.cu"), key=lambda p: -p.stat().st_size)

    def compiled(source: Path) -> Path:
        def make(folder: Path) -> Path:
            run([*kernel_command(), "-c", source, "-o", folder / "kernels.o"])
            return folder / "kernels.o"

        return remembered.file(f"{source.stem}.o", tuple(kernel_command()), make)

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(compiled, sources))


def binding_flags() -> list[str]:
    """The C++ files know nothing of the emulator's header, as they know nothing of CUDA's; of them only what calls the
    kernels runs, so that nothing is optimized."""
    kept = [f for f in build.plan(cuda=False)["cxx_flags"] if f != "-O3"]
    return [*kept, "-O0", "-DGT_WITH_CUDA", "-DGT_EMULATE", "-Wall", "-Werror=return-type", f"-I{build.source_dir()}"]


def emulated_library() -> Path:
    """`build_emulated`, or what it made of the same sources before."""
    return remembered.file("library", (binding_flags(), *kernel_command()), build_emulated)


def build_emulated(folder: Path) -> Path:
    """Compile csrc into `folder` with every operator running its emulated CUDA kernel on CPU tensors."""
    todo, library = build.plan(cuda=False), folder / "gantransfer_emulated.so"
    cpu = [f for f in build.units(folder) if f.stem in (build.BINDINGS, "conv3x3_cpu", "styled_conv_cpu")]  # no .cu
    objects = [folder / f"{f.stem}.o" for f in cpu]
    for source, made in zip(cpu, objects, strict=True):
        run([todo["cxx"], *binding_flags(), "-c", source, "-o", made])
    run([todo["cxx"], "-shared", *objects, *kernels(), "-o", library, *build.link_flags(todo)])
    return library


if __name__ == "__main__":
    print(build_emulated(Path(sys.argv[1])))
