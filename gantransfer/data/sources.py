# SPDX-License-Identifier: Apache-2.0
"""What `dataset_tool.py` can read: every source gives images with labels, one at a time.

Nothing here executes what it reads: the CIFAR archives' pickles pass through a reader that can build arrays only.
"""

from __future__ import annotations

import gzip
import os
import re
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dnnlib import seeding
from dnnlib.util import UserError, open_regular, printable, regular_file
from gantransfer.data import confine, elpv, h5, icons, lmdb_look
from gantransfer.data.container import Container
from gantransfer.data.decode import Picture, read_picture
from gantransfer.data.folder_labels import are_shards, class_folders, folder_labels
from gantransfer.data.glyphs import lacking
from gantransfer.data.labels import (
    LabelFile,
    check_class_names,
    label_array,
    num_classes,
    parse_label_file,
    some,
    value_meta,
)
from gantransfer.data.names import clean_name, counted, valid_text
from gantransfer.formats import pickled_arrays
from gantransfer.formats.pickle_machine import Refused, elements

__all__ = ["SPLITS", "Item", "Source", "SourceOptions", "class_folders", "left_out", "open_source",
           "read_parts"]

SPLITS = ("train", "val", "reference", "all")


@dataclass
class Item:
    """One image of a source. `load` may run in another thread."""

    name: str  # for messages
    load: Callable[[], Image.Image | Picture]  # raises UserError naming the image
    label: Any = None  # int, list of numbers, or None
    enlarged: bool = False  # noted by the conversion


@dataclass
class Source:
    """Images to convert: `items()` goes through them in order; `count` is their number."""

    name: str
    count: int
    items: Callable[[], Iterator[Item]]
    class_names: tuple[str, ...] = ()
    labelled: str = "none"  # where labels come from, for the report
    tolerant: bool = False  # an undecodable image is skipped with a message instead of ending the conversion
    label_meta: dict | None = None  # unit and range of a continuous label, for dataset.json
    splits: dict[str, Sequence[int]] = field(default_factory=dict)  # parts, as positions in the order of items
    attributes: dict[str, Sequence[int]] = field(default_factory=dict)  # further columns, one entry per item
    generated: bool = False  # made by a generator
    num_classes: int = 0  # classes that the labels tell of, also without an image of the last ones
    defaults: dict[str, str] = field(default_factory=dict)  # --channels and --alpha where the user gives none


@dataclass(frozen=True)
class SourceOptions:
    """What the caller may choose about a source; sources refuse what they do not understand."""

    labels: str = "auto"  # auto | folders | json | none | utkface | steering | class | defect | value
    split: str | None = None  # None: the source's default
    seed: int = 0
    size: tuple[int, int] | None = None  # (width, height) for sources that render or choose by it
    letters: str | None = None
    font_distance: float = 0.12
    drop_unlabelled: bool = False
    label_kind: str = "auto"  # auto | class | value
    label_range: tuple[float, float] | None = None  # raw labels that become 0 and 1
    label_unit: str | None = None
    max_pixels: int | None = None
    follow_links: bool = False
    report: Callable[[str], None] = print


def open_source(path: str, options: SourceOptions) -> Source:
    """The source that `path` means, by its name. Raises UserError when there is none or it is damaged."""
    if options.split == "val" and (path.startswith(("sklearn:", "fonts:")) or os.path.exists(path) and not _is_files(
            path, os.path.basename(os.path.normpath(path)))):
        raise UserError(f"--split=val belongs to folders and zips with splits, and {path} is none; give train or test")
    if options.letters is not None and not path.startswith("fonts:"):
        raise UserError("--letters belongs to --source=fonts:DIR")
    source = _opened(path, options)
    return source if options.labels != "none" else replace(
        source, items=lambda: (replace(item, label=None) for item in source.items()), class_names=(), labelled="none",
        label_meta=None)


