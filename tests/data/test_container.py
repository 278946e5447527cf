# SPDX-License-Identifier: Apache-2.0
"""Folders and zips of images, and damaged ones."""

# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dnnlib.util import UserError
from gantransfer.data.container import Container
from gantransfer.data.dataset import ImageDataset
from tests.data.picture_sets import png
from tests.data.test_dataset import Made, images, make, name


def test_bad_containers(tmp_path):
    cases = {"missing.zip": None, "empty.zip": b"", "noise.zip": os.urandom(1000)}
    for file, data in cases.items():
        if data is not None:
            (tmp_path / file).write_bytes(data)
        with pytest.raises(UserError, match=file):
            ImageDataset(tmp_path / file)
    with zipfile.ZipFile(tmp_path / "none.zip", "w") as z:
        z.writestr("readme.txt", "x")
    with pytest.raises(UserError, match="no images in .*none.zip.*dataset_tool"):
        ImageDataset(tmp_path / "none.zip")
    whole = Path(make(tmp_path).zip).read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="cut.zip"):
        ImageDataset(tmp_path / "cut.zip")
    with zipfile.ZipFile(tmp_path / "twice.zip", "w") as z, pytest.warns(UserWarning):
        z.writestr("a.png", png(images(1)[0]))
        z.writestr("a.png", png(images(1)[0]))
    with pytest.raises(UserError, match="a.png twice"):
        ImageDataset(tmp_path / "twice.zip")


def test_damaged_member_is_named(tmp_path):
    made = make(tmp_path)
    data = bytearray(Path(made.zip).read_bytes())
    with zipfile.ZipFile(made.zip) as z:
        info = z.getinfo(name(3))
    at = info.header_offset + 30 + len(info.filename) + 60
    data[at: at + 20] = bytes(20)
    Path(made.zip).write_bytes(bytes(data))
    d = ImageDataset(made.zip)
    index = sorted(map(name, range(8))).index(name(3))
    with pytest.raises(UserError, match=name(3)) as e:
        d[index]
    assert "check" in str(e.value) and "\n" not in str(e.value)


def test_other_formats_and_folders_anywhere(tmp_path):
    picture = np.full([8, 8, 3], 77, np.uint8)
    files = {}
    for suffix, fmt in ((".JPG", "jpeg"), (".webp", "webp"), (".bmp", "bmp"), (".tif", "tiff")):
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, fmt, **({"lossless": True} if fmt == "webp" else {}))
        files[f"deep/er/x{suffix}"] = buffer.getvalue()
    d = ImageDataset(Made(tmp_path, files).zip)
    assert len(d) == 4 and (np.abs(d.images_uint8(range(4)).astype(int) - 77) <= 2).all()
    assert Container(tmp_path / "set").image_names == Container(tmp_path / "set.zip").image_names
    d.check_headers()
    (tmp_path / "set/deep/.hidden").mkdir()
    (tmp_path / "set/deep/.hidden/x.png").write_bytes(b"x")
    (tmp_path / "set/loop").symlink_to(tmp_path / "set", target_is_directory=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/linked.png").write_bytes(png(picture))
    (tmp_path / "set/link").symlink_to(tmp_path / "other", target_is_directory=True)
    with pytest.raises(UserError, match="1 link out of the folder.*link"):
        Container(tmp_path / "set")
    files = Container(tmp_path / "set", follow_links=True)
    assert len(files.image_names) == 5 and files.image_names[4] == "link/linked.png"
