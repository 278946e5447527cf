# SPDX-License-Identifier: Apache-2.0
"""What is freed is taken again without new pages of the system."""

import ctypes
import os
import subprocess
import sys

import pytest

from torch_utils import heap

glibc = pytest.mark.skipif(sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"),
                           reason="the C library is not glibc")
# Blocks as the activations of a step: all freed at its end, so that the top of the heap is free.
STEPS = """
import resource
import numpy
from torch_utils import heap
print(heap.keep_freed() if {keep} else None)
def step():
    blocks = [numpy.ones(3 << 20, dtype=numpy.int8) for _ in range(20)]
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(keep: bool, **env: str) -> list[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_") and k != "GLIBC_TUNABLES"} | env
    return subprocess.run([sys.executable, "-c", STEPS.format(keep=keep)], capture_output=True, text=True, check=True,
                          env=env).stdout.split()


@glibc
def test_a_step_maps_nothing_that_the_one_before_had():
    """Five steps of 60 MB are 77,000 pages."""
    kept, faults = run(True)
    assert kept == "True" and int(faults) < 100 < 50_000 < int(run(False)[1])


@glibc
def test_what_the_environment_sets_stays(monkeypatch):
    for name in [k for k in os.environ if k.startswith("MALLOC_") or k == "GLIBC_TUNABLES"]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda name: pytest.fail("asked for mallopt"))
    for name in ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES"):
        with monkeypatch.context() as m:
            m.setenv(name, "1")
            assert heap.keep_freed() is False
