# SPDX-License-Identifier: Apache-2.0
"""`gantransfer COMMAND`, the same as `python -m gantransfer COMMAND`: how every command and script starts."""

from __future__ import annotations

import os

from dnnlib import signals


def run(name: str | None = None) -> None:
    """Entry point of the console command, and with a command's name of the scripts at the top of a checkout."""
    signals.end_in_one_line()  # before anything that takes time to import; later `run_cli` lets commands tidy up
    # Threads that wait must sleep, not spin: small networks on a busy machine are 15 times slower otherwise (measured).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from dnnlib.util import run_cli
    from gantransfer import commands

    run_cli((lambda: commands.main(prog_name="gantransfer")) if name is None else commands.load(name))


if __name__ == "__main__":
    run()