def _opened(path: str, options: SourceOptions) -> Source:
    if path == "elpv" or path.startswith("icons:"):
        return _elpv(options) if path == "elpv" else _icons(path[len("icons:"):], options)
    if options.labels in elpv.LABELS:
        raise UserError(f"--labels={options.labels} belongs to --source=elpv")
    if path.startswith("sklearn:"):
        return _sklearn(path, options)
    if path.startswith("fonts:"):
        return _fonts(path[len("fonts:"):], options)
    name = os.path.basename(os.path.normpath(path))
    if not os.path.exists(path):
        raise UserError(f"--source={path}: no such file or folder")
    if name.lower().endswith(h5.SUFFIXES):
        return _h5(path, options)
    if options.split in h5.SPLITS:
        raise UserError(f"--split={options.split} belongs to HDF5 files of cGAN-KD")
    if name in ("cifar-10-python.tar.gz", "cifar-100-python.tar.gz"):
        return _cifar(path, options)
    if re.fullmatch(r"(train|t10k)-images[-.]idx3-ubyte(\.gz)?", name):
        return _mnist(path, options)
    if options.split is not None and (_is_lmdb(path, name) or not _is_files(path, name)):
        raise UserError(f"--split does not apply to {name}: CIFAR archives, sklearn:digits, fonts:DIR, and folders and "
                        "zips with splits have them")
    if _is_lmdb(path, name):
        return _lmdb(path, options)
    if _is_files(path, name):
        return _files(path, options)
    raise UserError(f"--source={path}: unknown kind of file; give a folder, a .zip, cifar-10-python.tar.gz, "
                    "cifar-100-python.tar.gz, train-images-idx3-ubyte.gz, an LMDB folder, an HDF5 file of cGAN-KD, "
                    "sklearn:digits, sklearn:rotated-digits, fonts:DIR, icons:DIR or elpv")


def _is_lmdb(path: str, name: str) -> bool:
    return os.path.isdir(path) and (name.endswith(("_lmdb", ".lmdb"))
                                    or os.path.exists(os.path.join(path, "data.mdb")))


def _is_files(path: str, name: str) -> bool:
    return os.path.isdir(path) or name.lower().endswith(".zip")


def _own_labels(options: SourceOptions, what: str) -> None:
    """UserError for a choice of --labels where `what` brings its own, which none omits."""
    if options.labels not in ("auto", "none"):
        raise UserError(f"--labels={options.labels}: {what} brings its own labels; use auto or none")


def _files(path: str, options: SourceOptions) -> Source:
    files = Container(path, options.follow_links)
    names = files.image_names
    if files.others:
        options.report(left_out(files))
    if not names:
        raise UserError(f"no images in {path}")
    generated, splits, attributes = read_parts(files, names)
    found = _file_labels(files, names, options)
    if found.splits:
        place = {n: i for i, n in enumerate(names)}
        splits = {s: sorted(place[n] for n in members) for s, members in found.splits.items()}
    if splits and options.split is None:
        options.report("splits: " + ", ".join(f"{s} {len(v)}" for s, v in splits.items())
                       + "; all are taken, --split chooses one")
    if options.split not in (None, "all"):
        wanted = "test" if options.split == "reference" else options.split
        if wanted not in splits:
            raise UserError(f"--split={wanted}: {path} has " + (some(splits) if splits else "no splits"))
        names = [names[i] for i in splits[wanted]]
        attributes = {k: [v[i] for i in splits[wanted]] for k, v in attributes.items()}
        splits = {}
    labels = found.labels
    missing = [n for n in names if n not in labels] if labels else []
    if missing and not options.drop_unlabelled:
        raise UserError(f"{len(missing)} of {len(names)} images of {path} have no label ({found.how}): {some(missing)}"
                        "; add --drop-unlabelled to leave them out, or --labels=none")

    def items() -> Iterator[Item]:
        for name in names:
            where = f"{name} in {path}"
            yield Item(where, partial(lambda n, w: read_picture(files.read(n), w, options.max_pixels), name, where),
                       labels.get(name))

    return Source(path, len(names), items, found.class_names, found.how, label_meta=found.label_meta, splits=splits,
                  attributes=attributes, generated=generated, num_classes=found.num_classes)


def left_out(files: Container) -> str:
    """'5 files are left out: 4 .heic (convert them first), 1 .txt': what is no image of a known kind."""
    n = sum(files.others.values())
    return f"{n} file{'s are' if n > 1 else ' is'} left out: {counted(files.others.items())}"


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


@dataclass
class _Labels:
    """Labels of a folder or zip, by image name, and what goes with them."""

    labels: dict[str, Any] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    how: str = "none"
    label_meta: dict | None = None
    num_classes: int = 0
    splits: dict[str, list[str]] = field(default_factory=dict)


