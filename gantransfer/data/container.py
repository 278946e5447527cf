# SPDX-License-Identifier: Apache-2.0
"""The files of a zip or a folder, read alike.

Imports no torch, so that the data-set scripts start at once.
"""

from __future__ import annotations

import os
import struct
import threading
import zipfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from dnnlib import json_file
from dnnlib.util import UserError, open_regular, regular_file, without_collections
from gantransfer.data import confine
from gantransfer.data.labels import some
from gantransfer.data.names import clean_name, extension, is_litter, zip_name
from gantransfer.data.zip_members import ZipMembers

SOURCES = (".tar", ".tar.gz", ".tgz", ".parquet", ".arrow", ".h5", ".hdf5")  # what dataset_tool reads beside zips
# Raster formats that Pillow reads; it also knows formats that nobody means by "image file" (.pdf, .h5, .mpg).
IMAGE_EXTENSIONS = frozenset(".png .jpg .jpeg .jpe .jfif .webp .bmp .gif .tif .tiff .ppm .pgm .pbm .pnm .tga .jp2 "
                             ".j2k .avif .ico .pcx .sgi .rgb .bw .dds .qoi .apng".split())

_ENDINGS = tuple(sorted(IMAGE_EXTENSIONS))
BOMB_RATIO, BOMB_SIZE = 100, 2**26  # what a zip may unpack to: this many times its bytes, or this many bytes


def is_image_name(name: str) -> bool:
    """True for names with an image extension that are no litter (`names.is_litter`)."""
    return _is_image(name) and not is_litter(name)


def _is_image(name: str, more: Collection[str] = ()) -> bool:
    name = name.lower()
    return name.endswith(_ENDINGS) or bool(more) and name.endswith(tuple(more))


