# SPDX-License-Identifier: Apache-2.0
import os

import numpy as np
import pytest
from PIL import Image

from tests.data.picture_sets import read_set


def icon(seed: int, size: int = 16) -> Image.Image:
    """RGBA: noise, the left half transparent."""
    pixels = np.random.RandomState(seed).randint(0, 256, (size, size, 4), dtype=np.uint8)
    pixels[:, : size // 2, 3], pixels[:, size // 2:, 3] = 0, 255
    return Image.fromarray(pixels)


def save(path, image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


@pytest.fixture
def theme(tmp_path):
    """Two sizes, in both orders of folders, with all that is to be left out."""
    root = tmp_path / "theme"
    save(root / "base/16x16/apps/b.png", icon(1))
    save(root / "base/16x16/apps/a.png", icon(2))
    save(root / "places/16/home.png", icon(3))
    save(root / "base/16x16/places/grey.png", icon(4).convert("LA"))
    save(root / "base/16x16/places/palette.png", icon(5).convert("RGB").convert("P"))
    save(root / "base/32x32/apps/a.png", icon(6, 32))
    hidden = np.array(icon(1))
    hidden[:, :8, :3] = 7  # colours where nothing shows: the same picture in another file
    save(root / "base/16x16/places/hidden.png", Image.fromarray(hidden))
    # left out: that one, equal content, another size than the folder's, a strip, enlarged screens, no category
    save(root / "base/16x16/places/again.png", icon(2))
    save(root / "base/16x16/apps/large.png", icon(7, 32))
    save(root / "base/16x16/animations/strip.png", icon(8))
    save(root / "16x16@2/apps/c.png", icon(9, 32))
    save(root / "16x16/logo.png", icon(10))
    (root / "base/16x16/apps/d.svg").write_text("<svg/>")
    (root / "base/16x16/apps/no.png").write_text("not a picture")
    os.symlink("a.png", root / "base/16x16/apps/link.png")
    os.symlink("apps", root / "base/16x16/categories")
    return root


def test_categories_are_classes_of_one_size_on_white(theme, tmp_path, accepted):
    out = accepted(f"--source=icons:{theme}", "--resolution=16x16", f"--dest={tmp_path}/a.zip")
    assert "1 links to others" in out and "2 equal to others" in out
    info, images = read_set(tmp_path / "a.zip")
    assert info["class_names"] == ["apps", "places"] and [v for _, v in info["labels"]] == [0, 0, 1, 1, 1]
    first = np.asarray(icon(2).convert("RGBA"))
    assert np.array_equal(images["00000/img00000000.png"][:, 8:], first[:, 8:, :3])
    assert all((images[n][:, :8] == 255).all() and images[n].shape == (16, 16, 3) for n in
               [f"00000/img0000000{i}.png" for i in (0, 1, 2, 4)])  # the palette has no transparency


def test_the_size_is_32_unless_given_and_other_grounds_work(theme, tmp_path, converted):
    save(theme / "base/32x32/places/x.png", icon(11, 32))
    info, images = converted(f"--source=icons:{theme}", "--alpha=black", f"--dest={tmp_path}/a.zip", "--labels=none")
    assert info["labels"] is None and len(images) == 2
    assert all((i[:, :16] == 0).all() and i.shape == (32, 32, 3) for i in images.values())


def test_bad_input_is_one_line(theme, tmp_path, refused):
    (tmp_path / "empty").mkdir()
    out = f"--dest={tmp_path}/out.zip"
    cases = [((f"--source=icons:{theme}", "--resolution=64x64"), ["64x64", "16, 32"]),
             ((f"--source=icons:{theme}", "--resolution=32x32"), ["one category", "apps"]),
             ((f"--source=icons:{theme}", "--resolution=16x32"), ["square"]),
             ((f"--source=icons:{tmp_path}/empty",), ["no .png icons", "oxygen"]),
             ((f"--source=icons:{tmp_path}/nowhere",), ["no such folder"]),
             ((f"--source=icons:{theme}", "--labels=class"), ["--labels=class"]),
             ((f"--source=icons:{theme}", "--split=train"), ["--holdout"]),
             ((f"--source=icons:{theme}", "--follow-links"), ["--follow-links"])]
    for args, words in cases:
        err = refused(*args, out)
        assert all(w in err for w in words), (args, err)
    assert not (tmp_path / "out.zip").exists()