def _file_labels(files: Container, names: Sequence[str], options: SourceOptions) -> _Labels:
    mode = options.labels
    if mode in ("utkface", "steering"):
        labels, meta = _originals(files, names, mode)
        return _Labels(labels, how=mode, label_meta=_with_range(labels, meta, options, files.path))
    if mode in ("auto", "json") and files.label_file() is not None:
        return _json_labels(files, names, options)
    if mode == "json":
        raise UserError(f"--labels=json, but {files.path} has no dataset.json at its root")
    if mode == "none":
        return _Labels()

    if mode == "auto" and are_shards(names):
        return _Labels()
    found = folder_labels(files, names)
    if mode == "auto" and len(found.class_names) < 2:
        return _Labels(splits=found.splits)
    if not found.labels:
        raise UserError(f"--labels=folders, but the images of {files.path} are in no sub-folders"
                        + (" other than splits" if found.splits else ""))
    shifted = next((k for k, n in enumerate(found.class_names) if n.isdecimal() and str(k) != (n.lstrip("0") or "0")),
                   None)
    if shifted is not None:
        options.report("note: class folders are numbered from 0 in order: folder "
                       f"{found.class_names[shifted]} is class {shifted}")
    return _Labels(dict(found.labels), found.class_names, "sub-folders", splits=found.splits)


def _json_labels(files: Container, names: Sequence[str], options: SourceOptions) -> _Labels:
    """What dataset.json says, as class ids wherever labels are classes."""
    file: LabelFile = parse_label_file(files.read_json("dataset.json"), f"dataset.json of {files.path}")
    raw = {n: file.labels[n] for n in names if file.labels.get(n) is not None} if file.labels else {}
    if file.labels and not raw:
        raise UserError(f"dataset.json of {files.path} names none of its {len(names)} images "
                        f"(it has {some(file.labels)}); names are relative to its folder")
    if not raw:
        if options.labels == "json":
            raise UserError(f"--labels=json, but dataset.json of {files.path} says that there are none")
        return _Labels()
    kind, values = label_array(list(raw), list(raw.values()), file.where)
    lists = isinstance(next(iter(raw.values())), (list, tuple))
    if kind == "class" and options.label_kind == "value":
        if lists:
            raise UserError(f"--label-kind=value: the labels of {file.where} are one-hot lists, that is, classes; it "
                            "is for one number per image")
        labels = {n: [float(v)] for n, v in zip(raw, values)}
        return _Labels(labels, how="dataset.json", label_meta=_with_range(labels, None, options, file.where))
    if kind == "value" and options.label_kind == "class":
        if values.shape[1] != 1 or (values != np.floor(values)).any() or values.min() < 0:
            raise UserError(f"--label-kind=class: the labels of {file.where} are no class indices: "
                            + ("vectors" if values.shape[1] > 1 else "fractions or below 0"))
        kind, values = "class", values[:, 0].astype(np.int64)
        raw = {n: int(v) for n, v in zip(raw, values)}
    if kind == "class":
        if options.label_range or options.label_unit:
            raise UserError("--label-range and --label-unit are for continuous labels; add --label-kind=value")
        dim = num_classes(list(raw.values()))
        check_class_names(file.class_names, dim, file.where)
        return _Labels(dict(zip(raw, map(int, values))), file.class_names, "dataset.json", num_classes=dim)
    if values.shape[1] == 1:
        return _Labels(raw, how="dataset.json", label_meta=_with_range(raw, file.label_meta, options, file.where))
    if options.label_range or options.label_unit:
        raise UserError(f"--label-range is for one number per image; {file.where} has {values.shape[1]}")
    return _Labels(raw, file.class_names, "dataset.json")


_ORIGINALS = {
    "utkface": dict(kind="regression", unit="year", offset=0.0, scale=60.0, min=1.0, max=60.0),
    "steering": dict(kind="regression", unit="degree", offset=-88.13, scale=186.05, min=-88.13, max=97.92),
}


