# SPDX-License-Identifier: Apache-2.0
"""What the folders of images say: CLASS/image, SPLIT/CLASS/image (ImageNet, AFHQ) and CLASS/SPLIT/image.

Imports no torch, so that the data-set scripts start at once.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from dnnlib.util import UserError
from gantransfer.data.container import Container, is_image_name
from gantransfer.data.labels import some
from gantransfer.data.names import BESIDE, counted, extension, sorted_classes

SPLIT_WORDS = {"train": "train", "training": "train", "trn": "train", "val": "val", "valid": "val", "validation": "val",
               "dev": "val", "eval": "val", "evaluation": "val", "test": "test", "testing": "test", "tst": "test"}
_FILLERS = frozenset(("set", "sets", "data", "image", "images", "img", "imgs", "split", "folder"))


@dataclass(frozen=True)
class FolderLabels:
    """Labels from folders. `labels`: image name -> class id; images in no class folder are left out of it."""

    labels: dict[str, int] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    splits: dict[str, list[str]] = field(default_factory=dict)  # 'train' | 'val' | 'test' -> image names


def split_of(folder: str) -> tuple[str, tuple[str, ...]] | None:
    """('train' | 'val' | 'test', what else the name says) of a folder such as 'Train', 'test_set' or 'seg_train'; None
    for any other name."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[a-z])(?=(set|data)\b)", " ", folder).lower()  # trainA, trainset
    words = [w for w in re.findall(r"[a-z]+|\d+", spaced) if w not in _FILLERS]
    kinds = [w for w in words if w in SPLIT_WORDS]
    if len(kinds) != 1 or re.search(r"[^\x00-\x7f]", folder):
        return None
    return SPLIT_WORDS[kinds[0]], tuple(w for w in words if w not in SPLIT_WORDS)


def are_shards(names: Sequence[str]) -> bool:
    """Whether the folders are the numbered ones that a conversion makes to keep folders small: they are no classes."""
    return all(re.fullmatch(r"(.*/)?\d{5}/img\d{8}\.\w+", n) for n in names)


def _below(parts: Sequence[Sequence[str]]) -> int:
    """Depth of the first folder below the one that all share; a single folder that holds everything counts."""
    common = os.path.commonprefix([p[:-1] for p in parts]) if parts else []
    depth = len(common)
    return depth - 1 if depth and all(len(p) == depth + 1 for p in parts) else depth


def _read(names: Sequence[str], where: str) -> tuple[dict[str, str], dict[str, str], list[int]]:
    """(image name -> class folder, image name -> split, depths of the class folder and of the split folder or -1).

    A class folder is the first below the one that all images share, below folders called train, val, test. Images
    beside the class folders are left out. A single folder holding everything is one class.
    """
    parts = [n.split("/") for n in names]
    depth = _below(parts)
    first = sorted({p[depth] for p in parts if len(p) > depth + 1})
    if not first or not _are_splits(first, depth, parts, where):
        classes = {n: p[depth] for n, p in zip(names, parts) if len(p) > depth + 1}
        inner = [p[depth + 1] for p in parts if len(p) > depth + 2]
        if classes and len(inner) == len(parts) and _alike(set(inner)) and len(set(inner)) > 1:
            return classes, {n: split_of(f)[0] for n, f in zip(names, inner)}, [depth, depth + 1]
        return classes, {}, [depth, -1]
    splits = {n: split_of(p[depth])[0] for n, p in zip(names, parts) if len(p) > depth + 1}
    rest = [p[depth + 1:] for p in parts if len(p) > depth + 1]
    inner = _below(rest)
    return ({n: p[inner] for n, p in zip(splits, rest) if len(p) > inner + 1}, splits, [depth + 1 + inner, depth])


def _alike(folders: set[str]) -> bool:
    """Whether all folders are splits of one set."""
    kinds = [split_of(f) for f in folders]
    return None not in kinds and len({k[1] for k in kinds}) == 1


