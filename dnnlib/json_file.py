# SPDX-License-Identifier: Apache-2.0
"""JSON files and JSON lines: the one place that turns damage into a line for the user.

`json` raises ValueError for bad text, RecursionError for deep nesting, and returns whatever kind of value stands there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dnnlib.util import UserError, open_regular

DAMAGE = (ValueError, RecursionError, MemoryError)


def parse(text: str | bytes, where: str, kind: type | tuple[type, ...] = dict, remedy: str = "") -> Any:
    """The value in `text`, which must be of `kind`. UserError that begins with `where` and ends with `remedy`."""
    try:
        value = json.loads(text)
    except DAMAGE as e:
        reason = "nested too deeply" if isinstance(e, RecursionError) else (str(e).splitlines() or ["too large"])[0]
        raise UserError(f"{where} is not valid JSON ({reason[:120]})" + (f"; {remedy}" if remedy else "")) from None
    if not isinstance(value, kind):
        raise UserError(f"{where} holds a {type(value).__name__} where another kind of value belongs"
                        + (f"; {remedy}" if remedy else ""))
    return value


def read(path: str | os.PathLike, kind: type | tuple[type, ...] = dict, remedy: str = "") -> Any:
    """The value in a file. UserError when it cannot be read, is damaged or of another kind."""
    try:
        with open_regular(path) as f:
            data = f.read()
    except UserError as e:
        raise UserError(f"{e}" + (f"; {remedy}" if remedy else "")) from None
    except OSError as e:
        raise UserError(f"{os.fspath(path)} cannot be read ({e.strerror or e})"
                        + (f"; {remedy}" if remedy else "")) from None
    return parse(data, os.fspath(path), kind, remedy)


def lines(path: str | os.PathLike) -> list[dict]:
    """The objects of a file of JSON lines, none if there is no file. A line that a kill cut, or that is damaged, is
    left out."""
    path = Path(path)
    if not path.exists():
        return []
    try:
        with open_regular(path) as f:
            data = f.read()
    except OSError as e:
        raise UserError(f"{path} cannot be read ({e.strerror or e})") from None
    return [record for _, record in records(data)]


def records(data: bytes) -> Iterator[tuple[bytes, dict]]:
    """(line, object) of every whole line of JSON lines that holds an object."""
    for line in data.split(b"\n"):
        try:
            value = json.loads(line)
        except DAMAGE:
            continue
        if isinstance(value, dict):
            yield line, value
