# SPDX-License-Identifier: Apache-2.0
"""`gantransfer`: help is quick because it imports nothing heavy, which can be counted where seconds cannot. With
commands/demo.py."""

import importlib
import json
import os
import signal
import subprocess
import sys

import pytest

from dnnlib import collector, signals, util
from gantransfer import commands
from gantransfer.__main__ import run
from gantransfer.commands import COMMANDS
from tests.conftest import ROOT

NAMES = [name for section in COMMANDS.values() for name in section]
# Options of these are fields of classes that are beside networks, or defaults that the study computes.
WITH_TORCH = {"train", "distill", "demo"}


@pytest.mark.parametrize("name", ["", *(n for n in NAMES if n not in WITH_TORCH)])
def test_help_imports_no_torch(name, run_script):
    words = [name, "--help"] if name else ["--help"]
    code = ("import json, sys\nfrom gantransfer.commands import main\n"
            f"try:\n    main({words!r}, prog_name='gantransfer')\n"
            "except SystemExit as e:\n    assert not e.code\n"
            "print(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))")
    out = run_script("-c", code).stdout
    assert out.startswith("Usage: gantransfer")
    loaded = set(json.loads(out.splitlines()[-1]))
    assert not loaded & {"torch", *(() if name else ("numpy", "PIL"))}


@pytest.mark.parametrize("name", NAMES)
def test_every_command_of_the_list_exists(name):
    assert importlib.import_module(f"gantransfer.commands.{name}").main.callback is not None


@pytest.mark.parametrize("name", ["train", "calc_metrics", "dataset_tool"])
def test_a_script_is_the_command_of_its_name(name, run_script):
    done = run_script(f"{name}.py", "--no-such-flag", check=2)
    assert done.stderr.startswith(f"Usage: {name}.py ") and "Traceback" not in done.stderr and not done.stdout


SLOW = """
import sys, time

class Slow:
    def find_spec(self, name, *more):
        if name == {name!r}:
            print("ready", flush=True)
            try:
                time.sleep(60)
            except BaseException:  # as compiled modules do: the import goes on, or fails with another error
                pass

sys.meta_path.insert(0, Slow())
sys.argv = ["gantransfer", "inspect", "absent.pkl"]
from gantransfer.__main__ import run
run()
"""


@pytest.mark.parametrize("name", ["click", "gantransfer.commands.inspect"])
def test_a_signal_during_imports_ends_in_one_line(name, tmp_path):
    p = subprocess.Popen([sys.executable, "-c", SLOW.format(name=name)], cwd=tmp_path, text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ, PYTHONPATH=str(ROOT)))
    assert p.stdout.readline() == "ready\n"
    p.send_signal(signal.SIGTERM)
    out, err = p.communicate(timeout=60)
    assert (p.returncode, out, err) == (128 + signal.SIGTERM, "", "Stopped by SIGTERM\n")


@pytest.mark.parametrize("given, expected", [
    ({}, ("PASSIVE", "1000")), ({"OMP_WAIT_POLICY": "ACTIVE"}, ("ACTIVE", None)),
    ({"GOMP_SPINCOUNT": "5"}, ("PASSIVE", "5")),
])
def test_threads_wait_as_the_environment_says_or_spin_briefly(given, expected, monkeypatch):
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    for name in names:
        monkeypatch.setenv(name, given.get(name, ""))  # is put back, whatever `run` sets
        if name not in given:
            monkeypatch.delenv(name)
    monkeypatch.setattr(signals, "end_in_one_line", lambda: None)
    seen = []
    monkeypatch.setattr(collector, "wait_for", seen.append)
    monkeypatch.setattr(util, "run_cli", lambda command: seen.append(tuple(map(os.environ.get, names))))
    run()
    assert seen == ["torch", expected]


@pytest.mark.parametrize("name", ["train", "calc_metrics", "dataset_tool"])
def test_examples_are_scripts_in_a_checkout_and_commands_elsewhere(name, monkeypatch, tmp_path):
    """A wheel has no scripts."""
    command = commands.load(name)
    monkeypatch.setattr(command, "help", command.help)
    assert f"python {name}.py" in command.help
    monkeypatch.setattr(commands, "TOP", tmp_path)
    text = commands.load(name).help
    assert f"gantransfer {name} --" in text and f"python {name}.py" not in text


CLOSED = """
import os, subprocess, sys
os.close(0), os.close(1)
from dnnlib import util
from gantransfer.__main__ import run
util.run_cli = lambda command: None
run()
assert open(os.devnull).fileno() > 2
subprocess.run([sys.executable, "-c", "import os; os.write(1, b'x'), os.read(0, 1)"], check=True)
"""


def test_no_file_takes_the_number_of_a_closed_stream():
    """`generate --gpus=2 >&-` had its processes print into the socket by which they meet."""
    done = subprocess.run([sys.executable, "-c", CLOSED], cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stderr
