# SPDX-License-Identifier: Apache-2.0
"""A file that ends its library ends a process of its own."""

import pytest

from dnnlib.util import UserError
from gantransfer.data import h5
from tests.data.test_h5 import images, make


@pytest.mark.parametrize("program, said", [("import time; time.sleep(60)", "comes to no end"), (
    "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crashes"), ("raise SystemExit(1)", "")])
def test_a_file_that_ends_the_library_is_one_line(tmp_path, monkeypatch, program, said):
    """Damaged files keep HDF5 in loops without end, or end the process; another process looks first."""
    make(tmp_path / "a.h5", fake_images=images(2), fake_labels=[0, 1])
    real = h5.subprocess.run

    def stand_in(words, timeout, **kw):
        assert words[1:3] == ["-m", "gantransfer.data.h5_look"] and timeout >= h5._PATIENCE
        return real([words[0], "-c", program], timeout=0.3 if "sleep" in program else 60, **kw)

    monkeypatch.setattr(h5.subprocess, "run", stand_in)
    if not said:  # a file that it merely refuses is judged in this process, with a better message
        assert len(h5.read(str(tmp_path / "a.h5")).rows) == 2
        return
    with pytest.raises(UserError, match=said):
        h5.read(str(tmp_path / "a.h5"))
