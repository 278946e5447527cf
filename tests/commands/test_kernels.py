# SPDX-License-Identifier: Apache-2.0
"""--kernels of every command that runs networks, and what a run says of the operators that it used."""

import importlib
import json
import sys
import warnings

import click
import pytest

from tests.conftest import ROOT
from torch_utils import build

COMMANDS = [*(f"gantransfer.commands.{name}" for name in (
                "train", "calc_metrics", "generate", "interpolate", "encode")),
            *(f"gantransfer.experiments.{name}" for name in (
                "demo", "longtail", "cgantransfer", "hypermod", "mind2mind", "ccgan", "distill"))]
TINY = ("--cfg=tiny", "--cbase=64", "--cmax=8", "--threads=1", "--metrics=none", "--kimg=0.016", "--tick=0.016")


@pytest.fixture
def choice(monkeypatch):
    """What --kernels chooses in this process ends with the test."""
    monkeypatch.setattr(build._State, "mode", None)
    monkeypatch.setenv("GANTRANSFER_KERNELS", "")


def options(folder):
    (path,) = folder.glob("*/training_options.json")
    return json.loads(path.read_text())["kernels"]


@pytest.mark.parametrize("name", COMMANDS)
def test_one_flag_for_all_commands(name):
    (flag,) = [p for p in importlib.import_module(name).main.params if "--kernels" in getattr(p, "opts", ())]
    train = next(p for p in importlib.import_module("gantransfer.commands.train").main.params if p.name == "kernels")
    assert isinstance(flag, click.Option) and (flag.help, flag.callback) == (train.help, train.callback)
    assert flag.default is None and flag.show_default == "auto" and not flag.expose_value


def test_without_a_compiler_training_runs_and_says_once_why_it_is_slower(run_script, call, tiny_zip, tmp_path,
                                                                                  no_compiler):
    done = run_script("train.py", f"--outdir={tmp_path / 'runs'}", f"--data={tiny_zip}", "--cond=True", *TINY)
    assert done.stderr.count("compiled kernels are not available for cpu") == 1
    assert done.stderr.count("no C++ compiler found") == 1 and done.stdout.count("slower") == 1
    said = options(tmp_path / "runs")
    assert said["implementation"]["cpu"] == "ref" and said["mode"] == "auto" and said["library"] is None
    assert "no C++ compiler found" in said["reason"]
    (log,) = (tmp_path / "runs").glob("*/log.txt")
    assert "kimg 0.0" in log.read_text()  # a status line: it trained
    # The trained model serves the other commands there too; asking for compiled kernels is an error that names why.
    (snap,) = (tmp_path / "runs").glob("*/network-snapshot-*.pkl")
    words = ("generate", f"--network={snap}", f"--grid={tmp_path / 'g.png'}")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        assert "kernels" not in call(*words, "--kernels=ref").stderr
    done = call(*words, "--kernels=native", check=2)
    assert "Error: --kernels=native: no C++ compiler found" in done.stderr and "Traceback" not in done.stderr
    assert "--kernels must be one of auto, native, ref" in call(*words, "--kernels=fast", check=2).stderr


def test_options_record_the_library(call, choice, tiny_zip, tmp_path):
    try:
        build.compiler()
    except build.BuildError as e:
        pytest.skip(str(e))
    words = ("train", f"--outdir={tmp_path / 'runs'}", f"--data={tiny_zip}", *TINY)
    call(*words, "--kernels=native")
    assert options(tmp_path / "runs") == {"mode": "native", "implementation": {"cpu": "native"}, "reason": None,
                                          "library": build.plan()["key"]}
    (run,) = (tmp_path / "runs").iterdir()
    call(*words[:3], *TINY[:-2], "--kimg=0.032", "--tick=0.016", f"--resume={run}", "--kernels=ref")
    said = options(tmp_path / "runs")  # a run may go on with other operators; its options tell the last
    assert said["implementation"] == {"cpu": "ref"} and said["reason"] == "chosen by --kernels=ref"


COUNT = """
import subprocess, sys
from torch_utils import build
called = []
class Counting(subprocess.Popen):
    def __init__(self, command, *a, **kw):
        called.append(command)
        super().__init__(command, *a, **kw)
subprocess.Popen = Counting
build.configure("native")
assert build.implementation("cpu") == "native"
print(len([c for c in called if "-c" in c or "ninja" in str(c[0])]), len(called))
"""


def test_a_later_start_compiles_nothing(run_script):
    """Counted, not timed: no compiler is run on a source; at most the versions of the tools are asked for."""
    try:
        build.build()
    except build.BuildError as e:
        pytest.skip(str(e))
    compiled, asked = map(int, run_script("-c", COUNT).stdout.split())
    assert compiled == 0 and asked <= 3
    assert (ROOT / "csrc").is_dir() and sys.executable
