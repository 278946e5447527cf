# SPDX-License-Identifier: Apache-2.0
"""Data sets: images with labels from a zip or a folder, and the endless stream of reals that training reads.

Both forms of the container behave alike, including `fname`: another label file of the set (for instance the long-tailed
`lt_25.json` of `lt_dataset.py`) that defines which images belong and what their labels are.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from dnnlib import json_file, seeding
from dnnlib.util import EasyDict, UserError, open_regular, printable, without_collections
from gantransfer.data.classes import note
from gantransfer.data.container import Container, base_name
from gantransfer.data.decode import NOTES, decode, plain_header
from gantransfer.data.labels import (
    POLICIES,
    DataSpec,
    LabelFile,
    LabelSpec,
    check_class_names,
    class_weights,
    label_array,
    num_classes,
    parse_label_file,
    shot_groups,
    some,
    value_meta,
)
from gantransfer.data.schedule import Span
from gantransfer.networks.sizes import RULE, ImageSize

__all__ = ["POLICIES", "BatchSource", "DataSpec", "ImageDataset", "LabelSpec", "class_weights",
           "reference_dataset", "shot_groups", "training_dataset"]


class ImageDataset(torch.utils.data.Dataset):
    """Images of a zip or folder, in order of their names, with labels.

    path        zip file or folder; names in it are relative to its root (`container.Container`)
    fname       label file inside it (or, if there is none of that name, a path outside) that restricts the set to the
                images it lists; None: every image, labelled by `dataset.json`
    use_labels  read labels; without them, or if the set has none, labels have width 0
    heldout     images per class (without classes: in all) that do not belong, chosen by the seed; below 1 a share of
                each class, at least one image in all; part='heldout' is the set of these instead
    max_size    keep this many of the images, chosen by RandomState(seed)
    xflip       append the mirror image of every item: item n + i mirrors item i
    resolution  required size: R for R x R, or (height, width)
    class_map   label in the file -> class id to use; images of classes outside it are left out
    label_dim   number of classes or vector length to use, if larger than what the labels show
    cache_mb    decoded images are kept in memory when the whole selection fits

    Items are (uint8 [C, H, W], float32 [label_dim]), fresh copies. Images must be 8-bit greyscale or RGB and of one
    size, square or one that networks take; they are turned upright as their EXIF orientation says. Labels are checked
    as a whole here, images when they are read; every complaint is a UserError that names the files. Instances pickle
    without open handles and without cached images.
    """

    @without_collections()
    def __init__(self, path: str | os.PathLike, *, fname: str | None = None, use_labels: bool = False,
                 max_size: int | None = None, xflip: bool = False, seed: int = 0,
                 resolution: int | Sequence[int] | None = None, class_map: Mapping[int, int] | None = None,
                 label_dim: int | None = None, heldout: int | float = 0, part: str = "train", cache_mb: float = 1024):
        self._files = Container(path)
        self._names = self._files.image_names
        if not self._names:
            raise UserError(f"no images in {self._files.path}; make a data set with "
                            "`gantransfer dataset_tool --source=... --dest=...`")
        main = _read_labels(self._files, "dataset.json") if use_labels or fname else None
        own = main
        if fname is not None:
            own = _read_labels(self._files, fname)
            if own is None:
                available = [n for n in self._files.names if n.endswith(".json")]
                raise UserError(f"--fname={fname}: no such file in {self._files.path} "
                                f"(it has {some(available) if available else 'no .json file'})")
            self._restrict(own, fname)

        kind, ids, values, raw = self._labels(own) if use_labels else ("none", None, None, None)
        if class_map is not None and kind != "none":
            if kind != "class":
                raise UserError(f"a class map needs class labels, but those of {own.where} are continuous")
            keep = np.flatnonzero(np.isin(ids, list(class_map)))
            if len(keep) == 0:
                raise UserError(f"no image of {self._files.path} has one of the {len(class_map)} classes asked for")
            self._names, raw = [self._names[i] for i in keep], [raw[i] for i in keep]
            ids = np.asarray([class_map[int(k)] for k in ids[keep]], np.int64)
        self._raw_labels = raw

        n = len(self._names)
        if max_size is not None and max_size < 1:
            raise UserError(f"--subset={max_size}: at least one image is needed")
        self._chosen = np.arange(n)
        if heldout:
            held = self._held_out(np.zeros(n, np.int64) if kind != "class" else ids, heldout, seed, kind)
            self._chosen = held if part == "heldout" else np.setdiff1d(self._chosen, held)
        if max_size is not None and max_size < len(self._chosen):
            seeding.numpy_rng(seed).shuffle(self._chosen)
            self._chosen = np.sort(self._chosen[:max_size])
        self.xflip = bool(xflip)

        dim = 0
        if kind == "class":
            dim = int(max(class_map.values() if class_map else ids)) + 1
            if class_map is None:
                dim = max(dim, num_classes(raw))
        elif kind == "value":
            dim = values.shape[1]
        if label_dim is not None and kind != "none":
            if dim > label_dim or kind == "value" and dim != label_dim:
                unit = "classes" if kind == "class" else "values"
                raise UserError(f"the labels of {self._files.path} have {dim} {unit}, the network knows {label_dim}; "
                                "give the data set that it was trained on")
            dim = label_dim
        self._ids = None if kind != "class" else ids[self._chosen]
        self._values = None if kind != "value" else values[self._chosen]

        self._said_frames = False
        first = self._read(self._names[0])
        size = ImageSize(*first.shape[1:])
        if size.height != size.width and size.doublings is None:
            raise UserError(f"{RULE}, but {self._names[0]} in {self._files.path} is {size}; "
                            f"use `dataset_tool.py --transform=center-crop --resolution={size.nearest()[0]}`")
        if resolution is not None and (needed := ImageSize.of(resolution)) != size:
            raise UserError(f"images of {self._files.path} are {size}, but {needed} is needed; use "
                            f"`dataset_tool.py --resolution={needed}`")
        self._shape = first.shape

        label = LabelSpec(kind, dim)
        if kind == "class":
            counts = np.bincount(self._ids, minlength=dim)
            if class_map is None and label_dim is None:
                dead = np.setdiff1d(np.arange(dim), ids)
                if len(dead):
                    warnings.warn(f"{own.where}: {len(dead)} of the {dim} class ids have no image ({some(dead)}); "
                                  "the network gets an unused input for each", stacklevel=2)
            shots, known_map = self._manifest(own, main, fname, dim)
            if class_map is not None:
                shots, known_map = {}, {int(k): int(v) for k, v in class_map.items()}
            names = _class_names(own, main, known_map, dim, class_map)
            label = LabelSpec(kind, dim, tuple(int(c) for c in counts), names, shots or shot_groups(counts), known_map)
        elif kind == "value" and dim == 1:
            given = own.label_meta or (main.label_meta if main is not None else {})
            label = LabelSpec(kind, dim, meta=value_meta(self._values, given, own.where))
        self.spec = DataSpec(
            name=base_name(self._files.path), resolution=size.plain, channels=len(first), num_images=len(self._chosen),
            label=label, path=os.fspath(path), fname=fname, max_size=max_size, xflip=self.xflip, seed=seed,
            heldout=heldout)

        self.in_memory = len(self._chosen) * first.size <= cache_mb * 2**20
        self._cache = self._cached = None
        self._fingerprint: str | None = None

    def _held_out(self, ids: np.ndarray, count: int | float, seed: int, kind: str) -> np.ndarray:
        """Sorted indices of `count` images per class."""
        out, share, sizes = [], count if count < 1 else None, np.bincount(ids)
        for k in np.unique(ids):
            members = np.flatnonzero(ids == k)
            if share is not None:
                count = int(np.floor(share * len(members) + 0.5))
                if k == sizes.argmax() and len(members) > 1:
                    count = max(count, 1)
            if len(members) <= count:
                whose = f"class {k} of {self._files.path}" if kind == "class" else self._files.path
                raise UserError(f"--heldout={count}: {whose} has {len(members)} image{'s' * (len(members) != 1)}, and "
                                "some must be left to train on; hold out fewer, or give --heldout another data set")
            rng = seeding.hashed_rng(seed, int(k), 0x4E1D)
            out.append(rng.permutation(members)[:count])
        return np.sort(np.concatenate(out))

    # Reading of label files.

    def _restrict(self, own: LabelFile, fname: str) -> None:
        if own.labels is None:
            raise UserError(f"--fname={fname} lists no images (its labels are null); omit --fname")
        have = set(self._names)
        unknown = [n for n in own.labels if n not in have]
        if unknown:
            raise UserError(f"{len(unknown)} of {len(own.labels)} images listed in {own.where} are not in "
                            f"{self._files.path}: {some(unknown)}; make the file from this set's dataset.json")
        if not own.labels:
            raise UserError(f"--fname={fname} lists no images")
        self._names = sorted(own.labels)

    def _labels(self, own: LabelFile | None) -> tuple[str, Any, Any, Any]:
        if own is None or own.labels is None:
            return "none", None, None, None
        missing = [n for n in self._names if n not in own.labels]
        if missing:
            raise UserError(f"{len(missing)} of {len(self._names)} images of {self._files.path} have no label in "
                            f"dataset.json: {some(missing)}; label them, or give --fname=dataset.json to use only the "
                            "labelled ones")
        raw = [own.labels[n] for n in self._names]
        kind, values = label_array(self._names, raw, own.where)
        return (kind, values, None, raw) if kind == "class" else (kind, None, values, raw)

    def _manifest(self, own: LabelFile, main: LabelFile | None, fname: str | None,
                  dim: int) -> tuple[dict[str, tuple[int, ...]], dict[int, int]]:
        """(shot groups, class map) from the label file's manifest, or the map from comparing it with dataset.json."""
        try:
            shots = {str(k): tuple(int(i) for i in v) for k, v in own.meta.get("shots", {}).items()}
            known = {int(k): int(v) for k, v in own.meta.get("class_map", {}).items()}
        except (TypeError, ValueError, AttributeError):
            raise UserError(f"the \"meta\" of {own.where} is damaged; make the file again with lt_dataset.py") from None
        if any(not 0 <= i < dim for v in shots.values() for i in v) or any(not 0 <= i for i in known.values()):
            raise UserError(f"the \"meta\" of {own.where} names classes that its labels do not have; "
                            "make the file again with lt_dataset.py")
        if known or fname is None or main is None or main.labels is None or own is main:
            return shots, known
        known_before = {n: v for n, v in main.labels.items() if v is not None}
        if any(n not in known_before for n in self._names):
            return shots, {}
        try:
            old, new, everything = (label_array(list(v), list(v.values()), main.where) for v in (
                {n: known_before[n] for n in self._names}, {n: own.labels[n] for n in self._names}, known_before))
        except UserError:
            return shots, {}
        if not old[0] == new[0] == everything[0] == "class":
            return shots, {}
        for a, b in zip(old[1].tolist(), new[1].tolist()):
            if known.setdefault(a, b) != b:
                warnings.warn(f"{own.where} gives images of class {a} of dataset.json different labels: metrics "
                              "against dataset.json cannot translate its classes", stacklevel=3)
                return shots, {}
        same = all(a == b for a, b in known.items()) and set(everything[1].tolist()) <= set(known)
        return shots, {} if same else known

    # Properties.

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def resolution(self) -> int | tuple[int, int]:
        return self.spec.resolution

    @property
    def num_channels(self) -> int:
        return self.spec.channels

    @property
    def image_shape(self) -> list[int]:
        return list(self._shape)

    @property
    def label_dim(self) -> int:
        return self.spec.label.dim

    @property
    def class_ids(self) -> np.ndarray | None:
        """int64 [len(self)], or None unless the labels are classes."""
        return None if self._ids is None else np.tile(self._ids, 2) if self.xflip else self._ids.copy()

    # Items.

    def __len__(self) -> int:
        return len(self._chosen) * (2 if self.xflip else 1)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.images_uint8([index])[0], self.get_label(index)

    def get_label(self, index: int) -> np.ndarray:
        """float32 [label_dim]: one-hot, the vector, or width 0."""
        return self.labels([index])[0]

    def labels(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """float32 [n, label_dim]."""
        slots, _ = self._slots(indices)
        if self._ids is not None:
            out = np.zeros([len(slots), self.label_dim], np.float32)
            out[np.arange(len(slots)), self._ids[slots]] = 1
            return out
        return self._values[slots] if self._values is not None else np.zeros([len(slots), 0], np.float32)

    def get_details(self, index: int) -> EasyDict:
        """raw_idx (position in the sorted set), xflip, raw_label (as in the file; None without labels), name."""
        slots, flips = self._slots([index])
        raw = int(self._chosen[slots[0]])
        label = None if self._raw_labels is None else self._raw_labels[raw]
        return EasyDict(raw_idx=raw, xflip=bool(flips[0]), raw_label=label, name=self._names[raw])

    def images_uint8(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """uint8 [n, C, H, W]; may be called from several threads."""
        slots, flips = self._slots(indices)
        if self.in_memory:
            if self._cache is None:
                with self._files._lock:
                    if self._cache is None:
                        self._cached = np.zeros([len(self._chosen)], bool)
                        self._cache = np.empty([len(self._chosen), *self._shape], np.uint8)
            for s in slots[~self._cached[slots]]:
                self._cache[s] = self._image(s)
                self._cached[s] = True
            out = self._cache[slots]
        else:
            out = np.empty([len(slots), *self._shape], np.uint8)
            for k, s in enumerate(slots):
                out[k] = self._image(s)
        if flips.any():
            out[flips] = out[flips, :, :, ::-1]
        return out

    def read(self, indices: Sequence[int] | np.ndarray) -> torch.Tensor:
        """uint8 tensor [n, C, H, W]: the same, as the training loop asks for it (`method.Reals`)."""
        return torch.from_numpy(self.images_uint8(indices))

    def _slots(self, indices: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        i = np.asarray(indices, np.int64).reshape(-1)
        n = len(self._chosen)
        if len(i) and not (0 <= i.min() and i.max() < len(self)):
            raise IndexError(f"item {i.max() if i.max() >= len(self) else i.min()} of a data set of {len(self)}")
        return i % n, i >= n

    def _read(self, name: str) -> np.ndarray:
        met: set[str] = set()
        image = decode(self._files.read(name), f"{name} in {self._files.path}", met).transpose(2, 0, 1)
        if "frames" in met and not self._said_frames:
            self._said_frames = True
            warnings.warn(f"{self._files.path} has images {NOTES['frames']} ({name})", stacklevel=2)
        return image

    def _image(self, slot: int) -> np.ndarray:
        name = self._names[self._chosen[slot]]
        image = self._read(name)
        self._compare(name, image.shape)
        return image

    def _compare(self, name: str, shape: tuple[int, ...]) -> None:
        if shape != self._shape:
            (c, h, w), (c0, h0, w0) = shape, self._shape
            raise UserError(f"{name} in {self._files.path} is {w}x{h}x{c}, the first image is {w0}x{h0}x{c0}; "
                            f"`gantransfer dataset_tool check {self._files.path}` lists all such files")

    def check_headers(self) -> None:
        """Compare the size and mode of every selected image with the first one's, before a long run finds out.

        Reads only the headers of PNG files (about 30 us each); other files are decoded. Raises UserError naming the
        first that differs.
        """
        for raw in self._chosen:
            name = self._names[raw]
            header = plain_header(self._files.read(name, 4096))
            if header is None:
                self._compare(name, self._read(name).shape)
            else:
                self._compare(name, (header[2], *header[:2]))

    # Identity.

    def fingerprint(self) -> str:
        """sha256 (hex) of file names, their checksums, labels and selection; the same for a zip and its folder."""
        if self._fingerprint is None:
            h = hashlib.sha256()
            for raw in self._chosen:
                h.update(json.dumps([self._names[raw], *self._files.digest(self._names[raw])]).encode())
            h.update(json.dumps([self.spec.label.kind, self.label_dim, self.xflip, self.resolution]).encode())
            for part in (self._ids, self._values):
                if part is not None:
                    h.update(np.ascontiguousarray(part).tobytes())
            self._fingerprint = h.hexdigest()
        return self._fingerprint

    def close(self) -> None:
        self._files.close()

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_cache": None, "_cached": None}


def reference_dataset(spec: DataSpec, path: str | os.PathLike | None = None, **overrides: Any) -> ImageDataset:
    """The set that metrics compare with: all images of dataset.json, labels in the network's numbering, no mirroring.

    `path` names another (held-out) set whose dataset.json has the same labels as the one the network's set was made
    from. `overrides` are arguments of ImageDataset. Classes that the network does not know are left out.
    """
    args: dict[str, Any] = dict(use_labels=spec.label.kind != "none", resolution=spec.resolution,
                                class_map=spec.label.class_map or None)
    if spec.label.kind != "none":
        args["label_dim"] = spec.label.dim
    args.update(overrides)
    return _same_names(ImageDataset(path if path is not None else spec.path, **args), spec)


def training_dataset(spec: DataSpec, path: str | os.PathLike | None = None, fname: str | None = None) -> ImageDataset:
    """The set that a network was trained on, as its snapshot records it; `path` where it lies elsewhere now, `fname` if
    its label file is called otherwise."""
    labelled = spec.label.kind != "none"
    return _same_names(ImageDataset(path or spec.path, fname=fname or spec.fname, use_labels=labelled,
                                    max_size=spec.max_size, xflip=spec.xflip, seed=spec.seed,
                                    resolution=spec.resolution, heldout=spec.heldout,
                                    label_dim=spec.label.dim if labelled else None), spec)


def _same_names(found: ImageDataset, spec: DataSpec) -> ImageDataset:
    """`found`, with a note where a class that has images there is called otherwise than the network's of that number: a
    set that was made of other folders numbers its classes otherwise."""
    ours, theirs, counts = spec.label.names, found.spec.label.names, found.spec.label.counts
    other = [k for k in range(min(len(ours), len(theirs), len(counts))) if counts[k] and ours[k] != theirs[k]]
    if other:
        k, more = other[0], f" (and {len(other) - 1} more)" * (len(other) > 1)
        note(printable(f"{found.spec.path} calls class {k} '{theirs[k]}', the network '{ours[k]}'{more}; classes are "
                       "matched by number: give a set that was made of the same classes"))
    return found


def _read_labels(files: Container, fname: str) -> LabelFile | None:
    """A label file inside the container, or at a path outside; None if there is neither."""
    inside = files.label_file() if fname == "dataset.json" else files.find(fname)
    if inside is not None:
        return parse_label_file(files.read_json(inside), f"{fname} of {files.path}")
    if fname != "dataset.json" and os.path.isfile(fname):
        with open_regular(fname) as f:
            return parse_label_file(json_file.parse(f.read(), fname, object), fname)
    return None


def _class_names(own: LabelFile, main: LabelFile | None, known: dict[int, int], dim: int,
                 translate: Mapping[int, int] | None) -> tuple[str, ...]:
    """Class names in the numbering used here; those of dataset.json are translated."""
    names = own.class_names if translate is None else ()
    if not names and main is not None and main.class_names and (own is main or known):
        moved = {b: main.class_names[a] for a, b in known.items() if a < len(main.class_names)}
        names = tuple(moved.get(i, str(i)) for i in range(dim)) if known else main.class_names
    check_class_names(names, dim, own.where)
    return tuple(names[:dim])


class _WindowOrder:
    """Endless order over n items: shuffled once, then each item swapped back into the window behind it after its use.

    order = RandomState(seed).shuffle(0..n-1); at position p = 0, 1, ...: i = p mod n; order[i] is used; then, with
    window = rint(n / 2) >= 2, order[i] is swapped with order[(i - randint(window)) mod n]. Draws are made in one call
    per chunk; RandomState gives the same numbers.
    """

    def __init__(self, n: int, seed: int):
        order = np.arange(n)
        self.window = int(np.rint(n / 2))
        self.rng = seeding.numpy_rng(seed)
        self.rng.shuffle(order)
        self.n, self.position, self.order = n, 0, order.tolist()

    def _swaps(self, m: int) -> tuple[list[int], list[int]]:
        i = np.arange(self.position, self.position + m) % self.n
        self.position += m
        return i.tolist(), ((i - self.rng.randint(self.window, size=m)) % self.n).tolist()

    def skip(self, count: int) -> None:
        if self.window < 2:
            self.position += count
            return
        order = self.order
        while count > 0:
            m = min(count, 1 << 16)
            for i, j in zip(*self._swaps(m)):
                order[i], order[j] = order[j], order[i]
            count -= m

    def take(self, count: int) -> list[int]:
        order = self.order
        if self.window < 2:
            self.position += count
            return [order[p % self.n] for p in range(self.position - count, self.position)]
        out = []
        for i, j in zip(*self._swaps(count)):
            k = order[i]
            out.append(k)
            order[i], order[j] = order[j], k
        return out


def _cumulative(weights: np.ndarray) -> np.ndarray:
    cdf = np.cumsum(weights)
    return cdf / cdf[-1]


class _ClassOrder:
    """Class by policy, then an image of the class, each class used up before it is shuffled again.

    Draws come from generators keyed by (seed, block) and (seed, class, round), so a position costs no replay of images.
    """

    BLOCK = 1 << 14

    def __init__(self, ids: np.ndarray, dim: int, seed: int, policy: str, shift: Span | None, repeat: int):
        self.members = [np.flatnonzero(ids == k) for k in range(dim)]
        counts = [len(m) for m in self.members]
        self.cdf, self.cdf_before = (_cumulative(class_weights(counts, p)) for p in (policy, "empirical"))
        self.seed, self.dim, self.shift, self.repeat = seed, dim, shift, repeat
        self.before = [np.zeros(dim, np.int64)]  # images of each class used before block b
        self.rounds: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()

    def _classes(self, block: int) -> np.ndarray:
        rng = np.random.Generator(np.random.Philox(seeding.sequence(self.seed, 1, block)))
        u = rng.random(self.BLOCK)
        classes = np.searchsorted(self.cdf, u, side="right")
        if self.shift is None:
            return classes
        share = self.shift.share(np.arange(block * self.BLOCK, (block + 1) * self.BLOCK) / self.repeat)
        return np.where(rng.random(self.BLOCK) < share, classes, np.searchsorted(self.cdf_before, u, side="right"))

    def _used_before(self, block: int) -> np.ndarray:
        while len(self.before) <= block:
            drawn = self._classes(len(self.before) - 1)
            self.before.append(self.before[-1] + np.bincount(drawn, minlength=self.dim))
        return self.before[block]

    def _image(self, k: int, uses: np.ndarray) -> np.ndarray:
        """Items of class k for its uses number `uses`."""
        members = self.members[k]
        per_round = max(2048 // len(members), 1) * len(members)  # small classes: many shuffles from one generator
        out = np.empty(len(uses), np.int64)
        for r in np.unique(uses // per_round):
            table = self.rounds.get((k, int(r)))
            if table is None:
                rng = np.random.Generator(np.random.Philox(seeding.sequence(self.seed, 2, k, int(r))))
                table = rng.permuted(np.tile(members, (per_round // len(members), 1)), axis=1).reshape(-1)
                self.rounds[k, int(r)] = table
                if len(self.rounds) > 4 * self.dim:
                    self.rounds.popitem(last=False)
            here = uses // per_round == r
            out[here] = table[uses[here] % per_round]
        return out

    def block(self, b: int) -> np.ndarray:
        classes, used = self._classes(b), self._used_before(b)
        out = np.empty(self.BLOCK, np.int64)
        for k in np.unique(classes):
            at = np.flatnonzero(classes == k)
            out[at] = self._image(int(k), used[k] + np.arange(len(at)))
        return out


class BatchSource:
    """The endless stream of reals: which item of the data set is real image number p.

    A function of seed, policy and position only, whatever the batch size or the number of processes. 'empirical' walks
    the published order (`_WindowOrder`); the other policies draw a class by `class_weights` and then an image of that
    class, without replacement until the class is used up; mirrored copies are items of their own. With a `shift` they
    begin with the class frequencies of 'empirical' and move to their own over that span; `repeat` is then how many
    reals are drawn per image shown. May be called from several threads; positions a little behind the last one cost
    nothing, far jumps forward about 0.1 s per million images.
    Raises UserError for a policy other than 'empirical' on a set without classes.
    """

    BLOCK = 1 << 12

    def __init__(self, dataset: ImageDataset, seed: int, policy: str = "empirical", shift: Span | None = None,
                 repeat: int = 1):
        if policy not in POLICIES:
            raise UserError(f"unknown sampling policy {policy}; choose from {', '.join(POLICIES)}")
        self.n, self.seed, self.policy = len(dataset), int(seed), policy
        self._lock = threading.Lock()
        self._blocks: OrderedDict[int, np.ndarray] = OrderedDict()
        self._walk: _WindowOrder | None = None
        self._by_class: _ClassOrder | None = None
        if policy != "empirical":
            if dataset.class_ids is None:
                have = ("its labels are vectors" if dataset.spec.label.kind == "value" else
                        "none are in use (give --cond=True, or a data set with labels)")
                raise UserError(f"--sampling={policy} needs class labels; {dataset.spec.path}: {have}")
            self._by_class = _ClassOrder(dataset.class_ids, dataset.label_dim, self.seed, policy, shift, repeat)

    def indices(self, position: int, n: int) -> np.ndarray:
        """int64 [n]: items number position .. position + n - 1 of the stream."""
        if position < 0 or n < 0:
            raise ValueError(f"BatchSource.indices({position}, {n})")
        size = self.BLOCK if self._by_class is None else self._by_class.BLOCK
        out = np.empty(n, np.int64)
        with self._lock:
            done = 0
            while done < n:
                b, offset = divmod(position + done, size)
                part = self._block(b)[offset: offset + n - done]
                out[done: done + len(part)] = part
                done += len(part)
        return out

    def _block(self, b: int) -> np.ndarray:
        block = self._blocks.get(b)
        if block is None:
            if self._by_class is not None:
                block = self._by_class.block(b)
            else:
                if self._walk is None or self._walk.position > b * self.BLOCK:
                    self._walk = _WindowOrder(self.n, self.seed)
                self._walk.skip(b * self.BLOCK - self._walk.position)
                block = np.asarray(self._walk.take(self.BLOCK), np.int64)
            self._blocks[b] = block
            if len(self._blocks) > 64:
                self._blocks.popitem(last=False)
        return block
