# SPDX-License-Identifier: Apache-2.0
"""The collector waits for an import, then works as before: in a process of its own, since both are of the process."""

import subprocess
import sys

from tests.conftest import ROOT

LATER = """
import gc, sys, types
from dnnlib import collector
before = gc.get_threshold()
collector.wait_for("later")
collections = []
gc.callbacks.append(lambda phase, info: collections.append(phase == "stop"))
made = [[] for _ in range(collector.OBJECTS - 20_000)]
assert not any(collections) and gc.get_threshold() == (collector.OBJECTS, *before[1:])
spec = types.SimpleNamespace(_initializing=True)
sys.modules["later"] = types.SimpleNamespace(__spec__=spec)
made += [[] for _ in range(30_000)]
assert any(collections) and gc.get_threshold()[0] == collector.OBJECTS and not gc.get_freeze_count(), "half imported"
spec._initializing = False
made += [[] for _ in range(collector.OBJECTS)]
assert gc.get_threshold() == before and gc.get_freeze_count() > collector.OBJECTS
loop = []
loop.append(loop)
seen = len(collections)
made += [[] for _ in range(2 * before[0])]
assert len(collections) > seen
"""


def test_the_collector_waits_for_an_import_and_then_works_as_before():
    done = subprocess.run([sys.executable, "-c", LATER], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
