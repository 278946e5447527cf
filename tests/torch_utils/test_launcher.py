# SPDX-License-Identifier: Apache-2.0
"""Two processes that the launcher starts: whoever fails is named, and signals reach both."""

import os
import re
import signal
import sys
import time

import pytest

from tests.conftest import ROOT
from tests.torch_utils.jobs import signalled
from torch_utils import distributed as dist
from torch_utils import launcher

pytestmark = pytest.mark.skipif(dist.cpu_cores() < 2, reason="two processes need two CPU cores")

LIGHT = """
import os, signal, sys, time
from dnnlib.util import UserError, run_cli

{body}

run_cli(lambda: body(int(os.environ["RANK"])))
"""


@pytest.fixture
def launch_light(job, tmp_path, monkeypatch, capfd):
    """As `launch`, of two processes without torch and without a group: for what is the launcher's alone."""

    def run(body: str, send: int | None = None) -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path)
        with signalled(send, tmp_path):
            code = launcher.run([sys.executable, str(job.write(body, LIGHT))], [
                {**os.environ, "PYTHONPATH": str(ROOT), "RANK": str(k)} for k in (0, 1)], grace=1.0)
        return code, *capfd.readouterr()

    return run


def test_processes_start_before_torch_is_imported(run_script):
    """Torch takes as long to import as the rest of a start. What the device will be is known without it."""
    done = run_script("-c", """
import sys
from gantransfer.commands import flags
from torch_utils import launcher
launcher.on_cpu = lambda num: f"{num} processes, torch imported: {'torch' in sys.modules}"
try:
    flags.start_processes(2, "cpu")
except SystemExit as e:
    print(e)
print(launcher.means_cpu("auto"), launcher.means_cpu("cuda"), "torch" in sys.modules)
import torch
print(not (torch.version.cuda or torch.version.hip), launcher.means_cpu("cpu"), launcher.means_cpu("auto"))
""")
    first, early, late = done.stdout.splitlines()
    assert first == "2 processes, torch imported: False"
    expected = late.split()[0]
    assert early == f"{expected} False False" and late == f"{expected} True False"


@pytest.mark.parametrize("end, expected_code, how", [
    ("raise ValueError('boom')", 1, "rank 1 of 2 ended with exit code 1: ValueError: boom"),
    ("os.kill(os.getpid(), signal.SIGKILL)", 128 + 9, "rank 1 of 2 was killed by SIGKILL"),
])
def test_dying_rank_ends_the_job_and_is_named(launch, launch_light, end, expected_code, how):
    """Whether or not the other one waits for it."""
    start = time.monotonic()
    code, _, err = (launch if expected_code == 1 else launch_light)(f"""
if rank == 1:
    {end}
if "torch" in sys.modules:
    dist.barrier()
time.sleep(100)
""")
    assert time.monotonic() - start < 90  # and not the 100 of the sleep
    assert code == expected_code
    last = err.splitlines()[-1]  # on a busy machine the other rank has time to tell its own CollectiveError before
    assert last.startswith("Error: ") and how in last and f"\n{err}".count("\nError: rank") == 1


def test_a_rank_that_leaves_without_an_exception_is_named(launch_light):
    code, _, err = launch_light("""
if rank == 1:
    print('bye', file=sys.stderr)
    os._exit(3)
time.sleep(100)
""")
    assert code == 3 and err.splitlines()[-1] == "Error: rank 1 of 2 ended with exit code 3: bye"
    assert err.count("Error: rank") == 1


def test_partner_that_does_not_notice_is_terminated_and_then_killed(launch_light, tmp_path):
    start = time.monotonic()
    code, _, err = launch_light("""
if rank == 0:
    signal.signal(signal.SIGTERM, lambda *_: open("asked", "w").close())
    open("listens", "w").close()
    while True:
        time.sleep(0.1)
while not os.path.exists("listens"):
    time.sleep(0.02)
raise ValueError("boom")
""")
    assert time.monotonic() - start < 50
    assert code == 1 and err.splitlines()[-1] == "Error: rank 1 of 2 ended with exit code 1: ValueError: boom"
    assert (tmp_path / "asked").exists()


def test_user_error_on_every_rank_is_one_line(launch_light):
    code, _, err = launch_light("raise UserError('--data=x: no such file')")
    assert code == 2 and err.count("\n") == 1 and err.startswith("Error: --data=x: no such file (rank")


def test_signals_reach_every_rank_once(launch_light):
    """Through the launcher, and not through a terminal that sends them to its session."""
    code, out, err = launch_light("""
seen = []
for s in (signal.SIGTERM, signal.SIGINT):
    signal.signal(s, lambda s, frame: seen.append(s))
open(f"ready{rank}", "w").close()
end = time.monotonic() + 20
while not (seen or time.monotonic() > end):
    time.sleep(0.02)
time.sleep(0.3)
print(f"saved {rank} {[int(s) for s in seen]}, alone: {os.getsid(0) == os.getpid()}")
""", send=signal.SIGTERM)
    assert code == 0, err
    for rank in (0, 1):
        assert f"saved {rank} [{int(signal.SIGTERM)}], alone: True" in out


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_signal_without_handler_stops_the_job(launch, launch_light, signum):
    """SIGTERM ends a process whatever it has loaded, here as the system does it; SIGINT is an exception, which leaves a
    group behind."""
    code, _, err = (launch if signum == signal.SIGINT else launch_light)("""
if "torch" not in sys.modules:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
open(f"ready{rank}", "w").close()
time.sleep(100)
""", send=signum)
    assert code == 128 + signum and err.splitlines()[-1] == f"Stopped by {signum.name}"
    assert "Traceback" not in err


def test_a_rank_that_fails_after_a_signal_is_named(launch_light):
    code, _, err = launch_light("""
def fail(signum, frame):
    raise ValueError("the disk is full")
signal.signal(signal.SIGTERM, fail)
open(f"ready{rank}", "w").close()
time.sleep(100)
""", send=signal.SIGTERM)
    last = r"Error: rank \d of 2 ended with exit code 1: ValueError: the disk is full \(after SIGTERM\)"
    assert code == 1 and re.fullmatch(last, err.splitlines()[-1])
