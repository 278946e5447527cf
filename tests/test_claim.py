# SPDX-License-Identifier: Apache-2.0
"""Whoever stands in a checkout of another StyleGAN (its own dnnlib, torch_utils) gets our modules or one clear line."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

HOW = {
    "python -m": ["-m", "gantransfer", "--help"],
    "a script": [str(ROOT / "lt_dataset.py"), "--help"],
    "import": ["-c", "import gantransfer; from dnnlib.util import UserError; from torch_utils import launcher"],
}


@pytest.fixture
def stranger(tmp_path):
    """A folder as theirs: importing one of its modules ends the process."""
    for name in ("dnnlib", "torch_utils"):
        (tmp_path / name).mkdir()
        for file in ("__init__.py", "util.py"):
            (tmp_path / name / file).write_text("raise SystemExit('their own module was imported')\n")
    return tmp_path


def python(words, cwd, path):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *words], cwd=cwd, env=env, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("how", HOW)
def test_ours_are_imported_in_their_folder(how, stranger):
    """First on the path are the folder itself and, behind it, the same folder by PYTHONPATH."""
    out = python(HOW[how], stranger, [stranger, ROOT])
    assert out.returncode == 0, out.stdout + out.stderr
    assert how == "import" or "Usage: " in out.stdout


@pytest.mark.parametrize("how", [["-m", "gantransfer.data.h5_look", "absent.h5"],
                                 ["-c", "import multiprocessing as m, gantransfer\n"
                                        "if __name__ == '__main__':\n"
                                        "    from torch_utils.launcher import __doc__ as text\n"
                                        "    with m.get_context('spawn').Pool(1) as pool:\n"
                                        "        assert pool.apply(len, (text,)) > 0"]], ids=["module", "spawn"])
def test_processes_inherit_it(how, stranger):
    out = python(how, stranger, [stranger, ROOT])
    assert "their own module" not in out.stdout + out.stderr
    assert out.returncode == 0 or how[0] == "-m" and "absent.h5" in out.stderr


def test_behind_their_modules_it_is_one_line(stranger):
    for name in ("dnnlib", "torch_utils"):
        (stranger / name / "__init__.py").write_text("")
        out = python(["-c", f"import {name}, gantransfer"], stranger, [stranger, ROOT])
        last = out.stderr.strip().splitlines()[-1]
        assert out.returncode == 1 and last.startswith(f"ImportError: another project's {name} (") and str(
            stranger) in last and "import gantransfer first" in last
