# SPDX-License-Identifier: Apache-2.0
"""An LMDB folder: LSUN, or the layout of style-based GANs."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from dnnlib.util import UserError, printable, regular_file
from gantransfer.data import confine, h5
from gantransfer.data.decode import read_picture
from gantransfer.data.sources import lmdb_look
from gantransfer.data.sources.base import Item, Source, SourceOptions, own_labels

SPLITS = ()


def takes(path: str, name: str) -> bool:
    return os.path.isdir(path) and (name.endswith(("_lmdb", ".lmdb"))
                                    or os.path.exists(os.path.join(path, "data.mdb")))


def open_source(path: str, options: SourceOptions) -> Source:
    """An LMDB folder: LSUN (a record is an image), or the layout of style-based GANs: records `SIZE-INDEX` with the
    same images in several sizes, of which the largest is taken, `length`, and with classes `label-INDEX` and
    `num_classes`."""
    try:
        import lmdb
    except ImportError:
        raise UserError(f"reading {path} needs the package lmdb: pip install lmdb") from None

    data = regular_file(os.path.join(path, "data.mdb"))
    if not options.follow_links and not confine.is_inside(data, path):
        raise UserError(f"{data} is a link out of the folder; {confine.FOLLOW}")

    h5.survives(path, "gantransfer.data.sources.lmdb_look", "LMDB")

    def within(visit: Callable[[Any], Any]) -> Any:
        return next(each(lambda txn: [visit(txn)]))

    def each(visit: Callable[[Any], Iterable[Any]]) -> Iterator[Any]:
        try:
            with lmdb.open(path, readonly=True, lock=False) as db, db.begin(write=False) as txn:
                if lmdb_look.end(db) > os.path.getsize(data):
                    raise UserError(f"{path} is cut short: it should have {lmdb_look.end(db):,} bytes and has "
                                    f"{os.path.getsize(data):,}; copy it again")
                yield from visit(txn)
        except lmdb.Error as e:
            raise UserError(f"{path} is not readable as LMDB ({e}); copy it again") from None

    length = within(lambda txn: txn.get(b"length"))
    if length is not None:
        return _sized_lmdb(path, options, within, _decimal(length, f"record length of {path}"))
    if options.labels not in ("auto", "none"):
        raise UserError(f"--labels={options.labels}: an LSUN database has no labels")

    def items() -> Iterator[Item]:
        for key, value in each(partial(_records, path)):
            where = f"record {printable(key.decode('latin1'))} of {path}"
            yield Item(where, partial(read_picture, value, where, options.max_pixels))

    return Source(path, within(lambda txn: txn.stat()["entries"]), items, tolerant=True)


def _records(path: str, txn: Any) -> Iterator[tuple[bytes, bytes]]:
    """All records of a database. UserError where there are more than its file can hold: its pages go in circles."""
    most = os.path.getsize(os.path.join(path, "data.mdb")) // 8
    for n, record in enumerate(txn.cursor()):
        if n > most:
            raise UserError(f"{path} is not readable as LMDB (its pages go in circles); copy it again")
        yield record


def _sized_lmdb(path: str, options: SourceOptions, within: Callable[[Callable], Any], count: int) -> Source:
    sizes = within(lambda txn: {int(m[1]) for k, _ in _records(path, txn)
                                if (m := re.fullmatch(rb"(\d{1,6})-0{5,}", k))})
    if not sizes or not count:
        raise UserError(f"{path} holds no images: no record SIZE-00000")
    if count > (entries := within(lambda txn: txn.stat()["entries"])):
        raise UserError(f"{path} says that it has {count:,} images, but it has {entries:,} records; copy it again")
    own_labels(options, "an LMDB")
    size, labels = max(sizes), None
    classes = within(lambda txn: txn.get(b"num_classes"))
    if classes is not None and options.labels != "none":
        most = _decimal(classes, f"record num_classes of {path}")
        labels = within(lambda txn: [txn.get(f"label-{i:05d}".encode()) for i in range(count)])
        missing = [i for i, v in enumerate(labels) if v is None]
        if missing:
            raise UserError(f"{len(missing)} of {count} images of {path} have no label: image {missing[0]} is the "
                            f"first; give --labels=none to convert without labels")
        labels = [_decimal(v, f"record label-{i:05d} of {path}") for i, v in enumerate(labels)]
        bad = next((i for i, v in enumerate(labels) if v >= most), None)
        if bad is not None:
            raise UserError(f"image {bad} of {path} has the label {labels[bad]}, but there are {most} classes")

    def read(i: int) -> bytes:
        data = within(lambda txn: txn.get(f"{size}-{i:05d}".encode()))
        if data is None:
            raise UserError(f"image {i} of {count} is missing in {path} (record {size}-{i:05d}); prepare it again")
        return bytes(data)

    def items() -> Iterator[Item]:
        for i in range(count):
            where = f"record {size}-{i:05d} of {path}"
            yield Item(where, partial(read_picture, read(i), where, options.max_pixels),
                       None if labels is None else labels[i])

    return Source(path, count, items, (), "none" if labels is None else "the database")


def _decimal(value: bytes, where: str) -> int:
    text = bytes(value)
    if not re.fullmatch(rb"\d{1,12}", text):
        raise UserError(f"{where} is not a number")
    return int(text)
