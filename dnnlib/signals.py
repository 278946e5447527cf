# SPDX-License-Identifier: Apache-2.0
"""The signals that ask a process to end: Ctrl-C, SIGTERM, a closed terminal, and SIGUSR1, which batch systems send
before a job's time is over.

Imports next to nothing, so that a script can call `end_in_one_line` before it imports what takes seconds.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

ENDING = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
OF_BATCH_SYSTEMS = {getattr(signal, name, None) for name in ("SIGTERM", "SIGUSR1")}  # after which a job goes on later


def end_in_one_line() -> dict[int, object]:
    """For the first lines of a script: until `run_cli`, signals end it in one line. There is nothing to tidy up yet.
    Returns the handlers before."""

    def end(signum: int, frame: object) -> None:
        try:
            if not os.environ.get("GANTRANSFER_LAUNCHED"):  # the launcher of several processes says it for all
                os.write(2, f"Stopped by {signal.Signals(signum).name}\n".encode())
        finally:
            os._exit(128 + signum)

    return handle(end)


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """`end_in_one_line` for a while, in the main thread; the handlers before come back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    old = end_in_one_line()
    try:
        yield
    finally:
        for signum, handler in old.items():
            signal.signal(signum, handler)


def handle(handler: object) -> dict[int, object]:
    """Handle these signals; returns the handlers before. What is ignored (nohup, a job in the background) stays so."""
    old = {}
    for name in ENDING:
        signum = getattr(signal, name, None)  # Windows has no SIGHUP and no SIGUSR1
        if signum is not None and signal.getsignal(signum) not in (signal.SIG_IGN, None):
            old[signum] = signal.signal(signum, handler)
    return old
