# SPDX-License-Identifier: Apache-2.0
"""MNIST as downloaded: a file of images, with its labels file beside it."""

from __future__ import annotations

import gzip
import os
import re
import struct
import zlib
from collections.abc import Iterator
from functools import partial

import numpy as np
from PIL import Image

from dnnlib.util import UserError, open_regular
from gantransfer.data.sources.base import Item, Source, SourceOptions, limited, own_labels
from gantransfer.formats.pickle_machine import Refused, elements


def takes(path: str, name: str) -> bool:
    return re.fullmatch(r"(train|t10k)-images[-.]idx3-ubyte(\.gz)?", name) is not None


def _idx(path: str) -> np.ndarray:
    """The uint8 array of an IDX file (the format of MNIST), plain or gzipped."""
    if not os.path.exists(path):
        raise UserError(f"{path} is missing: the labels of the images beside it; download it, or give --labels=none")
    try:
        with open_regular(path) as f:
            data = limited(gzip.GzipFile(fileobj=f) if path.endswith(".gz") else f, path, 2**30)
        zero, kind, rank = struct.unpack(">HBB", data[:4])
        shape = struct.unpack(f">{rank}I", data[4: 4 + 4 * rank])
        rest = len(data) - 4 - 4 * rank
        if zero != 0 or kind != 8 or not 1 <= rank <= 8 or elements(shape, 1, rest) != rest:
            raise ValueError("wrong header or length")
    except (OSError, EOFError, zlib.error, struct.error, ValueError, Refused) as e:
        raise UserError(f"{path} is not a readable IDX file ({e}); download it again") from None
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)


def open_source(path: str, options: SourceOptions) -> Source:
    own_labels(options, "MNIST")
    if options.split is not None:
        raise UserError("--split does not apply to MNIST: name the split's own file, train-images... or t10k-images...")
    images = _idx(path)
    if images.ndim != 3 or images.shape[1:] != (28, 28):
        raise UserError(f"{path} holds an array of shape {images.shape}, not [n, 28, 28]")
    labels = None
    if options.labels == "auto":
        sibling = re.sub(r"images([-.])idx3", r"labels\1idx1", os.path.basename(path))
        labels = _idx(os.path.join(os.path.dirname(path), sibling))
        if labels.shape != (len(images),):
            raise UserError(f"{path} has {len(images)} images, but the labels file beside it {labels.shape[0]} labels")

    border = 0 if options.size == (28, 28) else 2  # to 32x32, as published, unless they are wanted as they are

    def items() -> Iterator[Item]:
        for i, image in enumerate(images):
            yield Item(f"image {i} of {path}", partial(Image.fromarray, np.pad(image, border)),
                       None if labels is None else int(labels[i]))

    names = () if labels is None else tuple(str(k) for k in range(int(labels.max()) + 1))
    return Source(path, len(images), items, names, "the labels file")
