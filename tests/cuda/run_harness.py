# SPDX-License-Identifier: Apache-2.0
"""tests/cuda/harness.cu with the kernels emulated on the CPU: `python -m tests.cuda.run_harness FOLDER`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from torch_utils import build

HERE = Path(__file__).resolve().parent


def run_emulated(folder: Path) -> subprocess.CompletedProcess:
    """Compile into `folder` and run; the CompletedProcess of the program. RuntimeError when it does not compile."""
    src, program = build.source_dir(), folder / "harness"
    sources = [str(HERE / "harness.cu"), *map(str, sorted(src.glob("*.cu")))]
    command = [build.compiler(), "-std=c++20", "-O1", "-DGT_EMULATE", "-include", str(HERE / "emulate.h"), f"-I{src}",
               "-x", "c++", *sources, "-o", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-4000:])
    return subprocess.run([str(program)], capture_output=True, text=True, check=False)


if __name__ == "__main__":
    out = run_emulated(Path(sys.argv[1]))
    print(out.stdout)
    sys.exit(out.returncode)
