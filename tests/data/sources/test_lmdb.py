# SPDX-License-Identifier: Apache-2.0
"""LSUN's databases, and damaged ones."""

import io
import sys

import numpy as np
import pytest
from PIL import Image

from dnnlib.util import UserError
from gantransfer.data import sources, transforms
from tests.data.picture_sets import picture, read_set


def test_lsun(tmp_path, accepted, monkeypatch):
    lmdb = pytest.importorskip("lmdb")
    pictures = [picture(i, 20, 30) for i in range(3)]
    with lmdb.open(str(tmp_path / "church_lmdb"), map_size=1 << 20) as db, db.begin(write=True) as txn:
        for i, p in enumerate(pictures):
            buffer = io.BytesIO()
            Image.fromarray(p).save(buffer, "webp", lossless=True)
            txn.put(f"k{i}".encode(), buffer.getvalue())
        txn.put(b"k1b", b"damaged")
    out = accepted(f"--source={tmp_path}/church_lmdb", f"--dest={tmp_path}/out.zip", "--transform=center-crop",
                   "--resolution=16x16")
    assert "skipped" in out and "k1b" in out
    _, images = read_set(tmp_path / "out.zip")
    assert sorted(images) == [f"00000/img{i:08d}.png" for i in (0, 1, 3)]
    for p, (_, image) in zip(pictures, sorted(images.items())):
        assert np.array_equal(image, transforms.transform_image(p, "center-crop", 16, 16))


def test_a_damaged_database_is_one_line(tmp_path, refused):
    """Its pages are memory: one behind the file's end ends the process, one that points back is read for ever."""
    lmdb = pytest.importorskip("lmdb")
    buffer = io.BytesIO()
    Image.fromarray(picture(0)).save(buffer, "png")
    for kind, records in (("a", {b"k%d" % i: buffer.getvalue() for i in range(9)}), (
            "b", {b"length": b"1000000000", b"num_classes": b"2", b"16-00000": b"x", b"label-00000": b"1"})):
        with lmdb.open(str(tmp_path / f"{kind}_lmdb"), map_size=1 << 20) as db, db.begin(write=True) as txn:
            for key, value in records.items():
                txn.put(key, value)
    err = refused(f"--source={tmp_path}/b_lmdb", f"--dest={tmp_path}/out.zip")
    assert "1,000,000,000 images, but it has 4 records" in err
    whole = (tmp_path / "a_lmdb/data.mdb").read_bytes()
    for data, words in ((whole[:8192], "cut short"), (whole[:-1], "cut short"), (b"", "not readable as LMDB")):
        (tmp_path / "a_lmdb/data.mdb").write_bytes(data)
        err = refused(f"--source={tmp_path}/a_lmdb", f"--dest={tmp_path}/out.zip")
        assert words in err and not (tmp_path / "out.zip").exists()


def test_records_in_circles(tmp_path):
    class Circle:
        def cursor(self):
            while True:
                yield b"a", b"b"

    (tmp_path / "data.mdb").write_bytes(bytes(800))
    with pytest.raises(UserError, match="circles"):
        list(sources.lmdb._records(str(tmp_path), Circle()))


def test_lsun_without_the_package(tmp_path, refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    (tmp_path / "church_lmdb").mkdir()
    assert "pip install lmdb" in refused(f"--source={tmp_path}/church_lmdb", f"--dest={tmp_path}/out.zip")
