# SPDX-License-Identifier: Apache-2.0
"""Read files of `torch.save` as data, without running anything that is inside.

Both containers are read: the zip file that torch writes since 1.6, and the sequence of pickles before it. The pickles
go through `inert_pickle`; sizes are compared with the file before memory is taken, so that a small file stays small.
"""

from __future__ import annotations

import os
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dnnlib.util import first_line, open_regular
from gantransfer.formats import inert_pickle, pickle_machine
from gantransfer.formats.inert_pickle import STORAGE_MAGIC, STORAGE_TYPES, Budget, Refused
from gantransfer.formats.zip_damage import ZIP_DAMAGE

LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the pickled magic number
ZIP_START = b"PK\x03\x04"


def load(path: str | os.PathLike) -> Any:
    """The object in a file of `torch.save`: plain data, tensors on the CPU, and `inert_pickle`'s stand-ins.

    Raises Refused, one line, for anything else; nothing named in the file is imported or called.
    """
    path = Path(path)
    with open_regular(path) as f:
        start = f.read(len(LEGACY_START))
    if start.startswith(ZIP_START):
        return _load_zip(path)
    if start == LEGACY_START:
        return _load_legacy(path.read_bytes())
    raise Refused("it is not a file of torch.save")


def is_script(path: str | os.PathLike) -> bool:
    """Whether the file is a TorchScript archive (it has a table of constants; files of torch.save do not)."""
    try:
        with zipfile.ZipFile(path) as z:
            return any(n.endswith("/constants.pkl") for n in z.namelist())
    except ZIP_DAMAGE:
        return False


