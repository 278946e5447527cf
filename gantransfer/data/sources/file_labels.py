# SPDX-License-Identifier: Apache-2.0
"""Where the labels of a folder or zip of images come from: dataset.json, class folders, names of files, lists.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from dnnlib.util import UserError
from gantransfer.data.container import Container
from gantransfer.data.folder_labels import are_shards, folder_labels
from gantransfer.data.labels import LabelFile, parse_label_file, some
from gantransfer.data.names import clean_name
from gantransfer.data.sources.base import SourceOptions, with_range
from gantransfer.data.sources.columns import Labels, classes_or_values, from_column
from gantransfer.data.sources.table import rows_for


def file_labels(files: Container, names: Sequence[str], options: SourceOptions) -> Labels:
    mode = options.labels
    if mode == "list":
        rows = rows_for(*options.label_list, names, files.path, options.report)
        return from_column(list(rows), list(rows.values()), options, ":".join(options.label_list))
    if mode in ("utkface", "steering"):
        labels, meta = _originals(files, names, options)
        return Labels(labels, how=mode, label_meta=with_range(labels, meta, options, files.path))
    if mode in ("auto", "json") and files.label_file() is not None:
        return _json_labels(files, names, options)
    if mode == "json":
        raise UserError(f"--labels=json, but {files.path} has no dataset.json at its root")
    if mode == "none":
        return Labels()

    if mode == "auto" and are_shards(names):
        return Labels()
    found = folder_labels(files, names)
    if mode == "auto" and len(found.class_names) < 2:
        return Labels(splits=found.splits)
    if not found.labels:
        raise UserError(f"--labels=folders, but the images of {files.path} are in no sub-folders"
                        + (" other than splits" if found.splits else ""))
    shifted = next((k for k, n in enumerate(found.class_names) if n.isdecimal() and str(k) != (n.lstrip("0") or "0")),
                   None)
    if shifted is not None:
        options.report("note: class folders are numbered from 0 in order: folder "
                       f"{found.class_names[shifted]} is class {shifted}")
    return Labels(dict(found.labels), found.class_names, "sub-folders", splits=found.splits)


def _json_labels(files: Container, names: Sequence[str], options: SourceOptions) -> Labels:
    """What dataset.json says, as class ids wherever labels are classes."""
    file: LabelFile = parse_label_file(files.read_json("dataset.json"), f"dataset.json of {files.path}")
    raw = {n: file.labels[n] for n in names if file.labels.get(n) is not None} if file.labels else {}
    if file.labels and not raw:
        raise UserError(f"dataset.json of {files.path} names none of its {len(names)} images "
                        f"(it has {some(file.labels)}); names are relative to its folder")
    if not raw:
        if options.labels == "json":
            raise UserError(f"--labels=json, but dataset.json of {files.path} says that there are none")
        return Labels()
    return classes_or_values(raw, file, options, "dataset.json")


def table_of_labels(files: Container, options: SourceOptions) -> str | None:
    """The file among `files`, no image, that labels are read from: data.txt of steering angles, or a list that lies
    beside the images."""
    if options.labels == "steering":
        return next((n for n in files.names if n.split("/")[-1] == "data.txt"), None)
    if options.labels == "list" and os.path.isdir(files.path):
        inside = os.path.relpath(os.path.realpath(options.label_list[0]), os.path.realpath(files.path))
        return None if inside.startswith(os.pardir) else inside.replace(os.sep, "/")
    return None


_ORIGINALS = {
    "utkface": dict(kind="regression", unit="year", offset=0.0, scale=60.0, min=1.0, max=60.0),
    "steering": dict(kind="regression", unit="degree", offset=-88.13, scale=186.05, min=-88.13, max=97.92),
}


def _originals(files: Container, names: Sequence[str], options: SourceOptions) -> tuple[dict[str, Any], dict]:
    """Labels of the raw folders: UTKFace's age before the first '_' of a name, steering angles in data.txt.

    Images outside the range that the published sets keep (ages 1 to 60, angles -88.13 to 97.92), and those whose name
    says no age, get no label.
    """
    meta, found = _ORIGINALS[options.labels], {}
    if options.labels == "utkface":
        for n in names:
            age, _, rest = n.split("/")[-1].partition("_")
            if age.isdecimal() and rest:
                found[n] = float(age)
        if not found:
            raise UserError(f"--labels=utkface: no image of {files.path} starts with an age, as 25_0_1_x.jpg")
    else:
        table = table_of_labels(files, options)
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