def _originals(files: Container, names: Sequence[str], mode: str) -> tuple[dict[str, Any], dict]:
    """Labels of the raw folders: UTKFace's age before the first '_' of a name, steering angles in data.txt.

    Images outside the range that the published sets keep (ages 1 to 60, angles -88.13 to 97.92) get no label.
    """
    meta, found = _ORIGINALS[mode], {}
    if mode == "utkface":
        for n in names:
            age, _, rest = n.split("/")[-1].partition("_")
            if not age.isdecimal() or not rest:
                raise UserError(f"--labels=utkface: {n} of {files.path} does not start with an age, as 25_0_1_x.jpg")
            found[n] = float(age)
    else:
        table = next((n for n in files.names if n.split("/")[-1] == "data.txt"), None)
        if table is None:
            raise UserError(f"--labels=steering: {files.path} has no data.txt with lines such as '0.jpg -3.5'")
        base = table.rpartition("/")[0]
        where = {(f"{base}/" if base else "") + n: n for n in names}
        short = {n.split("/")[-1]: n for n in names}
        for line in files.read(table).decode("utf-8", "replace").splitlines():
            words = line.replace(",", " ").split()
            if not words:
                continue
            try:
                angle = float(words[1])
            except (IndexError, ValueError):
                raise UserError(f"{table} of {files.path}: '{line[:60]}' is not a file name and an angle") from None
            said = clean_name(words[0])
            name = where.get(said) or short.get(said.split("/")[-1])
            if name:
                found[name] = angle
    return {n: [v] for n, v in found.items() if meta["min"] <= v <= meta["max"]}, meta


def _with_range(labels: dict[str, Any], known: dict | None, options: SourceOptions, where: str) -> dict | None:
    if not labels:
        return None
    raw = np.asarray([v[0] for v in labels.values()], np.float64)
    meta = value_meta(raw, known or {}, where) if known or options.label_range is None else None
    return value_meta(raw, h5.label_meta(raw, meta, options.label_range, options.label_unit, where), where)


def _h5(path: str, options: SourceOptions) -> Source:
    _own_labels(options, "an HDF5 file")
    chosen = h5.read(path, options.split, options.label_kind, options.label_range, options.label_unit,
                     options.labels != "none")

    def items() -> Iterator[Item]:
        for i, (name, load) in enumerate(chosen.pictures()):
            yield Item(name, load, chosen.labels[i] if chosen.labels else None)

    return Source(path, len(chosen.rows), items, (), f"the file (layout {chosen.layout})" if chosen.labels else
                  "none", label_meta=chosen.label_meta, splits={k: v.tolist() for k, v in chosen.splits.items()},
                  attributes={k: v.tolist() for k, v in chosen.attributes.items()},
                  generated=chosen.layout == "fakes")


def _lmdb(path: str, options: SourceOptions) -> Source:
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

    h5.survives(path, "gantransfer.data.lmdb_look", "LMDB")

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
    _own_labels(options, "an LMDB")
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


def limited(stream: Any, where: str, most: int = 2**28) -> bytes:
    """All bytes of a stream that unpacks as it is read. UserError for more than the published sets have."""
    data = stream.read(most + 1)
    if len(data) > most:
        raise UserError(f"{where} unpacks to more than {most:,} bytes, which no published set does; download it again")
    return data


def load_arrays(data: bytes, where: str) -> dict:
    """A pickled dict of arrays and plain values (Python 2 strings become str). Raises UserError for anything else."""
    try:
        result = pickled_arrays.load(data, old=True)
        if isinstance(result, dict):
            return result
        reason: Any = f"it holds a {type(result).__name__}, not a dict"
    except Refused as e:
        reason = e
    raise UserError(f"{where} is not a CIFAR batch ({reason}); download the archive again")


