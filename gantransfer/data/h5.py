# SPDX-License-Identifier: Apache-2.0
"""The HDF5 files of cGAN-KD, read and written: images uint8 [N, C, H, W], labels [N] in their own units.

Layouts, known by their keys:

    fakes        fake_images, fake_labels
    pair         imgs, labels
    cifar        images_train, labels_train, subtrain_indx, subvalid_indx
    train-test   images_train, labels_train, images_test | images_valid, labels_test | labels_valid
    tiny         imgs, labels, imgs_val, labels_val, indx_subtrain, indx_subvalid
    utkface      images, labels, indx_train, indx_subtrain, indx_subvalid, indx_test      ages in years
    rc49         images_odd, labels_odd, types_odd, images_even, ..., indx_odd_*          angles in degrees
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dnnlib import seeding
from dnnlib.util import UserError, atomic_path, first_line, regular_file
from gantransfer.data.labels import check_label_meta, some

SUFFIXES = (".h5", ".hdf5")
FORMATS = ("cgankd-v1", "cgankd-v2")
KINDS = ("auto", "class", "value")
SPLITS = ("subtrain", "subvalid", "rest")  # beside train, reference and all
BLOCK = 256  # images at a time, fewer of large ones
BLOCK_BYTES = 2**26

# layout: (keys that tell it, {split: (images, labels, index list or None)}, label_meta of a continuous label)
_Part = tuple[str, str, str | None]
LAYOUTS: dict[str, tuple[tuple[str, ...], dict[str, list[_Part]], dict | None]] = {
    "rc49": (("images_odd", "labels_odd", "indx_odd_train"), {
        "train": [("images_odd", "labels_odd", "indx_odd_train")],
        "subtrain": [("images_odd", "labels_odd", "indx_odd_subtrain")],
        "subvalid": [("images_odd", "labels_odd", "indx_odd_subvalid")],
        "rest": [("images_odd", "labels_odd", "indx_odd_rest")],
        "reference": [("images_even", "labels_even", None)],
        "all": [("images_odd", "labels_odd", None), ("images_even", "labels_even", None)],
    }, dict(kind="regression", unit="degree", offset=0.0, scale=90.0, min=0.0, max=90.0)),
    "utkface": (("images", "labels", "indx_train"), {
        "train": [("images", "labels", "indx_train")], "subtrain": [("images", "labels", "indx_subtrain")],
        "subvalid": [("images", "labels", "indx_subvalid")], "reference": [("images", "labels", "indx_test")],
        "all": [("images", "labels", None)],
    }, dict(kind="regression", unit="year", offset=0.0, scale=60.0, min=1.0, max=60.0)),
    "tiny": (("imgs", "labels", "imgs_val"), {
        "train": [("imgs", "labels", None)], "subtrain": [("imgs", "labels", "indx_subtrain")],
        "subvalid": [("imgs", "labels", "indx_subvalid")], "reference": [("imgs_val", "labels_val", None)],
        "all": [("imgs", "labels", None), ("imgs_val", "labels_val", None)],
    }, None),
    "train-test": (("images_train", "labels_train", "images_test"), {
        "train": [("images_train", "labels_train", None)], "reference": [("images_test", "labels_test", None)],
        "all": [("images_train", "labels_train", None), ("images_test", "labels_test", None)],
    }, None),
    "train-valid": (("images_train", "labels_train", "images_valid"), {
        "train": [("images_train", "labels_train", None)], "reference": [("images_valid", "labels_valid", None)],
        "all": [("images_train", "labels_train", None), ("images_valid", "labels_valid", None)],
    }, None),
    "cifar": (("images_train", "labels_train"), {
        "train": [("images_train", "labels_train", None)], "all": [("images_train", "labels_train", None)],
        "subtrain": [("images_train", "labels_train", "subtrain_indx")],
        "subvalid": [("images_train", "labels_train", "subvalid_indx")],
    }, None),
    "fakes": (("fake_images", "fake_labels"), {"train": [("fake_images", "fake_labels", None)],
                                               "all": [("fake_images", "fake_labels", None)]}, None),
    "pair": (("imgs", "labels"), {"train": [("imgs", "labels", None)], "all": [("imgs", "labels", None)]}, None),
}


def module(path: str, doing: str) -> Any:
    """h5py. UserError naming the remedy when it is not installed."""
    try:
        import h5py
    except ImportError:
        raise UserError(f"{doing} {path} needs the package h5py: pip install h5py") from None
    return h5py


@dataclass
class H5Set:
    """The chosen images of an HDF5 file: item i is row `rows[i]` of the images `keys[i]`."""

    path: str
    layout: str
    keys: list[str]
    rows: np.ndarray
    labels: list[Any]  # int, or a list of one float
    label_meta: dict | None
    attributes: dict[str, np.ndarray] = field(default_factory=dict)
    splits: dict[str, np.ndarray] = field(default_factory=dict)  # positions in this order
    class_names: tuple[str, ...] = ()  # ids may lie beyond the last

    def images(self) -> Iterator[np.ndarray]:
        """uint8 [C, H, W] in order, read in blocks."""
        with _open(self.path) as f:
            start = 0
            while start < len(self.rows):
                end = start
                data = _dataset(f, self.keys[start], self.path)
                most = min(BLOCK, max(BLOCK_BYTES // max(math.prod(data.shape[1:]), 1), 1))
                while end < len(self.rows) and end - start < most and self.keys[end] == self.keys[start]:
                    end += 1
                rows = self.rows[start:end]
                sorted_rows, back = np.unique(rows, return_inverse=True)  # h5py reads ascending rows only
                with _damage(self.path, self.keys[start]):
                    block = data[sorted_rows]
                yield from block[back.reshape(-1)]
                start = end

    def pictures(self) -> Iterator[tuple[str, Any]]:
        """(name for messages, function that gives the image) in order."""
        for i, image in enumerate(self.images()):
            hwc = np.ascontiguousarray(image[0] if len(image) == 1 else np.moveaxis(image, 0, 2))
            yield f"row {self.rows[i]} of {self.keys[i]} in {self.path}", partial(Image.fromarray, hwc)


@contextlib.contextmanager
def _damage(path: str, what: str = "") -> Iterator[None]:
    """What h5py raises for a damaged file, as a UserError: the one place that knows its kinds."""
    try:
        yield
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError, OverflowError, MemoryError,
            SystemError) as e:
        where = f"{what} of {path} cannot be read" if what else f"{path} is not a readable HDF5 file"
        raise UserError(f"{where} ({first_line(e)}); copy the file again") from None


@contextlib.contextmanager
def _open(path: str) -> Iterator[Any]:
    h5py = module(path, "reading")
    regular_file(path)
    with _damage(path):
        f = h5py.File(path, "r")
    try:
        yield f
    finally:
        with contextlib.suppress(RuntimeError, ValueError):
            f.close()


_PATIENCE = 30  # seconds for a first look at a file


def survives(path: str, look: str = "gantransfer.data.h5_look", library: str = "HDF5") -> None:
    """UserError for a file over which the library's own code crashes or never ends.

    Damaged files can do both, and no Python code can stop that: another process, `python -m LOOK`, looks first.
    """
    package = Path(__file__).resolve().parents[2]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(package), os.environ.get("PYTHONPATH")]))}
    try:
        done = subprocess.run([sys.executable, "-m", look, os.path.abspath(path)], env=env,
                              stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                              timeout=_PATIENCE + os.path.getsize(path) / 1e8)
        reason = "crashes over it" if done.returncode < 0 else ""
    except subprocess.TimeoutExpired:
        reason = "comes to no end with it"
    if reason:
        raise UserError(f"{path} is not readable as {library} (the {library} library {reason}); copy it again")


# Filters that HDF5 and h5py bring: deflate, shuffle, checksum, szip, nbit, scale-offset, lzf. Others are programs that
# HDF5 looks for on the machine.
_COMPRESSING = {1, 4, 5, 6, 32000}
_FILTERS = _COMPRESSING | {2, 3}
_RATIO = 1100  # deflate makes at most 1032 bytes out of one
_CHUNK = 2**29


def _resolve(f: Any, name: str, path: str, links: int = 0) -> Any:
    """The object `name` of the file, through soft links that stay in it; None if there is none. UserError for links
    out of the file."""
    at = f
    parts = [p for p in name.split("/") if p]
    for k, part in enumerate(parts):
        link = at.get(part, getlink=True) if hasattr(at, "keys") else None
        if link is None:
            return None
        kind = type(link).__name__
        if kind == "SoftLink":
            target = link.path if link.path.startswith("/") else f"{at.name}/{link.path}"
            if links >= 8:
                raise UserError(f"{name} of {path} is a link that leads to itself; copy the images into the file")
            return _resolve(f, "/".join([target, *parts[k + 1:]]), path, links + 1)
        if kind != "HardLink":
            raise UserError(f"{name} of {path} is a link into another file, which is not followed; copy the images "
                            "into the file (h5copy)")
        at = at[part]
    return at


def _dataset(f: Any, name: str, path: str) -> Any:
    """The data set `name` of the file, whose data are in this file and no larger than it can hold; None if there is
    none. UserError for any other: HDF5 would read other files in its place, or zeros without end."""
    with _damage(path, name):
        try:
            d = _resolve(f, name, path)
        except RecursionError:
            return None
        if d is None or not hasattr(d, "shape") or d.shape is None:
            return None
        if d.is_virtual or d.external:
            kind = "virtual" if d.is_virtual else "external"
            raise UserError(f"{name} of {path} keeps its data in other files ({kind} storage), which are not read; "
                            "copy the data into the file (h5repack)")
        stored, size = d.id.get_storage_size(), os.path.getsize(path)
        plist = d.id.get_create_plist()
        filters = [plist.get_filter(k)[0] for k in range(plist.get_nfilters())]
        unknown = [k for k in filters if k not in _FILTERS]
        if unknown:
            raise UserError(f"{name} of {path} uses the HDF5 filter {unknown[0]}, which needs a plugin; copy it with "
                            "gzip or without compression (h5repack -f GZIP=6)")
        compressing = sum(k in _COMPRESSING for k in filters)
        logical = math.prod(d.shape) * d.dtype.itemsize
        rows = d.shape[0] if d.ndim else 1
        if (compressing > 1 or stored > size or logical > stored * (_RATIO if compressing else 1)
                or rows > max(size // 8, 100_000) or math.prod(d.chunks or ()) * d.dtype.itemsize > _CHUNK
                or logical // max(rows, 1) > _CHUNK):
            raise UserError(f"{name} of {path} says that it holds {list(d.shape)} values of {d.dtype}, but the file "
                            f"has {size:,} bytes ({stored:,} of them for it); it is incomplete or damaged, copy it "
                            "again")
        return d


def read(path: str, split: str | None = None, kind: str = "auto", label_range: tuple[float, float] | None = None,
         unit: str | None = None, with_labels: bool = True, trusted: bool = False) -> H5Set:
    """Choose and check the images of a split (None: train). UserError for keys, types and shapes that do not fit.

    kind 'auto' makes classes of whole numbers and values of others, except in layouts whose label is known to be
    continuous. `label_range`: raw labels that become 0 and 1. `trusted`: without another process's look at the file.
    """
    module(path, "reading")
    if not trusted:
        survives(path)
    with _open(path) as f:
        known = {k for _, parts, _ in LAYOUTS.values() for p in parts.values() for part in p for k in part if k}
        known |= {k.replace("images", "types") for k in known if k.startswith("images_")}
        have = {k: d for k in sorted(known) if (d := _dataset(f, k, path)) is not None}
        layout = next((n for n, (keys, _, _) in LAYOUTS.items() if all(k in have for k in keys)), None)
        if layout is None:
            lacks = min(([k for k in keys if k not in have] for keys, _, _ in LAYOUTS.values()), key=len)
            with _damage(path):
                names = sorted(f)
            known = ", ".join(" + ".join(v[0]) for v in LAYOUTS.values())
            raise UserError(f"{path} has no cGAN-KD layout: {some(lacks)} missing beside "
                            f"{some(names) or 'nothing'}; known are {known}")
        _, parts, meta = LAYOUTS[layout]
        with _damage(path):
            written = f.attrs["label_meta"] if "label_meta" in f.attrs else None  # by us
        if written is not None:
            try:
                meta = check_label_meta(json.loads(written), path)
                meta = dict(meta, min=float(meta["min"]), max=float(meta["max"]))
            except (UserError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
                raise UserError(f"the attribute label_meta of {path} is damaged; write the file anew") from None
        names_of_classes = _class_names(f, path)
        split = split or "train"
        if split not in parts:
            raise UserError(f"--split={split}: {path} (layout {layout}) has {', '.join(parts)}")
        keys, rows, raw, names = [], [], [], []
        for images, labels, index in parts[split]:
            for key in filter(None, (images, labels, index)):
                if key not in have:
                    raise UserError(f"{path} (layout {layout}) lacks the key {key}; it has {some(sorted(have))}")
            n = _check_images(have[images], images, path)
            values = _check_labels(have[labels], labels, n, path)
            chosen = np.arange(n) if index is None else _check_index(have[index], index, n, path)
            keys += [images] * len(chosen)
            rows.append(chosen)
            raw.append(values[chosen])
            names += [labels]
        if not sum(map(len, rows)):
            raise UserError(f"--split={split} of {path} is empty")
        rows, raw = np.concatenate(rows), np.concatenate(raw)
        continuous = kind == "value" or kind == "auto" and (meta is not None or bool((raw != np.floor(raw)).any()))
        if not continuous and (raw != np.floor(raw)).any() or not continuous and raw.min() < 0:
            raise UserError(f"{names[0]} of {path} has labels such as {raw[(raw != np.floor(raw)) | (raw < 0)][0]:g}, "
                            "which are no class indices; give --label-kind=value")
        if not continuous and (label_range or unit):
            raise UserError(f"--label-range and --label-unit are for continuous labels; add --label-kind=value if "
                            f"those of {path} are")
        if continuous:
            meta = label_meta(raw, meta, label_range, unit, f"{names[0]} of {path}")
        chosen_splits = _positions(parts, split, have, keys, rows, path) if split in ("train", "all") else {}
        attributes = _attributes(have, keys, rows, path) if layout == "rc49" else {}
    labels = [] if not with_labels else [[float(v)] for v in raw] if continuous else [int(v) for v in raw]
    return H5Set(path, layout, keys, rows, labels, meta if continuous else None, attributes, chosen_splits,
                 () if continuous else names_of_classes)


def _class_names(f: Any, path: str) -> tuple[str, ...]:
    """Our dataset "class_names"; files of cGAN-KD have none."""
    d = _dataset(f, "class_names", path)
    if d is None:
        return ()
    if d.dtype.kind != "S" or d.ndim != 1:
        raise UserError(f"class_names of {path} is {d.dtype} of shape {list(d.shape)}; names are a list of bytes")
    with _damage(path, "class_names"):
        raw = d[()].tolist()
    try:
        names = tuple(name.decode() for name in raw)
    except UnicodeDecodeError:
        names = ()
    if not all(names) or len(set(names)) < len(raw):
        raise UserError(f"class_names of {path} are damaged: they should differ, hold something, and be UTF-8")
    return names


def label_meta(raw: np.ndarray, known: dict | None, label_range: tuple[float, float] | None, unit: str | None,
               where: str) -> dict:
    """"label_meta" of raw labels: the layout's, or from --label-range. UserError for labels outside the range."""
    meta = dict(known or dict(kind="regression", unit="", min=float(raw.min()), max=float(raw.max())))
    if label_range is not None:
        low, high = label_range
        meta |= dict(offset=low, scale=high - low, min=low, max=high)
    if unit is not None:
        meta["unit"] = unit
    bad = raw[(raw < meta["min"] - 1e-9) | (raw > meta["max"] + 1e-9)]
    if len(bad):
        raise UserError(f"{len(bad)} labels in {where} are outside {meta['min']:g} to {meta['max']:g}, such as "
                        f"{bad[0]:g}; give the range with --label-range=LOW,HIGH")
    return meta


