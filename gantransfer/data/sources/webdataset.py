# SPDX-License-Identifier: Apache-2.0
"""WebDataset shards: tar files in which members of one name without extension are one sample, `0001.jpg 0001.cls`.

A tar is read by the standard library; the package webdataset is not needed, and no `pipe:` command or URL is run.
Labels are the member `.cls`, or another one, or a key of `.json`, that --label-column names.
"""

from __future__ import annotations

import os
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from dnnlib import json_file
from dnnlib.util import UserError, open_regular, printable
from gantransfer.data.container import IMAGE_EXTENSIONS
from gantransfer.data.decode import read_picture
from gantransfer.data.labels import some
from gantransfer.data.names import clean_name, is_litter
from gantransfer.data.sources import heif
from gantransfer.data.sources.base import Item, Source, SourceOptions, check_labelled, expanded, own_labels
from gantransfer.data.sources.columns import Labels, from_column

SPLITS = ()
SUFFIXES = (".tar", ".tar.gz", ".tgz")
MOST = 2**30  # bytes of one member

Sample = tuple[str, str, dict[str, bytes]]  # shard, key, content by extension


def takes(path: str, name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def open_source(path: str, options: SourceOptions) -> Source:
    own_labels(options, "a WebDataset")
    options = replace(options, label_column=_extension(options.label_column),
                      image_column=_extension(options.image_column))
    shards = [s for p in (path, *options.shards) for s in expanded(p)]
    if twice := [s for s, n in Counter(map(os.path.realpath, shards)).items() if n > 1]:
        raise UserError(f"--source={some(twice)} is given twice")
    endings = IMAGE_EXTENSIONS | set(heif.EXTENSIONS if heif.register() else ())
    names: list[str] = []
    labels: list[Any] = []
    left: Counter = Counter()
    extensions: Counter = Counter()
    keys: Counter = Counter()
    seen: Counter = Counter()
    for shard, key, parts in _samples(shards, only_labels=endings):
        where = f"{key} of {shard}"
        seen[where] += 1
        if _image(parts, options.image_column, endings, where) is None:
            left[", ".join(f".{e}" for e in sorted(parts))] += 1
            continue
        extensions.update(e for e in parts if f".{e}" not in endings)
        names.append(where)
        labels.append(_label(parts, options.label_column, where, keys) if options.labels == "auto" else None)
    if apart := [n for n in names if seen[n] > 1]:
        raise UserError(f"{some(apart)} is there twice, apart; members of one sample must be side by side")
    if left:
        options.report(f"{sum(left.values())} samples without an image are left out: "
                       + some([f"{n} of {e}" for e, n in left.most_common()]))
    if not names:
        what = f"member .{options.image_column}" if options.image_column else "images"
        raise UserError(f"{path} holds no {what}")
    found = from_column(names, labels, options, f"{options.label_column or '.cls'} of {path}")
    _advise(path, names, found, extensions, keys, options)
    check_labelled(names, found.labels, found.how, options, path)

    def items() -> Iterator[Item]:
        for shard, key, parts in _samples(shards, only_labels=()):
            where = f"{key} of {shard}"
            part = _image(parts, options.image_column, endings, where)
            if part is not None:
                yield Item(where, partial(read_picture, parts[part], where, options.max_pixels),
                           found.labels.get(where), f"{key}.{part}")

    return Source(path, len(names), items, found.class_names, found.how, label_meta=found.label_meta,
                  num_classes=found.num_classes)


def _extension(column: str | None) -> str | None:
    """`.cls` is the member cls, as the pages write it."""
    return None if column is None else column.removeprefix(".")


def _samples(shards: list[str], only_labels: Any) -> Iterator[Sample]:
    """All samples in order. Members whose extension is in `only_labels` are not read: b"" stands for them."""
    for shard in shards:
        key, parts = None, {}
        for name, data in _members(shard, only_labels):
            folder, slash, file = name.rpartition("/")
            stem, _, extension = file.partition(".")
            if f"{folder}{slash}{stem}" != key:
                if parts:
                    yield shard, key, parts
                key, parts = f"{folder}{slash}{stem}", {}
            if extension.lower() in parts:
                raise UserError(f"{shard} holds {printable(name)} twice; make it again")
            parts[extension.lower()] = data
        if parts:
            yield shard, key, parts


def _members(shard: str, only_labels: Any) -> Iterator[tuple[str, bytes]]:
    try:
        with open_regular(shard) as f, tarfile.open(fileobj=f, mode="r:*") as tar:
            for member in tar:
                name = clean_name(member.name)
                if member.isdir() or is_litter(name):
                    continue
                if not member.isreg() or member.issparse():
                    raise UserError(f"{printable(member.name)} in {shard} is no plain file; make the shard again, of "
                                    "files")
                if member.size > MOST:
                    raise UserError(f"{printable(member.name)} in {shard} has {member.size:,} bytes; hardly an image "
                                    "or label does: leave it out")
                read = os.path.splitext(name)[1].lower() not in only_labels
                data = tar.extractfile(member).read() if read else b""
                if read and len(data) != member.size:
                    raise UserError(f"{shard} is cut short in {printable(member.name)}; copy it again")
                yield name, data
            _check_end(tar, shard)
    except (tarfile.TarError, EOFError, OSError, zlib.error, ValueError) as e:
        reason = (str(e).splitlines() or [type(e).__name__])[0]
        raise UserError(f"{shard} is not a readable tar file ({printable(reason)}); copy it again") from None


def _check_end(tar: tarfile.TarFile, shard: str) -> None:
    """UserError unless the archive's own mark ends it: the library takes a damaged header, or none, for an end too."""
    tar.fileobj.seek(tar.offset)
    rest = tar.fileobj.read(2**20)
    if len(rest) < tarfile.BLOCKSIZE:
        raise UserError(f"{shard} is cut short: it has no mark at its end; copy it again")
    if any(rest[: tarfile.BLOCKSIZE]):
        raise UserError(f"{shard} is damaged at byte {tar.offset:,}; copy it again")
    if any(rest):
        raise UserError(f"{shard} has more behind its end, as joined tar files have; give them one by one")


def _image(parts: dict[str, bytes], wanted: str | None, endings: Any, where: str) -> str | None:
    """The extension of a sample's image; UserError where it has several and nobody says which."""
    if wanted is not None:
        return wanted.lower() if wanted.lower() in parts else None
    found = [e for e in parts if f".{e.rpartition('.')[2]}" in endings]
    if len(found) > 1:
        raise UserError(f"{where} has several images ({some(found)}); choose one with --image-column={found[0]}")
    return found[0] if found else None


def _label(parts: dict[str, bytes], column: str | None, where: str, keys: Counter) -> Any:
    if "json" in parts and (column is not None or "cls" not in parts):
        content = json_file.parse(parts["json"], f"the .json of {where}", object)
        content = content if isinstance(content, dict) else {}
        keys.update(content.keys())
        if column in content:
            return content[column]
    return parts.get((column or "cls").lower())


def _advise(path: str, names: list[str], found: Labels, extensions: Counter, keys: Counter,
            options: SourceOptions) -> None:
    """Where labels may be that nobody asked for; UserError where a column that was asked for does not exist."""
    there = [*extensions, *keys]
    if options.label_column is not None and options.labels == "auto" and options.label_column.lower() not in map(
            str.lower, there):
        raise UserError(f"--label-column={options.label_column}: {path} has no such member or key of .json; it has "
                        + (some(there) if there else "images only"))
    if not found.labels and options.labels == "auto" and there:
        options.report(f"no .cls in {path}; --label-column=NAME takes labels from {some(there)}")
    elif not found.labels and options.labels == "auto" and len({n.split("/")[0] for n in names if "/" in n}) > 1:
        options.report(f"the images of {path} lie in folders; unpack it and give the folder to take them as classes")
