# SPDX-License-Identifier: Apache-2.0
"""The signals that ask a process to end: Ctrl-C, SIGTERM, a closed terminal.

Imports next to nothing, so that a script can call `end_in_one_line` before it imports what takes seconds.
"""

from __future__ import annotations

import os
import signal


def end_in_one_line() -> None:
    """For the first lines of a script: until `run_cli`, signals end it in one line. There is nothing to tidy up yet."""

    def end(signum: int, frame: object) -> None:
        try:
            if not os.environ.get("GANTRANSFER_LAUNCHED"):  # the launcher of several processes says it for all
                os.write(2, f"Stopped by {signal.Signals(signum).name}\n".encode())
        finally:
            os._exit(128 + signum)

    handle(end)


def handle(handler: object) -> dict[int, object]:
    """Handle these signals; returns the handlers before. What is ignored (nohup, a job in the background) stays so."""
    old = {}
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        signum = getattr(signal, name, None)  # Windows has no SIGHUP
        if signum is not None and signal.getsignal(signum) not in (signal.SIG_IGN, None):
            old[signum] = signal.signal(signum, handler)
    return old
