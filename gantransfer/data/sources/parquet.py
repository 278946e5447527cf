# SPDX-License-Identifier: Apache-2.0
"""Parquet files and folders of Hugging Face's `datasets` (Parquet, or `save_to_disk`), through the package pyarrow.

An image is a column of bytes, or of `{bytes, path}` as `datasets` writes it, whose description in the file also names
the classes. Parts are known by the names of files and folders: `train-00000-of-00002.parquet`, `test/`.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from dnnlib import json_file
from dnnlib.util import UserError, printable, regular_file
from gantransfer.data import confine
from gantransfer.data.container import is_image_name
from gantransfer.data.decode import read_picture
from gantransfer.data.folder_labels import split_of
from gantransfer.data.labels import some
from gantransfer.data.names import clean_name
from gantransfer.data.sources import heif
from gantransfer.data.sources.base import (
    Item,
    Source,
    SourceOptions,
    check_labelled,
    choose_split,
    expanded,
    own_labels,
)
from gantransfer.data.sources.columns import from_column

if TYPE_CHECKING:
    import pyarrow as pa

SPLITS = ("train", "val", "reference", "all")
SUFFIXES = (".parquet", ".arrow")
BATCH = 64  # rows in memory at a time
LABELS = ("label", "labels", "class", "target")  # what a column of labels is called where the file does not say


def takes(path: str, name: str) -> bool:
    """A file by its name; a folder that holds tables and no image."""
    if not os.path.isdir(path):
        return name.lower().endswith(SUFFIXES)
    found = False
    for _, _, names in os.walk(path):
        if any(map(is_image_name, names)):
            return False
        found = found or any(n.lower().endswith(SUFFIXES) for n in names)
    return found


def open_source(path: str, options: SourceOptions) -> Source:
    own_labels(options, "a table")
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise UserError(f"reading {path} needs the package pyarrow: pip install pyarrow") from None
    heif.register()
    files = [f for p in (path, *options.shards) for f in _files(p, options)]
    schema = _schema(files[0])
    if again := [n for n, k in Counter(schema.names).items() if k > 1]:
        raise UserError(f"{path} has more than one column called {some(again)}; rename one")
    features = _features(schema)
    image = _image_column(schema, features, options.image_column, path)
    label = _label_column(schema, features, options, image, path)
    class_names = _class_names(features.get(label, {}))
    for file in files[1:] if label else ():
        own = _class_names(_features(_schema(file)).get(label, {}))
        if own != class_names:
            raise UserError(f"{file} names the classes of {label} {some(own) or 'not at all'}, {files[0]} "
                            f"{some(class_names) or 'not at all'}; give the tables of one set")
    names: list[str] = []
    column: list[Any] = []
    parts: dict[str, list[int]] = {}
    for file in files:
        rows = 0
        for batch in _batches(file, [label] if label else [], schema):
            column += batch.column(label).to_pylist() if label else [None] * batch.num_rows
            rows += batch.num_rows
        if (split := _split(file, path)) is not None:
            parts.setdefault(split, []).extend(range(len(names), len(names) + rows))
        names += [f"row {i} of {file}" for i in range(rows)]
    if not names:
        raise UserError(f"no images in {path}: the table is empty")
    known = sum(map(len, parts.values())) == len(names) and len(parts) > 1
    chosen = choose_split(parts if known or options.split else {}, options, path)
    wanted = None if chosen is None else set(chosen)
    kept = range(len(names)) if chosen is None else chosen
    listed = [names[i] for i in kept]
    found = from_column(listed, [column[i] for i in kept], options, f"column {label} of {path}",
                        class_names)
    check_labelled(listed, found.labels, found.how, options, path)

    def items() -> Iterator[Item]:
        at = 0
        for file in files:
            for batch in _batches(file, [image], schema):
                for value in batch.column(image):
                    if wanted is None or at in wanted:
                        data, original = _bytes(value.as_py(), names[at], image)
                        yield Item(names[at], partial(read_picture, data, names[at], options.max_pixels),
                                   found.labels.get(names[at]), original)
                    at += 1

    return Source(path, len(listed), items, found.class_names, found.how, label_meta=found.label_meta,
                  splits=parts if known and chosen is None else {}, num_classes=found.num_classes)


def _files(path: str, options: SourceOptions) -> list[str]:
    """The tables that `path` means, in order; of a `save_to_disk` folder those that its state.json lists."""
    if not os.path.isdir(path):
        return [str(regular_file(p)) for p in expanded(path)]
    found = []
    for root, folders, names in os.walk(path):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        if "state.json" in names:
            state = json_file.read(os.path.join(root, "state.json"))
            if state.get("_indices_data_files") or state.get("_indices_files"):
                raise UserError(f"{root} is a selection of its rows; save it again after dataset.flatten_indices()")
            listed = state.get("_data_files")
            names = [f.get("filename") for f in listed if isinstance(f, dict)] if isinstance(listed, list) else []
            if not names or not all(isinstance(n, str) and os.path.basename(n) == n for n in names):
                raise UserError(f"{root}/state.json names no files of the folder; save the data set again")
        else:
            names = sorted(n for n in names if n.lower().endswith(SUFFIXES))
        found += [os.path.join(root, n) for n in names]
    for file in found:
        if not options.follow_links and not confine.is_inside(file, path):
            raise UserError(f"{file} is a link out of the folder; {confine.FOLLOW}")
        regular_file(file)
    return found


def _split(file: str, path: str) -> str | None:
    """The part that a table's name, or a folder between it and `path`, tells of."""
    between = os.path.relpath(file, path).split(os.sep)[:-1] if os.path.isdir(path) else []
    words = [re.split(r"[-.]", os.path.basename(file))[0], *reversed(between)]
    return next((s[0] for w in words if (s := split_of(w)) and not s[1]), None)


