# SPDX-License-Identifier: Apache-2.0
"""Scripts of two processes, as jobs of their own, and signals to them."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import ROOT

# Both the launcher and the ranks: like train.py --gpus=2.
SCRIPT = """
import os, signal, sys, time
import torch
from dnnlib.util import UserError, run_cli
from torch_utils import distributed as dist, optimizers

def main():
    if not dist.launched():
        sys.exit(dist.launch(2, kind="cpu", grace=1.0))
    dist.init("cpu")
    rank = dist.rank()
    body(rank)
    dist.shutdown()

{body}

run_cli(main)
"""


class Job:
    """A script in a folder of its own, and the processes started from it."""

    def __init__(self, folder):
        self.path, self.processes = folder / "job.py", []

    def write(self, body: str, script: str = SCRIPT) -> Path:
        lines = "\n".join("    " + line for line in body.strip().splitlines())
        self.path.write_text(script.replace("{body}", f"def body(rank):\n{lines}"))
        return self.path

    def start(self, body: str, *python_args: str) -> subprocess.Popen:
        self.write(body)
        env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GANTRANSFER_DIST_TIMEOUT": "60"}
        args = [sys.executable, *(python_args or ["-W", "error::FutureWarning"]), str(self.path), "--flag=1"]
        # A shell's background jobs, this test run perhaps, have SIGINT ignored, and pass that on.
        self.processes.append(subprocess.Popen(args, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env,
                                               cwd=self.path.parent,
                                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)))
        return self.processes[-1]


@contextlib.contextmanager
def signalled(signum: int | None, folder: Path) -> Iterator[None]:
    """This process gets `signum` once there are the files ready0 and ready1; were the launcher not to take it, nothing
    would happen."""
    if signum is None:
        yield
        return

    def send() -> None:
        wait_for(folder / "ready0", folder / "ready1")
        os.kill(os.getpid(), signum)

    before, thread = signal.signal(signum, lambda *_: None), threading.Thread(target=send)
    thread.start()
    try:
        yield
        thread.join()
    finally:
        signal.signal(signum, before)


def wait_for(*paths, seconds=30.0):
    end = time.monotonic() + seconds
    while not all(p.exists() for p in paths):
        assert time.monotonic() < end, f"never written: {[p.name for p in paths if not p.exists()]}"
        time.sleep(0.02)
