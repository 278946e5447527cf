# SPDX-License-Identifier: Apache-2.0
"""Long-tailed splits of a class-labelled set: which images of each class stay, and the label files that say so.

Class i of C keeps n_max / imf^(i/(C-1)) images, the exponential profile of Cui et al., CVPR 2019. Images stay
where they are.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dnnlib import seeding
from dnnlib.util import UserError, atomic_path, atomic_write, sole_writer
from gantransfer.data.container import Container
from gantransfer.data.labels import label_array, num_classes, shot_groups, some
from gantransfer.data.names import zip_name

ORDERS = ("count", "label", "label-desc", "random", "file")

# The published table: order of classes and where the groups begin, by the name of the set.
KNOWN_SETS: dict[str, tuple[str, tuple[int, ...]]] = {
    "cifar10": ("label-desc", (0, 3, 6, 10)),
    "cifar100": ("label-desc", (0, 35, 70, 100)),
    "flowers": ("count", (0, 20, 50, 102)),
    "animals": ("count", (0, 5, 10, 20)),
    "lsun": ("label-desc", (0, 3, 4, 5)),
}
GROUPS = ("many", "medium", "few")
UTF8_NAME = 0x800  # the flag of zip members whose name is UTF-8


@dataclass(frozen=True)
class Options:
    """Arguments of a split; they are written into its manifest."""

    imf: float | None = None  # head count divided by tail count; None keeps the set's own distribution
    order: str = "count"
    reverse: bool = False
    seed: int = 0
    n_max: int | None = None
    min_per_class: int = 1
    keep_labels: bool = False
    shots: tuple[int, ...] | None = None  # first rank of each group, for example (0, 3, 6)
    dname: str | None = None


@dataclass(frozen=True)
class Split:
    """A split: classes by position, what is kept of each, and the groups."""

    order: list[int]  # original label at each position
    new_label: dict[int, int]  # original -> label in the split
    kept: dict[int, list[str]]  # original label -> image names
    full: dict[int, list[str]]  # original label -> all image names
    shots: dict[str, tuple[int, ...]]  # group -> labels in the split

    @property
    def labels(self) -> list[list[Any]]:
        return [[name, self.new_label[k]] for k in self.order for name in self.kept[k]]


def profile(n_max: int, num_classes: int, imf: float, reverse: bool = False) -> list[int]:
    """Images per position: int(n_max / imf^(i / (C - 1))), in float64, truncated; the other way round if `reverse`."""
    steps = range(num_classes)
    return [int(n_max * (1 / imf ** ((num_classes - 1 - i if reverse else i) / (num_classes - 1)))) for i in steps]


def check_imf(imf: float | None) -> None:
    if imf is not None and not (np.isfinite(imf) and imf > 0):
        raise UserError(f"--imf={imf:g}: the imbalance factor must be positive; it is the head class's images divided "
                        "by the tail class's, for example 25")
    if imf is not None and imf < 1:
        raise UserError(f"--imf={imf:g}: the imbalance factor must be at least 1; for a rising distribution use "
                        "--reverse")


def group_by_class(labels: dict[str, Any], where: str) -> dict[int, list[str]]:
    """Original label -> image names in file order, keys in order of first appearance. Raises UserError for vectors."""
    names = list(labels)
    kind, ids = label_array(names, [labels[n] for n in names], where)
    if kind != "class":
        raise UserError(f"the labels of {where} are vectors; a long-tailed split needs class indices")
    groups: dict[int, list[str]] = {}
    for name, k in zip(names, ids.tolist()):
        groups.setdefault(k, []).append(name)
    return groups


def _rng(*key: int) -> np.random.RandomState:
    """A generator of its own for each key; RandomState, because its numbers never change between NumPy releases."""
    return seeding.hashed_rng(*key)


def _class_order(groups: dict[int, list[str]], order: str, seed: int) -> list[int]:
    if order == "count":
        return sorted(groups, key=lambda k: (-len(groups[k]), k))
    if order == "file":
        return list(groups)
    ids = sorted(groups, reverse=order == "label-desc")
    if order == "random":
        ids = [ids[i] for i in _rng(seed, 1).permutation(len(ids))]
    return ids


def make_split(labels: dict[str, Any], o: Options, where: str = "dataset.json") -> Split:
    """The split that `o` describes. Equal labels and options give equal splits, whatever the order of the file
    (except --order=file); with one seed a larger imbalance keeps a subset of what a smaller one keeps."""
    check_imf(o.imf)
    full = group_by_class(labels, where)
    num = len(full)
    if num < 2:
        raise UserError(f"{where} has one class; a long tail needs at least two")
    dead = sorted(set(range(num_classes(list(labels.values())))) - set(full))
    if dead:
        raise UserError(f"{where}: class {some(dead)} has no image; add images, or number the classes without gaps "
                        "(dataset_tool.py --classes)")
    if o.n_max is not None and o.n_max < 1 or o.min_per_class < 1:
        raise UserError(f"{'--n-max' if o.n_max is not None and o.n_max < 1 else '--min-per-class'} must be at least 1")
    order = _class_order(full, o.order, o.seed)
    n_max = max(len(v) for v in full.values()) if o.n_max is None else o.n_max
    # Without an imbalance factor the set keeps its own distribution, capped at n_max.
    target = profile(n_max, num, o.imf, o.reverse) if o.imf is not None else [n_max] * num
    if o.imf is None and o.reverse:
        order = order[::-1]

    kept: dict[int, list[str]] = {}
    for k, wanted in zip(order, target):
        names = sorted(full[k])
        chosen = _rng(o.seed, 0, k).permutation(len(names))[: max(wanted, o.min_per_class)]
        kept[k] = sorted(names[i] for i in chosen)
    new_label = {k: k if o.keep_labels else i for i, k in enumerate(order)}
    counts = np.zeros(max(new_label.values()) + 1, np.int64)
    for k in order:
        counts[new_label[k]] = len(kept[k])
    ranked = [new_label[k] for k in (order[::-1] if o.reverse else order)]
    return Split(order, new_label, kept, full, groups_of(counts, ranked, o))


def groups_of(counts: np.ndarray, ranked: Sequence[int], o: Options) -> dict[str, tuple[int, ...]]:
    """Group -> labels, over the classes from head to tail (`ranked`): from --shots, the table of --dname, or else the
    first 0.3, the next 0.3 and the rest. A natural tail (no imf) is grouped by the rule on counts instead."""
    cuts = o.shots
    if cuts is None and o.dname is not None and KNOWN_SETS[o.dname][1][-1] == len(ranked):
        cuts = KNOWN_SETS[o.dname][1]
    if cuts is None and o.imf is None:
        return shot_groups(counts)
    if cuts is None:
        part = max(round(0.3 * len(ranked)), 1)
        if len(ranked) < 3 or o.imf == 1:
            return {}
        cuts = (0, part, 2 * part)
    cuts = tuple(cuts[:-1] if len(cuts) == 4 and cuts[-1] == len(ranked) else cuts)
    if len(cuts) != 3 or cuts[0] != 0 or not 0 < cuts[1] < cuts[2] < len(ranked):
        raise UserError(f"--shots={','.join(map(str, o.shots or cuts))}: give the first rank of many, medium and few, "
                        f"rising from 0 and below {len(ranked)}, for example 0,3,6")
    ends = (*cuts[1:], len(ranked))
    return {g: tuple(sorted(ranked[a:b])) for g, a, b in zip(GROUPS, cuts, ends)}


def manifest(split: Split, o: Options, class_names: Sequence[str], source: str, digest: str) -> dict[str, Any]:
    """Content of `lt_<imf>.json`."""
    new = split.new_label
    by_label = sorted(split.order, key=new.__getitem__)
    content: dict[str, Any] = {"labels": split.labels}
    if class_names:
        content["class_names"] = [class_names[k] for k in by_label]
    content["meta"] = {
        "tool": "lt_dataset", "version": 1, "seed": o.seed, "imf": o.imf, "order": o.order,
        "class_map": {str(k): new[k] for k in split.order},
        "counts": [len(split.kept[k]) for k in by_label],
        "full_counts": [len(split.full[k]) for k in by_label],
        "shots": {g: list(v) for g, v in split.shots.items()},
        "args": asdict(o),
        "source": {"file": source, "sha256": digest},
    }
    return content


def shot_files(split: Split) -> dict[str, dict[str, Any]]:
    """File name -> content: all images of the full set whose classes are in a group, in the split's numbering."""
    out = {}
    for group, members in split.shots.items():
        contiguous = list(members) == list(range(members[0], members[-1] + 1))
        name = f"class_{members[0]}_{members[-1]}.json" if contiguous else f"class_{group}.json"
        rows = [[n, split.new_label[k]] for k in split.order if split.new_label[k] in members for n in split.full[k]]
        out[name] = {"labels": rows, "meta": {
            "tool": "lt_dataset", "version": 1, "shot": group,
            "class_map": {str(k): split.new_label[k] for k in split.order}}}
    return out


