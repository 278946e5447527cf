# SPDX-License-Identifier: Apache-2.0
"""Make, check and export data sets: `python dataset_tool.py --source=... --dest=...`, see --help."""

from __future__ import annotations

from dnnlib import signals

if __name__ == "__main__":
    signals.end_in_one_line()

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import shutil
import sys
import tempfile
import zipfile
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image
from tqdm import tqdm

from dnnlib.util import UserError, atomic_path, printable, run_cli, sole_writer
from gantransfer.commands.flags import CLASS_HELP, INT, PATH, SEED, FloatRange, IntRange, parse_classes
from gantransfer.data import elpv, h5, holdout, resolution
from gantransfer.data.container import Container
from gantransfer.data.decode import MAX_PIXELS, Picture, Seen, TooLarge, decode, picture_of, read_picture, to_uint8
from gantransfer.data.decode import parse_range as parse_value_range
from gantransfer.data.folder_labels import are_shards, folder_labels
from gantransfer.data.labels import LabelSpec, check_class_names, label_array, num_classes, parse_label_file, some
from gantransfer.data.names import valid_text
from gantransfer.data.sources import SPLITS, Item, Source, SourceOptions, left_out, open_source, read_parts

FILTERS = {"lanczos": Image.Resampling.LANCZOS, "box": Image.Resampling.BOX}


def to_array(image: Image.Image | Picture, name: str, channels: str = "keep", alpha: str | None = None,
             value_range: tuple[float, float] | None = None) -> np.ndarray:
    """uint8 [H, W, 1 or 3] of a picture (see `decode.to_uint8`) or of a Pillow image of any mode."""
    picture = image if isinstance(image, Picture) else picture_of(image, name)
    return to_uint8(picture, name, channels, alpha, value_range)


def _resize(image: np.ndarray, width: int, height: int, resample: Image.Resampling) -> np.ndarray:
    if image.shape[:2] == (height, width):
        return image
    pil = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    return np.asarray(pil.resize((width, height), resample)).reshape(height, width, -1)


def transform_image(image: np.ndarray, transform: str | None, width: int | None, height: int | None,
                    resize_filter: str = "lanczos") -> np.ndarray | None:
    """uint8 [H, W, C] to [height, width, C]; None when the image must be left out.

    None              each side resized to `width` / `height`, kept where that is None
    center-crop       the centred square of the short side, resized
    center-crop-wide  the centred round(width h / w) rows, resized to width x height, on a black width x width square;
                      left out when narrower than `width` or when those rows are fewer than `height`
    pad               resized to fit inside width x height, on a black canvas of that size
    """
    resample = FILTERS[resize_filter]
    h, w, c = image.shape
    if transform is None:
        return _resize(image, width or w, height or h, resample)
    if width is None or height is None:
        raise UserError(f"--transform={transform} needs --resolution=WxH (or --width and --height)")
    if transform == "center-crop":
        side = min(h, w)
        y, x = (h - side) // 2, (w - side) // 2
        return _resize(image[y: y + side, x: x + side], width, height, resample)
    if transform == "center-crop-wide":
        if height > width:
            raise UserError(f"--transform=center-crop-wide needs a width above the height, not {width}x{height}")
        rows = round(width * h / w)  # as published: counted at the final scale, cropped at the original one
        if w < width or rows < height:
            return None
        y = (h - rows) // 2
        inner = _resize(image[y: y + rows], width, height, resample)
        canvas = np.zeros([width, width, c], np.uint8)
        y = (width - height) // 2
        canvas[y: y + height] = inner
        return canvas
    if transform == "pad":
        scale = min(width / w, height / h)
        iw, ih = max(round(w * scale), 1), max(round(h * scale), 1)
        canvas = np.zeros([height, width, c], np.uint8)
        y, x = (height - ih) // 2, (width - iw) // 2
        canvas[y: y + ih, x: x + iw] = _resize(image, iw, ih, resample)
        return canvas
    raise ValueError(f"unknown transform {transform}")


def enlarges(transform: str | None, h: int, w: int, width: int, height: int) -> bool:
    """Whether `transform_image` makes an image of h x w pixels larger (width, height 0: as it is)."""
    if transform == "center-crop":
        return min(h, w) < max(width, height)
    if transform == "pad":
        return w < width and h < height
    return transform is None and (w < width or h < height)


def png_bytes(image: np.ndarray) -> bytes:
    """An uncompressed PNG of uint8 [H, W, 1 or 3]."""
    buffer = io.BytesIO()
    Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(buffer, format="png", compress_level=0)
    return buffer.getvalue()


@dataclass
class Conversion:
    """What to do with every image of a source."""

    transform: str | None = None
    width: int | None = None
    height: int | None = None
    resize_filter: str = "lanczos"
    channels: str = "keep"
    alpha: str | None = None
    classes: str | None = None  # keep these (flags.parse_classes), renumbered in this order
    max_images: int | None = None
    per_class: int | None = None  # keep the first so many of each class
    drop_unlabelled: bool = False
    overwrite: bool = False  # replace what is at the destination
    value_range: tuple[float, float] | None = None  # pixel values that become black and white
    seen: Seen = field(default_factory=Seen)

    def image(self, item: Item) -> np.ndarray | None:
        loaded = item.load()
        picture = loaded if isinstance(loaded, Picture) else picture_of(loaded, item.name)
        array = to_uint8(picture, item.name, self.channels, self.alpha, self.value_range)
        item.enlarged = enlarges(self.transform, *array.shape[:2], self.width or 0, self.height or 0)
        self.seen.add(picture, self.value_range)
        return transform_image(array, self.transform, self.width, self.height, self.resize_filter)


