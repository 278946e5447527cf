# SPDX-License-Identifier: Apache-2.0
"""What `dataset_tool.py --source` can read. A source is one file here and one entry in SOURCES.

A source's file has `takes(path, name)`, whether --source means it; `open_source(path, options)`; and `SPLITS`, the
parts that --split may choose, unless it looks at that by itself.
"""

from __future__ import annotations

import os
from dataclasses import replace

from dnnlib.util import UserError
from gantransfer.data import h5
from gantransfer.data.sources import (
    cifar,
    digits,
    elpv,
    files,
    fonts,
    hdf5,
    icons,
    lmdb,
    mnist,
    parquet,
    webdataset,
)
from gantransfer.data.sources.base import SPLITS, Item, Source, SourceOptions, expanded

__all__ = ["SOURCES", "SPLITS", "Item", "Source", "SourceOptions", "open_source"]

# The first that takes a path has it.
SOURCES = (elpv, icons, digits, fonts, hdf5, cifar, mnist, lmdb, webdataset, parquet, files)


def open_source(path: str, options: SourceOptions) -> Source:
    """The source that `path` means, by its name. Raises UserError when there is none or it is damaged."""
    name = os.path.basename(os.path.normpath(path))
    source = next((s for s in SOURCES if s.takes(path, name)), None)
    if options.letters is not None and source is not fonts:
        raise UserError("--letters belongs to --source=fonts:DIR")
    if options.labels in elpv.LABELS and source is not elpv:
        raise UserError(f"--labels={options.labels} belongs to --source=elpv")
    if options.labels == "list" and source is not files:
        raise UserError(f"--labels={':'.join(options.label_list)} is for a folder or zip of images")
    for flag, given in (("--label-column", options.label_column), ("--image-column", options.image_column)):
        if given is not None and source not in (webdataset, parquet):
            raise UserError(f"{flag} belongs to WebDataset shards, Parquet files and folders of `datasets`")
    if options.shards and source not in (webdataset, parquet):
        raise UserError(f"--source is given {1 + len(options.shards)} times; only WebDataset shards and Parquet files "
                        "can be several")
    for p in options.shards:
        if not source.takes(p, os.path.basename(os.path.normpath(p))):
            raise UserError(f"--source={path} and --source={p} are of different kinds; convert one at a time")
    if source not in (elpv, icons, digits, fonts):
        for p in (p for given in (path, *options.shards) for p in expanded(given)):
            if not os.path.exists(p):
                raise UserError(f"--source={p}: no such file or folder")
    if source is None:
        raise UserError(f"--source={path}: unknown kind of file; give a folder, a .zip, cifar-10-python.tar.gz, "
                        "cifar-100-python.tar.gz, train-images-idx3-ubyte.gz, an LMDB folder, an HDF5 file of cGAN-KD, "
                        "WebDataset shards (.tar), Parquet files, a folder of `datasets`, sklearn:digits, "
                        "sklearn:rotated-digits, fonts:DIR, icons:DIR or elpv")
    if options.split is not None and options.split not in getattr(source, "SPLITS", (options.split,)):
        raise UserError(
            f"--split=val belongs to folders and zips with splits, and {path} is none; give train or test"
            if options.split == "val" else f"--split={options.split} belongs to HDF5 files of cGAN-KD"
            if options.split in h5.SPLITS else
            f"--split does not apply to {name}: CIFAR archives, sklearn:digits, fonts:DIR, and folders and zips with "
            "splits have them")
    opened = source.open_source(path, options)
    return opened if options.labels != "none" else replace(
        opened, items=lambda: (replace(item, label=None) for item in opened.items()), class_names=(), labelled="none",
        label_meta=None)
