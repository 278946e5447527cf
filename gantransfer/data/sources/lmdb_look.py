# SPDX-License-Identifier: Apache-2.0
"""python -m gantransfer.data.sources.lmdb_look FOLDER: go through an LMDB in a process that may crash or never end."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import Any

SECONDS = 20  # a large database is looked at as far as this goes


def end(db: Any) -> int:
    """Bytes that the file must have: reading a page behind its end is a crash."""
    return (db.info()["last_pgno"] + 1) * db.stat()["psize"]


def look(path: str) -> None:
    """Every record's key, and both ends of its value."""
    import lmdb

    until = time.monotonic() + SECONDS
    with contextlib.suppress(lmdb.Error), lmdb.open(path, readonly=True, lock=False) as db:
        if end(db) > os.path.getsize(os.path.join(path, "data.mdb")):
            return  # the reader says so
        with db.begin(write=False, buffers=True) as txn:
            for key, value in txn.cursor():
                bytes(key[:1]), bytes(value[:1]), bytes(value[-1:])
                if time.monotonic() > until:
                    return


if __name__ == "__main__":
    look(sys.argv[1])
