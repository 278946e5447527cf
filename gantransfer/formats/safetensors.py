# SPDX-License-Identifier: Apache-2.0
"""The safetensors format: eight bytes of length, a JSON header, and the bytes of the tensors, with every size checked
against the file."""

from __future__ import annotations

import json
import os
import struct
from typing import Any

import torch

from dnnlib.util import UserError, atomic_path
from gantransfer.formats.inert_pickle import Refused
from gantransfer.formats.pickle_machine import elements

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
           "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_MAX_HEADER = 100 * 2**20  # the format's own limit


def write(path: str | os.PathLike, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
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


def read(path: str | os.PathLike) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
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


def is_safetensors(path: str | os.PathLike) -> bool:
    """Whether the file begins as one: after the length, a JSON object."""
    with open(path, "rb") as f:
        return f.read(9)[8:] == b"{"