def legacy_files(labels: dict[str, Any], dname: str, imf: float, reverse: bool, shot_labels: bool, seed: int,
                 where: str = "dataset.json") -> tuple[dict[str, dict[str, Any]], list[int], list[int]]:
    """(file name -> content, original label at each position, images kept) as the published script gives them when
    NumPy's legacy generator is seeded with `seed` first.

    Its rules: animals and flowers are ordered by descending count, ties by latest first appearance, n_max the largest
    count; the other sets by descending label, n_max the count of label 0; no smallest number per class; group files by
    the table of `dname`, whatever the number of classes.
    """
    check_imf(imf)
    full = group_by_class(labels, where)
    if len(full) < 2:
        raise UserError(f"{where} has one class; a long tail needs at least two")
    how, cuts = KNOWN_SETS[dname]
    if how == "count":
        seen = {k: i for i, k in enumerate(full)}
        order = sorted(full, key=lambda k: (-len(full[k]), -seen[k]))
        n_max = len(full[order[0]])
    else:
        order = sorted(full, reverse=True)
        if 0 not in full:
            raise UserError(f"--legacy --dname={dname} takes its largest class from label 0, which {where} lacks; "
                            "omit --legacy")
        n_max = len(full[0])
    counts = [min(n, len(full[k])) for n, k in zip(profile(n_max, len(order), imf, reverse), order)]
    rng = seeding.numpy_rng(seed)
    rows: list[list[Any]] = []
    for i, (k, n) in enumerate(zip(order, counts)):
        names = np.arange(len(full[k]))
        rng.shuffle(names)
        rows += [[full[k][j], i] for j in names[:n]]
    files = {f"lt_{imf:g}{'_reverse' if reverse else ''}.json": {"labels": rows}}
    if shot_labels:
        for a, b in zip(cuts, cuts[1:]):
            files[f"class_{a}_{b - 1}.json"] = {
                "labels": [[n, i] for i in range(a, min(b, len(order))) for n in full[order[i]]]}
    return files, order, counts


