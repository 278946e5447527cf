# SPDX-License-Identifier: Apache-2.0
"""A data set reads what is inside it, and no file that the user did not name.

Names inside may not climb out ('..', absolute ones), entries of a zip may not be links or special files, and links in a
folder may not lead out of it, unless the user says that they may (`dataset_tool.py --follow-links`).
"""

from __future__ import annotations

import os
import re
import stat
import zipfile
from collections.abc import Callable, Iterable, Iterator

import numpy as np

UNIX = 3  # the system that wrote an entry
FOLLOW = ("if you trust it, dataset_tool.py --follow-links makes a set of what the links lead to; or put the files "
          "themselves there")


def climbs(name: str) -> bool:
    """Whether a name inside a set would lead out of it: absolute, with a drive, or with '..'."""
    if ".." not in name and ":" not in name and not name.startswith(("/", "\\")):
        return False
    name = name.replace("\\", "/")
    return name.startswith("/") or re.match(r"[A-Za-z]:(/|$)", name) is not None or ".." in name.split("/")


def entries_out(entries: Iterable[zipfile.ZipInfo]) -> list[str]:
    """Entries of a zip whose names climb out, or that are links or anything else than files and folders."""
    bad = []
    for e in entries:
        kind = stat.S_IFMT(e.external_attr >> 16) if e.create_system == UNIX else 0
        if climbs(e.filename):
            bad.append(e.filename)
        elif kind and kind not in (stat.S_IFREG, stat.S_IFDIR):
            bad.append(_special(e.filename, kind))
    return bad


def columns_out(names: list[str], columns: dict[str, np.ndarray]) -> list[str]:
    """The same of entries by columns (`zip_members.Directory`)."""
    kinds = np.where(columns["system"] == UNIX, columns["attributes"] >> 16 & 0o170000, 0)
    special = {int(k): _special(names[k], int(kinds[k]))
               for k in np.flatnonzero(~np.isin(kinds, (0, stat.S_IFREG, stat.S_IFDIR)))}
    return [n if climbs(n) else special[k] for k, n in enumerate(names) if climbs(n) or k in special]


def _special(name: str, kind: int) -> str:
    return f"{name} ({'a link' if kind == stat.S_IFLNK else 'a special file'})"


def is_inside(path: str, folder: str) -> bool:
    """Whether `path`, with all links followed, is `folder` or lies below it."""
    top, real = os.path.realpath(folder), os.path.realpath(path)
    return real == top or real.startswith(top if top.endswith(os.sep) else top + os.sep)


def links_out(path: str, is_read: Callable[[str], bool]) -> list[str]:
    """Links out of a folder: to folders, and to files whose name `is_read`. Hidden ones do not count."""
    return sorted(os.path.relpath(p, path) for p in _links(path) if (os.path.isdir(p) or is_read(os.path.basename(p)))
                  and not is_inside(p, path))


def _links(path: str) -> Iterator[str]:
    """Links below a folder. What links inside it lead to is below it, too."""
    folders = [path]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for e in entries:
                    if e.name.startswith("."):
                        continue
                    if e.is_symlink():  # known from the listing, without a look at each file
                        yield e.path
                    elif e.is_dir(follow_symlinks=False):
                        folders.append(e.path)
        except OSError:
            continue  # what cannot be listed is not read either
