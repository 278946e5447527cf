# SPDX-License-Identifier: Apache-2.0
"""Members of a zip are what `zipfile` says, whichever way they are read."""

import os
import struct
import zipfile

import numpy as np
import pytest

from gantransfer.data.dataset import ImageDataset
from gantransfer.data.zip_members import ZipMembers
from tests.conftest import write_image_zip

CONTENT = {"a/1.png": b"one" * 50, "b.json": b"{}", "a/2.png": b"", "folder/": b"", "c.bin": bytes(range(256)) * 9}


def write(path, method=zipfile.ZIP_STORED, content=CONTENT, comment=b""):
    with zipfile.ZipFile(path, "w", method) as z:
        for name, data in content.items():
            z.writestr(name, data)
        z.comment = comment
    return path


def same_as_zipfile(path):
    """Whether it is read by columns; all members compared."""
    members = ZipMembers(str(path))
    with zipfile.ZipFile(path) as z:
        infos = z.infolist()
        assert [i.filename for i in (members.infos if members.plain is None else infos)] == [i.filename for i in infos]
        if members.plain is not None:
            assert members.plain.names == [i.filename for i in infos]
        for i in infos:
            assert members.sizes(i.filename) == (i.CRC, i.file_size, i.compress_size)
            data = z.read(i)
            assert members.read(i.filename) == data
            assert members.read(i.filename, 5) == data[:5] and members.read(i.filename, 0) == b""
    with pytest.raises(KeyError):
        members.read("absent")
    members.close()
    return members.plain is not None


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("many", [False, True])
def test_plain_zips_by_columns(tmp_path, monkeypatch, method, many):
    if many:  # as from 65,536 members on: the end of the directory in its ZIP64 form
        monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 3)
    path = write(tmp_path / "x.zip", method)
    assert (b"PK\6\6" in path.read_bytes()) is many
    assert same_as_zipfile(path)


def test_streamed_and_empty_zips(tmp_path):
    class Pipe:
        """Where nobody can seek, sizes stand behind the data."""

        def __init__(self, f):
            self.write, self.flush = f.write, f.flush

    with open(tmp_path / "x.zip", "wb") as f:
        write(Pipe(f), zipfile.ZIP_DEFLATED)
    assert same_as_zipfile(tmp_path / "x.zip") and same_as_zipfile(write(tmp_path / "e.zip", content={}))


def test_unusual_zips_by_zipfile(tmp_path):
    (tmp_path / "f.zip").write_bytes(b"something in front" + write(tmp_path / "x.zip").read_bytes())
    for path in (write(tmp_path / "x.zip", zipfile.ZIP_BZIP2), write(tmp_path / "c.zip", comment=b"hello"),
                 write(tmp_path / "n.zip", content={"ä.png": b"1"}), tmp_path / "f.zip"):
        assert not same_as_zipfile(path)
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as z, z.open("big.png", "w", force_zip64=True) as f:
        f.write(b"small")
    assert same_as_zipfile(tmp_path / "z.zip")  # ZIP64 beside the data alone
    (tmp_path / "n.txt").write_bytes(b"no zip" * 30)
    with pytest.raises(zipfile.BadZipFile):
        ZipMembers(str(tmp_path / "n.txt"))


def test_damage_is_an_error(tmp_path):
    whole = write(tmp_path / "x.zip").read_bytes()
    at = whole.index(b"oneone")
    for k, damaged in enumerate((whole[:at] + b"x" + whole[at + 1:], b"PK\3\5" + whole[4:],
                                 whole.replace(b"a/1.png", b"a/9.png", 1))):
        path = tmp_path / f"{k}.zip"
        path.write_bytes(damaged)
        with pytest.raises(zipfile.BadZipFile, match=r"a/1\.png"):
            ZipMembers(str(path)).read("a/1.png")
    sizes = whole.rindex(b"PK\1\2", 0, whole.rindex(b"a/1.png")) + 20  # in the directory: 1 byte less
    path.write_bytes(whole[:sizes] + struct.pack("<2L", 149, 149) + whole[sizes + 8:])
    with pytest.raises(zipfile.BadZipFile, match="CRC"):
        ZipMembers(str(path)).read("a/1.png")
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(zipfile.BadZipFile):
        ZipMembers(str(path))


def test_a_changed_file_is_never_read_as_it_was(tmp_path):
    """Same name, size and time; other images and labels."""
    images = np.random.RandomState(0).randint(0, 255, (2, 6, 8, 8), np.uint8)
    path = write_image_zip(tmp_path / "x.zip", images[0], [0, 1] * 3)
    before, when = ImageDataset(path, use_labels=True), os.stat(path)
    assert (before.images_uint8(range(6))[:, 0] == images[0]).all()
    before.close()
    other = write_image_zip(tmp_path / "y.zip", images[1], [1, 0] * 3)
    os.replace(other, path)
    os.utime(path, ns=(when.st_atime_ns, when.st_mtime_ns))
    after, now = ImageDataset(path, use_labels=True), os.stat(path)
    assert (now.st_size, now.st_mtime_ns) == (when.st_size, when.st_mtime_ns)
    assert (after.images_uint8(range(6))[:, 0] == images[1]).all() and after.class_ids.tolist() == [1, 0] * 3