def _in_utf8(info: zipfile.ZipInfo) -> zipfile.ZipInfo:
    """A member under the name that sets know it by, for writing: `zipfile` writes names in ASCII or UTF-8 only."""
    if info.filename.isascii():
        return info
    out = zipfile.ZipInfo(zip_name(info), info.date_time)
    out.compress_type, out.create_system, out.external_attr = (info.compress_type, info.create_system,
                                                               info.external_attr)
    return out


def write_files(container: Container, fn: str, contents: dict[str, dict[str, Any]]) -> list[str]:
    """Write label files beside `fn`, or into the zip `fn`; all of them or, for a zip, none. Returns the names of those
    that took the place of other content."""
    data = {container.place(name): json.dumps(content) for name, content in contents.items()}
    replaced = [name for name in contents if name in container.names
                and container.read(name) != data[container.place(name)].encode()]
    if not container.is_zip:
        for place, text in data.items():
            with atomic_write(place) as f:
                f.write(text)
        return replaced
    container.close()
    with sole_writer(fn, wait=True), atomic_path(fn) as temporary:
        with zipfile.ZipFile(fn) as old:  # as it is now: another command may have written since it was opened
            members = old.infolist()
        # A member cannot be replaced in place, and appending writes the directory anew in UTF-8, where names in an
        # older encoding would no longer be those of their files: both copy the others.
        if any(i.filename in data or not (i.filename.isascii() or i.flag_bits & UTF8_NAME) for i in members):
            with zipfile.ZipFile(fn) as old, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as new:
                for info in members:
                    if info.filename not in data:
                        new.writestr(_in_utf8(info), old.read(info))
        else:
            shutil.copyfile(fn, temporary)
        with zipfile.ZipFile(temporary, "a", zipfile.ZIP_STORED) as archive:
            known = {i.filename: zip_name(i) for i in members}
            for place, text in data.items():
                archive.writestr(zipfile.ZipInfo(known.get(place, place)), text)
    return replaced
