# SPDX-License-Identifier: Apache-2.0
"""The folder of a run: its number, the lock of the one process that writes into it, and whether it is still there.

For the process that writes (rank 0). The lock is that of the file `.lock` in the folder and dies with the process.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from pathlib import Path

from dnnlib.lock import owner_of, sign, try_lock
from dnnlib.util import UserError

LOCK = ".lock"


class RunFolder:
    """A locked folder. Made by `claim` (a new one) or `hold` (one that exists)."""

    def __init__(self, path: Path, wait: float = 0.0, again: str = "wait for it to end, or stop it first",
                 lost: float = 0.0):
        """Lock `path`, which exists. UserError naming the owner when it is still in use after `wait` seconds.

        Waiting a little is for a process that was just killed and is not gone yet. `lost`: seconds to wait for a
        process of another machine: where that is lost, a file server keeps its locks until their lease ends."""
        self.path, self.made = Path(os.path.abspath(path)), []
        end = time.monotonic() + wait
        while True:
            self.fd = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
            self.locked = try_lock(self.fd)
            if self.locked is not False:
                if self._same(self.path / LOCK, os.fstat(self.fd)):
                    break
                os.close(self.fd)  # the folder was removed and made anew in between
                continue
            owner = owner_of(self.fd)
            os.close(self.fd)
            elsewhere = not owner.endswith(f" on {os.uname().nodename}")
            if lost and elsewhere and time.monotonic() > end:
                print(f"Note: {path} is held by {owner}, which may be lost; waiting {lost:g} seconds", flush=True)
                end, lost = end + lost, 0.0
            if time.monotonic() > end:
                raise UserError(f"{path} is in use by {owner}; {again}")
            time.sleep(0.1)
        sign(self.fd)
        if self.locked is None:
            print(f"Note: the file system of {path} has no locks; see to it that one process at a time trains there")
        self.folder_fd = os.open(self.path, os.O_RDONLY) if hasattr(os, "O_DIRECTORY") else None
        self.identity = os.stat(self.path)

    @staticmethod
    def _same(path: Path, known: os.stat_result) -> bool:
        try:
            now = os.stat(path)
        except OSError:
            return False
        return (now.st_dev, now.st_ino) == (known.st_dev, known.st_ino)

    def check(self) -> None:
        """UserError unless the folder is still where it was: writing on would make a second, incomplete one."""
        if self._same(self.path, self.identity):
            return
        now = None
        with contextlib.suppress(OSError, TypeError):
            now = os.readlink(f"/proc/self/fd/{self.folder_fd}")
        if now and now != str(self.path) and not now.endswith(" (deleted)"):
            raise UserError(f"{self.path} was moved to {now} while it was written; leave a run's folder in its place "
                            f"until the run ends, and continue from {now}")
        raise UserError(f"{self.path} was moved or removed while it was written; leave a run's folder in its place "
                        f"until the run ends")

    def release(self) -> None:
        for fd in (self.fd, self.folder_fd):
            if fd is not None:
                with contextlib.suppress(OSError):
                    os.close(fd)
        self.fd = self.folder_fd = None

    def discard(self) -> None:
        """Remove the folder, and the empty folders above it, if this object made them; then `release`."""
        if self.made and self._same(self.path, self.identity):
            shutil.rmtree(self.path, ignore_errors=True)
            for folder in self.made[1:]:
                with contextlib.suppress(OSError):
                    folder.rmdir()
        self.release()


def claim(outdir: str | os.PathLike, name: str) -> RunFolder:
    """Make and lock `outdir/#####-name` with the first number that no other entry of `outdir` has, nor ever gets.

    The number is taken by making a folder called by it alone, which succeeds for one process only. OSError when
    `outdir` cannot be written.
    """
    outdir = Path(outdir)
    above = _make(outdir)
    while True:
        number = max(_numbers(outdir), default=-1) + 1
        taken = outdir / f"{number:05d}"
        try:
            taken.mkdir()
        except FileExistsError:
            continue
        # Whoever had this number before has renamed its folder by now.
        if sum(n == number for n in _numbers(outdir)) > 1:
            taken.rmdir()
            continue
        try:
            folder = RunFolder(taken)
            path = outdir / f"{number:05d}-{name}"
            os.rename(taken, path)
        except BaseException:
            shutil.rmtree(taken, ignore_errors=True)
            for p in above:
                with contextlib.suppress(OSError):
                    p.rmdir()
            raise
        folder.path = Path(os.path.abspath(path))
        folder.made = [folder.path, *above]
        return folder


def hold(path: str | os.PathLike, again: str = "wait for it to end, or stop it first", wait: float = 5.0,
         lost: float = 0.0) -> RunFolder:
    """Lock `path`; a folder that does not exist is made. UserError when another process holds it (`RunFolder`)."""
    path = Path(path)
    made = _make(path)
    folder = RunFolder(path, wait, again, lost)
    folder.made = made
    return folder


def owner(path: str | os.PathLike) -> str | None:
    """Who writes into a run's folder now; None where nobody does, or where that cannot be told. Nothing is changed."""
    try:
        fd = os.open(Path(path) / LOCK, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except OSError:
        return None
    try:
        return owner_of(fd) if try_lock(fd) is False else None
    except OSError:  # NFS asks for a writable file
        return None
    finally:
        os.close(fd)


def _make(path: Path) -> list[Path]:
    """Make a folder and those above it; the ones that were made, innermost first."""
    made, missing = [], [p for p in (path, *path.parents) if not p.exists()]
    for p in reversed(missing):
        with contextlib.suppress(FileExistsError):  # made by another process meanwhile: it is not ours
            p.mkdir()
            made.insert(0, p)
    if not path.is_dir():
        path.mkdir()  # says what stands in the way
    return made


def _numbers(outdir: Path) -> list[int]:
    """The numbers at the beginning of the entries' names."""
    return [int(m[0]) for p in outdir.iterdir() if (m := re.match(r"\d{1,18}(?=$|\D)", p.name))]