def _walk(path: str) -> Iterator[str]:
    """Relative names of all files below a folder, and of folders with '/' at their end; hidden folders are passed
    over. Links to folders are followed, each folder once."""
    seen: set[str] = set()
    for root, folders, files in os.walk(path, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [f for f in folders if not f.startswith(".")]
        below = os.path.relpath(root, path).replace(os.sep, "/")
        for f in (*files, *(f"{f}/" for f in folders)):
            yield f if below == "." else f"{below}/{f}"


def _root(names: Collection[str], images: Collection[str]) -> str:
    """The folder that everything lies in, if it is not the top and has label files; '' for the top."""
    labels = [n for n in names if n.endswith(".json")]
    if not labels or any("/" not in n for n in labels):
        return ""
    inner = [n.split("/")[:-1] for n in images]
    if not inner:
        return ""
    common = os.path.commonprefix([*inner, *(n.split("/")[:-1] for n in labels)])
    return "/".join(common) if any(n.split("/")[:-1] == common for n in labels) else ""


class Container:
    """The files of a zip or a folder.

    `names` are relative paths with '/', sorted, spelled as `names.clean_name` says, without what systems leave behind;
    `image_names` those of images.
    They are relative to the `root` of the set: the folder inside that holds the images with their label file, where an
    archiver has put everything into a folder of its own; '' otherwise. `folders` are named alike. `others` counts the
    files that are neither images nor label files, by extension. `more`: extensions of images beside IMAGE_EXTENSIONS.

    One zip handle per process, reopened after a fork and dropped on pickling; reading is thread-safe. Raises UserError
    when the path is missing, not a zip, or damaged, and when it leads to files outside (`confine`): links out of a
    folder are followed only with `follow_links`.
    """

    @without_collections()
    def __init__(self, path: str | os.PathLike, follow_links: bool = False, more: Collection[str] = ()):
        self.path = os.fspath(path)
        self.follow_links = follow_links
        self._lock = threading.Lock()
        self._zip: ZipMembers | None = None
        self._pid = -1
        if os.path.isdir(self.path):
            self.is_zip = False
            out = [] if follow_links else confine.links_out(
                self.path, lambda name: name.endswith(".json") or _is_image(name, more) and not is_litter(name))
            if out:
                many = "s" * (len(out) != 1)
                raise UserError(f"{self.path} has {len(out)} link{many} out of the folder, not followed: {some(out)}; "
                                f"{confine.FOLLOW}")
            spelled: Iterable[tuple[str, str]] = ((clean_name(n), n) for n in _walk(self.path))
        elif os.path.exists(self.path):
            self.is_zip = True
            regular_file(self.path)
            members = self._handle()
            out = (confine.entries_out(members.infos) if members.plain is None else
                   confine.columns_out(members.plain.names, members.plain.columns))
            if out:
                raise UserError(f"{self.path} has entries that lead out of it: {some(out)}; make the zip again, of "
                                "files in one folder")
            spelled = (((zip_name(i), i.filename) for i in members.infos) if members.plain is None else
                       ((clean_name(n), n) for n in members.plain.names))
        else:
            raise UserError(f"no such file or folder: {self.path}")
        files: dict[str, str] = {}
        folders: set[str] = set()
        for name, raw in spelled:
            if is_litter(name.rstrip("/")):
                continue
            if name.endswith("/"):
                folders.add(name[:-1])
            elif name in files:
                raise UserError(f"{self.path} holds {some([name])} twice; make the zip again" if self.is_zip else
                                f"{self.path} holds two files that are both called {some([name])}, spelled in two "
                                "ways; rename or remove one")
            else:
                files[name] = raw
        images = [n for n in files if _is_image(n, more)]  # litter is not among them
        self.root = _root(files, images)
        skip = len(self.root) + 1 if self.root else 0
        inside = f"{self.root}/" if self.root else ""
        self._raw = {n[skip:]: raw for n, raw in files.items() if n != raw and n.startswith(inside)}
        self.names = sorted(n[skip:] for n in files if n.startswith(inside))
        self.image_names = sorted(n[skip:] for n in images if n.startswith(inside))
        self.folders = sorted(n[skip:] for n in folders if n.startswith(inside))
        self.others = Counter(extension(n) for n in files.keys() - set(images) if not n.endswith(".json"))

    def _at(self, name: str) -> str:
        """Where a file is in the zip or folder."""
        return self._raw.get(name) or (f"{self.root}/{name}" if self.root else name)

    def place(self, name: str) -> str:
        """The path of a file, there or to be written: inside the zip, or on disk."""
        return self._at(name) if self.is_zip else os.path.join(self.path, self._at(name))

    def find(self, name: str) -> str | None:
        """The file that a user or another file means by `name`; None if there is none."""
        name = clean_name(name)
        if self.root and name not in self.names:
            name = name.removeprefix(f"{self.root}/")
        return name if name in self.names else None

    def label_file(self) -> str | None:
        """'dataset.json' if the set has one. Raises UserError when there are some, but only for parts of the set."""
        if "dataset.json" in self.names:
            return "dataset.json"
        below = [n for n in self.names if n.endswith("/dataset.json")]
        if below:
            folder = os.path.dirname(below[0])
            whole = os.path.join(self.path, folder) if not self.is_zip else f"{folder} (unpacked)"
            how = f", or give {whole} as the set" if any(n.startswith(f"{folder}/") for n in self.image_names) else ""
            raise UserError(f"{some(below)} of {self.path} must be at the root, beside all images; move it there{how}")
        return None

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_zip": None, "_pid": -1, "_lock": None}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def _handle(self) -> ZipMembers:
        if self._zip is None or self._pid != os.getpid():
            try:
                self._zip = ZipMembers(self.path)
            except (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError, struct.error) as e:
                if self.path.lower().endswith(SOURCES):
                    raise UserError(f"{self.path} is no data set yet: dataset_tool.py --source={self.path} "
                                    "--dest=NEW.zip makes one of it") from None
                raise UserError(f"{self.path} is not a readable zip file ({e}); give a folder or a zip made by "
                                "dataset_tool.py, or make or download it again") from None
            except OSError as e:
                raise UserError(f"cannot read {self.path}: {e.strerror or e}") from None
            self._pid = os.getpid()
        return self._zip

    def read(self, name: str, size: int = -1) -> bytes:
        """The bytes of one file, or the first `size` of them. Raises UserError naming it when it cannot be read."""
        try:
            if not self.is_zip:
                place = self.place(name)
                if (not self.follow_links and (confine.climbs(name) or os.path.islink(place))
                        and not confine.is_inside(place, self.path)):
                    raise UserError(f"{name} in {self.path} leads out of the folder; {confine.FOLLOW}")
                with open_regular(place) as f:
                    return f.read(size)
            with self._lock:
                _, unpacked, packed = self._handle().sizes(self._at(name))
                if unpacked > max(BOMB_RATIO * packed, BOMB_SIZE) and size < 0:
                    raise UserError(f"{name} in {self.path} says that it unpacks to {unpacked:,} bytes out of "
                                    f"{packed:,}; hardly an image or label file does. If you trust it, "
                                    "unpack the zip and give the folder")
                return self._handle().read(self._at(name), size)
        except (OSError, KeyError, EOFError, RuntimeError, NotImplementedError, zlib.error, zipfile.BadZipFile) as e:
            raise UserError(f"cannot read {name} in {self.path} ({e}); `gantransfer dataset_tool check {self.path}` "
                            "lists all damaged files") from None

    def read_json(self, name: str) -> Any:
        return json_file.parse(self.read(name), f"{name} in {self.path}", object)

    def digest(self, name: str) -> tuple[int, int]:
        """(CRC-32, size) of a file: equal for a zip and the folder it was made from."""
        if self.is_zip:
            with self._lock:
                return self._handle().sizes(self._at(name))[:2]
        data = self.read(name)
        return zlib.crc32(data), len(data)

    def close(self) -> None:
        if self._zip is not None and self._pid == os.getpid():
            self._zip.close()
        self._zip = None


def base_name(path: str | os.PathLike) -> str:
    """Name of a data set: its last path component, of a file without the extension."""
    name = Path(os.path.abspath(path)).name
    return name if os.path.isdir(path) else os.path.splitext(name)[0]
