# SPDX-License-Identifier: Apache-2.0
"""Photographs of telephones: HEIC through pillow-heif, AVIF through Pillow."""

import sys

import numpy as np
import pytest
from PIL import Image, features

from tests.data.picture_sets import picture, read_set, save


def test_heic(tmp_path, tool, accepted, refused):
    heif = pytest.importorskip("pillow_heif", reason="the package pillow-heif is not installed")
    for k, folder in enumerate("ab"):
        (tmp_path / "set" / folder).mkdir(parents=True)
        exif = Image.Exif()
        exif[0x0112] = 6
        heif.from_pillow(Image.fromarray(picture(k, 32, 64))).save(
            tmp_path / f"set/{folder}/1.HEIC", quality=-1, exif=exif.tobytes(), chroma=444)
    save(tmp_path / "set/b/2.png", picture(2, 64, 32))
    out = accepted(f"--source={tmp_path}/set", f"--dest={tmp_path}/a.zip", "--resolution=32x32", "--keep-names",
                   "--transform=center-crop")
    info, images = read_set(tmp_path / "a.zip")
    assert info["attributes"]["original_name"] == ["a/1.HEIC", "b/1.HEIC", "b/2.png"]
    assert [v for _, v in info["labels"]] == [0, 1, 1] and "left out" not in out
    # Upright as EXIF says: turned once, and not again by what the file itself says.
    upright = Image.fromarray(np.ascontiguousarray(np.rot90(picture(0, 32, 64), -1)))
    expected = np.asarray(upright.crop((0, 16, 32, 48)), np.float64)
    assert np.abs(images["00000/img00000000.png"] - expected).mean() < 6
    code, out, _ = tool("check", tmp_path / "set")
    assert code == 1 and "2 .heic (dataset_tool.py --source=... converts them)" in out and "pip install" not in out
    (tmp_path / "set/a/1.HEIC").write_bytes((tmp_path / "set/a/1.HEIC").read_bytes()[:300])
    assert "a/1.HEIC" in refused(f"--source={tmp_path}/set", f"--dest={tmp_path}/b.zip", "--resolution=32x32")


def test_heic_without_the_package(tmp_path, accepted, monkeypatch):
    """What is left out is said, with what would read it."""
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    save(tmp_path / "set/1.png", picture(1))
    (tmp_path / "set/2.heic").write_bytes(b"x")
    out = accepted(f"--source={tmp_path}/set", f"--dest={tmp_path}/a.zip")
    assert "1 file is left out: 1 .heic (pip install pillow-heif, or convert them first)" in out


def test_avif(tmp_path, refused, converted, monkeypatch):
    from PIL import Image as pillow

    if not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    save(tmp_path / "set/1.avif", picture(1, 32, 32), quality=100)
    image = converted(f"--source={tmp_path}/set", f"--dest={tmp_path}/a.zip")[1]["00000/img00000000.png"]
    assert np.abs(image.astype(float) - picture(1, 32, 32)).mean() < 6
    monkeypatch.delitem(pillow.OPEN, "AVIF")
    err = refused(f"--source={tmp_path}/set", f"--dest={tmp_path}/b.zip")
    assert "AVIF, which this version of Pillow does not read" in err
