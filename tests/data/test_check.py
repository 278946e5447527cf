# SPDX-License-Identifier: Apache-2.0
"""`dataset_tool.py check` finds what would stop or spoil training."""

import json

import numpy as np

from tests.data.picture_sets import picture, save


def test_check_finds_everything(tmp_path, tool, accepted):
    root = tmp_path / "set"
    for i in range(6):
        save(root / f"{i}.png", picture(i))
    labels = [[f"{i}.png", i % 3] for i in range(6)]
    (root / "dataset.json").write_text(json.dumps({"labels": labels, "class_names": ["a", "b", "c"]}))
    out = accepted("check", root)
    assert "no problems" in out and "3 classes, 6 images: 2 to 2" in out and "RGB 6" in out
    save(root / "7.png", picture(1))  # repeats 1.png
    changed = [*labels[:5], ["5.png", 4], ["7.png", 1], ["gone.png", 6]]
    (root / "dataset.json").write_text(json.dumps({"labels": changed}))
    out = accepted("check", root)
    for words in ("1 images repeat another image of the set exactly: 7.png", "missing: gone.png",
                  "1 class ids have no image: 3"):
        assert words in out, (words, out)
    assert tool("check", root, "--strict")[0] == 1
    save(root / "8.png", picture(8, 32, 32))
    save(root / "9.png", np.zeros([16, 16, 4], np.uint8))
    (root / "10.png").write_bytes(b"x")
    (root / "dataset.json").write_text(json.dumps({"labels": [*labels, ["7.png", 2], ["9.png", 0]]}))
    code, out, _ = tool("check", root)
    assert code == 1
    for words in ("1 images cannot be read or decoded: 10.png", "mode RGBA",
                  "differ in size or channels from 16x16: 8.png", "1.png = 7.png",
                  "2 images have no label: 10.png, 8.png"):
        assert words in out, (words, out)
    for content, words in ((json.dumps({"labels": [["0.png", [1, 2]], ["1.png", 1]]}), "lists among others"),
                           ("{", "not valid JSON")):
        (root / "dataset.json").write_text(content)
        code, out, _ = tool("check", root)
        assert code == 1 and words in out
    (root / "lt.json").write_text(json.dumps({"labels": [["0.png", 0], ["gone.png", 1]]}))
    code, out, _ = tool("check", root, "--fname=lt.json")
    assert code == 1 and "1 images have labels in lt.json but are missing: gone.png" in out
    assert tool("check", root, "--fname=no.json")[0] == 2 and tool("check", tmp_path / "nowhere")[0] == 2


def test_check_of_odd_sizes(tmp_path, tool):
    for i in range(3):
        save(tmp_path / f"set/{i}.png", picture(i, 22, 22))
    code, out, _ = tool("check", tmp_path / "set")
    assert code == 1 and "22x22" in out and "power of two" in out and "--resolution=24x24" in out and "no labels" in out


def test_one_command_mends_everything_that_a_conversion_can(tmp_path, tool, accepted):
    """Sizes, modes, missing labels and repeated images are named at once, by a command that does what it says."""
    root = tmp_path / "set"
    for i in range(4):
        save(root / f"{i}.png", picture(i, 24, 40))
    save(root / "4.png", picture(4, 32, 32))
    save(root / "5.png", picture(5, 24, 40, 1))
    save(root / "6.png", np.dstack([picture(6, 24, 40), np.full([24, 40], 9, np.uint8)]))
    save(root / "7.png", picture(1, 24, 40))
    (root / "dataset.json").write_text(json.dumps({"labels": [[f"{i}.png", i % 2] for i in range(8) if i != 3]}))
    code, out, _ = tool("check", root)
    (line,) = [x for x in out.splitlines() if x.startswith("all of it at once")]
    command = line.partition(": gantransfer dataset_tool ")[2].replace("NEW.zip", f"{tmp_path}/new.zip").split()
    assert code == 1 and command[2:] == ["--alpha=white", "--channels=3", "--drop-duplicates", "--drop-unlabelled",
                                         "--resolution=40x24", "--transform=center-crop"]
    assert tool(*command)[0] == 0
    out = accepted("check", tmp_path / "new.zip", "--strict")
    assert "no problems" in out and "6 images" in out and "all of it" not in out


def test_images_that_another_set_has_too(tmp_path, tool, accepted, refused):
    """Equal ones are errors; the same picture in another size and compression is a warning; others are neither."""
    for i in range(8):
        save(tmp_path / f"train/{i}.png", picture(i, 32, 32))
    save(tmp_path / "train/flat.png", np.full([32, 32, 3], 90, np.uint8))
    for i in range(20, 24):
        save(tmp_path / f"test/{i}.png", picture(i, 32, 32))
    save(tmp_path / "test/flat.png", np.full([32, 32, 3], 91, np.uint8))
    assert "no problems" in accepted("check", tmp_path / "test", f"--against={tmp_path}/train")
    save(tmp_path / "test/again.jpg", picture(5, 32, 32), quality=85)
    out = accepted("check", tmp_path / "test", f"--against={tmp_path}/train")
    assert "1 images are nearly equal to one of" in out and "again.jpg ~ 5.png" in out
    save(tmp_path / "test/same.bmp", picture(3, 32, 32))
    code, out, _ = tool("check", tmp_path / "test", f"--against={tmp_path}/train")
    assert code == 1 and "ERROR: 1 images are in" in out and "same.bmp = 3.png" in out
    save(tmp_path / "train/clear.png", np.dstack([picture(3, 32, 32), np.full((32, 32), 9, np.uint8)]))
    (tmp_path / "train/x.psd").write_bytes(b"x")
    code, out, _ = tool("check", tmp_path / "test", f"--against={tmp_path}/train")
    assert "1 images of" in out and "are not compared" in out and "clear.png" in out and "1 .psd (convert" in out
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    assert "x.parquet is no data set yet: dataset_tool.py --source=" in refused("check", tmp_path / "x.parquet")
    assert "no such file or folder" in refused("check", tmp_path / "test", f"--against={tmp_path}/none")
