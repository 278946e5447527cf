# SPDX-License-Identifier: Apache-2.0
"""Run the project's own commands as processes, several at a time, with their output prefixed; find what they made."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dnnlib.util import UserError
from gantransfer.commands.flags import STUDY

PACKAGES = Path(__file__).resolve().parents[2]  # where gantransfer was imported from, installed or a checkout


@dataclass
class Job:
    """One command: what follows `gantransfer`, ['train', '--outdir=...']."""

    name: str
    argv: list[str]

    def __str__(self) -> str:
        return f"gantransfer {' '.join(self.argv)}"


def run_jobs(jobs: Sequence[Job], parallel: int = 1, threads: int = 1, quiet: bool = False, counted: str = "") -> None:
    """Run all jobs, at most `parallel` at once, each with `threads` CPU threads. Their output is passed on line by
    line, prefixed with the job's name; `counted`, such as 'Training', says which of how many begins. Raises UserError
    naming the first command that fails; the others are stopped.
    """
    waiting, running, lock = list(jobs), [], threading.Lock()
    try:
        while waiting or running:
            while waiting and len(running) < parallel:
                if counted:
                    with lock:
                        print(f"{counted} {len(jobs) - len(waiting) + 1} of {len(jobs)}: {waiting[0].name}", flush=True)
                running.append(_start(waiting.pop(0), threads, lock, quiet))
            for item in list(running):
                job, process, pump, tail = item
                if process.poll() is None:
                    continue
                pump.join()
                running.remove(item)
                if process.returncode:
                    last = next((t for t in reversed(tail) if t.startswith("Error")), tail[-1] if tail else "")
                    raise UserError(f"{job.name} failed (exit code {process.returncode}): {last}; "
                                    f"the command was: {job}")
            if running:
                time.sleep(0.05)
    finally:
        for _, process, _, _ in running:
            process.terminate()
        for _, process, _, _ in running:
            process.wait()


def _start(job: Job, threads: int, lock: threading.Lock, quiet: bool):
    # The child takes the packages of this process, not what lies in the current folder.
    env = dict(os.environ, OMP_NUM_THREADS=str(threads), PYTHONUNBUFFERED="1", PYTHONSAFEPATH="1",
               **{STUDY: "1"})
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PACKAGES), env.get("PYTHONPATH")]))
    process = subprocess.Popen([sys.executable, "-m", "gantransfer", *job.argv], stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, env=env, text=True, errors="replace")
    tail: list[str] = []

    def pump() -> None:
        for line in process.stdout:
            tail.append(line.rstrip())
            del tail[:-40]
            told = not quiet and not line.startswith("{")  # JSON is for scripts, and in files
            if told or line.startswith(("Error", "Warning")):
                with lock:
                    print(f"[{job.name}] {line.rstrip()}", flush=True)

    thread = threading.Thread(target=pump, daemon=True)
    thread.start()
    return job, process, thread, tail


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_desc(arm: str, seed: int) -> str:
    """What the run of an arm is called: no arm's name may end another's ('balanced', 'utlo-balanced')."""
    return f"arm-{arm}-seed{seed}"


def run_folder(outdir: Path, desc: str, kimg: float) -> Path | None:
    """The newest run folder of `outdir` called '...-kimgK-...-desc'."""
    found = [p for end in (f"-*-{desc}", f"-{desc}") for p in outdir.glob(f"[0-9]*-kimg{kimg:g}{end}") if p.is_dir()]
    return max(found, key=lambda p: (int(re.match(r"\d+", p.name)[0]), p.name), default=None)


def final_snapshot(run_dir: Path | None, kimg: float) -> Path | None:
    """The snapshot of a finished run of `kimg` thousand images, or None."""
    from gantransfer import snapshot

    if run_dir is None:
        return None
    paths = snapshot.find_snapshots(run_dir)
    if not paths or not (run_dir / f"training-state-{paths[-1].stem.rpartition('-')[2]}.pt").exists():
        return None
    return paths[-1] if snapshot.load(paths[-1]).cur_nimg >= kimg * 1000 else None


def train_job(name: str, outdir: Path, desc: str, kimg: float, flags: Sequence[str]) -> tuple[Job | None, Path | None]:
    """(job, None) to start or to continue the run called `desc`, or (None, snapshot) where it is finished."""
    run_dir = run_folder(outdir, desc, kimg)
    done = final_snapshot(run_dir, kimg)
    if done:
        return None, done
    resume = ["--resume=latest"] if run_dir else []
    return Job(name, ["train", f"--outdir={outdir}", f"--desc={desc}", f"--kimg={kimg:g}", *flags, *resume]), None