def _cifar(path: str, options: SourceOptions) -> Source:
    _own_labels(options, "a CIFAR archive")
    fine = "cifar-100" in os.path.basename(path)
    split = options.split or "train"
    if fine:
        folder, key, meta, meta_key = "cifar-100-python", "fine_labels", "meta", "fine_label_names"
        train, test = ["train"], ["test"]
    else:
        folder, key, meta, meta_key = "cifar-10-batches-py", "labels", "batches.meta", "label_names"
        train, test = [f"data_batch_{i}" for i in range(1, 6)], ["test_batch"]
    wanted = {"train": train, "reference": test, "all": train + test}[split]

    def member(tar: tarfile.TarFile, name: str) -> dict:
        where = f"{folder}/{name} in {path}"
        try:
            stream = tar.extractfile(f"{folder}/{name}")
        except KeyError:
            stream = None
        if stream is None:
            raise UserError(f"{path} has no {folder}/{name}; download the archive again")
        return load_arrays(limited(stream, where), where)

    def read(visit: Callable[[tarfile.TarFile], Any]) -> Any:
        try:
            with open_regular(path) as f, tarfile.open(fileobj=f, mode="r:gz") as tar:
                return visit(tar)
        except (tarfile.TarError, EOFError, OSError, zlib.error) as e:
            raise UserError(f"{path} is damaged ({e}); download the archive again") from None

    def batch(name: str) -> tuple[np.ndarray, list[int]]:
        content = read(lambda tar: member(tar, name))
        data, labels = content.get("data"), content.get(key)
        if not (isinstance(data, np.ndarray) and data.ndim == 2 and data.shape[1] == 3072 and data.dtype == np.uint8
                and isinstance(labels, list) and len(labels) == len(data)
                and all(isinstance(v, int) and 0 <= v < (100 if fine else 10) for v in labels)):
            raise UserError(f"{folder}/{name} in {path} is not a CIFAR batch; download the archive again")
        return data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels

    names = read(lambda tar: member(tar, meta)).get(meta_key, ())
    names = tuple(str(n) for n in names) if isinstance(names, (list, tuple)) else ()

    def items() -> Iterator[Item]:
        for name in wanted:
            data, labels = batch(name)
            for i, (image, label) in enumerate(zip(data, labels)):
                yield Item(f"image {i} of {name} in {path}", partial(Image.fromarray, np.ascontiguousarray(image)),
                           label)

    # Published sizes; a batch of another length only makes the progress bar less exact.
    count = (50000 if train[0] in wanted else 0) + (10000 if test[0] in wanted else 0)
    return Source(path, count, items, names, "the archive")


def _idx(path: str) -> np.ndarray:
    """The uint8 array of an IDX file (the format of MNIST), plain or gzipped."""
    if not os.path.exists(path):
        raise UserError(f"{path} is missing: the labels of the images beside it; download it, or give --labels=none")
    try:
        with open_regular(path) as f:
            data = limited(gzip.GzipFile(fileobj=f) if path.endswith(".gz") else f, path, 2**30)
        zero, kind, rank = struct.unpack(">HBB", data[:4])
        shape = struct.unpack(f">{rank}I", data[4: 4 + 4 * rank])
        rest = len(data) - 4 - 4 * rank
        if zero != 0 or kind != 8 or not 1 <= rank <= 8 or elements(shape, 1, rest) != rest:
            raise ValueError("wrong header or length")
    except (OSError, EOFError, zlib.error, struct.error, ValueError, Refused) as e:
        raise UserError(f"{path} is not a readable IDX file ({e}); download it again") from None
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)


def _mnist(path: str, options: SourceOptions) -> Source:
    _own_labels(options, "MNIST")
    if options.split is not None:
        raise UserError("--split does not apply to MNIST: name the split's own file, train-images... or t10k-images...")
    images = _idx(path)
    if images.ndim != 3 or images.shape[1:] != (28, 28):
        raise UserError(f"{path} holds an array of shape {images.shape}, not [n, 28, 28]")
    labels = None
    if options.labels == "auto":
        sibling = re.sub(r"images([-.])idx3", r"labels\1idx1", os.path.basename(path))
        labels = _idx(os.path.join(os.path.dirname(path), sibling))
        if labels.shape != (len(images),):
            raise UserError(f"{path} has {len(images)} images, but the labels file beside it {labels.shape[0]} labels")

    border = 0 if options.size == (28, 28) else 2  # to 32x32, as published, unless they are wanted as they are

    def items() -> Iterator[Item]:
        for i, image in enumerate(images):
            yield Item(f"image {i} of {path}", partial(Image.fromarray, np.pad(image, border)),
                       None if labels is None else int(labels[i]))

    names = () if labels is None else tuple(str(k) for k in range(int(labels.max()) + 1))
    return Source(path, len(images), items, names, "the labels file")


def digits_split(target: np.ndarray, split: str, seed: int = 0, held_out: int = 60) -> np.ndarray:
    """Sorted indices of a split: 'reference' is `held_out` per class by RandomState(seed), 'train' the others."""
    rng = seeding.numpy_rng(seed)
    held = np.concatenate([rng.permutation(np.flatnonzero(target == k))[:held_out] for k in np.unique(target)])
    everything = np.arange(len(target))
    return {"all": everything, "reference": np.sort(held), "train": np.setdiff1d(everything, held)}[split]


