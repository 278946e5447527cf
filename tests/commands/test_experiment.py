# SPDX-License-Identifier: Apache-2.0
"""A file of experiments is a study."""

import subprocess
import sys

from gantransfer.commands import experiment
from tests.conftest import ROOT


def test_a_file_is_a_study():
    listed = experiment.studies()
    files = {p.stem for p in (ROOT / "gantransfer" / "experiments").glob("*.py") if "def main(" in p.read_text("utf-8")}
    assert set(listed) == files - {"demo"} and all(20 < len(line) < 100 for line in listed.values())
    code = ("import sys; from gantransfer.commands.experiment import main\n"
            "for name in main.list_commands(None): main.get_command(None, name)\n"
            "assert 'torch' not in sys.modules and 'scipy' not in sys.modules and 'PIL' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
