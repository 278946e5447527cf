# SPDX-License-Identifier: Apache-2.0
"""What is written is whole or not there, and nothing else is touched."""

# SPDX-License-Identifier: Apache-2.0
import errno
import os
import zipfile
from pathlib import Path

import pytest

from dnnlib.util import sole_writer
from gantransfer.commands import dataset_tool
from gantransfer.data.dataset import ImageDataset
from tests.data.picture_sets import class_folders, picture, save
from tests.data.test_names import images, png, write


@pytest.mark.parametrize("dest", ["out.zip", "out"])
def test_full_disk_leaves_the_old_state(tmp_path, refused, monkeypatch, dest):
    class_folders(tmp_path / "in")
    if dest == "out.zip":
        (tmp_path / dest).write_bytes(b"old")
    calls = []

    def until_full(write):
        def wrapped(*args):
            calls.append(args)
            if len(calls) > 2:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(*args)
        return wrapped

    monkeypatch.setattr(zipfile.ZipFile, "writestr", until_full(zipfile.ZipFile.writestr))
    monkeypatch.setattr(Path, "write_bytes", until_full(Path.write_bytes))
    err = refused(f"--source={tmp_path}/in", f"--dest={tmp_path}/{dest}", "--overwrite")
    assert "No space left" in err and len(calls) == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == (["in", dest] if dest == "out.zip" else ["in"])
    if dest == "out.zip":
        assert (tmp_path / dest).read_bytes() == b"old"


@pytest.mark.parametrize("dest", ["new.zip", "new"])
def test_two_conversions_to_one_destination(tmp_path, tool, refused, dest):
    """The second is one line, and harms nothing; so is a folder that appeared meanwhile."""
    for k in range(4):
        save(tmp_path / "in" / f"{k}.png", picture(k))
    with sole_writer(tmp_path / dest):  # as the first holds it while it works
        assert "is being written by process" in refused(f"--source={tmp_path}/in", f"--dest={tmp_path}/{dest}")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]
    assert tool(f"--source={tmp_path}/in", f"--dest={tmp_path}/{dest}")[0] == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", dest]


def test_a_folder_that_appears_meanwhile_is_not_touched(tmp_path, refused, monkeypatch):
    for k in range(4):
        save(tmp_path / "in" / f"{k}.png", picture(k))
    convert = dataset_tool.Conversion.image

    def appears(self, item):
        (tmp_path / "new").mkdir(exist_ok=True)
        (tmp_path / "new" / "mine").write_text("x")
        return convert(self, item)

    monkeypatch.setattr(dataset_tool.Conversion, "image", appears)
    assert "was made by somebody else meanwhile" in refused(f"--source={tmp_path}/in", f"--dest={tmp_path}/new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "new"]
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["mine"]


def test_an_existing_destination_needs_a_flag(tmp_path, tool, accepted, refused):
    path = write(tmp_path / "x", images("a/1.png", "b/2.png"))
    lone = write(tmp_path / "y", images("a/1.png", "b/2.png", "c/3.png"))
    assert tool(f"--source={path}", f"--dest={tmp_path}/w.zip")[0] == 0
    out = accepted(f"--source={lone}", f"--dest={tmp_path}/w.zip")  # made by this tool: a word is enough
    assert "w.zip exists, made by dataset_tool.py: it is replaced" in out
    assert len(ImageDataset(tmp_path / "w.zip")) == 3
    os.rename(tmp_path / "w.zip", tmp_path / "o.zip")
    with zipfile.ZipFile(tmp_path / "o.zip", "w") as z:  # of somebody else
        for k in range(2):
            z.writestr(f"{k}.png", png(k, 16))
    for dest in ("o.zip", "o"):
        if dest == "o":
            assert tool(f"--source={path}", f"--dest={tmp_path}/{dest}")[0] == 0
        before = ImageDataset(tmp_path / dest, use_labels=True).fingerprint()
        assert "--overwrite" in refused(f"--source={lone}", f"--dest={tmp_path}/{dest}")
        assert ImageDataset(tmp_path / dest, use_labels=True).fingerprint() == before
        assert tool(f"--source={lone}", f"--dest={tmp_path}/{dest}", "--overwrite")[0] == 0
        assert len(ImageDataset(tmp_path / dest)) == 3
    assert tool("export", f"--source={tmp_path}/o.zip", f"--dest={tmp_path}/e")[0] == 0
    assert "--overwrite" in refused("export", f"--source={tmp_path}/o.zip", f"--dest={tmp_path}/e")
    assert tool("export", f"--source={tmp_path}/o.zip", f"--dest={tmp_path}/e", "--overwrite")[0] == 0
    # Only data sets are replaced, and never what is being read.
    photos = write(tmp_path / "photos", images("a/1.png"))
    assert "no data set" in refused(f"--source={path}", f"--dest={photos}", "--overwrite")
    inner = write(tmp_path / "o" / "inner", images("a/1.png"))
    assert "lies in" in refused(f"--source={inner}", f"--dest={tmp_path}/o", "--overwrite")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["e", "o", "o.zip", "photos", "x", "y"]