ROTATION = dict(kind="regression", unit="degree", offset=0.0, scale=90.0, min=0.0, max=90.0)
ROTATED = (3, 4, 5, 7)  # digits that a turn of up to 90 degrees makes into no other


def rotated_digit(image: np.ndarray, angle: float, size: tuple[int, int]) -> np.ndarray:
    """uint8 [H, W] of a digit (floats 0..16) turned counter-clockwise by `angle` degrees; enlarged before."""
    large = Image.fromarray((image * (255 / 16)).astype(np.float32)).resize((64, 64), Image.BICUBIC)
    small = large.rotate(angle, Image.BICUBIC).resize(size, Image.BOX)
    return np.clip(np.rint(np.asarray(small)), 0, 255).astype(np.uint8)


def _sklearn(path: str, options: SourceOptions) -> Source:
    if path not in ("sklearn:digits", "sklearn:rotated-digits"):
        raise UserError(f"--source={path}: the sets of images inside scikit-learn are sklearn:digits and "
                        "sklearn:rotated-digits")
    if options.split in h5.SPLITS:
        raise UserError(f"--split={options.split} belongs to HDF5 files of cGAN-KD")
    _own_labels(options, "sklearn:digits")
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UserError("sklearn:digits needs the package scikit-learn: pip install scikit-learn") from None
    data = load_digits()
    chosen = digits_split(data.target, options.split or "all", options.seed)
    size = options.size or (16, 16)
    if path == "sklearn:rotated-digits":
        return _rotated(path, data, chosen, size, options.seed)

    def load(i: int) -> Image.Image:
        image = Image.fromarray((data.images[i] * (255 / 16)).astype(np.float32))
        enlarged = np.asarray(image.resize(size, Image.Resampling.BICUBIC))
        return Image.fromarray(np.clip(np.rint(enlarged), 0, 255).astype(np.uint8))

    def items() -> Iterator[Item]:
        for i in chosen:
            yield Item(f"digit {i}", partial(load, i), int(data.target[i]))

    return Source(path, len(chosen), items, tuple(str(k) for k in range(10)), "scikit-learn")


def _rotated(path: str, data: Any, chosen: np.ndarray, size: tuple[int, int], seed: int) -> Source:
    """The digits of ROTATED, each turned by whole degrees drawn evenly from 0 to 90, which is its label."""
    angles = seeding.numpy_rng(seed + 1).randint(0, 91, len(data.target))
    chosen = chosen[np.isin(data.target[chosen], ROTATED)]

    def items() -> Iterator[Item]:
        for i in chosen:
            yield Item(f"digit {i} turned by {angles[i]}", lambda i=i: Image.fromarray(
                rotated_digit(data.images[i], float(angles[i]), size)), [float(angles[i])])

    return Source(path, len(chosen), items, labelled="the angle", label_meta=ROTATION)


_STYLE_WORDS = frozenset("""thin hairline extralight ultralight light semilight demilight book regular normal roman text
    medium semibold demibold demi bold extrabold ultrabold heavy black ultra extra semi condensed semicondensed
    extracondensed narrow compressed extended wide expanded italic oblique slanted display caption""".split())


def parse_letters(text: str | None) -> str:
    """'A-J' or 'A-Z,a-z' or a string of letters; default A-Z."""
    if text is None:
        text = "A-Z"
    out = ""
    for part in text.split(","):
        if len(part) == 3 and part[1] == "-":
            if part[0] > part[2]:
                raise UserError(f"--letters={text}: the range {part} is empty")
            out += "".join(chr(c) for c in range(ord(part[0]), ord(part[2]) + 1))
        else:
            out += part
    if len(out) < 2 or len(set(out)) < len(out) or any(not c.isprintable() or c.isspace() for c in out):
        raise UserError(f"--letters={text}: give at least two different characters, for example A-Z or A-J")
    return out


def font_family(family: str) -> str:
    """The family without words of weight and width: 'Lato Light' and 'Lato Black' are one design."""
    words = family.split()
    while len(words) > 1 and words[-1].lower().replace("-", "") in _STYLE_WORDS:
        words.pop()
    return " ".join(words)