def _check_images(d: Any, key: str, path: str) -> int:
    if d.dtype != np.uint8:
        raise UserError(f"{key} of {path} is {d.dtype}; images are uint8")
    if d.ndim != 4 or d.shape[1] not in (1, 3):
        raise UserError(f"{key} of {path} has the shape {list(d.shape)}; images are [N, 1 or 3, H, W]")
    return d.shape[0]


def _check_labels(d: Any, key: str, n: int, path: str) -> np.ndarray:
    if d.dtype.kind not in "iuf":
        raise UserError(f"{key} of {path} is {d.dtype}; labels are numbers")
    if d.shape not in ((n,), (n, 1)):
        raise UserError(f"{key} of {path} has the shape {list(d.shape)} for {n} images; it should be [{n}]")
    with _damage(path, key):
        stored = d[()].reshape(-1)
    values = np.asarray(stored, np.float64)
    if d.dtype == np.float32:  # 0.1 stays 0.1
        values = np.array([float(str(v)) for v in stored])
    if not np.isfinite(values).all():
        raise UserError(f"{key} of {path} has {int((~np.isfinite(values)).sum())} labels that are not finite")
    return values


def _check_index(d: Any, key: str, n: int, path: str) -> np.ndarray:
    if d.dtype.kind not in "iuf" or d.ndim != 1:
        raise UserError(f"{key} of {path} is {d.dtype} {list(d.shape)}; it should be a list of whole numbers")
    with _damage(path, key):
        index = np.asarray(d[()], np.float64)
    if len(index) and ((index != np.floor(index)).any() or index.min() < 0 or index.max() >= n):
        raise UserError(f"{key} of {path} has entries that are no row of {n} images")
    return index.astype(np.int64)


