# SPDX-License-Identifier: Apache-2.0
"""Several processes as one job: their output, signals, and the end of all when one fails.

Each process gets a pipe as stdin whose other end is held here and never written: end of file means that the launcher
was killed. Nothing here imports torch, which would take as long as the start of all processes.
"""

from __future__ import annotations

import collections
import contextlib
import importlib.util
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from dnnlib.signals import ENDING
from dnnlib.util import UserError

_KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows has no SIGKILL


def launched() -> bool:
    """True in a process started by torchrun or from here: it must not launch again."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def speaks() -> bool:
    """Whether this process tells what every process of its job finds out alike, before they have joined."""
    return not launched() or os.environ["RANK"] == "0"


def cpu_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_number(num: int, have: int, what: str, flag: str = "--gpus") -> None:
    """UserError unless `num` processes, one on each `what`, are possible where there are `have`."""
    if num < 1:
        raise UserError(f"{flag}={num}: at least one process is needed")
    if num > have:
        raise UserError(f"{flag}={num}: this machine has {have} {what}{'s' * (have != 1)}; "
                        f"use {flag}={max(have, 1)} or fewer")


def means_cpu(device: str) -> bool:
    """Whether --device=cpu, or =auto with a torch that knows no GPUs: its file `version.py` tells."""
    if device != "auto" or "torch" in sys.modules:
        return device == "cpu"
    found = importlib.util.find_spec("torch")
    version = Path(found.origin).with_name("version.py") if found and found.origin else None
    if version is None or not version.is_file():
        return False
    kinds = dict(re.findall(r"^(cuda|hip|rocm|xpu)\b[^=\n]*= *(.+?) *$", version.read_text(encoding="utf-8"), re.M))
    return "cuda" in kinds and {*kinds.values()} == {"None"}


def environments(num: int, env: Mapping[str, str] | None = None) -> list[dict[str, str]]:
    """Environment of each rank, torchrun's variables; without the address of the store."""
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cpu_cores() // num))
    shared = {**os.environ, **(env or {}), "WORLD_SIZE": str(num), "LOCAL_WORLD_SIZE": str(num),
              "TORCHELASTIC_USE_AGENT_STORE": "True", "OMP_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1",
              "GANTRANSFER_LAUNCHED": "1"}
    if "lo" in [name for _, name in socket.if_nameindex()]:
        shared.setdefault("GLOO_SOCKET_IFNAME", "lo")  # works without a network and without a resolvable host name
    return [{**shared, "RANK": str(k), "LOCAL_RANK": str(k)} for k in range(num)]


def on_cpu(num: int, argv: Sequence[str] | None = None, env: Mapping[str, str] | None = None,
           grace: float = 5.0) -> int:
    """`num` ranks on this machine's CPU (see `distributed.launch`); the exit code of the job.

    Rank 0 serves the rendezvous store at a socket that listens already, so there is no race for a free port.
    """
    check_number(num, cpu_cores(), "CPU core")
    with socket.create_server(("127.0.0.1", 0), backlog=num + 16) as server:
        envs = environments(num, dict(env or {}, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(server.getsockname()[1])))
        envs[0]["GANTRANSFER_LISTEN_FD"] = str(server.fileno())
        threads = envs[0]["OMP_NUM_THREADS"]
        print(f"Starting {num} CPU processes with {threads} thread{'s' * (threads != '1')} each", flush=True)
        command = [sys.executable, *(sys.orig_argv[1:] if argv is None else argv)]
        return run(command, envs, grace, server)


def run(command: list[str], envs: Sequence[dict[str, str]], grace: float = 5.0,
        server: socket.socket | None = None) -> int:
    """Run `command` once per environment, as ranks 0, 1, ..., and return the exit code of the job.

    Rank 0's output passes through, other ranks' lines are prefixed. The signals of `dnnlib.signals` are forwarded to
    every rank; a second one kills. When a rank fails, the others get SIGTERM and, `grace` seconds later, SIGKILL, and
    one line on stderr tells which rank failed first, how, and its last error. The code is that rank's, or 128 + its
    signal. Rank 0 inherits `server`, which is closed here: its end is seen by the others.
    """
    job = _Job(grace)
    with _forward_signals(job):
        for env in envs:
            if job.stopped_by is None:
                job.start(command, env, [server.fileno()] if server and not job.ranks else [])
                if server:
                    server.close()
        return job.wait()


class _Job:
    """The processes of one launch."""

    def __init__(self, grace: float):
        self.grace, self.stopped_by = grace, None
        self.ended: queue.Queue = queue.Queue()
        self.ranks: list[_Rank] = []

    def start(self, command: list[str], env: dict[str, str], files: Sequence[int]) -> None:
        self.ranks.append(_Rank(len(self.ranks), command, env, self.ended, files))
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

    def __init__(self, index: int, command: list[str], env: dict[str, str], ended: queue.Queue, files: Sequence[int]):
        self.index, self.code, self.stopped = index, None, False
        self.tail: collections.deque[str] = collections.deque(maxlen=200)
        self.held = b""  # an "Error: ..." line is kept back while it is the last: the launcher prints it once
        piped = None if index == 0 else subprocess.PIPE
        # A session of its own, so that Ctrl-C reaches each rank once, through the launcher.
        self.process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=piped, stderr=subprocess.PIPE,
                                        start_new_session=True, pass_fds=files)
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
