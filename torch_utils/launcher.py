# SPDX-License-Identifier: Apache-2.0
"""Several processes as one job: their output, signals, and the end of all when one fails.

Each process gets a pipe as stdin whose other end is held here and never written: end of file means that the launcher
was killed.
"""

from __future__ import annotations

import collections
import contextlib
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence

from dnnlib.signals import ENDING

_KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows has no SIGKILL


def run(command: list[str], envs: Sequence[dict[str, str]], grace: float = 5.0) -> int:
    """Run `command` once per environment, as ranks 0, 1, ..., and return the exit code of the job.

    Rank 0's output passes through, other ranks' lines are prefixed. The signals of `dnnlib.signals` are forwarded to
    every rank; a second one kills. When a rank fails, the others get SIGTERM and, `grace` seconds later, SIGKILL, and
    one line on stderr tells which rank failed first, how, and its last error. The code is that rank's, or 128 + its
    signal.
    """
    job = _Job(grace)
    with _forward_signals(job):
        for env in envs:
            if job.stopped_by is None:
                job.start(command, env)
        return job.wait()


class _Job:
    """The processes of one launch."""

    def __init__(self, grace: float):
        self.grace, self.stopped_by = grace, None
        self.ended: queue.Queue = queue.Queue()
        self.ranks: list[_Rank] = []

    def start(self, command: list[str], env: dict[str, str]) -> None:
        self.ranks.append(_Rank(len(self.ranks), command, env, self.ended))
        if self.stopped_by is not None:  # the signal came while this one was being started
            self.ranks[-1].signal(self.stopped_by)

    def forward(self, signum: int) -> None:
        again, self.stopped_by = self.stopped_by is not None, signum
        for r in self.ranks:
            r.signal(_KILL if again else signum)

    def wait(self) -> int:
        """Exit code of the job: 0, or that of the rank to blame (128 + n for signal n)."""
        failures: list[_Rank] = []
        kill_at = None
        running = len(self.ranks)
        while running:
            try:
                r = self.ended.get(timeout=0.2)
                running -= 1
                if r.code:
                    r.stopped = kill_at is not None and r.code in (-signal.SIGTERM, -_KILL, 143)
                    failures.append(r)
                    if kill_at is None:
                        kill_at = time.monotonic() + self.grace
                        for other in self.ranks:
                            other.signal(signal.SIGTERM)
            except queue.Empty:
                pass
            if kill_at is not None and time.monotonic() > kill_at:
                for other in self.ranks:
                    other.signal(_KILL)
        for r in self.ranks:
            r.close()
        if not failures:
            return 0
        # A rank that lost its partner fails too, sometimes first: blame a rank that failed for a reason of its own.
        first = next((r for r in failures if not r.stopped and "CollectiveError" not in r.last_error()), failures[0])
        code = 128 - first.code if first.code < 0 else first.code
        if self.stopped_by is None:
            print(first.epitaph(len(self.ranks)), file=sys.stderr, flush=True)
        elif first.code in (-self.stopped_by, 128 + self.stopped_by):
            print(f"Stopped by {signal.Signals(self.stopped_by).name}", file=sys.stderr, flush=True)
        else:
            print(f"{first.epitaph(len(self.ranks))} (after {signal.Signals(self.stopped_by).name})",
                  file=sys.stderr, flush=True)
        return code


class _Rank:
    """One child process: its output, its end."""

    def __init__(self, index: int, command: list[str], env: dict[str, str], ended: queue.Queue):
        self.index, self.code, self.stopped = index, None, False
        self.tail: collections.deque[str] = collections.deque(maxlen=200)
        self.held = b""  # an "Error: ..." line is kept back while it is the last: the launcher prints it once
        piped = None if index == 0 else subprocess.PIPE
        # A session of its own, so that Ctrl-C reaches each rank once, through the launcher.
        self.process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=piped, stderr=subprocess.PIPE,
                                        start_new_session=True)
        self.readers = [threading.Thread(target=self._copy_stderr, daemon=True)]
        if piped:
            self.readers.append(threading.Thread(target=self._copy_stdout, daemon=True))
        for t in self.readers:
            t.start()
        threading.Thread(target=self._reap, args=(ended,), daemon=True).start()

    def signal(self, signum: int) -> None:
        with contextlib.suppress(OSError):
            self.process.send_signal(signum)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        if self.code == 0 and self.held:
            self._emit(self.held)

    def last_error(self) -> str:
        """The last line on stderr that looks like an exception, else the last line."""
        lines = [s.strip().removeprefix(f"[rank{self.index}]: ") for s in self.tail if s.strip()]
        errors = [s for s in lines if re.match(r"[\w.]*(Error|Exception|Interrupt|Exit)\b", s)]
        return (errors or lines or ["no message"])[-1]

    def epitaph(self, num_ranks: int) -> str:
        error = self.last_error()
        if self.code == 2 and error.startswith("Error: "):
            return f"{error} (rank {self.index} of {num_ranks})"
        if "CollectiveError: " in error:  # names the rank itself
            return f"Error: {error.partition('CollectiveError: ')[2]}"
        how = f"was killed by {_signal_name(-self.code)}" if self.code < 0 else f"ended with exit code {self.code}"
        return f"Error: rank {self.index} of {num_ranks} {how}: {error}"

    def _reap(self, ended: queue.Queue) -> None:
        code = self.process.wait()
        for t in self.readers:
            t.join(timeout=2)  # a grandchild may hold the pipe open
        self.code = code
        ended.put(self)

    def _emit(self, data: bytes) -> None:
        if self.index:
            data = self._prefixed(data)
        sys.stderr.flush()
        with contextlib.suppress(OSError):
            os.write(2, data)

    def _prefixed(self, line: bytes) -> bytes:
        mark = f"[rank{self.index}]: ".encode()  # torch's excepthook marks its lines in the same way
        return mark + line.rstrip(b"\n").removeprefix(mark) + b"\n"

    def _copy_stdout(self) -> None:
        for line in self.process.stdout:
            sys.stdout.flush()
            with contextlib.suppress(OSError):
                os.write(1, self._prefixed(line))

    def _copy_stderr(self) -> None:
        partial, shown = b"", 0  # rank 0's unfinished line is shown at once (progress bars), `shown` bytes of it so far
        while chunk := self.process.stderr.read1(65536):
            *lines, partial = (partial + chunk).split(b"\n")
            for line in lines:
                self.tail.append(line.split(b"\r")[-1].decode(errors="replace"))
                if self.held:
                    self._emit(self.held)
                    self.held = b""
                if line.startswith(b"Error: ") and not shown:
                    self.held = line + b"\n"
                else:
                    self._emit((line + b"\n")[shown:])
                shown = 0
            if self.index == 0 and partial[shown:] and not b"Error: ".startswith(partial[:7]):
                self._emit(partial[shown:])
                shown = len(partial)
        if partial:
            self.tail.append(partial.decode(errors="replace"))
            self._emit(partial[shown:])


def _signal_name(signum: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(signum).name
    return f"signal {signum}"


@contextlib.contextmanager
def _forward_signals(job: _Job) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {}
    for name in ENDING:
        signum = getattr(signal, name, None)
        if signum is not None and signal.getsignal(signum) is not signal.SIG_IGN:  # nohup stays in force
            before[signum] = signal.signal(signum, lambda s, frame: job.forward(s))
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