def render_glyphs(font_path: str, letters: str, size: int) -> np.ndarray | None:
    """uint8 [len(letters), size, size], white on black, one scale and baseline per face, each letter centred.

    None when the face lacks ink for a letter, draws the same shape for two, or cannot be opened.
    """
    over = 4  # drawn larger and reduced by averaging: independent of hinting
    canvas = size * over
    try:
        probe = ImageFont.truetype(font_path, canvas)
        boxes = [probe.getbbox(c, anchor="ls") for c in letters]
        top, bottom = min(b[1] for b in boxes), max(b[3] for b in boxes)
        extent = max(max(b[2] - b[0] for b in boxes), bottom - top)
        if any(lacking(font_path, letters)) or extent <= 0 or any(b[2] <= b[0] or b[3] <= b[1] for b in boxes):
            return None
        scale = 0.84 * canvas / extent
        font = ImageFont.truetype(font_path, max(canvas * scale, 1))
        boxes = [font.getbbox(c, anchor="ls") for c in letters]
        top, bottom = min(b[1] for b in boxes), max(b[3] for b in boxes)
        out = np.empty([len(letters), size, size], np.uint8)
        for k, (c, b) in enumerate(zip(letters, boxes)):
            image = Image.new("L", (canvas, canvas), 0)
            at = ((canvas - b[0] - b[2]) / 2, (canvas - top - bottom) / 2)
            ImageDraw.Draw(image).text(at, c, 255, font, anchor="ls")
            out[k] = np.asarray(image.resize((size, size), Image.Resampling.BOX))
    except (OSError, ValueError, OverflowError, MemoryError):
        return None
    ink = out.reshape(len(letters), -1).mean(1) / 255
    distinct = len({g.tobytes() for g in out}) == len(out)
    return out if distinct and ink.min() > 0.01 and ink.max() < 0.8 else None


def _fonts(folder: str, options: SourceOptions) -> Source:
    _own_labels(options, "a folder of fonts")
    if not os.path.isdir(folder):
        raise UserError(f"--source=fonts:{folder}: no such folder; give one with .ttf or .otf files, "
                        "for example fonts:/usr/share/fonts")
    letters = parse_letters(options.letters)
    width, height = options.size or (32, 32)
    if width != height:
        raise UserError(f"glyphs are square: give --resolution={width}x{width}")
    paths = sorted(str(p) for p in Path(folder).rglob("*") if p.suffix.lower() in (".ttf", ".otf") and p.is_file()
                   and (options.follow_links or confine.is_inside(str(p), folder)))
    if not paths:
        raise UserError(f"no .ttf or .otf files below {folder} (links out of it count with --follow-links)")

    faces, families, glyphs, unusable = [], [], [], 0
    for p in paths:
        rendered = render_glyphs(p, letters, width)
        if rendered is None:
            unusable += 1
            continue
        family, style = ImageFont.truetype(p, 16).getname()
        faces.append(f"{family} {style}")
        families.append(font_family(family or Path(p).stem))
        glyphs.append(rendered)
    foreign = _foreign(glyphs, families)
    kept: list[int] = []
    pixels = [g.astype(np.float32).ravel() / 255 for g in glyphs]
    for i in range(len(glyphs)):
        if not foreign[i] and all(np.sqrt(np.mean((pixels[i] - pixels[j]) ** 2)) > options.font_distance
                                     for j in kept):
            kept.append(i)
    options.report(f"{len(paths)} font files: {unusable} lack ink, a letter or distinct letters; {sum(foreign)} draw "
                   f"other signs in their place; {len(glyphs) - sum(foreign) - len(kept)} nearly repeat another face; "
                   f"{len(kept)} faces of {len({families[i] for i in kept})} families remain")
    held = held_out_families([families[i] for i in kept], options.seed)
    split = options.split or "all"
    if split != "all" and not held:
        raise UserError(f"--split={split} needs faces of at least two families below {folder}")
    kept = [i for i in kept if split == "all" or (families[i] in held) == (split == "reference")]
    if not kept:
        raise UserError(f"no usable face below {folder}")

    def items() -> Iterator[Item]:
        for i in kept:
            for k, c in enumerate(letters):
                yield Item(f"{c} of {faces[i]}", partial(Image.fromarray, glyphs[i][k]), k)

    return Source(f"fonts:{folder}", len(kept) * len(letters), items, tuple(letters), "letters")


