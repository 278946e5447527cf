# SPDX-License-Identifier: Apache-2.0
"""`--labels=FILE:COLUMN`: labels of images out of a list, CSV, TSV, JSON or JSON lines.

One column holds the names of the images: the one that names most of them, by path, or by file name where that is clear.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from dnnlib import json_file
from dnnlib.util import UserError, open_regular, printable
from gantransfer.data.labels import some
from gantransfer.data.names import clean_name

SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson")


def read(path: str) -> list[dict[str, Any]]:
    """The rows of a list, each a dict by column. UserError for another kind of file, or a damaged one."""
    with open_regular(path) as f:
        data = f.read()
    kind = next((s for s in SUFFIXES if path.lower().endswith(s)), None)
    if kind is None:
        raise UserError(f"--labels={path}: give a list ending in {', '.join(SUFFIXES)}, as FILE:COLUMN")
    if kind in (".csv", ".tsv"):
        return _delimited(data, path, "\t" if kind == ".tsv" else None)
    if kind == ".json":
        found = json_file.parse(data, path, (list, dict))
    else:
        lines = [(i, line) for i, line in enumerate(data.splitlines(), 1) if line.strip()]
        found = [json_file.parse(line, f"line {i} of {path}") for i, line in lines]
    if isinstance(found, dict):  # {"a.png": 1}, or {"a.png": {"label": 1}}
        found = [{"name": n, **(v if isinstance(v, dict) else {"label": v})} for n, v in found.items()]
    if not all(isinstance(row, dict) for row in found):
        raise UserError(f"{path} is not a list of objects, such as [{{\"file\": \"a.png\", \"label\": 1}}]")
    return found


def _delimited(data: bytes, path: str, delimiter: str | None) -> list[dict[str, Any]]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise UserError(f"{path} is not UTF-8 text (byte {e.start}); save it as UTF-8") from None
    head = text.partition("\n")[0]
    delimiter = delimiter or max(",;\t", key=head.count)
    try:
        lines = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True) if row]
    except csv.Error as e:
        raise UserError(f"{path} is not readable as CSV ({e}); save it again") from None
    columns = [c.strip() for c in lines[0]] if lines else []
    if again := [c for c, n in Counter(columns).items() if n > 1]:
        raise UserError(f"{path} has the column {some(again)} twice; rename one")
    odd = next((i for i, row in enumerate(lines) if len(row) != len(columns)), None)
    if odd is not None:
        raise UserError(f"row {odd} of {path} has {len(lines[odd])} entries, its header {len(columns)}; "
                        "the first line must name the columns")
    return [dict(zip(columns, row)) for row in lines[1:]]


def rows_for(path: str, column: str, names: Sequence[str], report: Callable[[str], None]) -> dict[str, Any]:
    """Image name -> entry of `column`, for the images that the list names.

    UserError where there is no such column, where no column names the images, and where two rows say different things
    of one image. What the list names beside them is counted in a line.
    """
    rows = read(path)
    columns = list(dict.fromkeys(c for row in rows for c in row))
    if column not in columns:
        raise UserError(f"--labels={path}:{column}: no such column; it has {some(columns, len(columns))}"
                        if columns else f"--labels={path}:{column}: the list is empty")
    exact = {n: n for n in names}
    short: dict[str, str | None] = {}
    for n in names:
        for key in {n.rpartition("/")[2], n.rpartition("/")[2].rpartition(".")[0]}:
            short[key] = None if key in short else n  # two images of that name: neither is meant

    def image(value: Any) -> str | None:
        if not isinstance(value, str | int) or isinstance(value, bool):
            return None
        said = clean_name(str(value).strip())
        found = exact.get(said) or short.get(said) or short.get(said.rpartition("/")[2])
        if found is None:  # listed from another folder: data/a/1.png for a/1.png
            below = said.partition("/")[2]
            while below and found is None:
                found, below = exact.get(below), below.partition("/")[2]
        return found

    hits = {c: sum(image(row.get(c)) is not None for row in rows) for c in columns if c != column}
    key = max(hits, key=lambda c: hits[c], default=None)
    if key is None or not hits[key]:
        raise UserError(f"{path}: no column holds the names of the images, such as {some(names[:1])}; add one")
    out: dict[str, Any] = {}
    for row in rows:
        name, value = image(row.get(key)), row.get(column)
        if name is None:
            continue
        if name in out and out[name] != value:
            raise UserError(f"{path} says two things of {printable(name)}: {json.dumps(out[name])[:40]} and "
                            f"{json.dumps(value)[:40]}; remove one row")
        out[name] = value
    report(f"{path}: images are named by its column {printable(key)}" + (
        f"; {strange} of {len(rows)} rows name no image of the source" if (strange := len(rows) - hits[key]) else ""))
    return out
