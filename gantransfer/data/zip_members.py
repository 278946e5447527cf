# SPDX-License-Identifier: Apache-2.0
"""The members of a zip, of which there may be hundreds of thousands.

`zipfile` makes an object of each, which takes seconds and hundreds of megabytes. Plain zips, which is most of them, are
read by columns here; everything else (ZIP64 sizes, names beyond ASCII, encryption, other compression, a zip behind
other data) by `zipfile`, with the same results. Nothing is kept on the disk, so that nothing can be outdated.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from typing import NamedTuple

import numpy as np

END, END64, LOCATOR, MEMBER, LOCAL = b"PK\5\6", b"PK\6\6", b"PK\6\7", b"PK\1\2", b"PK\3\4"
FIELDS = {"system": (5, "u1"), "flags": (8, "<u2"), "method": (10, "<u2"), "crc": (16, "<u4"), "packed": (20, "<u4"),
          "size": (24, "<u4"), "attributes": (38, "<u4"), "offset": (42, "<u4")}  # of a member: place, type
PLAIN_FLAGS = 0x0006 | 0x0008 | 0x0800  # how well it is deflated, sizes behind the data too, UTF-8


class Directory(NamedTuple):
    """The directory of a plain zip by columns."""

    names: list[str]
    columns: dict[str, np.ndarray]  # of FIELDS
    index: dict[str, int]


class ZipMembers:
    """`infos`: as `zipfile.ZipFile.infolist` gives them, or nothing where `plain` holds the same. Raises what `zipfile`
    and the system raise. To be used by one thread at a time."""

    def __init__(self, path: str):
        self._file = open(path, "rb")  # read from until `close`
        try:
            self.plain = _directory(self._file)
            self._zip = None if self.plain is not None else zipfile.ZipFile(self._file)
        except BaseException:
            self._file.close()
            raise
        self.infos = [] if self._zip is None else self._zip.infolist()

    def sizes(self, name: str) -> tuple[int, int, int]:
        """(CRC-32, bytes, bytes in the zip) of a member. KeyError for an unknown one."""
        if self.plain is None:
            info = self._zip.getinfo(name)
            return info.CRC, info.file_size, info.compress_size
        at, c = self.plain.index[name], self.plain.columns
        return int(c["crc"][at]), int(c["size"][at]), int(c["packed"][at])

    def read(self, name: str, size: int = -1) -> bytes:
        """The bytes of a member, or the first `size`. zipfile.BadZipFile or zlib.error where it is damaged."""
        if self.plain is None:
            with self._zip.open(self._zip.getinfo(name)) as f:
                return f.read(size)
        crc, whole, packed = self.sizes(name)
        at = self.plain.index[name]
        self._file.seek(int(self.plain.columns["offset"][at]))
        head = self._file.read(30)
        if len(head) < 30 or head[:4] != LOCAL:
            raise zipfile.BadZipFile(f"bad magic number for the header of {name}")
        name_size, extra_size = struct.unpack_from("<HH", head, 26)
        if self._file.read(name_size) != name.encode("ascii"):
            raise zipfile.BadZipFile(f"the header of {name} names another file")
        self._file.seek(extra_size, io.SEEK_CUR)
        stored = self.plain.columns["method"][at] == zipfile.ZIP_STORED
        data = self._file.read(packed if size < 0 or not stored else min(size, packed))
        if not stored:
            unpack = zlib.decompressobj(-15)
            data = unpack.decompress(data, whole + 1 if size < 0 else size) if size else b""
        if size < 0 and (len(data) != whole or zlib.crc32(data) != crc):
            raise zipfile.BadZipFile(f"bad CRC-32 or size of {name}")
        return data

    def close(self) -> None:
        if self._zip is not None:
            self._zip.close()
        self._file.close()


def _directory(f: io.BufferedReader) -> Directory | None:
    """None where it has anything unusual, or is damaged: `zipfile` decides then."""
    place = _place(f)
    if place is None:
        return None
    count, size, start = place
    f.seek(start)
    data = f.read(size)
    at, begins, raw, lengths = 0, [], [], struct.Struct("<HHH").unpack_from
    if len(data) != size or count > size // 46:
        return None
    for _ in range(count):
        if at + 46 > size:
            return None
        name, extra, comment = lengths(data, at + 28)
        begins.append(at)
        raw.append(data[at + 46 : at + 46 + name])
        at += 46 + name + extra + comment
    text = b"\0".join(raw)
    if at != size or not text.isascii() or text.count(b"\0") != max(count - 1, 0) or (os.sep != "/" and b"\\" in text):
        return None
    first, table = np.asarray(begins, np.int64), np.frombuffer(data, np.uint8)

    def column(place: int, kind: str) -> np.ndarray:
        wide = np.dtype(kind)
        return table[first[:, None] + place + np.arange(wide.itemsize)].reshape(-1).view(wide)

    c = {name: column(*where) for name, where in FIELDS.items()}
    if (not (column(0, "<u4") == int.from_bytes(MEMBER, "little")).all() or (c["flags"] & (0xFFFF ^ PLAIN_FLAGS)).any()
            or not np.isin(c["method"], (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)).all()
            or any((c[k] == 0xFFFFFFFF).any() for k in ("packed", "size", "offset"))
            or (c["offset"].astype(np.int64) >= start).any()
            or (c["size"] != c["packed"])[c["method"] == zipfile.ZIP_STORED].any()):
        return None
    names = text.decode("ascii").split("\0") if count else []
    return Directory(names, c, {n: k for k, n in enumerate(names)})


def _place(f: io.BufferedReader) -> tuple[int, int, int] | None:
    """(members, bytes, first byte) of the directory of a zip that ends with it and begins with the file."""
    end = f.seek(0, io.SEEK_END)
    f.seek(max(end - 98, 0))
    tail = f.read()
    at = len(tail) - 22
    if at < 0 or tail[at : at + 4] != END:  # no zip, or one with a comment
        return None
    disk, first_disk, here, count, size, start, comment = struct.unpack_from("<4H2LH", tail, at + 4)
    stop = end - 22
    if tail[at - 20 : at - 16] == LOCATOR and at >= 76:
        if tail[at - 76 : at - 72] != END64:
            return None
        disk, first_disk, here, count, size, start = struct.unpack_from("<2L4Q", tail, at - 76 + 16)
        stop -= 76
    if disk or first_disk or here != count or comment or start + size != stop or start > 2**32:
        return None
    return count, size, start
