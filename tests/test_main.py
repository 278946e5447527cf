# SPDX-License-Identifier: Apache-2.0
"""`gantransfer`: help is quick because it imports nothing heavy, which can be counted where seconds cannot."""

import importlib
import json

import pytest

from gantransfer.__main__ import COMMANDS

NAMES = [name for section in COMMANDS.values() for name in section]
# Options of these are fields of classes that are beside networks, or defaults that the study computes.
WITH_TORCH = {"train", "distill", "demo"}


@pytest.mark.parametrize("name", ["", *(n for n in NAMES if n not in WITH_TORCH)])
def test_help_imports_no_torch(name, run_script):
    words = [name, "--help"] if name else ["--help"]
    code = ("import json, sys\nfrom gantransfer.__main__ import main\n"
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
