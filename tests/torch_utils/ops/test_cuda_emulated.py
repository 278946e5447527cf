# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels themselves, without a GPU: compiled for the CPU with every CUDA thread as a fiber, then put through
the tests of the compiled operators."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.torch_utils.ops.conftest import EMULATED


@pytest.mark.slow
@pytest.mark.skipif(bool(EMULATED), reason="this is the emulated run")
def test_operators_on_emulated_cuda():
    from tests.cuda.emulated import emulated_library
    from torch_utils import build

    try:
        build.compiler()
    except build.BuildError as e:
        pytest.skip(str(e))
    library = emulated_library()
    files = sorted(str(f) for f in (ROOT / "tests" / "torch_utils" / "ops").glob("test_native_*.py"))
    env = {**os.environ, "GANTRANSFER_TEST_LIBRARY": str(library), "GANTRANSFER_KERNELS": "native"}
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *files], cwd=ROOT,
                          env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.skipif(bool(EMULATED), reason="this is the emulated run")
def test_harness_without_torch():
    """What the GPU check falls back to; a wrong kernel is found by it."""
    from tests.cuda.run_harness import run_emulated
    from torch_utils import build

    try:
        build.compiler()
    except build.BuildError as e:
        pytest.skip(str(e))
    done = run_emulated()
    assert done.returncode == 0 and "184 checks, 0 wrong" in done.stdout, done.stdout[-2000:]