def _are_splits(first: Sequence[str], depth: int, parts: Sequence[Sequence[str]], where: str) -> bool:
    """Whether the folders `first` are splits. UserError when some are and others not, so that neither reading is
    right."""
    if _alike(set(first)):
        return True
    parted = {f: k for f in first if (k := split_of(f)) is not None and k[1]}
    kinds = Counter(k[1] for k in set(parted.values()))
    if len(parted) == len(first) and min(kinds.values()) > 1:
        raise UserError(f"folders of {where} look like splits of several classes ({some(first)}); arrange them as "
                        f"{parted[first[0]][0]}/{'_'.join(parted[first[0]][1])}/, and so on, or give one alone")
    plain = [f for f in first if (split_of(f) or ("", ("",)))[1] == ()]
    inside = {f: {p[depth + 1] if len(p) > depth + 2 else "" for p in parts if len(p) > depth + 1 and p[depth] == f}
              for f in (first if plain else ())}
    nested = [f for f in plain if len(inside[f]) > 1 and "" not in inside[f]]
    if len({split_of(f)[0] for f in plain}) > 1 or nested and any("" in inside[f] for f in first if f not in plain):
        others = [f for f in first if f not in plain]
        one = f"--source={where}/{'/'.join((*parts[0][:depth], (nested or plain)[0]))}"
        raise UserError(f"folders of {where} look like splits ({some(plain)}), others do not ({some(others)}); give "
                        f"one of them alone, {one}{_unpacked(where)}, or remove what does not belong")
    return False


def _unpacked(where: str) -> str:
    return " (unpacked)" if os.path.isfile(where) else ""


def folder_labels(files: Container, images: Sequence[str]) -> FolderLabels:
    """Classes and splits of images by their folders, ids in the order of `names.sorted_classes`.

    Raises UserError for a class folder whose images are all of an unknown kind or absent (leaving it out would give the
    classes behind it other numbers), for names that are one number, and for splits that do not have the same classes.
    """
    where = files.path
    classes, splits, (depth, split_depth) = _read(images, where)
    by_split: dict[str, set[str]] = {}
    for n, s in splits.items():
        if n in classes:
            by_split.setdefault(s, set()).add(classes[n])
    strange = sorted(set().union(*by_split.values()) - by_split["train"]) if "train" in by_split else []
    if strange and split_depth < depth:
        parts = next(n for n, s in splits.items() if s == "train").split("/")
        folder = "/".join(parts[: split_depth + 1])
        raise UserError(f"{where} has splits ({some(by_split)}), but {some(strange)} is no class of train; give the "
                        f"training images alone, --source={where}/{folder}{_unpacked(where)}")
    found = set(classes.values())
    if found:
        _no_empty_class(files, images, depth, split_depth, found)
    order = sorted_classes(found, where)
    number = {c: i for i, c in enumerate(order)}
    members: dict[str, list[str]] = {s: [] for s in dict.fromkeys(SPLIT_WORDS.values())}
    for n, s in splits.items():
        members[s].append(n)
    labels = {n: number[c] for n, c in classes.items()}
    return FolderLabels(labels, tuple(order), {s: v for s, v in members.items() if v})


def _no_empty_class(files: Container, images: Sequence[str], depth: int, split_depth: int, found: set[str]) -> None:
    example = next(n.split("/") for n in images if n.count("/") > depth)

    def place(parts: Sequence[str]) -> str | None:
        """The class folder that a path lies in or is, if it lies where class folders do."""
        above = [i for i in range(depth) if i != split_depth]
        here = len(parts) > depth and all(parts[i] == example[i] for i in above)
        return parts[depth] if here and (not 0 <= split_depth < depth or split_of(parts[split_depth])) else None

    unread: dict[str, Counter] = {}
    for n in files.names:
        if not is_image_name(n) and n.count("/") > depth and (c := place(n.split("/"))) is not None:
            unread.setdefault(c, Counter())[extension(n)] += 1
    empty = {c for f in files.folders if (c := place(f.split("/"))) is not None} - set(unread) - found
    for c in sorted(set(unread) - found):
        if set(unread[c]) - BESIDE:
            raise UserError(f"class folder {some([c])} of {files.path} has no image of a known kind, only "
                            f"{counted(unread[c].items())}; without it the classes behind it would change their "
                            "numbers: convert its files, remove the folder, or give --labels=none")
    if empty and len(found) > 1:
        raise UserError(f"class folder {some(sorted(empty))} of {files.path} has no image; without it the classes "
                        "behind it would change their numbers: fill it, remove it, or give --labels=none")