def _positions(parts: dict[str, list[_Part]], split: str, have: dict[str, Any], keys: list[str], rows: np.ndarray,
               path: str) -> dict[str, np.ndarray]:
    """Index lists of the file's other splits, as positions among the chosen items."""
    place = {(k, int(r)): i for i, (k, r) in enumerate(zip(keys, rows))}
    out = {}
    for name, sources in parts.items():
        if name in (split, "all") or not all(all(k in have for k in filter(None, p)) for p in sources):
            continue
        members = []
        for images, _, index in sources:
            n = have[images].shape[0]
            chosen = np.arange(n) if index is None else _check_index(have[index], index, n, path)
            members += [place[images, int(r)] for r in chosen if (images, int(r)) in place]
        if members:
            out["test" if name == "reference" else name] = np.asarray(members)
    return out


def _attributes(have: dict[str, Any], keys: list[str], rows: np.ndarray, path: str) -> dict[str, np.ndarray]:
    """RC-49: which chair it is."""
    types = {}
    for key in set(keys):
        name = key.replace("images", "types")
        if name not in have:
            return {}
        types[key] = _check_labels(have[name], name, have[key].shape[0], path)
    return {"type": np.asarray([types[k][r] for k, r in zip(keys, rows)], np.int64)}


# ---- writing -----------------------------------------------------------------------------------------------------