def script_tensors(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """The parameters and buffers in a TorchScript archive by name, read as data: its program does not run.

    Raises Refused, also for a program that keeps its modules in a form of its own (`__getstate__`).
    """
    with _Zip(Path(path), script=True) as z:
        budget = Budget.of_file(Path(path).stat().st_size)
        code: dict[str, str] = {}

        def kind(module: str, name: str) -> Any:
            if module.split(".")[0] == "__torch__":
                if module not in code:
                    code[module] = z.read(f"{z.prefix}code/{module.replace('.', '/')}.py").decode("utf-8", "replace")
                return type("Module", (_ScriptModule,), {"__slots__": (), "names": _declared(code[module], name)})
            if module == "torch.jit._pickle":  # lists and dicts that say what they hold
                return inert_pickle._Call(lambda value, *rest: value)
            raise Refused(f"it refers to {module[:80]}.{name[:80]}, which no TorchScript file needs")

        names = {**inert_pickle.stand_ins(budget), **STORAGE_TYPES}
        made = pickle_machine.run(z.read(z.prefix + "data.pkl"), 0, names, budget, _storages(z), unknown=kind)[0]
        if not isinstance(made, _ScriptModule):
            raise Refused("it holds no module")
        out: dict[str, torch.Tensor] = {}
        made.collect("", out)
        return out


class _ScriptModule:
    """A module in a TorchScript archive: its attributes. `names`: those that are parameters and buffers."""

    __slots__ = ("state",)
    names: frozenset[str] | None = None

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise Refused("its modules are stored in a form of their own, which only their program can read")
        self.state = state

    def collect(self, prefix: str, out: dict[str, torch.Tensor]) -> None:
        for name, value in getattr(self, "state", {}).items():
            if isinstance(value, torch.Tensor) and (self.names is None or name in self.names):
                out[f"{prefix}{name}"] = value
                if len(out) > 100_000:
                    raise Refused("its modules are nested without end")
            elif isinstance(value, _ScriptModule):
                value.collect(f"{prefix}{name}.", out)


def _declared(code: str, name: str) -> frozenset[str] | None:
    """The parameters and buffers that the source of the class `name` declares; None if it declares nothing."""
    body = re.search(rf"^class {re.escape(name)}\(Module\):\n((?:  .*\n)*)", code, re.M)
    lists = re.findall(r"^  __(?:parameters|buffers)__ = \[(.*)\]$", body[1] if body else "", re.M)
    return frozenset(re.findall(r'"([^"]*)"', ",".join(lists))) if lists else None


def pickles(path: str | os.PathLike) -> list[bytes]:
    """The pickles in a file of `torch.save`, unread. Raises Refused."""
    path = Path(path)
    with open(path, "rb") as f:
        if f.read(4) == ZIP_START:
            with _Zip(path) as z:
                return [z.read(z.prefix + "data.pkl")]
        f.seek(0)
        data = f.read()
    position, found = 0, []
    for _ in range(5):
        end = inert_pickle.end_of(data, position)
        found.append(data[position:end])
        position = end
    return found


class _Zip:
    """The records of torch's zip container: stored, never compressed, and no more of them than the file is long."""

    def __init__(self, path: Path, script: bool = False):
        size = path.stat().st_size
        try:
            self._zip = zipfile.ZipFile(path)
        except ZIP_DAMAGE as e:
            raise Refused(f"it is damaged ({first_line(e)})") from None
        self.records = {i.filename: i for i in self._zip.infolist()}
        names = [n for n in self.records if n == "data.pkl" or n.endswith("/data.pkl")]
        if len(names) != 1:
            raise Refused("it is a zip file, but not one of torch.save")
        self.prefix = names[0][: -len("data.pkl")]
        if script:  # its code is compressed; only what `read` is asked for counts, and is bounded there
            self.records = {k: i for k, i in self.records.items() if not k.startswith(f"{self.prefix}code/")}
        elif f"{self.prefix}constants.pkl" in self.records:
            raise Refused("it is a TorchScript program, which would have to be run to be read")
        if any(i.compress_type != zipfile.ZIP_STORED for i in self.records.values()):
            raise Refused("it holds compressed records, which torch does not write")
        if sum(i.file_size for i in self.records.values()) > size:
            raise Refused("its records are larger than the file")

    def __enter__(self) -> _Zip:
        return self

    def __exit__(self, *exc: object) -> None:
        self._zip.close()

    def read(self, name: str) -> bytes:
        try:
            info = self._zip.getinfo(name)
            if info.file_size > 2**24 and info.compress_type != zipfile.ZIP_STORED:
                raise Refused(f"its record {name[:60]} is too large")
            return self._zip.read(info)
        except KeyError:
            raise Refused(f"its record {name[:60]} is missing") from None
        except ZIP_DAMAGE as e:
            raise Refused(f"its record {name[:60]} is damaged ({first_line(e)})") from None


def _load_zip(path: Path) -> Any:
    with _Zip(path) as z:
        order = z.read(z.prefix + "byteorder") if z.prefix + "byteorder" in z.records else b"little"
        if order != b"little":
            raise Refused("it was written on a big-endian machine")
        budget = Budget.of_file(path.stat().st_size)
        names = {**inert_pickle.stand_ins(budget), **STORAGE_TYPES}
        return inert_pickle.read(z.read(z.prefix + "data.pkl"), 0, names, _storages(z), budget)[0]


def _storages(z: _Zip) -> Callable[[Any], torch.Tensor]:
    """What resolves references to the storages of a zip."""
    storages: dict[str, torch.Tensor] = {}

    def reference(pid: Any) -> torch.Tensor:
        dtype, key, count = _storage_id(pid, (5,))
        if key not in storages:
            storages[key] = _elements(z.read(f"{z.prefix}data/{key}"), dtype, count)
        if storages[key].dtype != dtype or len(storages[key]) != count:
            raise Refused("it holds a storage of another length than it says")
        return storages[key]

    return reference


def _load_legacy(data: bytes) -> Any:
    (magic, position), no_names = inert_pickle.read(data, 0, {}), {}
    protocol, position = inert_pickle.read(data, position, no_names)
    system, start = inert_pickle.read(data, position, no_names)
    if (magic, protocol) != STORAGE_MAGIC or not isinstance(system, dict):
        raise Refused("it is of an unknown version of torch.save")
    if not system.get("little_endian", True):
        raise Refused("it was written on a big-endian machine")

    # The storages follow the object that refers to them: a first pass collects what it asks for.
    wanted: dict[str, tuple[torch.dtype, int]] = {}
    views: dict[tuple, torch.Tensor] = {}

    def collect(pid: Any) -> Any:
        if isinstance(pid, tuple) and pid and pid[0] == "module":
            return _module_class(pid)
        dtype, key, count = _storage_id(pid, (5, 6))
        if wanted.setdefault(key, (dtype, count)) != (dtype, count):
            raise Refused("it holds a storage of another length than it says")
        return torch.empty(0, dtype=dtype)

    budget = Budget.of_file(len(data))
    names = {**inert_pickle.stand_ins(budget), **STORAGE_TYPES}
    blind = {**names, **{k: inert_pickle.IGNORE for k in names
                         if k[0] == "torch._utils" or k == ("torch.storage", "_load_from_bytes")}}
    _, end = inert_pickle.read(data, start, blind, collect, budget)
    budget.steps = Budget(0).steps  # the second pass takes the same steps again
    keys, position = inert_pickle.read(data, end, no_names)
    if not isinstance(keys, list) or not all(isinstance(k, str) for k in keys) or set(keys) != set(wanted):
        raise Refused("it does not hold the storages that it refers to")
    storages = {}
    for key in keys:
        dtype, count = wanted[key]
        if len(data) < position + 8 or struct.unpack_from("<q", data, position)[0] != count:
            raise Refused("it holds a storage of another length than it says")
        position += 8 + count * dtype.itemsize
        storages[key] = _elements(data[position - count * dtype.itemsize : position], dtype, count)

    def reference(pid: Any) -> Any:
        if pid[0] == "module":
            return _module_class(pid)
        _, key, _ = _storage_id(pid, (5, 6))
        if len(pid) < 6 or pid[5] is None:
            return storages[key]
        view = pid[5]
        if not (isinstance(view, tuple) and len(view) == 3 and type(view[1]) is int and type(view[2]) is int
                and 0 <= view[1] <= view[1] + view[2] <= len(storages[key])):
            raise Refused("it holds a damaged storage")
        place = (key, view[1], view[2])
        return views.setdefault(place, storages[key][view[1] : view[1] + view[2]])

    return inert_pickle.read(data, start, names, reference, budget)[0]


def _storage_id(pid: Any, lengths: tuple[int, ...]) -> tuple[torch.dtype, str, int]:
    if not (isinstance(pid, tuple) and len(pid) in lengths and pid[0] == "storage" and isinstance(pid[1], torch.dtype)
            and isinstance(pid[2], str) and type(pid[4]) is int and pid[4] >= 0):
        raise Refused("it refers to an object of unknown form outside the pickle")
    return pid[1], pid[2], pid[4]


def _module_class(pid: tuple) -> Any:
    """The stand-in of a class of modules, which old files store with its source text."""
    if not (len(pid) == 4 and isinstance(pid[1], type) and issubclass(pid[1], inert_pickle.Opaque)):
        raise Refused("it holds a module of unknown form")
    return pid[1]


def _elements(raw: bytes, dtype: torch.dtype, count: int) -> torch.Tensor:
    if len(raw) != count * dtype.itemsize:
        raise Refused("it holds a storage of another length than it says")
    return torch.frombuffer(bytearray(raw), dtype=dtype) if count else torch.empty(0, dtype=dtype)
