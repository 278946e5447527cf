# SPDX-License-Identifier: Apache-2.0
"""A data set as one folder per class, or as a WebDataset, its image files unchanged."""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

from dnnlib.util import UserError, atomic_path, sole_writer
from gantransfer.data.container import Container
from gantransfer.data.convert import parts_of
from gantransfer.data.destination import Destination, may_replace
from gantransfer.data.labels import label_array, parse_label_file, some
from gantransfer.data.sources import Source
from gantransfer.data.sources.files import read_parts


def export_set(path: str, dest: str, fname: str = "dataset.json", report: Callable[[str], None] = print,
               overwrite: bool = False, follow_links: bool = False) -> None:
    """Copy the image files of a data set unchanged into a folder per class, with a dataset.json that fits; or into a
    tar as WebDataset reads it."""
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
    if dest.lower().endswith(".tar"):
        _write_tar(dest, overwrite, files, names, values.tolist() if kind != "none" else None, class_names)
        report(f"{dest}: {len(names)} samples")
        return
    folders: dict[int, str] = {}
    if kind == "class":
        width = len(str(int(values.max())))
        for k in sorted(set(values.tolist())):
            text = re.sub(r'[\\/:*?"<>|\x00-\x1f]', "_", class_names[k]).strip(". ") if k < len(class_names) else ""
            text = text.encode()[:200].decode(errors="ignore") or f"{k:0{width}d}"  # file systems allow 255 bytes
            folders[k] = text if text not in folders.values() else f"{text}_{k}"
    taken: set[str] = set()
    out: list[list[Any]] = []
    with Destination(dest, overwrite) as write:
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


def _write_tar(dest: str, overwrite: bool, files: Container, names: list[str], labels: list[Any] | None,
               class_names: tuple[str, ...]) -> None:
    """Samples `00000000.png`, with `.cls` where labels are classes, and `.json` with the label, the name of the class
    and that of the file. The tar appears when it is complete, and has no dates: the same set gives the same bytes."""
    may_replace(dest, overwrite)
    with sole_writer(dest, "--dest="), atomic_path(dest) as tmp, tarfile.open(tmp, "w") as tar:
        def add(name: str, data: bytes) -> None:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))

        for i, name in enumerate(tqdm(names, unit="img", desc=os.path.basename(dest), disable=None)):
            add(f"{i:08d}{os.path.splitext(name)[1].lower()}", files.read(name))
            said: dict[str, Any] = {"name": name}
            if labels is not None:
                said["label"] = labels[i]
                if isinstance(labels[i], int):
                    add(f"{i:08d}.cls", str(labels[i]).encode())
                    said |= {"class_name": class_names[labels[i]]} if labels[i] < len(class_names) else {}
            add(f"{i:08d}.json", json.dumps(said).encode())