@dataclass
class Written:
    """What was streamed into a pair of datasets."""

    count: int
    labels: np.ndarray


def _stream(f: Any, images: str, labels: str, items: Iterable[tuple[np.ndarray, Any]], whole: bool | None,
            **storage: Any) -> Written:
    """Append (uint8 [H, W, C], label) pairs. Labels become int64 for classes and, if `whole`, for whole numbers."""
    data, raw, block = None, [], []

    def flush() -> None:
        nonlocal data
        if not block:
            return
        part = np.stack(block)
        if data is None:
            rows = min(64, max(2**24 // part[0].size, 1))
            data = f.create_dataset(images, shape=(0, *part.shape[1:]), maxshape=(None, *part.shape[1:]),
                                    chunks=(rows, *part.shape[1:]), dtype=np.uint8, **storage)
        data.resize(data.shape[0] + len(part), axis=0)
        data[-len(part):] = part
        block.clear()

    for image, label in items:
        block.append(np.moveaxis(image, 2, 0))
        raw.append(label)
        if len(block) == BLOCK:
            flush()
    flush()
    if not raw:
        raise UserError(f"nothing to write into {images}")
    values = [v[0] if isinstance(v, (list, tuple)) else v for v in raw]
    if any(isinstance(v, (list, tuple)) and len(v) > 1 for v in raw) or any(v is None for v in values):
        raise UserError("an HDF5 file of cGAN-KD has one number per image as label; this set has "
                        + ("images without one" if any(v is None for v in values) else "vectors"))
    array = np.asarray(values, np.float64)
    if not isinstance(raw[0], (list, tuple)) or whole and (array == np.floor(array)).all():
        array = array.astype(np.int64)
    f.create_dataset(labels, data=array)
    return Written(len(array), array)


def split_indices(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(first, second) sorted indices: `share` of every distinct label (rounded) in the first part."""
    rng = seeding.numpy_rng(seed)
    first = []
    for v in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == v))
        first.append(members[: max(int(round(share * len(members))), 1)])
    first = np.sort(np.concatenate(first))
    return first, np.setdiff1d(np.arange(len(labels)), first)


def write(path: str | os.PathLike, fmt: str, items: Iterable[tuple[np.ndarray, Any]], *, fakes: bool = False,
          label_meta: dict | None = None, test: Iterable[tuple[np.ndarray, Any]] | None = None,
          splits: dict[str, list[int]] | None = None, seed: int = 0, class_names: Sequence[str] = ()) -> dict[str, int]:
    """Write a set of cGAN-KD; the file appears when complete. Returns the rows per dataset of images.

    cgankd-v1: classes as `cifar` (80 % subtrain), values as `utkface` (80 % train, of those 80 % subtrain, seeded);
    `splits` of the set are used where it has them. cgankd-v2: `train-test`, the second part from `test` or from
    splits["test"]. `label_meta`: the labels are values. Generated images (`fakes`): `fake_images` and
    `fake_labels`; v2 compresses them. `class_names`: a dataset of that name, UTF-8, which
    cGAN-KD's own readers do not look for.
    """
    h5py = module(os.fspath(path), "writing")
    splits = {k: np.asarray(v, np.int64) for k, v in (splits or {}).items()}
    with atomic_path(Path(path)) as tmp, h5py.File(tmp, "w", locking=False) as f:  # atomic_path holds its lock
        if label_meta is not None:
            f.attrs["label_meta"] = json.dumps(label_meta)
        elif class_names:
            f["class_names"] = np.array([name.encode() for name in class_names])
        if fakes:
            storage = dict(compression="gzip", compression_opts=6) if fmt == "cgankd-v2" else {}
            done = _stream(f, "fake_images", "fake_labels", items, whole=fmt == "cgankd-v2", **storage)
            return {"fake_images": done.count}
        if fmt == "cgankd-v2":
            if test is None and "test" not in splits:
                raise UserError("--format=cgankd-v2 has a test part: give --test-source, or a set with \"splits\"")
            if test is None:
                held = set(splits["test"].tolist())
                pairs = list(items)
                items = [p for i, p in enumerate(pairs) if i not in held]
                test = [pairs[i] for i in sorted(held) if i < len(pairs)]
            a = _stream(f, "images_train", "labels_train", items, whole=True)
            b = _stream(f, "images_test", "labels_test", test, whole=True)
            return {"images_train": a.count, "images_test": b.count}
        images, labels = ("images", "labels") if label_meta else ("images_train", "labels_train")
        done = _stream(f, images, labels, items, whole=False)
        if label_meta:
            train, held = split_indices(done.labels, 0.8, seed)
            train, held = splits.get("train", train), splits.get("test", held)
            first, second = split_indices(done.labels[train], 0.8, seed + 1)
            for name, index in (("train", train), ("test", held), ("subtrain", splits.get("subtrain", train[first])),
                                ("subvalid", splits.get("subvalid", train[second]))):
                f.create_dataset(f"indx_{name}", data=np.asarray(index, np.int64))
        else:
            first, second = split_indices(done.labels, 0.8, seed)
            f.create_dataset("subtrain_indx", data=splits.get("subtrain", first))
            f.create_dataset("subvalid_indx", data=splits.get("subvalid", second))
        return {images: done.count}
