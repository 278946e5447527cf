# SPDX-License-Identifier: Apache-2.0
"""tests/cuda/harness.cu with the kernels emulated on the CPU: `python -m tests.cuda.run_harness`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.cuda import emulated, remembered

HERE = Path(__file__).resolve().parent


def run_emulated() -> subprocess.CompletedProcess:
    """Compile, unless that was done before, and run; the CompletedProcess of the program. CompileError when it does not
    compile."""
    source = HERE / "harness.cu"

    def make(folder: Path) -> Path:
        # each source is told to be C++; the objects are not
        emulated.run([*emulated.kernel_command(), source, "-x", "none", *emulated.kernels(), "-o", folder / "harness"])
        return folder / "harness"

    program = remembered.file("harness", (*emulated.kernel_command(), source), make)
    return subprocess.run([str(program)], capture_output=True, text=True, check=False)


if __name__ == "__main__":
    done = run_emulated()
    sys.stdout.write(done.stdout + done.stderr)
    sys.exit(done.returncode)
