# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a data set, found before training does."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from tqdm import tqdm

from dnnlib.util import UserError
from gantransfer.data import resolution
from gantransfer.data.container import Container
from gantransfer.data.decode import Seen, TooLarge, decode, read_picture
from gantransfer.data.folder_labels import are_shards, folder_labels
from gantransfer.data.labels import check_class_names, histogram, label_array, num_classes, parse_label_file, some
from gantransfer.data.leakage import Prints, alike, equal
from gantransfer.data.names import REMEDIES, counted
from gantransfer.data.sources.files import left_out
from gantransfer.networks.sizes import RULE, ImageSize


class Check:
    """Findings about a data set: errors would stop or spoil training, warnings would not."""

    def __init__(self, path: str, fname: str, follow_links: bool = False):
        self.files = Container(path, follow_links)
        self.fname = fname
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self.shapes: dict[tuple[int, ...], list[str]] = {}
        self.remedies: dict[str, str] = {}  # flags of a conversion that mends what was found

    def run(self, report: Callable[[str], None], against: str | None = None) -> bool:
        """True when there are no errors. `against`: another set, which should have no image of this one."""
        path, names = self.files.path, self.files.image_names
        if against is not None and not os.path.exists(against):
            raise UserError(f"--against={against}: no such file or folder")
        if self.files.others:
            report(left_out(self.files))
        if not names:
            raise UserError(f"no images in {path}")
        labels, class_names = self._labels(names)
        if labels is not None and self.fname != "dataset.json":
            names = [n for n in names if n in labels]
        prints = Prints()
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
            prints.add(name, array)
        self._note(self.errors, broken, "cannot be read or decoded")
        self.remedies |= {"--max-pixels": "N"} if large else {}
        self._note(self.errors, large, "have more pixels than is safe to read unasked; if you trust them, convert "
                                       "the set with dataset_tool.py --max-pixels=N --source=...")
        self._modes(modes, report)
        for line in met.lines():
            report(line)
        self._sizes(report)
        self._duplicates(prints.by_content, labels)
        if against is not None:
            self._against(prints, against)
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
        if self.remedies and self.fname == "dataset.json":
            report("all of it at once" + (", when those are replaced or removed that cannot be read" if broken else "")
                   + f": gantransfer dataset_tool --source={shlex.quote(path)} --dest=NEW.zip "
                   + " ".join(f"{flag}={value}" if value else flag for flag, value in sorted(self.remedies.items())))
        report("no problems" if not self.errors + self.warnings else
               f"{len(self.errors)} kinds of errors, {len(self.warnings)} of warnings")
        return not self.errors

    def _against(self, prints: Prints, path: str) -> None:
        files, other, unread = Container(path, self.files.follow_links), Prints(), []
        for name in tqdm(files.image_names, unit="img", desc="comparing", disable=None):
            try:
                other.add(name, decode(files.read(name), name))
            except UserError:  # what is wrong with the other set is for its own check
                unread.append(name)
        if not other.by_content:
            raise UserError(f"--against={path} has no image that training could read")
        self._note(self.warnings, unread, f"of {path} are not compared, for training does not read them; convert that "
                   "set first")
        if pictures := [(e, n) for e, n in files.others.items() if e in REMEDIES]:
            self.warnings.append(f"files of {path} that are not compared: {counted(pictures)}")
        pairs = equal(other, prints)
        self._note(self.errors, (f"{n} = {m}" for m, n in pairs), f"are in {path} too, pixel by pixel, and what a "
                   "network has seen is no test of it; split again, or remove them from one side")
        self._note(self.warnings, (f"{n} ~ {m}" for m, n in alike(other, prints)),
                   f"are nearly equal to one of {path} (the same picture in another size or compression, or a frame "
                   "beside it?)")

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
            missing = [n for n in names if n not in file.labels]
            self._note(self.errors, missing, "have no label")
            self.remedies |= {"--drop-unlabelled": ""} if missing else {}
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
            report("labels that `gantransfer dataset_tool --source=...` would make from the sub-folders:")
            report(histogram(list(found.labels.values()), found.class_names))
            self._note(self.warnings, [n for n in names if n not in found.labels], "are in no class folder")

    def _modes(self, modes: Counter, report: Callable[[str], None]) -> None:
        report("modes: " + (", ".join(f"{mode} {n}" for mode, n in modes.most_common()) or "none readable"))
        for mode, n in modes.items():
            if mode not in ("L", "RGB"):
                clear = mode in ("LA", "La", "PA") or "RGBA" in mode.upper() or "transparency" in mode
                self.remedies |= {"--alpha": "white"} if clear else {}
                self.remedies |= {"--range": "LOW,HIGH"} if mode == "F" else {}
                self.errors.append(f"{n} images have mode {mode}, not 8-bit greyscale (L) or RGB; convert the set with "
                                   "dataset_tool.py --source=...")

    def _sizes(self, report: Callable[[str], None]) -> None:
        usual = sorted(self.shapes.items(), key=lambda kv: -len(kv[1]))
        report("sizes: " + ", ".join(f"{w}x{h}x{c} {len(v)}" for (h, w, c), v in usual[:8])
               + (f" and {len(usual) - 8} more sizes" if len(usual) > 8 else ""))
        if usual:
            h, w, _ = usual[0][0]
            if len({shape[2] in (1, 2) for shape, _ in usual}) > 1:
                self.remedies["--channels"] = "3"
            if not resolution.fits((h, w)) or len({shape[:2] for shape, _ in usual}) > 1:
                nearest = ImageSize(h, w).nearest(resolution.SMALLEST)[0]
                self.remedies |= {"--transform": "center-crop", "--resolution": str(nearest)}
            if not resolution.fits((h, w)):
                self.errors.append(f"the usual size is {w}x{h}, but {RULE}; convert the set with "
                                   f"--transform=center-crop {resolution.remedy((h, w))}")
            self._note(self.errors, (n for _, v in usual[1:] for n in v), f"differ in size or channels from {w}x{h}")

    def _duplicates(self, seen: dict[bytes, list[str]], labels: dict[str, Any] | None) -> None:
        groups = [v for v in seen.values() if len(v) > 1]
        self._note(self.warnings, (n for v in groups for n in v[1:]), "repeat another image of the set exactly")
        self.remedies |= {"--drop-duplicates": ""} if groups else {}
        if labels:
            def keys(v: list[str]) -> set[str]:
                return {json.dumps(labels.get(n)) for n in v}
            self._note(self.errors, (" = ".join(v[:2]) for v in groups if len(keys(v)) > 1),
                       "are there again with another label")