def _elpv(options: SourceOptions) -> Source:
    """The photographs of the installed package elpv-dataset (gantransfer/data/elpv.py)."""
    if os.path.exists("elpv"):
        raise UserError("--source=elpv means the photographs of the package elpv-dataset, and there is an elpv in this "
                        "folder: write ./elpv for that, or start from another folder for the package")
    _no_options("elpv", options, (*elpv.LABELS, "none"))
    labels = "class" if options.labels == "auto" else options.labels
    if labels != "value" and (options.label_range or options.label_unit):
        raise UserError("--label-range and --label-unit are for continuous labels; add --labels=value")
    found = list(elpv.files(labels))
    meta = None
    if labels == "value":
        meta = _with_range({name: label for name, _, label in found}, elpv.VALUE, options, "elpv")
    options.report(f"elpv-dataset: {elpv.LICENCE}")

    def items() -> Iterator[Item]:
        for name, path, label in found:
            yield Item(f"{name} of elpv", partial(elpv.load, name, path, options.max_pixels), label)

    return Source("elpv", len(found), items, elpv.class_names(labels), "labels.csv", label_meta=meta)


def _icons(folder: str, options: SourceOptions) -> Source:
    """Icons of one size of a theme (gantransfer/data/icons.py), on white."""
    _no_options("icons:DIR", options, ("none",))
    if options.label_range or options.label_unit:
        raise UserError("--label-range and --label-unit are for continuous labels, and icons have categories")
    if options.follow_links:
        raise UserError("--follow-links does not apply to icons:DIR: links there are other names of an icon")
    width, height = options.size or (32, 32)
    if width != height:
        raise UserError(f"icons are square: give --resolution={width}x{width}")
    found = icons.find(folder, width, options.report)
    names = tuple(sorted({category for category, _ in found}))

    def load(path: str) -> Picture:
        with open_regular(path) as f:
            return read_picture(f.read(), path, options.max_pixels)

    def items() -> Iterator[Item]:
        for category, path in found:
            yield Item(path, partial(load, path), names.index(category))

    return Source(f"icons:{folder}", len(found), items, names, "the folders",
                  defaults=dict(channels="3", alpha="white"))


def _no_options(what: str, options: SourceOptions, labels: tuple[str, ...]) -> None:
    """UserError for a choice about labels or parts that this source does not have."""
    if options.labels not in ("auto", *labels):
        raise UserError(f"--labels={options.labels} does not apply to --source={what}; it knows "
                        f"{', '.join(('auto', *labels))}")
    if options.split is not None:
        raise UserError(f"--source={what} has no splits; --holdout=0.25 makes a second set of a quarter of each class")
    if options.label_kind != "auto":
        raise UserError(f"--label-kind does not apply to --source={what}")


def held_out_families(families: Sequence[str], seed: int, fraction: float = 0.25) -> set[str]:
    """Whole families, in an order shuffled by RandomState(seed), until they hold `fraction` of the faces.

    A family that would bring them above twice the fraction is passed over; if all would, the smallest one is taken.
    Empty for fewer than two families.
    """
    names = sorted(set(families))
    if len(names) < 2:
        return set()
    sizes = {f: sum(g == f for g in families) for f in names}
    held: set[str] = set()
    taken = 0
    for k in seeding.numpy_rng(seed).permutation(len(names)):
        if taken < fraction * len(families) and taken + sizes[names[k]] <= 2 * fraction * len(families):
            held.add(names[k])
            taken += sizes[names[k]]
    return held or {min(names, key=lambda f: (sizes[f], f))}


def _foreign(glyphs: Sequence[np.ndarray], families: Sequence[str]) -> list[bool]:
    """Faces whose letters mostly resemble other letters of all other families: symbol and non-Latin faces."""
    if len(set(families)) < 3:
        return [False] * len(glyphs)
    x = np.stack(glyphs).reshape(len(glyphs), len(glyphs[0]), -1).astype(np.float32) / 255
    flat = x.reshape(-1, x.shape[-1])
    square = (flat**2).sum(1)
    owner = np.repeat(np.asarray(families), x.shape[1])
    letter = np.tile(np.arange(x.shape[1]), len(glyphs))
    out = []
    for i, family in enumerate(families):
        distance = square[None] - 2 * x[i] @ flat.T
        distance[:, owner == family] = np.inf
        out.append(bool((letter[distance.argmin(1)] == np.arange(x.shape[1])).mean() < 0.5))
    return out