@contextlib.contextmanager
def _readable(file: str) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as e:
        reason = (str(e).strip().splitlines() or [type(e).__name__])[0][:150]
        raise UserError(f"{file} is not a readable table ({printable(reason)}); copy it again") from None


def _opened(file: str) -> Any:
    """A ParquetFile, or a reader of Arrow's stream or file format."""
    import pyarrow as pa

    if file.lower().endswith(".parquet"):
        import pyarrow.parquet as pq

        return pq.ParquetFile(file)
    source = pa.memory_map(file)
    try:
        return pa.ipc.open_stream(source)
    except pa.ArrowInvalid:
        return pa.ipc.open_file(source)


def _schema(file: str) -> pa.Schema:
    with _readable(file):
        opened = _opened(file)
        return opened.schema_arrow if hasattr(opened, "schema_arrow") else opened.schema


def _batches(file: str, columns: Sequence[str], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The rows of a table in parts, with these columns; UserError where another table of the set has others."""
    with _readable(file):
        opened = _opened(file)
        own = opened.schema_arrow if hasattr(opened, "schema_arrow") else opened.schema
        for c in columns:
            if c not in own.names or own.field(c).type != schema.field(c).type:
                raise UserError(f"{file} has no column {c} as the first table of the set has it; give the tables of "
                                "one set")
        if hasattr(opened, "iter_batches"):
            yield from opened.iter_batches(BATCH, columns=list(columns))
            return
        stream = opened if not hasattr(opened, "get_batch") else map(opened.get_batch, range(opened.num_record_batches))
        for batch in stream:
            batch.validate(full=True)  # what a file says of its own lengths is not believed
            for start in range(0, batch.num_rows, BATCH):
                yield batch.slice(start, BATCH)


def _features(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    """What `datasets` has written of each column: kind, names of classes."""
    text = (schema.metadata or {}).get(b"huggingface")
    if text is None:
        return {}
    with contextlib.suppress(UserError, KeyError, TypeError, AttributeError):
        found = json_file.parse(text, "the description")["info"]["features"]
        return {k: v for k, v in found.items() if isinstance(v, dict)}
    return {}


def _class_names(feature: dict[str, Any]) -> list[str]:
    names = feature.get("names")
    return names if isinstance(names, list) and all(isinstance(n, str) for n in names) else []


def _image_column(schema: pa.Schema, features: dict[str, dict], wanted: str | None, path: str) -> str:
    import pyarrow as pa

    def holds_bytes(field: pa.Field) -> bool:
        kind = field.type
        if pa.types.is_struct(kind):
            return kind.get_field_index("bytes") >= 0
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    if wanted is not None:
        if wanted not in schema.names or not holds_bytes(schema.field(wanted)):
            raise UserError(f"--image-column={wanted}: {path} has no column of image files called so; it has "
                            + some(_described(schema), len(schema.names)))
        return wanted
    found = ([k for k, v in features.items() if v.get("_type") == "Image" and k in schema.names]
             or [f.name for f in schema if holds_bytes(f)])
    if len(found) != 1:
        raise UserError(f"{path} has " + (f"several columns of images ({some(found)}); choose one with "
                                          f"--image-column={found[0]}" if found else
                                          f"no column of image files; it has {some(_described(schema))}"))
    return found[0]


def _described(schema: pa.Schema) -> list[str]:
    return [f"{f.name} ({f.type})" for f in schema]


def _label_column(schema: pa.Schema, features: dict[str, dict], options: SourceOptions, image: str,
                  path: str) -> str | None:
    others = [n for n in schema.names if n != image]
    if options.labels == "none":
        return None
    if options.label_column is not None:
        if options.label_column not in others:
            raise UserError(f"--label-column={options.label_column}: {path} has no such column; it has {some(others)}")
        return options.label_column
    found = [n for n in others if features.get(n, {}).get("_type") == "ClassLabel"] or [
        n for n in others if n.lower() in LABELS]
    if len(found) > 1:
        raise UserError(f"{path} has several columns of labels ({some(found)}); choose one with "
                        f"--label-column={found[0]}, or give --labels=none")
    if not found and others:
        options.report(f"no column of {path} is called label; --label-column=NAME takes labels from {some(others)}")
    return found[0] if found else None


def _bytes(value: Any, where: str, column: str) -> tuple[bytes, str]:
    """(file, original name) of an image's cell."""
    path = value.get("path") if isinstance(value, dict) else None
    data = value.get("bytes") if isinstance(value, dict) else value
    if data is None:
        raise UserError(f"column {column} of {where} is empty" if path is None else
                        f"column {column} of {where} names the file {printable(path)} and does not hold it; give the "
                        "folder of the images")
    return data, clean_name(path) if isinstance(path, str) else ""
