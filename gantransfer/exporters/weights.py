# SPDX-License-Identifier: Apache-2.0
"""Snapshots as files that other programs open: safetensors, and a plain state dict with its description beside it.

safetensors: every network's tensors as `<network>.<name>`; the rest of the snapshot is JSON text under the metadata key
`gantransfer`. The format is eight bytes of length, a JSON header, and the bytes of the tensors; it is read and written
here, with every size checked against the file.

State dict: `X.pt` holds one network's tensors by name, for `torch.load(..., weights_only=True)`, and `X.pt.json` says
what they are: class, constructor arguments, data, options, provenance. Both forms load back as snapshots.
"""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import torch

from dnnlib.util import UserError, atomic_path, atomic_write
from gantransfer import snapshot
from gantransfer.formats.inert_pickle import Refused
from gantransfer.formats.pickle_machine import elements
from gantransfer.snapshot import Snapshot, plain

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
           "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_MAX_HEADER = 100 * 2**20  # the format's own limit
_KEY = "gantransfer"
_REST = ("method", "stage", "options", "data", "cur_nimg", "extra")  # of a snapshot, beside its networks


# ---- the format --------------------------------------------------------------------------------------------------


def write_safetensors(path: str | os.PathLike, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Write atomically. Tensors of other types than numbers of 1 to 8 bytes are a UserError."""
    header: dict[str, Any] = {"__metadata__": metadata}
    position = 0
    for name, t in tensors.items():
        if t.dtype not in _CODES:
            raise UserError(f"{name} is of the type {t.dtype}, which safetensors does not have; use a .pkl")
        end = position + t.numel() * t.element_size()
        header[name] = dict(dtype=_CODES[t.dtype], shape=list(t.shape), data_offsets=[position, end])
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with atomic_path(path) as tmp, open(tmp, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for t in tensors.values():
            f.write(t.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())


def read_safetensors(path: str | os.PathLike) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """(tensors on the CPU, metadata). Raises Refused for a damaged or lying file, before taking memory for it."""
    header, start, size = read_header(path)
    metadata = header.pop("__metadata__", {})
    if not (isinstance(metadata, dict) and all(isinstance(v, str) for v in metadata.values())):
        raise Refused("its metadata is not text")
    places = []
    for name, entry in header.items():
        try:
            dtype, shape, (begin, end) = _DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
            fits = (all(type(n) is int and n >= 0 for n in (*shape, begin, end)) and begin <= end <= size - start
                    and end - begin == elements(shape, dtype.itemsize, end - begin) * dtype.itemsize)
        except (KeyError, TypeError, ValueError, Refused):
            fits = False
        if not fits:
            raise Refused(f"its tensor {name[:60]} does not fit the file")
        places.append((begin, end, name, dtype, shape))
    places.sort()
    position = 0
    for begin, end, name, _, _ in places:
        if begin != position:
            raise Refused(f"its tensor {name[:60]} overlaps another or leaves a gap")
        position = end
    if start + position != size:
        raise Refused("it is longer than its tensors" if start + position < size else "it is shorter than its tensors")
    found = {}
    with open(path, "rb") as f:
        f.seek(start)
        for begin, end, name, dtype, shape in places:
            raw = bytearray(f.read(end - begin))
            found[name] = (torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)).reshape(shape)
    return {name: found[name] for name in header}, metadata


def read_header(path: str | os.PathLike) -> tuple[dict[str, Any], int, int]:
    """(header, position of the data, length of the file). Raises Refused."""
    size = os.path.getsize(path)
    with open(path, "rb") as f:
        length = int.from_bytes(f.read(8), "little")
        if not 2 <= length <= min(_MAX_HEADER, size - 8):
            raise Refused("its header is longer than the file or than 100 MiB")
        try:
            header = json.loads(f.read(length))
        except (ValueError, RecursionError):
            raise Refused("its header is not JSON") from None
    if not isinstance(header, dict):
        raise Refused("its header is not an object")
    return header, 8 + length, size


# ---- snapshots ---------------------------------------------------------------------------------------------------


def save_safetensors(snap: Snapshot, path: str | os.PathLike) -> None:
    """The whole snapshot. A tensor with several names is stored once."""
    tensors: dict[str, torch.Tensor] = {}
    stored: dict[int, str] = {}

    def place(t: torch.Tensor, name: str) -> str:
        if id(t) not in stored:
            stored[id(t)] = name
            tensors[name] = t
        return stored[id(t)]

    def describe(value: Any, name: str) -> Any:
        if isinstance(value, torch.Tensor):
            return {"__tensor__": place(value, name)}
        if isinstance(value, dict):
            return {str(k): describe(v, f"{name}.{k}") for k, v in value.items()}
        return [describe(v, f"{name}.{i}") for i, v in enumerate(value)] if isinstance(value, list) else value

    nets = {name: dict(cls=r.cls, kwargs=plain(r.kwargs),
                       state={k: place(t, f"{name}.{k}") for k, t in r.state.items()})
            for name, r in snap.nets.items()}
    rest = {k: describe(plain(getattr(snap, k)), k) for k in _REST}
    content = dict(format=snapshot.FORMAT, version=snapshot.VERSION, nets=nets, **rest)
    write_safetensors(path, tensors, {"format": "pt", _KEY: json.dumps(content)})


def load_safetensors(path: str | os.PathLike) -> Snapshot:
    """Raises Refused for a file that is not of `save_safetensors`, UserError for a damaged snapshot in one."""
    tensors, metadata = read_safetensors(path)
    if _KEY not in metadata:
        raise Refused("it holds tensors without a description of their networks; "
                      "convert the checkpoint that it was made from")
    try:
        content = json.loads(metadata[_KEY])

        def restore(value: Any) -> Any:
            if isinstance(value, dict):
                if set(value) == {"__tensor__"}:
                    return tensors[value["__tensor__"]]
                return {k: restore(v) for k, v in value.items()}
            return [restore(v) for v in value] if isinstance(value, list) else value

        for net in content["nets"].values():
            net["state"] = {k: tensors[name] for k, name in net["state"].items()}
        for k in ("options", "data", "extra"):
            content[k] = restore(content[k])
        if content["format"] != snapshot.FORMAT:
            raise KeyError
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError):
        raise Refused("its description of the networks is damaged") from None
    return snapshot.from_content(content, str(path))


def _beside(path: str | os.PathLike) -> Path:
    return Path(f"{os.fspath(path)}.json")


def save_state(snap: Snapshot, name: str, path: str | os.PathLike) -> None:
    """Network `name` as a plain state dict, and `<path>.json` beside it. UserError if there is no such network."""
    if name not in snap.nets:
        raise UserError(f"the snapshot has no network {name!r}; it has {', '.join(snap.nets) or 'none'}")
    record = snap.nets[name]
    rest = {k: plain(getattr(snap, k)) for k in _REST}
    content = dict(format=snapshot.FORMAT, version=snapshot.VERSION, network=name, cls=record.cls,
                   kwargs=plain(record.kwargs), **rest)
    try:
        text = json.dumps(content, indent=1)
    except TypeError:
        raise UserError("the snapshot keeps tensors beside its networks; use .safetensors or .pkl") from None
    with atomic_path(path) as tmp:
        torch.save(dict(record.state), tmp)
    with atomic_write(_beside(path)) as f:
        f.write(text)


def has_description(path: str | os.PathLike) -> bool:
    return _beside(path).is_file()


def load_state(path: str | os.PathLike, state: Any) -> Snapshot:
    """The snapshot of one network whose state dict, read from `path`, is `state`. Raises Refused."""
    try:
        content = json.loads(_beside(path).read_text(encoding="utf-8"))
        net = dict(cls=content.pop("cls"), kwargs=content.pop("kwargs"), state=state)
        content["nets"] = {content.pop("network"): net}
        if content["format"] != snapshot.FORMAT or not isinstance(state, dict):
            raise KeyError
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError, OSError):
        raise Refused(f"{_beside(path).name} beside it does not describe it") from None
    return snapshot.from_content(content, str(path))
