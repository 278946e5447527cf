# SPDX-License-Identifier: Apache-2.0
"""`gantransfer COMMAND`, the same as `python -m gantransfer COMMAND`: how every command and script starts."""

from __future__ import annotations

import os

from dnnlib import collector, signals

# Threads that wait spin for some 10 us, then sleep. With libgomp's 3 ms small networks on a busy machine are up to 15
# times slower; with none two threads are no faster than one at 32 px (1.4 times so), 1.2 times at 64 (1.9).
WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}


def run(name: str | None = None) -> None:
    """Entry point of the console command, and with a command's name of the scripts at the top of a checkout."""
    _open_streams()
    signals.end_in_one_line()  # before anything that takes time to import; later `run_cli` lets commands tidy up
    collector.wait_for("torch")
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.update(WAITING | {k: os.environ[k] for k in WAITING if k in os.environ})
    from dnnlib.util import run_cli
    from gantransfer import commands

    run_cli((lambda: commands.main(prog_name="gantransfer")) if name is None else commands.load(name))


def _open_streams() -> None:
    """Where the shell has closed a standard stream (`>&-`), the next file or socket to be opened would take its number,
    and a process that is started would write there."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            os.set_inheritable(fd, True)


if __name__ == "__main__":
    run()
