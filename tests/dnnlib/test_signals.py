# SPDX-License-Identifier: Apache-2.0
"""Signals that end a process."""

import os
import signal
import subprocess
import sys

import pytest

from tests.conftest import ROOT

CLI = """
import os, signal, sys, time
from dnnlib import signals
signals.end_in_one_line()
from dnnlib import util
import click

@click.command()
def main():
    with util.atomic_write("out.txt") as f:
        f.write("half")
        print("ready", flush=True)
        if sys.argv[2] == "in":
            time.sleep(100)
        if sys.argv[2] == "in an import":  # compiled modules say that they failed, whatever ended them
            try:
                time.sleep(100)
            except BaseException as e:
                raise ImportError("numpy failed to import") from e

if sys.argv[2] == "before":
    print("ready", flush=True)
    time.sleep(100)
util.run_cli(lambda: main.main([]))
"""


@pytest.mark.parametrize("when", ["before", "in", "in an import"])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_one_line_and_leaves_nothing_half_written(tmp_path, signum, when):
    def as_in_a_terminal():
        for s in (signal.SIGINT, signal.SIGHUP):  # both are ignored in a background job, and by children of it
            signal.signal(s, signal.SIG_DFL)

    p = subprocess.Popen([sys.executable, "-c", CLI, "x", when], cwd=tmp_path, text=True, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, preexec_fn=as_in_a_terminal,
                         env=dict(os.environ, PYTHONPATH=str(ROOT)))
    assert p.stdout.readline() == "ready\n"
    p.send_signal(signum)
    out, err = p.communicate(timeout=60)
    assert (p.returncode, out, err) == (128 + signum, "", f"Stopped by {signum.name}\n")
    assert not os.listdir(tmp_path)
