# SPDX-License-Identifier: Apache-2.0
"""Starts the project's scripts as processes of their own without importing torch for each: they are forked.

`Server()` starts one process that imports everything and forks on request; its children live as any process does, and
may be killed by their number.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ("train", "dataset_tool")


class Server:
    """The process that forks."""

    def __init__(self, cache: Path):
        env = dict(os.environ, OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE", PYTHONPATH=str(ROOT),
                   GANTRANSFER_CACHE_DIR=str(cache))
        self.process = subprocess.Popen([sys.executable, "-m", "tests.chaos.server"], cwd=ROOT, env=env, text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.ask(ready=True)

    def ask(self, **request: object) -> dict:
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the process that starts the others ended")
        return json.loads(line)

    def start(self, log: Path, *argv: object, fsize: int | None = None) -> Child:
        """`argv`: the script's name without .py, and its arguments. `fsize`: limit of file sizes in bytes."""
        log.unlink(missing_ok=True)
        return Child(self, self.ask(start=[str(a) for a in argv], log=str(log), fsize=fsize)["pid"], log)

    def run(self, log: Path, *argv: object, fsize: int | None = None) -> tuple[int, str]:
        """(exit code, output)"""
        child = self.start(log, *argv, fsize=fsize)
        return child.wait(), child.output()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=60)


class Child:
    def __init__(self, server: Server, pid: int, log: Path):
        self.server, self.pid, self.log, self.code = server, pid, log, None

    def poll(self) -> int | None:
        if self.code is None:
            self.code = self.server.ask(poll=self.pid)["code"]
        return self.code

    def wait(self, seconds: float = 600) -> int:
        """Exit code, -n after signal n. A process that does not end fails the suite: nothing may hang."""
        end = time.monotonic() + seconds
        while self.poll() is None:
            if time.monotonic() > end:
                self.signal(signal.SIGKILL)
                raise AssertionError(f"did not end within {seconds:g} s: {self.output()[-2000:]}")
            time.sleep(0.005)
        return self.code

    def signal(self, signum: int) -> None:
        if self.poll() is None:  # its number is not given to another before it was asked for
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signum)

    def output(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""


def _child(request: dict) -> None:
    from dnnlib.util import run_cli

    out = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o666)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out, 1)
    os.dup2(out, 2)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w", buffering=1), open(2, "w", buffering=1)
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_DFL)
    if request["fsize"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["fsize"], resource.RLIM_INFINITY))
    name, *argv = request["start"]
    sys.argv = [f"{name}.py", *argv]
    code = 1
    try:
        run_cli(lambda: importlib.import_module(f"gantransfer.commands.{name}").main(argv, prog_name=f"{name}.py"))
        code = 0
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else 0 if e.code is None else 1
    except BaseException:
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the suite, which then closes our stdin
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints is no answer
    for name in SCRIPTS:
        importlib.import_module(f"gantransfer.commands.{name}")
    # And what each of them would import later: a third of what the start of a training takes.
    from gantransfer import methods, model, training_loop  # noqa: F401
    from gantransfer.commands import run  # noqa: F401
    from gantransfer.exporters import files  # noqa: F401

    children: set[int] = set()
    for line in requests:
        request, answer = json.loads(line), {}
        if "start" in request:
            sys.stdout.flush()
            pid = os.fork()
            if not pid:
                requests.close()
                answers.close()
                _child(request)
            children.add(pid)
            answer = dict(pid=pid)
        elif "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            children.discard(pid)
            answer = dict(code=os.waitstatus_to_exitcode(status) if pid else None)
        answers.write(json.dumps(answer) + "\n")
    for pid in children:
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
