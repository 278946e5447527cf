# SPDX-License-Identifier: Apache-2.0
"""CIFAR archives as published: the right pixels and labels, and nothing in them is executed."""

import io
import os
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tests.chaos.corpus import Call
from tests.data.picture_sets import read_set


# CIFAR archives as Python 2 wrote them: protocol 2, byte strings, numpy.core.
class _Python2Pickler(pickle._Pickler):
    dispatch = dict(pickle._Pickler.dispatch)

    def save_bytes(self, obj):
        self.write(b"T" + struct.pack("<i", len(obj)) + obj)
        self.memoize(obj)

    dispatch[bytes] = save_bytes
    dispatch[str] = lambda self, obj: self.save_bytes(obj.encode("latin1"))


def python2_pickle(obj) -> bytes:
    buffer = io.BytesIO()
    _Python2Pickler(buffer, protocol=2).dump(obj)
    return buffer.getvalue().replace(b"numpy._core", b"numpy.core")


def cifar(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for n, data in files.items():
            info = tarfile.TarInfo(n)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("dump", [python2_pickle, lambda o: pickle.dumps(o, 2), pickle.dumps])
def test_cifar_archives(tmp_path, tool, converted, dump):
    rng = np.random.RandomState(0)

    def batch(n: int, key: str, classes: int) -> dict:
        return {"data": rng.randint(0, 256, (n, 3072), dtype=np.uint8), key: rng.randint(0, classes, n).tolist()}

    ten = {f"data_batch_{i}": batch(4, "labels", 10) for i in range(1, 6)} | {"test_batch": batch(3, "labels", 10)}
    names = [f"kind {i}" for i in range(10)]
    (tmp_path / "a").mkdir()
    cifar(tmp_path / "a/cifar-10-python.tar.gz", {f"cifar-10-batches-py/{k}": dump(v) for k, v in ten.items()} |
          {"cifar-10-batches-py/batches.meta": dump({"label_names": names})})
    info, images = converted(f"--source={tmp_path}/a/cifar-10-python.tar.gz", f"--dest={tmp_path}/ten.zip")
    data = np.concatenate([ten[f"data_batch_{i}"]["data"] for i in range(1, 6)])
    assert len(images) == 20 and info["class_names"] == names
    assert np.array_equal(np.stack(list(images.values())), data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    assert [v for _, v in info["labels"]] == sum((ten[f"data_batch_{i}"]["labels"] for i in range(1, 6)), [])
    assert tool(f"--source={tmp_path}/a/cifar-10-python.tar.gz", f"--dest={tmp_path}/t.zip", "--split=test")[0] == 0
    assert [v for _, v in read_set(tmp_path / "t.zip")[0]["labels"]] == ten["test_batch"]["labels"]

    hundred = {"train": batch(6, "fine_labels", 100), "test": batch(2, "fine_labels", 100),
               "meta": {"fine_label_names": [f"c{i}" for i in range(100)]}}
    cifar(tmp_path / "a/cifar-100-python.tar.gz", {f"cifar-100-python/{k}": dump(v) for k, v in hundred.items()})
    assert tool(f"--source={tmp_path}/a/cifar-100-python.tar.gz", f"--dest={tmp_path}/h.zip", "--max-images=5")[0] == 0
    info, images = read_set(tmp_path / "h.zip")
    assert [v for _, v in info["labels"]] == hundred["train"]["fine_labels"][:5] and len(info["class_names"]) == 100


@pytest.mark.parametrize("content", [
    lambda p: pickle.dumps({"data": Call(os.system, f"touch {p}")}), lambda p: pickle.dumps([1]),
    lambda p: b"\x80\x02garbage",
    lambda p: pickle.dumps({"data": np.zeros([2, 3], np.uint8), "labels": [0, 1]}),
    lambda p: pickle.dumps({"data": np.array([Call(os.system, f"touch {p}")], object), "labels": [0]}),
    lambda p: pickle.dumps({"data": np.zeros([2, 3072], np.uint8), "labels": [0, 77]})])
def test_cifar_pickles_are_not_executed(tmp_path, refused, content):
    marker = tmp_path / "marker"
    (tmp_path / "a").mkdir()
    cifar(tmp_path / "a/cifar-10-python.tar.gz",
          {f"cifar-10-batches-py/data_batch_{i}": content(marker) for i in range(1, 6)} |
          {"cifar-10-batches-py/batches.meta": pickle.dumps({"label_names": []})})
    assert "data_batch_1" in refused(f"--source={tmp_path}/a/cifar-10-python.tar.gz", f"--dest={tmp_path}/out.zip")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"]


def test_damaged_cifar_archive(tmp_path, refused):
    cifar(tmp_path / "cifar-10-python.tar.gz", {"x": b"1" * 1000})
    assert "batches.meta" in refused(f"--source={tmp_path}/cifar-10-python.tar.gz", f"--dest={tmp_path}/out.zip")
    whole = (tmp_path / "cifar-10-python.tar.gz").read_bytes()
    for damaged in (whole[:40], b"nothing"):
        (tmp_path / "cifar-10-python.tar.gz").write_bytes(damaged)
        err = refused(f"--source={tmp_path}/cifar-10-python.tar.gz", f"--dest={tmp_path}/out.zip")
        assert "cifar-10-python.tar.gz" in err