class _Destination:
    """A zip or folder that appears under its name only when complete."""

    def __init__(self, path: str, overwrite: bool = False):
        self.path, self.is_zip, self.overwrite = path, path.lower().endswith(".zip"), overwrite
        suffix = os.path.splitext(path)[1].lower()
        if suffix in (".tar", ".gz", ".tgz", ".rar", ".7z", ".json", ".lmdb", *h5.SUFFIXES):
            raise UserError(f"--dest={path}: cannot write {suffix} files"
                            + (" here" if suffix in h5.SUFFIXES else "") + "; give a name ending in .zip, or a folder")
        if self.is_zip and os.path.isdir(path):
            raise UserError(f"--dest={path} is a folder; remove it or choose another name")
        if not self.is_zip and os.path.exists(path) and not os.path.isdir(path):
            raise UserError(f"--dest={path} is a file; give a new folder or a name ending in .zip")
        if not self.is_zip and os.path.isdir(path) and os.listdir(path):
            if not overwrite:
                raise UserError(f"--dest={path} is not empty; empty it, choose another folder, or give --overwrite to "
                                "replace a data set")
            if not os.path.isfile(os.path.join(path, "dataset.json")):
                raise UserError(f"--dest={path} has files, but no dataset.json: it is no data set, and --overwrite "
                                "replaces nothing else; choose another folder")
        self.replaces = self.is_zip and not overwrite and _made_here(path)  # said when it is written
        if self.is_zip and not self.replaces:
            _may_replace(path, overwrite)
        self.stack = contextlib.ExitStack()

    @property
    def parent(self) -> Path:
        return Path(os.path.abspath(self.path)).parent

    def __enter__(self) -> Callable[[str, bytes], None]:
        missing = [p for p in (self.parent, *self.parent.parents) if not p.exists()]
        self.stack.push(lambda kind, *_: None if kind is None else _remove_empty(missing))
        try:
            self.parent.mkdir(parents=True, exist_ok=True)
            self.stack.enter_context(sole_writer(self.path, "--dest="))
            if self.is_zip:
                temporary = self.stack.enter_context(atomic_path(self.path))
                archive = self.stack.enter_context(zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED))
                # A fixed date makes equal input give equal files.
                return lambda name, data: archive.writestr(zipfile.ZipInfo(name), data)
            folder = Path(tempfile.mkdtemp(prefix=f".{Path(self.path).name}.", suffix=".tmp", dir=self.parent))
        except UserError:
            self.stack.close()
            _remove_empty(missing)
            raise
        except OSError as e:
            self.stack.close()
            _remove_empty(missing)
            raise UserError(f"cannot write --dest={self.path}: {e.strerror or e}") from None
        self.stack.push(lambda kind, *_: self._finish(folder, kind is None))
        made: set[Path] = set()

        def write(name: str, data: bytes) -> None:
            target = folder / name
            if target.parent not in made:
                target.parent.mkdir(parents=True, exist_ok=True)
                made.add(target.parent)
            try:
                target.write_bytes(data)
            except OSError as e:
                raise OSError(e.errno, e.strerror, self.path) from None  # the user knows the destination's name

        return write

    def _finish(self, folder: Path, complete: bool) -> None:
        try:
            if complete:
                umask = os.umask(0)
                os.umask(umask)
                os.chmod(folder, 0o777 & ~umask)
                old = None
                if self.overwrite and os.path.isdir(self.path):
                    old = tempfile.mkdtemp(prefix=f".{Path(self.path).name}.", suffix=".tmp", dir=self.parent)
                    os.rename(self.path, old)  # over an empty folder
                try:
                    with contextlib.suppress(FileNotFoundError):
                        os.rmdir(self.path)
                    os.rename(folder, self.path)
                except OSError as e:
                    if e.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                        raise
                    raise UserError(f"--dest={self.path} was made by somebody else meanwhile; choose another "
                                    "name") from None
                if old is not None:
                    shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def __exit__(self, *exc: Any) -> None:
        self.stack.__exit__(*exc)


def _may_replace(path: str, overwrite: bool) -> None:
    if os.path.exists(path) and not overwrite:
        raise UserError(f"--dest={path} exists; choose another name, or give --overwrite to replace it")


def _made_here(path: str) -> bool:
    """Whether a zip is a data set that this tool made: it can be made again, so that a word is enough to replace it."""
    try:
        content = Container(path).read_json("dataset.json") if os.path.exists(path) else None
    except UserError:
        return False
    meta = content.get("meta") if isinstance(content, dict) else None
    return isinstance(meta, dict) and meta.get("tool") == "dataset_tool"


