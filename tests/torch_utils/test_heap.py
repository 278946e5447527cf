# SPDX-License-Identifier: Apache-2.0
"""What is freed is taken again without new pages of the system."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from torch_utils import heap

glibc = pytest.mark.skipif(sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"),
                           reason="the C library is not glibc")
# Blocks as the activations of a step: all freed at its end, so that the top of the heap is free.
STEPS = """
import resource
import numpy
from torch_utils import heap
if {limit}:
    resource.setrlimit(resource.RLIMIT_AS, (1 << 42, resource.RLIM_INFINITY))
print(heap.keep_freed() if {keep} else None)
def step():
    blocks = [numpy.ones(n << 20, dtype=numpy.int8) for n in (*[3] * 20, 40)]
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
maps = open("/proc/self/smaps").read().split("[heap]")[1:]  # one name, several ranges of addresses
print(any("hg" in m.split("VmFlags:")[1].splitlines()[0].split() for m in maps))
"""


def run(keep: bool, limit: bool = False) -> list[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_") and k != "GLIBC_TUNABLES"}
    env["NUMPY_MADVISE_HUGEPAGE"] = "0"  # what numpy asks for by itself
    return subprocess.run([sys.executable, "-c", STEPS.format(keep=keep, limit=limit)], capture_output=True, text=True,
                          check=True, env=env).stdout.split()


@glibc
def test_a_step_maps_nothing_that_the_one_before_had():
    """Five steps of 100 MB are 128,000 pages. A block of 40 MiB is one that glibc would map by itself."""
    kept, faults, _ = run(True)
    assert kept == "True" and int(faults) < 100 < 50_000 < int(run(False)[1])


@glibc
@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").is_dir(), reason="the system has no large pages")
def test_the_heap_asks_for_large_pages_where_addresses_are_free():
    assert run(True)[2] == "True" and run(True, limit=True)[2] == "False"


def test_addresses_are_counted_where_the_system_never_overcommits(monkeypatch, tmp_path):
    monkeypatch.setattr(heap.resource, "getrlimit", lambda kind: (heap.resource.RLIM_INFINITY,) * 2)
    monkeypatch.setattr(heap, "POLICY", tmp_path / "policy")
    assert not heap._addresses_are_counted()  # not Linux's
    for policy, counted in (("0\n", False), ("1\n", False), ("2\n", True)):
        heap.POLICY.write_text(policy)
        assert heap._addresses_are_counted() == counted


@glibc
def test_what_the_environment_sets_stays(monkeypatch):
    for name in [k for k in os.environ if k.startswith("MALLOC_") or k == "GLIBC_TUNABLES"]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda name: pytest.fail("asked for mallopt"))
    for name in ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES"):
        with monkeypatch.context() as m:
            m.setenv(name, "1")
            assert heap.keep_freed() is False
