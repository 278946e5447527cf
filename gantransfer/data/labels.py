# SPDX-License-Identifier: Apache-2.0
"""Labels of a data set: the label file, its checks, what is known about the classes, and how classes are weighted.

The published file is `{"labels": [["path/inside.png", label], ...]}` or `{"labels": null}`. A label is a class index or
a list of numbers of one length. Further keys, ignored by older readers: `"class_names"` (list of strings, by class
index), `"meta"` (the manifest of `lt_dataset.py`) and `"label_meta"` (unit and range of a continuous label). Imports no
torch, so that the data-set scripts start at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dnnlib.util import FLOAT32, UserError, printable
from gantransfer.data import confine
from gantransfer.data.names import clean_name, valid_text
from gantransfer.networks.sizes import ImageSize

POLICIES = ("empirical", "sqrt", "effective", "balanced")


def some(names: Iterable[Any], total: int | None = None) -> str:
    """'a, b, c and 4 more': names for a one-line message."""
    names = list(names)
    total = len(names) if total is None else total
    shown = [printable(n) for n in names[:3]]  # a name may hold anything
    return ", ".join(shown) + (f" and {total - 3} more" if total > 3 else "")


@dataclass
class LabelFile:
    """Content of a dataset.json or lt_*.json."""

    where: str
    labels: dict[str, Any] | None  # image name -> int or list, as written; None if the file says null
    class_names: tuple[str, ...] = ()
    meta: dict = field(default_factory=dict)
    label_meta: dict = field(default_factory=dict)


def parse_label_file(data: Any, where: str) -> LabelFile:
    """Check the structure of a parsed label file; `where` names it in messages."""
    form = '{"labels": [["folder/image.png", 0], ...]}'
    if not isinstance(data, dict) or "labels" not in data:
        raise UserError(f"{where} has no \"labels\"; expected {form}")
    raw = data["labels"]
    labels: dict[str, Any] | None = None
    if raw is not None:
        if not isinstance(raw, list):
            raise UserError(f"\"labels\" in {where} is not a list; expected {form}")
        labels, clashes = {}, []
        for row in raw:
            if not (isinstance(row, list) and len(row) == 2 and isinstance(row[0], str)):
                raise UserError(f"an entry of {where} is not a pair of name and label: {str(row)[:60]}; "
                                f"expected {form}")
            name = clean_name(row[0])
            if name in labels and labels[name] != row[1]:
                clashes.append(name)
            labels[name] = row[1]
        outside = [n for n in labels if confine.climbs(n)]
        if outside:
            raise UserError(f"{where} names {some(outside)}, outside the set; names are relative to the set's folder, "
                            "without '..'")
        if clashes:
            raise UserError(f"{len(clashes)} images have two different labels in {where}: {some(clashes)}")
    names = data.get("class_names") or ()
    if not (isinstance(names, (list, tuple)) and all(isinstance(n, str) for n in names)):
        raise UserError(f"\"class_names\" in {where} is not a list of strings")
    meta = data.get("meta") or {}
    if not isinstance(meta, dict):
        raise UserError(f"\"meta\" in {where} is not an object")
    return LabelFile(where, labels, tuple(map(valid_text, names)), meta,
                     check_label_meta(data.get("label_meta"), where))


def check_label_meta(given: Any, where: str) -> dict:
    """The "label_meta" of a continuous label with its numbers checked; {} if there is none or it is for classes."""
    if not given:
        return {}
    if not isinstance(given, dict):
        raise UserError(f"\"label_meta\" in {where} is not an object")
    if given.get("kind") != "regression":
        return {}
    numbers = {k: given[k] for k in ("offset", "scale", "min", "max") if given.get(k) is not None}
    for key, v in numbers.items():
        if not is_number(v) or key == "scale" and v <= 0:
            raise UserError(f"\"label_meta\" in {where}: \"{key}\" is {json.dumps(v)[:40]}; it must be a finite number"
                            + (" above 0" if key == "scale" else ""))
    return dict(kind="regression", unit=str(given.get("unit") or ""), **{k: float(v) for k, v in numbers.items()})


def value_meta(values: np.ndarray, given: dict, where: str) -> dict:
    """Complete "label_meta" for labels [n, 1]: what is not `given` follows from the labels' range.

    Raises UserError when a label lies outside the given "min" and "max".
    """
    low, high = float(values.min()), float(values.max())
    meta = dict(kind="regression", unit=given.get("unit", ""), min=given.get("min", low), max=given.get("max", high))
    tolerance = 1e-6 * max(abs(low), abs(high), 1)
    if low < meta["min"] - tolerance or high > meta["max"] + tolerance:
        bad = low if low < meta["min"] - tolerance else high
        raise UserError(f"a label of {where} is {bad:g}, outside {meta['min']:g} to {meta['max']:g} of its "
                        "\"label_meta\"; correct one of them")
    meta["offset"] = given.get("offset", meta["min"])
    meta["scale"] = given.get("scale", meta["max"] - meta["offset"]) or 1.0
    return meta


def num_classes(values: Sequence[Any]) -> int:
    """Classes that labels of kind 'class' tell of: the largest index and one more, or the length of one-hot lists."""
    return max(len(v) if isinstance(v, (list, tuple)) else int(v) + 1 for v in values)


def check_class_names(names: Sequence[str], dim: int, where: str) -> None:
    """Raises UserError when there are fewer names than classes."""
    if names and len(names) < dim:
        raise UserError(f"{where} names {len(names)} classes, but its labels go up to {dim - 1}; complete "
                        "\"class_names\", or remove it")


def is_number(v: Any) -> bool:
    """Whether a parsed label, or a part of one, is a number that the arrays of labels can hold."""
    if isinstance(v, bool) or not isinstance(v, (int, float)):
        return False
    return -2**63 <= v < 2**63 if isinstance(v, int) else abs(v) <= FLOAT32  # false for nan


def label_array(names: Sequence[str], values: Sequence[Any], where: str) -> tuple[str, np.ndarray]:
    """('class', int64 [n]) for class indices and one-hot lists, ('value', float32 [n, dim]) for other vectors.

    Lists are one-hot when all of them have one 1 and otherwise zeros, and more than one entry: a network sees the same
    numbers as for class indices.

    Looks at every label and reports what is wrong with how many of them. Raises UserError for a mixture of both, for
    negative or fractional class indices, vectors of unequal length, and entries that are not finite numbers.
    """
    def complain(bad: list[int], what: str, remedy: str) -> None:
        if bad:
            shown = some([f"{names[i]}: {json.dumps(values[i])[:40]}" for i in bad[:3]], len(bad))
            raise UserError(f"{len(bad)} of {len(values)} labels in {where} {what} ({shown}); {remedy}")

    if set(map(type, values)) == {int} and 0 <= min(values) and max(values) < 10**6:  # nothing to complain of
        return "class", np.asarray(values, np.int64)
    lists = [i for i, v in enumerate(values) if isinstance(v, (list, tuple))]
    complain([i for i, v in enumerate(values)
              if not (is_number(v) or isinstance(v, (list, tuple)) and len(v) > 0 and all(map(is_number, v)))],
             "are neither a number nor a list of numbers (finite, an integer of at most 64 bits)",
             "write a class index for every image, or a list of one length, or \"labels\": null")
    if 0 < len(lists) < len(values):
        minority = lists if 2 * len(lists) <= len(values) else sorted(set(range(len(values))) - set(lists))
        complain(minority, f"are {'lists' if minority is lists else 'numbers'} among others that are not",
                 "use one kind throughout")
    if lists:
        lengths = [len(v) for v in values]
        usual = max(set(lengths), key=lengths.count)
        complain([i for i, n in enumerate(lengths) if n != usual], f"are not of length {usual} as the others are",
                 "give every image a vector of the same length")
        vectors = np.asarray(values, np.float64).reshape(len(values), usual)
        if usual > 1 and ((vectors != 0).sum(1) == 1).all() and ((vectors == 1).sum(1) == 1).all():
            return "class", vectors.argmax(1).astype(np.int64)
        return "value", vectors.astype(np.float32)
    fractional = [i for i, v in enumerate(values) if v != int(v)]
    complain(fractional, "are fractional, but a scalar is a class index",
             f"write a continuous label as a vector, [{values[fractional[0]] if fractional else 2.7}], for every image")
    complain([i for i, v in enumerate(values) if v < 0], "are negative class indices", "number classes from 0")
    complain([i for i, v in enumerate(values) if v >= 10**6], "are class indices of a million or more",
             "number classes from 0, without gaps")
    return "class", np.asarray([int(v) for v in values], np.int64).reshape(len(values))


@dataclass(frozen=True)
class LabelSpec:
    """What a network needs to know about the labels of a data set. JSON-able by `to_dict` / `from_dict`."""

    kind: str = "none"  # 'none' | 'class' (one-hot) | 'value' (float vectors: multi-label, regression)
    dim: int = 0  # 0 | number of classes | length of the vectors
    counts: tuple[int, ...] = ()  # kind 'class': images per class among the selected items, mirrored copies not counted
    names: tuple[str, ...] = ()  # class names, if known
    shots: dict[str, tuple[int, ...]] = field(default_factory=dict)  # 'many' | 'medium' | 'few' -> class ids
    class_map: dict[int, int] = field(default_factory=dict)  # label in dataset.json -> class id used here; empty: same
    meta: dict[str, Any] = field(default_factory=dict)  # kind 'value', dim 1: unit, offset, scale, min, max; else empty

    def name(self, k: int) -> str:
        """What class k is called; its number where nobody says."""
        return str(self.names[k]) if k < len(self.names) else str(k)

    def counted(self, k: int) -> str:
        """The name of class k and, where it is known, of how many training images it had."""
        return f"{self.name(k)} ({self.counts[k]})" if k < len(self.counts) else self.name(k)

    def normalise(self, raw: Any) -> Any:
        """(raw - offset) / scale of labels in label units, arrays or tensors of any shape: about [0, 1]."""
        return (raw - self.meta.get("offset", 0.0)) / self.meta.get("scale", 1.0)

    def raw(self, normalised: Any) -> Any:
        """Undo `normalise`."""
        return normalised * self.meta.get("scale", 1.0) + self.meta.get("offset", 0.0)

    def to_dict(self) -> dict:
        d = dict(kind=self.kind, dim=self.dim, counts=list(self.counts), names=list(self.names),
                 shots={k: list(v) for k, v in self.shots.items()},
                 class_map={str(k): v for k, v in self.class_map.items()})
        return {**d, "meta": dict(self.meta)} if self.meta else d

    @staticmethod
    def from_dict(d: dict) -> LabelSpec:
        return LabelSpec(kind=d["kind"], dim=int(d["dim"]), counts=tuple(int(n) for n in d.get("counts", ())),
                         names=tuple(valid_text(n) if isinstance(n, str) else n for n in d.get("names", ())),
                         shots={k: tuple(int(i) for i in v) for k, v in d.get("shots", {}).items()},
                         class_map={int(k): int(v) for k, v in d.get("class_map", {}).items()},
                         meta=dict(d.get("meta") or {}))


@dataclass(frozen=True)
class DataSpec:
    """What a network and a snapshot need to know about a data set. JSON-able by `to_dict` / `from_dict`."""

    name: str
    resolution: int | tuple[int, int]  # R of R x R images, (height, width) of others; see `size`
    channels: int
    num_images: int  # distinct images selected; mirrored copies not counted
    label: LabelSpec = field(default_factory=LabelSpec)
    path: str = ""
    fname: str | None = None
    max_size: int | None = None
    xflip: bool = False
    seed: int = 0
    heldout: int | float = 0  # images per class kept out of training; below 1 a share of each

    def __post_init__(self) -> None:
        object.__setattr__(self, "resolution", self.size.plain)  # of JSON, which has no tuples

    @property
    def size(self) -> ImageSize:
        return ImageSize.of(self.resolution)

    def to_dict(self) -> dict:
        return dict(name=self.name, resolution=self.resolution, channels=self.channels, num_images=self.num_images,
                    label=self.label.to_dict(), path=self.path, fname=self.fname, max_size=self.max_size,
                    xflip=self.xflip, seed=self.seed, heldout=self.heldout)

    @staticmethod
    def from_dict(d: dict) -> DataSpec:
        return DataSpec(**{**d, "label": LabelSpec.from_dict(d["label"])})


def shot_groups(counts: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """'many' / 'medium' / 'few' class ids by a rule on the images per class; classes without images are in no group.

    many > 100 images, medium 20 to 100, few < 20, the literature's bounds, when that leaves no group empty; otherwise
    the classes by descending count (ties by id) in parts of 0.3, 0.3 and the rest. Empty for fewer than three classes
    and for a set that is not long-tailed: largest class less than twice the smallest.
    """
    n = np.asarray(counts, np.int64)
    present = [int(k) for k in np.flatnonzero(n > 0)]
    if len(present) < 3 or n[present].max() < 2 * n[present].min():
        return {}
    groups = {"many": tuple(k for k in present if n[k] > 100), "medium": tuple(k for k in present if 20 <= n[k] <= 100),
              "few": tuple(k for k in present if n[k] < 20)}
    if all(groups.values()):
        return groups
    order = sorted(present, key=lambda k: (-n[k], k))
    a = max(round(0.3 * len(order)), 1)
    return {"many": tuple(sorted(order[:a])), "medium": tuple(sorted(order[a: 2 * a])),
            "few": tuple(sorted(order[2 * a:]))}


def class_weights(counts: Sequence[int], policy: str) -> np.ndarray:
    """Probability of drawing each class, float64 [K], sum 1; classes without images get 0.

    With n images in a class and N in all: 'empirical' n; 'sqrt' sqrt(n); 'balanced' 1; 'effective' n / E(n), where
    E(n) = (1 - beta^n) / (1 - beta) with beta = (N-1)/N is the effective number of samples (Cui et al., CVPR 2019):
    every image weighs 1 / E(n), so that a large class, whose images overlap, keeps a little more than an equal share.
    Raises UserError for another policy or without any image.
    """
    n = np.asarray(counts, np.float64)
    total = n.sum()
    if policy not in POLICIES:
        raise UserError(f"unknown sampling policy {policy}; choose from {', '.join(POLICIES)}")
    if n.ndim != 1 or total <= 0:
        raise UserError("sampling by class needs images with class labels")
    w = np.zeros_like(n)
    m = n[n > 0]
    if policy == "empirical":
        w[n > 0] = m
    elif policy == "sqrt":
        w[n > 0] = np.sqrt(m)
    elif policy == "balanced":
        w[n > 0] = 1
    else:
        # (1 - beta^n) / (1 - beta) with 1 - beta = 1/N, without cancellation for large N.
        w[n > 0] = m / (-np.expm1(m * np.log1p(-1 / total)) * total) if total > 1 else 1
    return w / w.sum()


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


def known_classes(label: LabelSpec, ids: Sequence[int] | None = None, owner: str = "the model") -> str:
    """'the model knows 0 to 9 (ash, birch, ...)'."""
    ids = range(label.dim) if ids is None else ids
    shown = [printable(n) for n in label.names[:10]]
    names = ", ".join(shown) + (", ..." if len(label.names) > 10 else "")
    whole = not len(ids) or list(ids) == list(range(ids[0], ids[-1] + 1))
    what = (f"{ids[0]} to {ids[-1]}" if len(ids) else "none") if whole else (
        ", ".join(map(str, ids[:10])) + (", ..." if len(ids) > 10 else ""))
    return f"{owner} knows {what}" + (f" ({names})" if names else "")


def trained_classes(label: LabelSpec) -> list[int]:
    """Ids of the classes that had images; all where that is not known (an imported network)."""
    found = [k for k, n in enumerate(label.counts) if n > 0 and k < label.dim]
    return found or list(range(label.dim))
