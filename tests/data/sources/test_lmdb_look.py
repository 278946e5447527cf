# SPDX-License-Identifier: Apache-2.0
"""A database that ends its library, or never ends, ends a process of its own."""

import pytest

from gantransfer.data import h5


@pytest.mark.parametrize("program, said", [("import time; time.sleep(60)", "comes to no end"), (
    "import os, signal; os.kill(os.getpid(), signal.SIGBUS)", "crashes")])
def test_a_database_that_ends_its_library_is_one_line(tmp_path, refused, monkeypatch, program, said):
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(tmp_path / "a_lmdb"), map_size=1 << 20) as db, db.begin(write=True) as txn:
        txn.put(b"a", b"b")
    real = h5.subprocess.run

    def stand_in(words, timeout, **kw):
        assert words[1:3] == ["-m", "gantransfer.data.sources.lmdb_look"]
        return real([words[0], "-c", program], timeout=0.3 if "sleep" in program else 60, **kw)

    monkeypatch.setattr(h5.subprocess, "run", stand_in)
    assert said in refused(f"--source={tmp_path}/a_lmdb", f"--dest={tmp_path}/out.zip")
