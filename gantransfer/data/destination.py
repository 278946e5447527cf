# SPDX-License-Identifier: Apache-2.0
"""Where a data set is written: a zip or folder that appears under its name only when complete."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from dnnlib.util import UserError, atomic_path, sole_writer
from gantransfer.data import h5
from gantransfer.data.container import Container


class Destination:
    """A zip or folder that appears under its name only when complete."""

    def __init__(self, path: str, overwrite: bool = False):
        self.path, self.is_zip, self.overwrite = path, path.lower().endswith(".zip"), overwrite
        suffix = os.path.splitext(path)[1].lower()
        if suffix in (".tar", ".gz", ".tgz", ".rar", ".7z", ".json", ".csv", ".lmdb", ".parquet", ".arrow",
                      *h5.SUFFIXES):
            raise UserError(f"--dest={path}: cannot write {suffix} files"
                            + (" here" if suffix in h5.SUFFIXES else "") + "; give a name ending in .zip, or a folder")
        if self.is_zip and os.path.isdir(path):
            raise UserError(f"--dest={path} is a folder; remove it or choose another name")
        if not self.is_zip and os.path.exists(path) and not os.path.isdir(path):
            raise UserError(f"--dest={path} is a file; give a new folder or a name ending in .zip")
        if not self.is_zip and os.path.isdir(path) and os.listdir(path):
            if not overwrite:
                raise UserError(f"--dest={path} is not empty; empty it, choose another folder, or give --overwrite to "
                                "replace a data set")
            if not os.path.isfile(os.path.join(path, "dataset.json")):
                raise UserError(f"--dest={path} has files, but no dataset.json: it is no data set, and --overwrite "
                                "replaces nothing else; choose another folder")
        self.replaces = self.is_zip and not overwrite and _made_here(path)  # said when it is written
        if self.is_zip and not self.replaces:
            may_replace(path, overwrite)
        self.stack = contextlib.ExitStack()

    @property
    def parent(self) -> Path:
        return Path(os.path.abspath(self.path)).parent

    def __enter__(self) -> Callable[[str, bytes], None]:
        missing = [p for p in (self.parent, *self.parent.parents) if not p.exists()]
        self.stack.push(lambda kind, *_: None if kind is None else _remove_empty(missing))
        try:
            self.parent.mkdir(parents=True, exist_ok=True)
            self.stack.enter_context(sole_writer(self.path, "--dest="))
            if self.is_zip:
                temporary = self.stack.enter_context(atomic_path(self.path))
                archive = self.stack.enter_context(zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED))
                # A fixed date makes equal input give equal files.
                return lambda name, data: archive.writestr(zipfile.ZipInfo(name), data)
            folder = Path(tempfile.mkdtemp(prefix=f".{Path(self.path).name}.", suffix=".tmp", dir=self.parent))
        except UserError:
            self.stack.close()
            _remove_empty(missing)
            raise
        except OSError as e:
            self.stack.close()
            _remove_empty(missing)
            raise UserError(f"cannot write --dest={self.path}: {e.strerror or e}") from None
        self.stack.push(lambda kind, *_: self._finish(folder, kind is None))
        made: set[Path] = set()

        def write(name: str, data: bytes) -> None:
            target = folder / name
            if target.parent not in made:
                target.parent.mkdir(parents=True, exist_ok=True)
                made.add(target.parent)
            try:
                target.write_bytes(data)
            except OSError as e:
                raise OSError(e.errno, e.strerror, self.path) from None  # the user knows the destination's name

        return write

    def _finish(self, folder: Path, complete: bool) -> None:
        try:
            if complete:
                umask = os.umask(0)
                os.umask(umask)
                os.chmod(folder, 0o777 & ~umask)
                old = None
                if self.overwrite and os.path.isdir(self.path):
                    old = tempfile.mkdtemp(prefix=f".{Path(self.path).name}.", suffix=".tmp", dir=self.parent)
                    os.rename(self.path, old)  # over an empty folder
                try:
                    with contextlib.suppress(FileNotFoundError):
                        os.rmdir(self.path)
                    os.rename(folder, self.path)
                except OSError as e:
                    if e.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                        raise
                    raise UserError(f"--dest={self.path} was made by somebody else meanwhile; choose another "
                                    "name") from None
                if old is not None:
                    shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def __exit__(self, *exc: Any) -> None:
        self.stack.__exit__(*exc)


def may_replace(path: str, overwrite: bool) -> None:
    if os.path.exists(path) and not overwrite:
        raise UserError(f"--dest={path} exists; choose another name, or give --overwrite to replace it")


def _made_here(path: str, key: str | None = None) -> bool:
    """Whether a zip is a data set that dataset_tool made, or one with `key` in its "meta": it can be made again, so
    that a word is enough to replace it."""
    try:
        content = Container(path).read_json("dataset.json") if os.path.exists(path) else None
    except UserError:
        return False
    meta = content.get("meta") if isinstance(content, dict) else None
    return isinstance(meta, dict) and (meta.get("tool") == "dataset_tool" if key is None else key in meta)


def only_generated(path: str, flag: str) -> None:
    """UserError for a zip that exists and was not made by `generate`, which would replace it."""
    if os.path.exists(path) and not any(_made_here(path, key) for key in ("generated", "balance")):
        raise UserError(f"{flag}={path} exists, and `generate` did not make it; choose another name")


def _remove_empty(folders: Iterable[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def not_the_source(source: str, dest: str) -> None:
    if not (os.path.exists(dest) and os.path.exists(source)):
        return
    if os.path.samefile(source, dest):
        raise UserError("--dest is the same as --source; choose another name")
    if Path(os.path.realpath(dest)) in Path(os.path.realpath(source)).parents:
        raise UserError(f"--source={source} lies in --dest={dest}; choose another folder")
    if os.path.isdir(dest) and os.listdir(dest) and Path(os.path.realpath(source)) in Path(
            os.path.realpath(dest)).parents:
        raise UserError(f"--dest={dest} lies in --source={source}, and its images would be read too; choose another "
                        "folder")


def existing_parent(dest: str) -> Path:
    """The nearest existing folder above `dest`."""
    p = Path(os.path.abspath(dest)).parent
    while not p.exists():
        p = p.parent
    return p
