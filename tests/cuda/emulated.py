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


def emulated_library() -> Path:
    """`build_emulated`, or what it made of the same sources before."""
    return remembered.file("library", (flags(), HERE / "emulate.h"), build_emulated)


def flags() -> list[str]:
    kept = [f for f in build.plan(cuda=False)["cxx_flags"] if f != "-O3"]
    return [*kept, "-O1", "-DGT_WITH_CUDA", "-DGT_EMULATE", "-include", str(HERE / "emulate.h"),
            f"-I{build.source_dir()}"]


def build_emulated(folder: Path) -> Path:
    """Compile csrc into `folder` with every operator running its emulated CUDA kernel on CPU tensors."""
    src, todo = build.source_dir(), build.plan(cuda=False)
    library = folder / "gantransfer_emulated.so"
    sources = [*build.units(folder), *sorted(src.glob("*.cu"), key=lambda p: -p.stat().st_size)]
    objects = [str(folder / f"{s.name}.o") for s in sources]

    def compile_one(source: Path, target: str) -> None:
        level = [] if source.suffix == ".cu" else ["-O0"]  # of the C++ files only what calls the kernels runs
        command = [todo["cxx"], *flags(), *level, "-x", "c++", "-c", str(source), "-o", target]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr[-4000:])

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(compile_one, sources, objects))
    subprocess.run([todo["cxx"], "-shared", *objects, "-o", str(library), *build.link_flags(todo)], check=True)
    return library


if __name__ == "__main__":
    print(build_emulated(Path(sys.argv[1])))
