# SPDX-License-Identifier: Apache-2.0
"""csrc/vec.h as processors with and without AVX and AVX-512 have it: this machine's library has only one of them."""

import subprocess

import pytest

from tests.conftest import ROOT
from torch_utils import build

SETS = {"": set(), "-mavx2 -mfma": {"avx2", "fma"},
        "-mavx512f -mavx512bw -mavx512vl -mfma": {"avx512f", "avx512bw", "avx512vl", "fma"}}


@pytest.mark.parametrize("flags", SETS)
def test_every_operation_is_that_of_the_elements(flags, tmp_path):
    if not SETS[flags] <= build.cpu_flags():
        pytest.skip("this processor has no such instructions")
    program = tmp_path / "vectors"
    source = ROOT / "tests" / "torch_utils" / "ops" / "vectors.cpp"
    subprocess.run([build.compiler(), "-std=c++20", "-O2", "-Wno-psabi", *flags.split(), f"-I{build.source_dir()}",
                    str(source), "-o", str(program)], check=True)
    done = subprocess.run([str(program)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "right\n"), f"{source.name}:{done.returncode}"