def _remove_empty(folders: Iterable[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _ordered_map(function: Callable[[Item], Any], items: Iterable[Item], workers: int) -> Iterator[tuple[Item, Any]]:
    """(item, function(item)) in order, computed in threads a bounded way ahead; an exception is raised at its item."""
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque = deque()
        try:
            for item in items:
                waiting.append((item, pool.submit(function, item)))
                if len(waiting) > 8 * workers:
                    done, future = waiting.popleft()
                    yield done, future.result()
            while waiting:
                done, future = waiting.popleft()
                yield done, future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _chosen_classes(source: Source, classes: str | None) -> dict[int, int] | None:
    """Label in the source -> new label, in the order of --classes; None: all classes as they are."""
    if classes is None:
        return None
    if source.labelled == "none":
        raise UserError(f"--classes needs class labels, and {source.name} has none")
    # Without names nobody has counted the classes yet: what turns out to have no image is said after reading.
    label = LabelSpec("class", len(source.class_names) or 10**6, names=tuple(source.class_names))
    chosen = parse_classes(classes, label, "--classes", owner=source.name, twice=False)
    return {old: new for new, old in enumerate(chosen)}


def _check_shape(image: np.ndarray, item: Item, first: tuple[tuple[int, ...], str] | None) -> None:
    h, w, c = image.shape
    if first is None:
        if h != w:
            raise UserError(f"{item.name} gives a {w}x{h} image, but images must be square; add "
                            "--transform=center-crop or --transform=pad, with --resolution=WxH")
        if not resolution.fits(h):
            below = max(1 << (h.bit_length() - 1), resolution.SMALLEST)
            raise UserError(f"{item.name} gives a {w}x{h} image, but the size must be a power of two from 4 on; add "
                            f"--resolution={below}x{below} or --resolution={2 * below}x{2 * below}")
    elif image.shape != first[0]:
        h0, w0, c0 = first[0]
        remedy = (f"add --channels={max(c, c0)} or --channels=1" if (h, w) == (h0, w0) else
                  f"add --transform=center-crop --resolution={w0}x{h0}")
        raise UserError(f"{item.name} gives a {w}x{h}x{c} image, the first one ({first[1]}) is {w0}x{h0}x{c0}; "
                        f"{remedy}")


def convert(source: Source, dest: str, how: Conversion, meta: dict[str, Any],
            report: Callable[[str], None] = print) -> None:
    """Write all images of `source` to the zip or folder `dest`, with dataset.json; nothing stays behind on failure."""
    renumber = _chosen_classes(source, how.classes)
    if how.per_class is not None and source.labelled == "none":
        raise UserError(f"--per-class needs class labels, and {source.name} has none")
    count = source.count if how.max_images is None else min(source.count, how.max_images)
    chosen_by = "--classes" if renumber is not None else "--per-class" if how.per_class is not None else None

    found: Counter = Counter()  # images kept, by label

    def enough(item: Item) -> bool:
        if how.per_class is None:
            return False
        return found[item.label] >= how.per_class

    def work(item: Item) -> tuple[np.ndarray | None, str]:
        if item.label is None and how.drop_unlabelled:
            return None, "without a label"
        if chosen_by is not None and not isinstance(item.label, int | np.integer):
            what = "none" if item.label is None else "a vector or continuous value, no class"
            raise UserError(f"{chosen_by} needs class labels, and {item.name} has {what}")
        if renumber is not None and item.label not in renumber:
            return None, "of other classes"
        if enough(item):
            return None, "beyond --per-class"  # saves decoding; what counts is decided in order below
        try:
            return how.image(item), "too small for --resolution"
        except UserError as e:
            if not source.tolerant:
                raise
            return None, f"undecodable: {e}"

    labels: list[list[Any]] = []
    kept: list[int] = []
    first: tuple[tuple[int, ...], str] | None = None
    dropped: Counter = Counter()
    shrunk: dict[int, str] = {}  # classes with images that are too small: one of these
    enlarged = 0
    items = (item for item, _ in zip(source.items(), range(count)))
    results = contextlib.closing(_ordered_map(work, items, min(os.cpu_count() or 1, 8)))
    destination = _Destination(dest, how.overwrite)
    if destination.replaces:
        report(f"{dest} exists, made by dataset_tool.py: it is replaced")
    with destination as write, results as stream:
        progress = tqdm(stream, total=count, unit="img", desc=os.path.basename(dest.rstrip("/")), disable=None)
        for index, (item, (image, reason)) in enumerate(progress):
            if image is None:
                if reason.startswith("undecodable: "):
                    report(f"skipped: {printable(reason.removeprefix('undecodable: '))}")
                    reason = "undecodable"
                dropped[reason] += 1
                if reason.startswith("too small"):
                    shrunk.setdefault(item.label, item.name) if isinstance(item.label, int) else None
                continue
            if how.per_class is not None and enough(item):
                dropped["beyond --per-class"] += 1
                continue
            if isinstance(item.label, int | np.integer):
                found[item.label] += 1
            enlarged += item.enlarged
            _check_shape(image, item, first)
            data = png_bytes(image)
            if first is None:
                first = image.shape, item.name
                expected = count * (len(data) + 300)
                free = shutil.disk_usage(dest_parent(dest)).free
                if expected > free and not (renumber or how.per_class or how.transform == "center-crop-wide"):
                    raise UserError(f"--dest={dest} needs about {expected / 2**30:.2f} GiB, {free / 2**30:.2f} GiB are "
                                    "free; free some space or choose another folder")
            name = f"{index // 1000:05d}/img{index:08d}.png"
            write(name, data)
            labels.append([name, item.label if renumber is None else renumber[item.label]])
            kept.append(index)
        if not labels:
            why = ("none has one of the classes asked for" if dropped["of other classes"] else
                   "none has a label" if dropped["without a label"] else
                   f"all are too small for {how.width}x{how.height}" if dropped["too small for --resolution"] else
                   "none could be decoded")
            raise UserError(f"nothing to write: of the images of {source.name} {why}")
        empty = [k for k in shrunk if not found[k]]
        if empty:
            names = [source.class_names[k] if k < len(source.class_names) else k for k in empty]
            raise UserError(f"class {some(names)} of {source.name} would come out empty: its images are too small for "
                            f"{how.width}x{how.height}, such as {shrunk[empty[0]]}; choose a smaller size or another "
                            "--transform")
        if renumber is not None:
            absent = sorted(old for old, new in renumber.items() if new not in {label for _, label in labels})
            if absent:
                raise UserError(f"--classes={how.classes}: {source.name} has no image of class {some(absent)}; "
                                "leave it out")
        unlabelled = [name for name, label in labels if label is None]
        has_labels = not unlabelled
        if unlabelled and len(unlabelled) < len(labels):
            raise UserError(f"{len(unlabelled)} of {len(labels)} images of {source.name} have no label; add "
                            "--drop-unlabelled to leave them out, or --labels=none")
        names = source.class_names
        if renumber is not None:
            names = tuple(names[old] for old in renumber) if names else ()
            meta = {**meta, "classes": list(renumber)}
        content: dict[str, Any] = {"labels": labels if has_labels else None}
        if has_labels and renumber is None and source.num_classes > max(found, default=source.num_classes) + 1:
            # One-hot lists told of classes behind the last one that has an image: they do so again.
            content["labels"] = [[n, [int(k == v) for k in range(source.num_classes)]] for n, v in labels]
        if names and has_labels:
            content["class_names"] = list(names)
        if source.label_meta and has_labels:
            content["label_meta"] = source.label_meta
        content |= parts_of(source, kept)
        content["meta"] = meta
        write("dataset.json", json.dumps(content).encode())

    (height, width, channels), _ = first
    report(f"{dest}: {len(labels)} images, {width}x{height}, {channels} channel{'s' if channels > 1 else ''}"
           + _say_left(dropped))
    _say_enlarged(enlarged, len(labels), f"{width}x{height}", report)
    for line in how.seen.lines(how.value_range):
        report(line)
    if has_labels:
        report(f"labels from {source.labelled}" + (" (--labels=none to ignore them)"
                                                   if source.labelled == "sub-folders" else ""))
        report(histogram([label for _, label in labels], names, source.num_classes if renumber is None else 0))
    elif source.labelled == "none":
        report("no labels: the set serves unconditional training")


def _say_left(left: dict[str, int]) -> str:
    return f"; left out {sum(left.values())}: " + ", ".join(f"{n} {why}" for why, n in left.items()) if left else ""


def _say_enlarged(enlarged: int, total: int, size: str, report: Callable[[str], None]) -> None:
    if enlarged:
        report(f"warning: {enlarged} of {total} images were smaller than {size} and have been enlarged; they look "
               "soft, and so will what is trained on them")


def parts_of(source: Source, kept: list[int]) -> dict[str, Any]:
    """"splits" and "attributes" of the items `kept` (ascending positions in the source), by their new positions."""
    place = {k: i for i, k in enumerate(kept)}
    splits = {name: [place[i] for i in members if i in place] for name, members in source.splits.items()}
    out: dict[str, Any] = {"splits": {k: v for k, v in splits.items() if v},
                           "attributes": {k: [v[i] for i in kept] for k, v in source.attributes.items()}}
    return {k: v for k, v in out.items() if v}


def convert_h5(source: Source, dest: str, how: Conversion, fmt: str, test: Source | None, seed: int,
               report: Callable[[str], None] = print) -> None:
    """Write `source` (and `test`) as an HDF5 file of cGAN-KD; it appears when complete."""
    if os.path.isdir(dest):
        raise UserError(f"--dest={dest} is a folder; name a file")
    _may_replace(dest, how.overwrite)
    tally: Counter = Counter()

    def pairs(src: Source) -> Iterator[tuple[np.ndarray, Any]]:
        first, n = None, src.count if how.max_images is None else min(src.count, how.max_images)
        items = (item for item, _ in zip(src.items(), range(n)))
        stream = _ordered_map(how.image, items, min(os.cpu_count() or 1, 8))
        for item, image in tqdm(stream, total=n, unit="img", desc=os.path.basename(dest), disable=None):
            if image is None or how.drop_unlabelled and item.label is None:
                tally["without a label" if image is not None else "too small for --resolution"] += 1
                continue
            if item.label is None:
                raise UserError(f"{item.name} has no label; an HDF5 file of cGAN-KD needs one for every image")
            _check_shape(image, item, first)
            first = first or (image.shape, item.name)
            tally["images"] += 1
            tally["enlarged"] += item.enlarged
            yield image, item.label

    whole = how.max_images is None and not how.drop_unlabelled and how.transform != "center-crop-wide"
    try:
        with sole_writer(dest, "--dest="):
            made = h5.write(dest, fmt, pairs(source), fakes=source.generated, label_meta=source.label_meta, seed=seed,
                            test=None if test is None else pairs(test), splits=source.splits if whole else {})
    except OSError as e:
        raise UserError(f"cannot write --dest={dest}: {e.strerror or e}") from None
    left = {k: n for k, n in tally.items() if k not in ("images", "enlarged")}
    report(f"{dest}: " + ", ".join(f"{k} {n}" for k, n in made.items())
           + _say_left(left))
    _say_enlarged(tally["enlarged"], tally["images"], f"{how.width}x{how.height}", report)
    for line in how.seen.lines(how.value_range):
        report(line)


def _not_the_source(source: str, dest: str) -> None:
    if not (os.path.exists(dest) and os.path.exists(source)):
        return
    if os.path.samefile(source, dest):
        raise UserError("--dest is the same as --source; choose another name")
    if Path(os.path.realpath(dest)) in Path(os.path.realpath(source)).parents:
        raise UserError(f"--source={source} lies in --dest={dest}; choose another folder")
    if os.path.isdir(dest) and os.listdir(dest) and Path(os.path.realpath(source)) in Path(
            os.path.realpath(dest)).parents:
        raise UserError(f"--dest={dest} lies in --source={source}, and its images would be read too; choose another "
                        "folder")


def dest_parent(dest: str) -> Path:
    """The nearest existing folder above `dest`."""
    p = Path(os.path.abspath(dest)).parent
    while not p.exists():
        p = p.parent
    return p


def histogram(labels: list[Any], names: tuple[str, ...] = (), dim: int = 0) -> str:
    """Images per class as lines of text (a summary for vectors and above 40 classes). `dim`: classes that there are, if
    more than the labels show."""
    if isinstance(labels[0], (list, tuple)):
        if len(labels[0]) > 1:
            return f"labels: vectors of length {len(labels[0])}"
        values = np.asarray(labels, np.float64)
        return f"labels: {len(np.unique(values))} continuous values from {values.min():g} to {values.max():g}"
    counts = np.bincount(np.asarray(labels, np.int64), minlength=dim)
    present = counts[counts > 0]
    lines = [f"{len(present)} classes, {len(labels)} images: {present.min()} to {present.max()} per class"]
    if len(counts) > len(present):
        dead = np.flatnonzero(counts == 0)
        lines.append(f"  {len(dead)} class ids have no image: {some(dead)}")
    if len(counts) <= 40:
        width = max(len(str(len(counts) - 1)), 1)
        lines += [f"  {k:{width}d}  {n:7d}" + (f"  {printable(names[k])}" if k < len(names) else "")
                  for k, n in enumerate(counts)]
    return "\n".join(lines)


class _Check:
    """Findings about a data set: errors would stop or spoil training, warnings would not."""

    def __init__(self, path: str, fname: str, follow_links: bool = False):
        self.files = Container(path, follow_links)
        self.fname = fname
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self.shapes: dict[tuple[int, ...], list[str]] = {}

    def run(self, report: Callable[[str], None]) -> bool:
        """True when there are no errors."""
        path, names = self.files.path, self.files.image_names
        if self.files.others:
            report(left_out(self.files))
        if not names:
            raise UserError(f"no images in {path}")
        labels, class_names = self._labels(names)
        if labels is not None and self.fname != "dataset.json":
            names = [n for n in names if n in labels]
        seen: dict[bytes, list[str]] = {}
        broken: list[str] = []
        large: list[str] = []
        modes: Counter = Counter()
        met = Seen()
        for name in tqdm(names, unit="img", desc="checking", disable=None):
            try:
                data = self.files.read(name)
                picture = read_picture(data, name)
                array = decode(data, name) if picture.plain else None  # exactly what training will see
            except TooLarge:
                large.append(name)
                continue
            except UserError:
                broken.append(name)
                continue
            modes[picture.mode] += 1
            met.add(picture)
            if array is None:
                h, w, c = picture.pixels.shape
                self.shapes.setdefault((h, w, c + (picture.alpha is not None)), []).append(name)
                continue
            self.shapes.setdefault(array.shape, []).append(name)
            seen.setdefault(hashlib.sha256(str(array.shape).encode() + array.tobytes()).digest(), []).append(name)
        self._note(self.errors, broken, "cannot be read or decoded")
        self._note(self.errors, large, "have more pixels than is safe to read unasked; if you trust them, convert "
                                       "the set with dataset_tool.py --max-pixels=N --source=...")
        self._modes(modes, report)
        for line in met.lines():
            report(line)
        self._sizes(report)
        self._duplicates(seen, labels)
        report(f"{path}: {len(names)} images")
        if labels:
            have = [n for n in names if n in labels]
            with contextlib.suppress(UserError):
                kind, array = label_array(have, [labels[n] for n in have], self.fname)
                report(f"labels from {self.fname}")
                dim = 0 if kind == "value" else num_classes([labels[n] for n in have])
                report(histogram(array.tolist(), class_names, dim))
                dead = np.setdiff1d(np.arange(dim), array).tolist()
                self._note(self.warnings, dead, "class ids have no image", plural="")
        else:
            report("no labels")
            self._folders(names, report)
        for text in self.errors:
            report(f"ERROR: {text}")
        for text in self.warnings:
            report(f"warning: {text}")
        report("no problems" if not self.errors + self.warnings else
               f"{len(self.errors)} kinds of errors, {len(self.warnings)} of warnings")
        return not self.errors

    @staticmethod
    def _note(where: list[str], names: Iterable[Any], what: str, plural: str = "images ") -> None:
        names = list(names)
        if names:
            where.append(f"{len(names)} {plural}{what}: {some(names)}")

    def _labels(self, names: list[str]) -> tuple[dict[str, Any] | None, tuple[str, ...]]:
        try:
            inside = self.files.label_file() if self.fname == "dataset.json" else self.files.find(self.fname)
        except UserError as e:
            self.errors.append(str(e))
            return None, ()
        if inside is None:
            if self.fname != "dataset.json":
                raise UserError(f"--fname={self.fname}: no such file in {self.files.path}")
            return None, ()
        try:
            file = parse_label_file(self.files.read_json(inside), self.fname)
        except UserError as e:
            self.errors.append(str(e))
            return None, ()
        if file.labels is None:
            return None, ()
        have = set(names)
        extra = [n for n in file.labels if n not in have]
        # dataset.json may say more than there is; a label file given by name must fit.
        self._note(self.warnings if self.fname == "dataset.json" else self.errors, extra,
                   f"have labels in {self.fname} but are missing")
        if self.fname == "dataset.json":
            self._note(self.errors, [n for n in names if n not in file.labels], "have no label")
        try:
            if file.labels:
                kind, _ = label_array(list(file.labels), list(file.labels.values()), self.fname)
                if kind == "class":
                    check_class_names(file.class_names, num_classes(list(file.labels.values())), self.fname)
        except UserError as e:
            self.errors.append(str(e))
        return {n: v for n, v in file.labels.items() if n in have}, file.class_names

    def _folders(self, names: list[str], report: Callable[[str], None]) -> None:
        """What a conversion would make of the folders of a set without dataset.json."""
        if are_shards(names) or any(n.rpartition("/")[2] == "dataset.json" for n in self.files.names):
            return
        try:
            found = folder_labels(self.files, names)
        except UserError as e:
            self.errors.append(str(e))
            return
        if found.splits:
            report("splits by folder: " + ", ".join(f"{s} {len(v)}" for s, v in found.splits.items()))
        if len(found.class_names) > 1:
            report("labels that `python dataset_tool.py --source=...` would make from the sub-folders:")
            report(histogram(list(found.labels.values()), found.class_names))
            self._note(self.warnings, [n for n in names if n not in found.labels], "are in no class folder")

    def _modes(self, modes: Counter, report: Callable[[str], None]) -> None:
        report("modes: " + (", ".join(f"{mode} {n}" for mode, n in modes.most_common()) or "none readable"))
        for mode, n in modes.items():
            if mode not in ("L", "RGB"):
                self.errors.append(f"{n} images have mode {mode}, not 8-bit greyscale (L) or RGB; convert the set with "
                                   "dataset_tool.py --source=...")

    def _sizes(self, report: Callable[[str], None]) -> None:
        usual = sorted(self.shapes.items(), key=lambda kv: -len(kv[1]))
        report("sizes: " + ", ".join(f"{w}x{h}x{c} {len(v)}" for (h, w, c), v in usual[:8])
               + (f" and {len(usual) - 8} more sizes" if len(usual) > 8 else ""))
        if usual:
            h, w, _ = usual[0][0]
            if h != w or not resolution.fits(h):
                self.errors.append(f"the usual size {w}x{h} is not square with a power of two from 4 on; convert the "
                                   "set with --transform=center-crop --resolution=WxH")
            self._note(self.errors, (n for _, v in usual[1:] for n in v), f"differ in size or channels from {w}x{h}")

    def _duplicates(self, seen: dict[bytes, list[str]], labels: dict[str, Any] | None) -> None:
        groups = [v for v in seen.values() if len(v) > 1]
        self._note(self.warnings, (n for v in groups for n in v[1:]), "repeat another image of the set exactly")
        if labels:
            def keys(v: list[str]) -> set[str]:
                return {json.dumps(labels.get(n)) for n in v}
            self._note(self.errors, (" = ".join(v[:2]) for v in groups if len(keys(v)) > 1),
                       "are there again with another label")


def export_set(path: str, dest: str, fname: str = "dataset.json", report: Callable[[str], None] = print,
               overwrite: bool = False, follow_links: bool = False) -> None:
    """Copy the image files of a data set unchanged into a folder per class, with a dataset.json that fits."""
    files = Container(path, follow_links)
    names = files.image_names
    if not names:
        raise UserError(f"no images in {path}")
    labels: dict[str, Any] | None = None
    class_names: tuple[str, ...] = ()
    label_meta: dict[str, Any] = {}
    everything = names
    _, splits, attributes = read_parts(files, everything)
    place = {n: i for i, n in enumerate(everything)}
    inside = files.label_file() if fname == "dataset.json" else files.find(fname)
    if inside is not None:
        file = parse_label_file(files.read_json(inside), f"{fname} of {path}")
        labels, class_names, label_meta = file.labels, file.class_names, file.label_meta
    elif fname != "dataset.json":
        raise UserError(f"--fname={fname}: no such file in {path}")
    kind = "none"
    if labels is not None:
        missing = [n for n in names if n not in labels]
        if fname != "dataset.json":
            names = [n for n in names if n in labels]
        elif missing:
            raise UserError(f"{len(missing)} of {len(names)} images of {path} have no label: {some(missing)}")
        if not names:
            raise UserError(f"{fname} of {path} names none of its images")
        kind, values = label_array(names, [labels[n] for n in names], f"{fname} of {path}")
    folders: dict[int, str] = {}
    if kind == "class":
        width = len(str(int(values.max())))
        for k in sorted(set(values.tolist())):
            text = re.sub(r'[\\/:*?"<>|\x00-\x1f]', "_", class_names[k]).strip(". ") if k < len(class_names) else ""
            text = text.encode()[:200].decode(errors="ignore") or f"{k:0{width}d}"  # file systems allow 255 bytes
            folders[k] = text if text not in folders.values() else f"{text}_{k}"
    taken: set[str] = set()
    out: list[list[Any]] = []
    with _Destination(dest, overwrite) as write:
        for i, name in enumerate(tqdm(names, unit="img", desc=os.path.basename(dest.rstrip("/")), disable=None)):
            folder = f"{folders[int(values[i])]}/" if kind == "class" else ""
            target = folder + (name.split("/")[-1] if kind == "class" else name.lstrip("/"))
            if target in taken:
                target = folder + name.replace("/", "_")
            if target in taken or max(len(p.encode()) for p in target.split("/")) > 250:  # file systems allow 255
                target = f"{folder}img{i:08d}{os.path.splitext(name)[1]}"
            while target in taken:
                target = f"{folder}_{target[len(folder):]}"
            taken.add(target)
            write(target, files.read(name))
            out.append([target, labels[name] if labels is not None else None])
        content: dict[str, Any] = {"labels": out if kind != "none" else None}
        if class_names:
            content["class_names"] = list(class_names)
        if label_meta:
            content["label_meta"] = label_meta
        content |= parts_of(Source(path, len(everything), lambda: iter(()), splits=splits, attributes=attributes),
                            [place[n] for n in names])
        write("dataset.json", json.dumps(content).encode())
    report(f"{dest}: {len(out)} images" + (f" in {len(folders)} class folders" if folders else ""))


def parse_resolution(text: str | None, width: int | None, height: int | None) -> tuple[int | None, int | None]:
    """(width, height) from --resolution or from --width and --height."""
    if text is not None:
        match = re.fullmatch(r"([0-9]{1,9})(?:[xX]([0-9]{1,9}))?", text.strip())
        if not match:
            raise UserError(f"--resolution={text}: write WIDTHxHEIGHT, for example 64x64")
        if width is not None or height is not None:
            raise UserError("--resolution and --width/--height say the same thing; give one of them")
        width, height = int(match[1]), int(match[2] or match[1])
    for flag, value in (("--width", width), ("--height", height)):
        if value is not None and not 1 <= value <= 65536:
            raise UserError(f"{'--resolution' if text else flag}: {value} is not a possible size")
    return width, height


def parse_range(text: str | None) -> tuple[float, float] | None:
    """(low, high) from '0,60'."""
    if text is None:
        return None
    try:
        low, high = (float(v) for v in text.split(","))
    except ValueError:
        raise UserError(f"--label-range={text}: write the two labels that become 0 and 1, for example 0,60") from None
    if not (np.isfinite([low, high]).all() and low < high):
        raise UserError(f"--label-range={text}: the second must be above the first")
    return low, high


_HELP = """Make a data set: a zip (or folder) of PNG images with labels, as training reads it.

\b
--source is one of
  FOLDER                         images in it; class sub-folders become labels, a dataset.json at its root wins
  FILE.zip                       the same inside a zip
  cifar-10-python.tar.gz         (or cifar-100) the archive as downloaded
  train-images-idx3-ubyte.gz     MNIST, with its labels file beside it
  FOLDER_lmdb                    an LMDB database, LSUN or with labels (package lmdb)
  FILE.h5                        an HDF5 file of cGAN-KD (needs the package h5py)
  sklearn:digits                 real handwritten digits that come with scikit-learn
  sklearn:rotated-digits         some of them turned by 0 to 90 degrees, the label
  fonts:FOLDER                   letters rendered from the .ttf and .otf files below it
  icons:FOLDER                   the .png icons of an icon theme: one size, a class per category, on white
  elpv                           photographs of solar cells, sound to defective (pip install elpv-dataset)

\b
--dest is a name ending in .zip, a new or empty folder, or FILE.h5 (the layouts of cGAN-KD). It appears only when
complete.

\b
Examples
  python dataset_tool.py --source=Image/ --dest=datasets/af.zip --transform=center-crop --resolution=64x64
  python dataset_tool.py --source=cifar-10-python.tar.gz --dest=datasets/cifar10.zip
  python dataset_tool.py check datasets/af.zip
  python dataset_tool.py export --source=datasets/af.zip --dest=folders/af
"""


FOLLOW_LINKS = click.option("--follow-links", "--follow_links", is_flag=True,
                            help="follow links out of the folder (default: an error)")


@click.group(invoke_without_command=True, help=_HELP)
@click.option("--source", type=PATH, metavar="PATH", help="what to convert (required)")
@click.option("--dest", type=PATH, metavar="PATH", help="zip or folder to write (required)")
@click.option("--transform", type=click.Choice(["center-crop", "center-crop-wide", "pad"]),
              help="crop or pad to --resolution (default: only resize, if sizes are given)")
@click.option("--resolution", metavar="WxH", help="output size")
@click.option("--width", type=INT, help="output width (the older way)")
@click.option("--height", type=INT, help="output height (the older way)")
@click.option("--resize-filter", type=click.Choice(list(FILTERS)), default="lanczos", show_default=True)
@click.option("--max-images", "--max_images", type=IntRange(min=1), help="only the first N images")
@click.option("--per-class", "--per_class", type=IntRange(min=1), help="only the first N images of each class")
@click.option("--channels", type=click.Choice(["keep", "1", "3"]), default="keep", show_default=True,
              help="1 makes greyscale, 3 makes RGB")
@click.option("--alpha", type=click.Choice(["black", "white", "drop"]),
              help="lay transparent images on black or white, or drop the alpha channel (default: an error)")
@click.option("--range", "value_range", metavar="LOW,HIGH",
              help="pixel values that become black and white, for images of more than 8 bits: 0,4095 for 12-bit data "
                   "in 16-bit files; needed for floating-point images")
@click.option("--max-pixels", "--max_pixels", type=IntRange(min=1),
              help="refuse images with more pixels; raise it for slides and satellite images that you trust  [default: "
                   f"{MAX_PIXELS}, less for very small files]")
@click.option("--labels", type=click.Choice(["auto", "folders", "json", "none", "utkface", "steering", *elpv.LABELS]),
              default="auto", show_default=True, help="where labels come from; utkface: age in the file name; "
              "steering: data.txt; elpv: class (type of cell and defect), defect (four degrees) or value (the degree, "
              "continuous)")
@click.option("--label-kind", type=click.Choice(list(h5.KINDS)), default="auto", show_default=True,
              help="make whole numbers continuous values (value) or keep them classes (class)")
@click.option("--label-range", metavar="LOW,HIGH", help="continuous labels: which become 0 and 1")
@click.option("--label-unit", metavar="TEXT", help="continuous labels: their unit, for reports")
@click.option("--format", "fmt", type=click.Choice(list(h5.FORMATS)), default=h5.FORMATS[1], show_default=True,
              help="--dest=FILE.h5: layout of cGAN-KD's first or second code")
@click.option("--test-source", type=PATH, metavar="PATH", help="--dest=FILE.h5: what to write as the test part")
@click.option("--drop-unlabelled", is_flag=True, help="leave out images without a label")
@click.option("--overwrite", is_flag=True, help="replace what is at --dest (a zip, an HDF5 file, a data-set folder)")
@click.option("--classes", metavar="LIST", help=f"only these classes, renumbered from 0 in "
              f"the order given: {CLASS_HELP}")
@click.option("--split", type=click.Choice([*SPLITS, "pool", "test", *h5.SPLITS]),
              help="part of a source: train (or pool), reference (or test, held out), all; folders also val; HDF5 also "
                   "subtrain, subvalid, rest")
@click.option("--holdout", type=FloatRange(0, 1, min_open=True, max_open=True), metavar="SHARE",
              help="write this share of each class into a second set, not into --dest; 0.25 is a quarter")
@click.option("--dest-heldout", type=PATH, metavar="PATH",
              help="where --holdout writes it  [default: --dest with -heldout in its name]")
@click.option("--seed", type=SEED, default=0, show_default=True, help="seed of the split and of --holdout")
@click.option("--letters", metavar="LIST", help="fonts: which letters, for example A-J or A-Z,a-z  [default: A-Z]")
@click.option("--font-distance", type=FloatRange(min=0), default=0.12, show_default=True,
              help="fonts: leave out faces nearer (rms of 0..1 pixels) than this to one already taken")
@FOLLOW_LINKS
@click.pass_context
def main(ctx: click.Context, source: str | None, dest: str | None, **o: Any) -> None:
    if ctx.invoked_subcommand is not None:
        return
    if source is None or dest is None:
        raise UserError(f"{'--source' if source is None else '--dest'} is missing; see python dataset_tool.py --help")
    width, height = parse_resolution(o["resolution"], o["width"], o["height"])
    if o["transform"] and (width is None or height is None):
        raise UserError(f"--transform={o['transform']} needs --resolution=WxH (or --width and --height)")
    rendered = source.startswith(("sklearn:", "fonts:"))
    if rendered and (o["transform"] or (width is None) != (height is None)):
        raise UserError(f"--source={source} is rendered at --resolution=WxH; omit --transform")
    _not_the_source(source, dest)
    split = {"pool": "train", "test": "reference"}.get(o["split"], o["split"])
    to_h5 = dest.lower().endswith(h5.SUFFIXES)
    if to_h5:
        _may_replace(dest, o["overwrite"])
    else:
        given = click.get_current_context().get_parameter_source("fmt") == click.core.ParameterSource.COMMANDLINE
        if given or o["test_source"]:
            raise UserError(f"{'--format' if given else '--test-source'} belongs to --dest=FILE.h5")
        _Destination(dest, o["overwrite"])  # complain before a long scan of the source
    second = holdout.second_name(dest, o["holdout"], o["dest_heldout"])
    if second is not None:
        _not_the_source(source, second)
        _Destination(second, o["overwrite"])
    options = SourceOptions(
        labels=o["labels"], split=split, seed=o["seed"], size=(width, height) if width and height else None,
        letters=o["letters"], font_distance=o["font_distance"], drop_unlabelled=o["drop_unlabelled"],
        label_kind=o["label_kind"], label_range=parse_range(o["label_range"]), label_unit=o["label_unit"],
        max_pixels=o["max_pixels"], follow_links=o["follow_links"], report=click.echo)
    opened = open_source(source, options)
    how = Conversion(
        transform=o["transform"], width=None if rendered else width, height=None if rendered else height,
        resize_filter=o["resize_filter"], classes=o["classes"],
        channels=opened.defaults.get("channels", "keep") if o["channels"] == "keep" else o["channels"],
        alpha=o["alpha"] or opened.defaults.get("alpha"),
        max_images=o["max_images"], per_class=o["per_class"], drop_unlabelled=o["drop_unlabelled"],
        overwrite=o["overwrite"], value_range=parse_value_range(o["value_range"]))
    if to_h5:
        if how.classes is not None or how.per_class is not None:
            flag = "--per-class" if how.classes is None else "--classes"
            raise UserError(f"{flag} is for data sets; choose first, then write the HDF5 file")
        h5.module(dest, "writing")
        test = open_source(o["test_source"], options) if o["test_source"] else None
        convert_h5(opened, dest, how, o["fmt"], test, o["seed"], click.echo)
        return
    name = source if rendered else valid_text(os.path.basename(os.path.abspath(source)))
    meta = {"tool": "dataset_tool", "source": name, "transform": o["transform"], "resize_filter": o["resize_filter"]}
    if how.value_range is not None:
        meta["range"] = list(how.value_range)
    if split is not None:
        meta |= {"split": split, "seed": o["seed"]}
    if second is None:
        convert(opened, dest, how, meta, click.echo)
    else:
        holdout.convert_parts(opened, (dest, second), convert, how, meta, o["holdout"], o["seed"], click.echo,
                              _chosen_classes(opened, how.classes))


@main.command()
@click.argument("path", type=PATH)
@click.option("--fname", type=PATH, default="dataset.json", show_default=True, help="label file inside the set")
@click.option("--strict", is_flag=True, help="warnings count as errors")
@FOLLOW_LINKS
@click.pass_context
def check(ctx: click.Context, path: str, fname: str, strict: bool, follow_links: bool) -> None:
    """Look at every image and label of PATH; exit code 1 when training would fail or be spoilt."""
    found = _Check(path, fname, follow_links)
    if not found.run(click.echo) or strict and found.warnings:
        ctx.exit(1)


@main.command()
@click.option("--source", type=PATH, metavar="PATH", required=True, help="zip or folder made by this tool")
@click.option("--dest", type=PATH, metavar="DIR", required=True, help="new or empty folder (or a .zip)")
@click.option("--fname", type=PATH, default="dataset.json", show_default=True,
              help="label file that chooses the images")
@click.option("--overwrite", is_flag=True, help="replace the data set at --dest")
@FOLLOW_LINKS
def export(source: str, dest: str, fname: str, overwrite: bool, follow_links: bool) -> None:
    """Copy a data set into one folder per class, files unchanged."""
    _not_the_source(source, dest)
    export_set(source, dest, fname, click.echo, overwrite, follow_links)


if __name__ == "__main__":
    sys.exit(run_cli(main))
