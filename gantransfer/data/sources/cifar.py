# SPDX-License-Identifier: Apache-2.0
"""The archives of CIFAR-10 and CIFAR-100 as downloaded.

Their pickles pass through a reader that can build arrays only.
"""

from __future__ import annotations

import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from dnnlib.util import UserError, open_regular
from gantransfer.data.sources.base import Item, Source, SourceOptions, limited, own_labels
from gantransfer.formats import pickled_arrays
from gantransfer.formats.pickle_machine import Refused

SPLITS = ("train", "reference", "all")


def takes(path: str, name: str) -> bool:
    return name in ("cifar-10-python.tar.gz", "cifar-100-python.tar.gz")


def load_arrays(data: bytes, where: str) -> dict:
    """A pickled dict of arrays and plain values (Python 2 strings become str). Raises UserError for anything else."""
    try:
        result = pickled_arrays.load(data, old=True)
        if isinstance(result, dict):
            return result
        reason: Any = f"it holds a {type(result).__name__}, not a dict"
    except Refused as e:
        reason = e
    raise UserError(f"{where} is not a CIFAR batch ({reason}); download the archive again")


def open_source(path: str, options: SourceOptions) -> Source:
    own_labels(options, "a CIFAR archive")
    fine = "cifar-100" in os.path.basename(path)
    split = options.split or "train"
    if fine:
        folder, key, meta, meta_key = "cifar-100-python", "fine_labels", "meta", "fine_label_names"
        train, test = ["train"], ["test"]
    else:
        folder, key, meta, meta_key = "cifar-10-batches-py", "labels", "batches.meta", "label_names"
        train, test = [f"data_batch_{i}" for i in range(1, 6)], ["test_batch"]
    wanted = {"train": train, "reference": test, "all": train + test}[split]

    def member(tar: tarfile.TarFile, name: str) -> dict:
        where = f"{folder}/{name} in {path}"
        try:
            stream = tar.extractfile(f"{folder}/{name}")
        except KeyError:
            stream = None
        if stream is None:
            raise UserError(f"{path} has no {folder}/{name}; download the archive again")
        return load_arrays(limited(stream, where), where)

    def read(visit: Callable[[tarfile.TarFile], Any]) -> Any:
        try:
            with open_regular(path) as f, tarfile.open(fileobj=f, mode="r:gz") as tar:
                return visit(tar)
        except (tarfile.TarError, EOFError, OSError, zlib.error) as e:
            raise UserError(f"{path} is damaged ({e}); download the archive again") from None

    def batch(name: str) -> tuple[np.ndarray, list[int]]:
        content = read(lambda tar: member(tar, name))
        data, labels = content.get("data"), content.get(key)
        if not (isinstance(data, np.ndarray) and data.ndim == 2 and data.shape[1] == 3072 and data.dtype == np.uint8
                and isinstance(labels, list) and len(labels) == len(data)
                and all(isinstance(v, int) and 0 <= v < (100 if fine else 10) for v in labels)):
            raise UserError(f"{folder}/{name} in {path} is not a CIFAR batch; download the archive again")
        return data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels

    names = read(lambda tar: member(tar, meta)).get(meta_key, ())
    names = tuple(str(n) for n in names) if isinstance(names, (list, tuple)) else ()

    def items() -> Iterator[Item]:
        for name in wanted:
            data, labels = batch(name)
            for i, (image, label) in enumerate(zip(data, labels)):
                yield Item(f"image {i} of {name} in {path}", partial(Image.fromarray, np.ascontiguousarray(image)),
                           label)

    # Published sizes; a batch of another length only makes the progress bar less exact.
    count = (50000 if train[0] in wanted else 0) + (10000 if test[0] in wanted else 0)
    return Source(path, count, items, names, "the archive")
