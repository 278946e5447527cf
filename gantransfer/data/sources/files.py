# SPDX-License-Identifier: Apache-2.0
"""A folder or a zip of images."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial

from dnnlib.util import UserError
from gantransfer.data.container import Container
from gantransfer.data.decode import read_picture
from gantransfer.data.labels import some
from gantransfer.data.names import clean_name, counted, extension, valid_text
from gantransfer.data.sources import heif
from gantransfer.data.sources.base import Item, Source, SourceOptions, check_labelled, choose_split
from gantransfer.data.sources.file_labels import file_labels, table_of_labels

SPLITS = ("train", "val", "reference", "all")


def takes(path: str, name: str) -> bool:
    return os.path.isdir(path) or name.lower().endswith(".zip")


def open_source(path: str, options: SourceOptions) -> Source:
    files = Container(path, options.follow_links)
    if files.others.keys() & set(heif.EXTENSIONS) and heif.register():
        files = Container(path, options.follow_links, heif.EXTENSIONS)
    names = files.image_names
    if others := left_out(files, table_of_labels(files, options)):
        options.report(others)
    if not names:
        raise UserError(f"no images in {path}")
    generated, splits, attributes = read_parts(files, names)
    found = file_labels(files, names, options)
    if found.splits:
        place = {n: i for i, n in enumerate(names)}
        splits = {s: sorted(place[n] for n in members) for s, members in found.splits.items()}
    chosen = choose_split(splits, options, path)
    if chosen is not None:
        names, splits = [names[i] for i in chosen], {}
        attributes = {k: [v[i] for i in chosen] for k, v in attributes.items()}
    labels = found.labels
    check_labelled(names, labels, found.how, options, path)

    def items() -> Iterator[Item]:
        for name in names:
            where = f"{name} in {path}"
            yield Item(where, partial(lambda n, w: read_picture(files.read(n), w, options.max_pixels), name, where),
                       labels.get(name), name)

    return Source(path, len(names), items, found.class_names, found.how, label_meta=found.label_meta, splits=splits,
                  attributes=attributes, generated=generated, num_classes=found.num_classes)


def left_out(files: Container, table: str | None = None) -> str:
    """'5 files are left out: 4 .heic (convert them first), 1 .txt': what is neither an image of a known kind nor the
    `table` of labels; '' where there is nothing."""
    others = files.others - Counter([extension(table)] if table else ())
    n = sum(others.values())
    return f"{n} file{'s are' if n > 1 else ' is'} left out: {counted(others.items())}" if n else ""


def read_parts(files: Container, names: Sequence[str]) -> tuple[bool, dict[str, list[int]], dict[str, list[int]]]:
    """(whether dataset.json says that the images were generated, its "splits", its "attributes") in the order of names.

    Both are written by position in "labels", or without labels in the order of names. Entries that fit no image raise
    UserError.
    """
    content = files.read_json("dataset.json") if "dataset.json" in files.names else None
    if not isinstance(content, dict):
        return False, {}, {}
    generated = bool(content.get("provenance") or isinstance(content.get("meta"), dict)
                     and content["meta"].get("generated"))
    listed, where = content.get("labels"), f"dataset.json of {files.path}"
    place = {n: i for i, n in enumerate(names)}
    at = list(range(len(names))) if listed is None else [
        place.get(clean_name(row[0])) if isinstance(row, list) and row and isinstance(row[0], str) else None
        for row in (listed if isinstance(listed, list) else ())]
    splits, attributes = {}, {}
    parts = {k: content.get(k) or {} for k in ("splits", "attributes")}
    for key, value in parts.items():
        if not isinstance(value, dict):
            raise UserError(f"\"{key}\" of {where} is not an object")
    for name, members in parts["splits"].items():
        if not (isinstance(members, list) and all(isinstance(i, int) and 0 <= i < len(at) for i in members)):
            raise UserError(f"\"splits\" of {where}: {some([name])} is not a list of positions in \"labels\"")
        splits[valid_text(name)] = sorted(at[i] for i in members if at[i] is not None)
    for name, column in parts["attributes"].items():
        if not (isinstance(column, list) and len(column) == len(at)):
            raise UserError(f"\"attributes\" of {where}: {some([name])} does not have an entry for every label")
        own = {at[i]: v for i, v in enumerate(column) if at[i] is not None}
        if len(own) == len(names):
            attributes[valid_text(name)] = [own[i] for i in range(len(names))]
    return generated, splits, attributes
