# SPDX-License-Identifier: Apache-2.0
"""A source's images, each cut, resized and labelled, written as a data set or as an HDF5 file of cGAN-KD."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tqdm import tqdm

from dnnlib.util import UserError, printable, sole_writer
from gantransfer.data import h5, resolution
from gantransfer.data.decode import Picture, Seen, picture_of, to_uint8
from gantransfer.data.destination import Destination, existing_parent, may_replace
from gantransfer.data.labels import histogram, some
from gantransfer.data.sources import Item, Source
from gantransfer.data.transforms import enlarges, png, transform_image
from gantransfer.networks.sizes import RULE

NAMES = "original_name"  # the attribute that --keep-names writes


@dataclass
class Conversion:
    """What to do with every image of a source."""

    transform: str | None = None
    width: int | None = None
    height: int | None = None
    resize_filter: str = "lanczos"
    channels: str = "keep"
    alpha: str | None = None
    classes: list[int] | None = None  # keep these, renumbered from 0 in this order
    max_images: int | None = None
    per_class: int | None = None  # keep the first so many of each class
    drop_unlabelled: bool = False
    drop_duplicates: bool = False  # images whose pixels an earlier one has
    keep_names: bool = False  # the source's names become an attribute
    overwrite: bool = False  # replace what is at the destination
    value_range: tuple[float, float] | None = None  # pixel values that become black and white
    seen: Seen = field(default_factory=Seen)
    contents: dict[bytes, Any] = field(default_factory=dict)  # --drop-duplicates: what was written, and its label

    def image(self, item: Item) -> np.ndarray | None:
        loaded = item.load()
        picture = loaded if isinstance(loaded, Picture) else picture_of(loaded, item.name)
        array = to_uint8(picture, item.name, self.channels, self.alpha, self.value_range)
        item.enlarged = enlarges(self.transform, *array.shape[:2], self.width or 0, self.height or 0)
        self.seen.add(picture, self.value_range)
        return transform_image(array, self.transform, self.width, self.height, self.resize_filter)


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


def _check_shape(image: np.ndarray, item: Item, first: tuple[tuple[int, ...], str] | None) -> None:
    h, w, c = image.shape
    if first is None:
        if not resolution.fits((h, w)):
            raise UserError(f"{item.name} gives a {w}x{h} image, but {RULE}, from {resolution.SMALLEST} pixels on; add "
                            f"--transform=center-crop or --transform=pad, and {resolution.remedy((h, w))}")
    elif image.shape != first[0]:
        h0, w0, c0 = first[0]
        remedy = (f"add --channels={max(c, c0)} or --channels=1" if (h, w) == (h0, w0) else
                  f"add --transform=center-crop --resolution={w0}x{h0}")
        raise UserError(f"{item.name} gives a {w}x{h}x{c} image, the first one ({first[1]}) is {w0}x{h0}x{c0}; "
                        f"{remedy}")


def convert(source: Source, dest: str, how: Conversion, meta: dict[str, Any],
            report: Callable[[str], None] = print) -> None:
    """Write all images of `source` to the zip or folder `dest`, with dataset.json; nothing stays behind on failure."""
    renumber = None if how.classes is None else {old: new for new, old in enumerate(how.classes)}
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
    contradicted: list[str] = []
    originals: list[str] = []
    items = (item for item, _ in zip(source.items(), range(count)))
    results = contextlib.closing(_ordered_map(work, items, min(os.cpu_count() or 1, 8)))
    destination = Destination(dest, how.overwrite)
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
            if how.drop_duplicates:
                content = hashlib.sha256(f"{image.shape}".encode() + image.tobytes()).digest()
                if content in how.contents:
                    dropped["that repeat another"] += 1
                    contradicted += [item.name] * (how.contents[content] != item.label)
                    continue
                how.contents[content] = item.label
            if isinstance(item.label, int | np.integer):
                found[item.label] += 1
            enlarged += item.enlarged
            _check_shape(image, item, first)
            data = png(np.moveaxis(image, 2, 0), 0)
            if first is None:
                first = image.shape, item.name
                expected = count * (len(data) + 300)
                free = shutil.disk_usage(existing_parent(dest)).free
                if expected > free and not (renumber or how.per_class or how.transform == "center-crop-wide"):
                    raise UserError(f"--dest={dest} needs about {expected / 2**30:.2f} GiB, {free / 2**30:.2f} GiB are "
                                    "free; free some space or choose another folder")
            name = f"{index // 1000:05d}/img{index:08d}.png"
            write(name, data)
            labels.append([name, item.label if renumber is None else renumber[item.label]])
            kept.append(index)
            originals.append(item.original or item.name)
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
                raise UserError(f"--classes: {source.name} has no image of class {some(absent)}; "
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
        if how.keep_names:  # those of an earlier conversion are the first ones
            content.setdefault("attributes", {}).setdefault(NAMES, originals)
        content["meta"] = meta
        write("dataset.json", json.dumps(content).encode())

    (height, width, channels), _ = first
    report(f"{dest}: {len(labels)} images, {width}x{height}, {channels} channel{'s' if channels > 1 else ''}"
           + _say_left(dropped))
    if contradicted:
        report(f"warning: {len(contradicted)} of the images that repeat another have another label than it: "
               f"{some(contradicted)}; the label of the first is kept")
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
    if test is not None and test.class_names and source.class_names and test.class_names != source.class_names:
        raise UserError(f"--test-source={test.name} has other classes ({some(test.class_names)}) than {source.name} "
                        f"({some(source.class_names)}): equal numbers would mean different classes; give both the same "
                        "class folders, or class names")
    if test is not None and (fmt != "cgankd-v2" or source.generated):
        raise UserError("--test-source belongs to --format=cgankd-v2, which has a test part, and "
                        + (f"{source.name} holds generated images" if source.generated else f"{fmt} has none"))
    if test is not None and (test.label_meta is None) != (source.label_meta is None):
        kinds = ["classes" if s.label_meta is None else "values" for s in (test, source)]
        raise UserError(f"--test-source={test.name} has {kinds[0]} as labels, {source.name} {kinds[1]}; "
                        "give both the same kind")
    if test is not None and "test" in source.splits:
        raise UserError(f"--test-source={test.name}: {source.name} has a test part of its own, which would be trained "
                        "on; make a set of its training part first (--split=train), or omit --test-source")
    may_replace(dest, how.overwrite)
    tally: Counter = Counter()
    first: tuple | None = None  # of both parts

    def pairs(src: Source) -> Iterator[tuple[np.ndarray, Any]]:
        nonlocal first
        n = src.count if how.max_images is None else min(src.count, how.max_images)
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
                            test=None if test is None else pairs(test), splits=source.splits if whole else {},
                            class_names=source.class_names)
    except OSError as e:
        raise UserError(f"cannot write --dest={dest}: {e.strerror or e}") from None
    left = {k: n for k, n in tally.items() if k not in ("images", "enlarged")}
    report(f"{dest}: " + ", ".join(f"{k} {n}" for k, n in made.items())
           + _say_left(left))
    _say_enlarged(tally["enlarged"], tally["images"], f"{how.width}x{how.height}", report)
    for line in how.seen.lines(how.value_range):
        report(line)
