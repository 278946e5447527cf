# SPDX-License-Identifier: Apache-2.0
"""IDX files as published."""

import gzip
import struct
from pathlib import Path

import numpy as np

from gantransfer.data.dataset import ImageDataset
from tests.data.picture_sets import read_set


def idx(path: Path, array: np.ndarray) -> None:
    path.write_bytes(gzip.compress(struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()))


def test_mnist(tmp_path, tool, refused, converted):
    rng = np.random.RandomState(0)
    pictures, labels = rng.randint(0, 256, (7, 28, 28), dtype=np.uint8), rng.randint(0, 10, 7).astype(np.uint8)
    idx(tmp_path / "train-images-idx3-ubyte.gz", pictures)
    source = f"--source={tmp_path}/train-images-idx3-ubyte.gz"
    assert "train-labels-idx1-ubyte.gz" in refused(source, f"--dest={tmp_path}/out.zip")
    assert tool(source, f"--dest={tmp_path}/none.zip", "--labels=none")[0] == 0
    idx(tmp_path / "train-labels-idx1-ubyte.gz", labels)
    info, images = converted(source, f"--dest={tmp_path}/out.zip")
    stack = np.stack(list(images.values()))
    assert stack.shape == (7, 32, 32) and np.array_equal(stack[:, 2:30, 2:30], pictures)
    assert stack.sum() == pictures.sum() and [v for _, v in info["labels"]] == labels.tolist()
    assert read_set(tmp_path / "none.zip")[0]["labels"] is None
    assert tool(source, "--resolution=28x28", f"--dest={tmp_path}/as-they-are.zip")[0] == 0
    assert np.array_equal(ImageDataset(tmp_path / "as-they-are.zip").images_uint8(range(len(pictures)))[:, 0], pictures)
    idx(tmp_path / "train-labels-idx1-ubyte.gz", labels[:5])
    assert "5 labels" in refused(source, f"--dest={tmp_path}/x.zip")
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"\0\0\x08\x03" + bytes(20)))
    assert "IDX" in refused(source, f"--dest={tmp_path}/x.zip")
