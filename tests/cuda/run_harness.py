# SPDX-License-Identifier: Apache-2.0
"""tests/cuda/harness.cu with the kernels emulated on the CPU: `python -m tests.cuda.run_harness`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.cuda import remembered
from torch_utils import build

HERE = Path(__file__).resolve().parent


def run_emulated() -> subprocess.CompletedProcess:
    """Compile, unless that was done before, and run; the CompletedProcess of the program. RuntimeError when it does not
    compile."""
    src = build.source_dir()
    sources = [str(HERE / "harness.cu"), *map(str, sorted(src.glob("*.cu")))]
    command = [build.compiler(), "-std=c++20", "-O1", "-DGT_EMULATE", "-include", str(HERE / "emulate.h"), f"-I{src}",
               "-x", "c++", *sources, "-o"]

    def make(folder: Path) -> Path:
        done = subprocess.run([*command, str(folder / "harness")], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr[-4000:])
        return folder / "harness"

    program = remembered.file("program", (*command, HERE / "harness.cu", HERE / "emulate.h"), make)
    return subprocess.run([str(program)], capture_output=True, text=True, check=False)


if __name__ == "__main__":
    out = run_emulated()
    print(out.stdout)
    sys.exit(out.returncode)
