# SPDX-License-Identifier: Apache-2.0
"""An HDF5 file of cGAN-KD."""

from __future__ import annotations

from collections.abc import Iterator

from gantransfer.data import h5
from gantransfer.data.sources.base import Item, Source, SourceOptions, own_labels

SPLITS = ("train", "reference", "all", *h5.SPLITS)


def takes(path: str, name: str) -> bool:
    return name.lower().endswith(h5.SUFFIXES)


def open_source(path: str, options: SourceOptions) -> Source:
    own_labels(options, "an HDF5 file")
    chosen = h5.read(path, options.split, options.label_kind, options.label_range, options.label_unit,
                     options.labels != "none")

    def items() -> Iterator[Item]:
        for i, (name, load) in enumerate(chosen.pictures()):
            yield Item(name, load, chosen.labels[i] if chosen.labels else None)

    return Source(path, len(chosen.rows), items, chosen.class_names if chosen.labels else (),
                  f"the file (layout {chosen.layout})" if chosen.labels else "none", label_meta=chosen.label_meta,
                  splits={k: v.tolist() for k, v in chosen.splits.items()},
                  attributes={k: v.tolist() for k, v in chosen.attributes.items()},
                  generated=chosen.layout == "fakes")
