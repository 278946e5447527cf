# SPDX-License-Identifier: Apache-2.0
"""The files of a zip or a folder, read alike.

Imports no torch, so that the data-set scripts start at once.
"""

from __future__ import annotations

import json
import os
import struct
import threading
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dnnlib.util import UserError, open_regular, regular_file
from gantransfer import confine
from gantransfer.labels import some

# Raster formats that Pillow reads; it also knows formats that nobody means by "image file" (.pdf, .h5, .mpg).
IMAGE_EXTENSIONS = frozenset(".png .jpg .jpeg .jpe .jfif .webp .bmp .gif .tif .tiff .ppm .pgm .pbm .pnm .tga .jp2 "
                             ".j2k .avif .ico .pcx .sgi .rgb .bw .dds .qoi .apng".split())


BOMB_RATIO, BOMB_SIZE = 100, 2**26  # what a zip may unpack to: this many times its bytes, or this many bytes


def is_image_name(name: str) -> bool:
    """True for names with an image extension that are neither hidden (`.ipynb_checkpoints/`, `._x.png`) nor an
    archiver's litter (`__MACOSX/`)."""
    parts = name.split("/")
    return (os.path.splitext(parts[-1])[1].lower() in IMAGE_EXTENSIONS
            and "__MACOSX" not in parts and not any(p.startswith(".") for p in parts))


def _is_read(name: str) -> bool:
    return is_image_name(name) or name.endswith(".json")


def _walk(path: str) -> Iterator[str]:
    """Relative names of all files below a folder; links to folders are followed, each folder once."""
    seen: set[str] = set()
    for root, folders, files in os.walk(path, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        below = os.path.relpath(root, path).replace(os.sep, "/")
        yield from files if below == "." else (f"{below}/{f}" for f in files)


class Container:
    """The files of a zip or a folder. `names` are relative paths with '/', sorted.

    One zip handle per process, reopened after a fork and dropped on pickling; reading is thread-safe. Raises UserError
    when the path is missing, not a zip, or damaged, and when it leads to files outside (`confine`): links out of a
    folder are followed only with `follow_links`.
    """

    def __init__(self, path: str | os.PathLike, follow_links: bool = False):
        self.path = os.fspath(path)
        self.follow_links = follow_links
        self._lock = threading.Lock()
        self._zip: zipfile.ZipFile | None = None
        self._pid = -1
        if os.path.isdir(self.path):
            self.is_zip = False
            out = [] if follow_links else confine.links_out(self.path, _is_read)
            if out:
                many = "s" * (len(out) != 1)
                raise UserError(f"{self.path} has {len(out)} link{many} out of the folder, not followed: {some(out)}; "
                                f"{confine.FOLLOW}")
            self.names = sorted(_walk(self.path))
        elif os.path.exists(self.path):
            self.is_zip = True
            regular_file(self.path)
            out = confine.entries_out(self._handle().infolist())
            if out:
                raise UserError(f"{self.path} has entries that lead out of it: {some(out)}; make the zip again, of "
                                "files in one folder")
            self.names = sorted(n for n in self._handle().namelist() if not n.endswith("/"))
            for a, b in zip(self.names, self.names[1:]):
                if a == b:
                    raise UserError(f"{self.path} holds {a} twice; make the zip again")
        else:
            raise UserError(f"no such file or folder: {self.path}")

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_zip": None, "_pid": -1, "_lock": None}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def _handle(self) -> zipfile.ZipFile:
        if self._zip is None or self._pid != os.getpid():
            try:
                self._zip = zipfile.ZipFile(self.path)
            except (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError, struct.error) as e:
                raise UserError(f"{self.path} is not a readable zip file ({e}); give a folder or a zip made by "
                                "dataset_tool.py, or make or download it again") from None
            except OSError as e:
                raise UserError(f"cannot read {self.path}: {e.strerror or e}") from None
            self._pid = os.getpid()
        return self._zip

    @property
    def image_names(self) -> list[str]:
        return [n for n in self.names if is_image_name(n)]

    def read(self, name: str, size: int = -1) -> bytes:
        """The bytes of one file, or the first `size` of them. Raises UserError naming it when it cannot be read."""
        try:
            if not self.is_zip:
                place = os.path.join(self.path, name)
                if (not self.follow_links and (confine.climbs(name) or os.path.islink(place))
                        and not confine.is_inside(place, self.path)):
                    raise UserError(f"{name} in {self.path} leads out of the folder; {confine.FOLLOW}")
                with open_regular(place) as f:
                    return f.read(size)
            with self._lock:
                info = self._handle().getinfo(name)
                if info.file_size > max(BOMB_RATIO * info.compress_size, BOMB_SIZE) and size < 0:
                    raise UserError(f"{name} in {self.path} says that it unpacks to {info.file_size:,} bytes out of "
                                    f"{info.compress_size:,}; hardly an image or label file does. If you trust it, "
                                    "unpack the zip and give the folder")
                with self._handle().open(info) as f:
                    return f.read(size)
        except (OSError, KeyError, EOFError, RuntimeError, NotImplementedError, zlib.error, zipfile.BadZipFile) as e:
            raise UserError(f"cannot read {name} in {self.path} ({e}); `python dataset_tool.py check {self.path}` "
                            "lists all damaged files") from None

    def read_json(self, name: str) -> Any:
        return parse_json(self.read(name), f"{name} in {self.path}")

    def digest(self, name: str) -> tuple[int, int]:
        """(CRC-32, size) of a file: equal for a zip and the folder it was made from."""
        if self.is_zip:
            with self._lock:
                info = self._handle().getinfo(name)
            return info.CRC, info.file_size
        data = self.read(name)
        return zlib.crc32(data), len(data)

    def close(self) -> None:
        if self._zip is not None and self._pid == os.getpid():
            self._zip.close()
        self._zip = None


def parse_json(data: bytes, where: str) -> Any:
    """The content of a JSON file. Raises UserError naming `where` when it is not valid."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as e:
        reason = "nested too deeply" if isinstance(e, RecursionError) else e
        raise UserError(f"{where} is not valid JSON ({reason})") from None


def base_name(path: str | os.PathLike) -> str:
    """Name of a data set: its last path component, of a file without the extension."""
    name = Path(os.path.abspath(path)).name
    return name if os.path.isdir(path) else os.path.splitext(name)[0]
