# SPDX-License-Identifier: Apache-2.0
"""Python's garbage collector, while modules are imported: nothing that an import makes is garbage, and to walk through
torch's objects again and again takes a tenth of a command's start.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Mapping
from typing import Any

OBJECTS = 100_000  # made since the last collection, before another one; Python's own number is 700


def wait_for(module: str) -> None:
    """Collect seldom until `module` has been imported, then as before, without what is there by then."""
    before = gc.get_threshold()

    def back(phase: str, info: Mapping[str, Any]) -> None:
        found = sys.modules.get(module)
        if phase == "stop" and found is not None and not getattr(found.__spec__, "_initializing", False):
            gc.callbacks.remove(back)
            gc.freeze()
            gc.set_threshold(*before)

    gc.callbacks.append(back)
    gc.set_threshold(OBJECTS, *before[1:])
