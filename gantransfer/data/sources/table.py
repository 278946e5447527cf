# SPDX-License-Identifier: Apache-2.0
"""`--labels=FILE:COLUMN`: labels of images out of a list, CSV, TSV, JSON or JSON lines.

One column holds the names of the images: the one that names most of them, by path, or by file name where that is clear.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
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
    if delimiter == ";":  # such files have decimal commas
        lines = [[re.sub(r"^([+-]?[0-9]+),([0-9]+)$", r"\1.\2", cell.strip()) for cell in row] for row in lines]
    return [dict(zip(columns, row)) for row in lines[1:]]


# How an entry names an image, the clearest first: by its path, by a path from another folder, by its file's name, by
# that without its extension.
PATH, BELOW, FILE, STEM = range(4)


class _Images:
    """Finds images by what a list calls them."""

    def __init__(self, names: Sequence[str], source: str):
        self.exact = set(names)
        self.short: dict[str, tuple[str, int] | None] = {}
        for n in names:
            file = n.rpartition("/")[2]
            for key, rank in {file.rpartition(".")[0]: STEM, file: FILE}.items():
                self.short[key] = None if key in self.short else (n, rank)  # two images of that name: neither is meant
        self.folder = clean_name(os.path.abspath(source)).removesuffix(".zip")

    def find(self, value: Any) -> tuple[str, int] | None:
        """(image, one of the ranks above) that an entry of a list means."""
        if not isinstance(value, str | int) or isinstance(value, bool):
            return None
        said = below = clean_name(str(value).strip())
        if said in self.exact:
            return said, PATH
        while below:
            below = below.partition("/")[2]
            if below in self.exact:  # of rows for train/1.png and test/1.png, the one of the folder that was given
                return below, PATH if f"{self.folder}/{below}".endswith("/" + said.lstrip("/")) else BELOW
        return self.short.get(said) or self.short.get(said.rpartition("/")[2])


def rows_for(path: str, column: str, names: Sequence[str], source: str,
             report: Callable[[str], None]) -> dict[str, Any]:
    """Image name -> entry of `column`, for the images of `source` that the list names.

    UserError where there is no such column, where no column names the images or two do, differently, and where two rows
    say different things of one image. What the list names beside them is counted in a line.
    """
    rows = read(path)
    columns = list(dict.fromkeys(c for row in rows for c in row))
    if column not in columns:
        raise UserError(f"--labels={path}:{column}: no such column; it has {some(columns, len(columns))}"
                        if columns else f"--labels={path}:{column}: the list is empty")
    images = _Images(names, source)
    found = {c: [images.find(row.get(c)) for row in rows] for c in columns if c != column}
    # Names without extension may be numbers of rows: any name with one goes first.
    hits = {c: (sum(f is not None and f[1] < STEM for f in each), sum(f is not None for f in each))
            for c, each in found.items()}
    key = max(hits, key=lambda c: hits[c], default=None)
    if key is None or not hits[key][1]:
        raise UserError(f"{path}: no column holds the names of the images, such as {some(names[:1])}; add one")
    for c in found:
        if hits[c] == hits[key] and any((a and a[0]) != (b and b[0]) for a, b in zip(found[c], found[key])):
            raise UserError(f"{path}: the columns {some([key, c])} both name images, but not the same ones; remove one")
    best: dict[str, tuple[int, Any, Any]] = {}
    for row, image in zip(rows, found[key]):
        if image is None:
            continue
        (name, rank), value = image, row.get(column)
        before = best.get(name)
        if before and before[0] == rank and before[1] != value:
            said = " and ".join(f"{json.dumps(v)[:40]} ({printable(str(n))})" for _, v, n in (
                before, (rank, value, row[key])))
            raise UserError(f"{path} says two things of {printable(name)}: {said}; remove one row")
        if before is None or rank < before[0]:
            best[name] = rank, value, row[key]
    strange = len(rows) - hits[key][1]
    report(f"{path}: images are named by its column {printable(key) or 'without a name'}"
           + (f"; {strange} of {len(rows)} rows name no image of the source" if strange else ""))
    return {name: value for name, (_, value, _) in best.items()}
