# SPDX-License-Identifier: Apache-2.0
"""Locks that die with the process that holds them, however it ends."""

from __future__ import annotations

import errno
import os

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

# What a file system without locks answers (Lustre mounted without `flock`, NFS without a lock daemon, some FUSE).
_UNSUPPORTED = {errno.ENOSYS, errno.ENOLCK, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP}


def try_lock(fd: int) -> bool | None:
    """Take the exclusive lock of an open, writable file. False: somebody holds it. None: there are no locks here.

    The kernel releases it when the last descriptor of this opening is closed, so at the latest when the process ends.
    On NFS it holds between machines.
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        if e.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
            return False
        if e.errno in _UNSUPPORTED:
            return None
        raise
    return True


def owner_of(fd: int) -> str:
    """What `sign` wrote: who holds the lock."""
    try:
        return os.pread(fd, 200, 0).decode(errors="replace").strip() or "another process"
    except OSError:
        return "another process"


def sign(fd: int) -> None:
    """Write who holds the lock into its file, for messages only."""
    try:
        text = f"process {os.getpid()} on {os.uname().nodename}"
        os.ftruncate(fd, 0)
        os.pwrite(fd, text.encode(), 0)
    except OSError:
        pass  # a full disk: the lock holds all the same
