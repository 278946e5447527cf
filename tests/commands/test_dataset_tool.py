# SPDX-License-Identifier: Apache-2.0
"""dataset_tool as typed: labels, classes, sizes and bad input. With data/sources/files.py and
data/sources/file_labels.py."""

import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from gantransfer.data.dataset import ImageDataset
from tests.conftest import write_image_zip
from tests.data.picture_sets import class_folders, picture, read_set, save


def test_class_folders_become_sorted_labels(tmp_path, tool, accepted):
    content = class_folders(tmp_path / "in")
    out = accepted(f"--source={tmp_path}/in", f"--dest={tmp_path}/out.zip")
    assert "3 classes, 6 images" in out and "sub-folders" in out
    info, images = read_set(tmp_path / "out.zip")
    assert info["class_names"] == ["ape", "cat", "dog"]
    names = [f"00000/img{i:08d}.png" for i in range(6)]
    assert info["labels"] == [[n, k] for n, k in zip(names, (0, 0, 1, 2, 2, 2))]
    for n, key in zip(names, sorted(content)):
        assert np.array_equal(images[n], content[key])
    d = ImageDataset(tmp_path / "out.zip", use_labels=True)
    assert d.spec.label.counts == (2, 1, 3) and d.spec.label.names == ("ape", "cat", "dog")
    with zipfile.ZipFile(tmp_path / "out.zip") as z:
        assert all(i.compress_type == zipfile.ZIP_STORED for i in z.infolist())
        data = z.read(names[0])
    assert len(data) > 16 * 16 * 3  # compress level 0
    assert tool(f"--source={tmp_path}/in", f"--dest={tmp_path}/again.zip")[0] == 0
    assert (tmp_path / "again.zip").read_bytes() == (tmp_path / "out.zip").read_bytes()


def test_label_sources(tmp_path, tool, accepted, converted):
    root = tmp_path / "in"
    class_folders(root)

    def labels(*args) -> list:
        accepted(f"--source={root}", f"--dest={tmp_path}/out.zip", "--overwrite", *args)
        return read_set(tmp_path / "out.zip")[0]["labels"]

    assert labels("--labels=none") is None
    (root / "dataset.json").write_text(json.dumps({"labels": [
        [f"{c}/{k}.png", 5.0] for c, n in (("ape", 2), ("cat", 1), ("dog", 3)) for k in range(n)]}))
    assert [v for _, v in labels()] == [5] * 6  # dataset.json wins
    assert [v for _, v in labels("--labels=folders")] == [0, 0, 1, 2, 2, 2]
    (root / "dataset.json").write_text('{"labels": null}')
    assert labels() is None
    assert tool(f"--source={root}", f"--dest={tmp_path}/x.zip", "--labels=json")[0] == 2
    # The numbered folders of an earlier conversion without labels are not classes.
    (root / "dataset.json").unlink()
    for i in (0, 1):
        save(tmp_path / f"shards/0000{i}/img0000{i}000.png", picture(i))
    assert converted(f"--source={tmp_path}/shards", f"--dest={tmp_path}/s.zip")[0]["labels"] is None


def test_partial_labels_are_an_error_unless_dropped(tmp_path, tool, refused):
    root = tmp_path / "in"
    class_folders(root)
    (root / "dataset.json").write_text(json.dumps({"labels": [["ape/0.png", 1], ["dog/2.png", 0]]}))
    err = refused(f"--source={root}", f"--dest={tmp_path}/out.zip")
    assert "4 of 6 images" in err and "ape/1.png" in err and "--drop-unlabelled" in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]
    assert tool(f"--source={root}", f"--dest={tmp_path}/out.zip", "--drop-unlabelled")[0] == 0
    # Names keep the number of the image in the source.
    assert read_set(tmp_path / "out.zip")[0]["labels"] == [["00000/img00000000.png", 1], ["00000/img00000005.png", 0]]


def test_vector_labels_pass_through(tmp_path, tool):
    for i in range(3):
        save(tmp_path / f"in/{i}.png", picture(i))
    (tmp_path / "in/dataset.json").write_text(json.dumps({"labels": [[f"{i}.png", [i / 2, -1]] for i in range(3)]}))
    assert tool(f"--source={tmp_path}/in", f"--dest={tmp_path}/out")[0] == 0
    d = ImageDataset(tmp_path / "out", use_labels=True)
    assert d.spec.label.kind == "value" and d.labels(range(3)).tolist() == [[0, -1], [0.5, -1], [1, -1]]


def test_classes_and_max_images(tmp_path, tool, refused, converted):
    class_folders(tmp_path / "in")
    info, _ = converted(f"--source={tmp_path}/in", f"--dest={tmp_path}/a.zip", "--classes=2,0")
    assert info["class_names"] == ["dog", "ape"] and [v for _, v in info["labels"]] == [1, 1, 0, 0, 0]
    assert info["meta"]["classes"] == [2, 0]
    info, _ = converted(f"--source={tmp_path}/in", f"--dest={tmp_path}/b.zip", "--classes=cat,dog", "--max_images=4")
    assert info["class_names"] == ["cat", "dog"] and [v for _, v in info["labels"]] == [0, 1]
    assert len(converted(f"--source={tmp_path}/in", f"--dest={tmp_path}/c.zip", "--max-images=2")[1]) == 2
    assert tool(f"--source={tmp_path}/in", f"--dest={tmp_path}/e.zip", "--classes=2,0", "--per-class=1")[0] == 0
    assert [v for _, v in read_set(tmp_path / "e.zip")[0]["labels"]] == [1, 0]
    err = refused(f"--source={tmp_path}/in", f"--dest={tmp_path}/f.zip", "--labels=none", "--per-class=1")
    assert "--per-class" in err and not (tmp_path / "f.zip").exists()
    for bad in ("cow", "1,1", "3-1", "7", "1,,2"):
        err = refused(f"--source={tmp_path}/in", f"--dest={tmp_path}/d.zip", f"--classes={bad}")
        assert err and not (tmp_path / "d.zip").exists()


def test_published_command_and_both_size_styles(tmp_path, tool):
    for i, (h, w) in enumerate(((20, 33), (40, 24), (16, 16))):
        save(tmp_path / f"Image/c{i}/{i}.jpg", picture(i, h, w))
    common = (f"--source={tmp_path}/Image/", "--transform=center-crop")
    assert tool(*common, f"--dest={tmp_path}/a", "--width=16", "--height=16")[0] == 0
    assert tool(*common, f"--dest={tmp_path}/b.zip", "--resolution=16x16")[0] == 0
    assert tool(*common, f"--dest={tmp_path}/c.zip", "--resolution=16", "--resize-filter=box")[0] == 0
    a, b, c = (ImageDataset(tmp_path / p, use_labels=True) for p in ("a", "b.zip", "c.zip"))
    assert a.fingerprint() == b.fingerprint() != c.fingerprint()
    assert a.image_shape == [3, 16, 16] and a.label_dim == 3


def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, refused):
    good, odd = tmp_path / "good", tmp_path / "odd"
    class_folders(good)
    mixed = {"size": picture(1, 32, 32), "channels": picture(1, c=1), "alpha": np.zeros([16, 16, 4], np.uint8)}
    for kind, image in mixed.items():
        save(odd / kind / "0.png", picture(0))
        save(odd / kind / "1.png", image)
    save(odd / "three/0.png", picture(0, 22, 22))
    save(odd / "wide/0.png", picture(0, 16, 32))
    (odd / "broken").mkdir()
    (odd / "broken/x.png").write_bytes(b"\x89PNG nonsense")
    (odd / "empty").mkdir()
    (odd / "empty.zip").write_bytes(b"")
    (odd / "noise.zip").write_bytes(b"PK" + bytes(100))
    (odd / "x.rar").write_bytes(b"x")
    (odd / "full").mkdir()
    (odd / "full/file").write_text("x")
    (odd / "json").mkdir()
    save(odd / "json/0.png", picture(0))
    save(odd / "json/1.png", picture(1))
    out = f"--dest={tmp_path}/out/set.zip"

    def source(kind: str, *args) -> tuple:
        return (f"--source={odd / kind}", out, *args)

    cases = [
        (source("size"), ["1.png", "32x32x3", "16x16x3", "--transform"]),
        (source("channels"), ["1.png", "16x16x1", "16x16x3", "--channels=3"]),
        (source("alpha"), ["1.png", "--alpha"]),
        (source("three"), ["22x22", "power of two", "--resolution=24x24", "20x20"]),
        (source("wide"), ["32x16", "--transform=center-crop", "--resolution=28x16"]),
        (source("wide", "--transform=pad", "--resolution=200x200"), ["200x200", "192x192", "224x224"]),
        (source("broken"), ["x.png", "decode"]),
        (source("empty"), ["no images"]),
        (source("empty.zip"), ["empty.zip", "not a readable zip"]),
        (source("noise.zip"), ["noise.zip", "not a readable zip"]),
        (source("x.rar"), ["x.rar", "unknown kind"]),
        (source("gone"), ["gone", "no such file"]),
        (source("three", "--transform=center-crop"), ["--transform=center-crop", "--resolution"]),
        (source("three", "--resolution=8x8", "--width=8"), ["--resolution", "--width"]),
        (source("three", "--resolution=big"), ["--resolution=big"]),
        (source("three", "--resolution=0x0"), ["--resolution"]),
        (source("three", "--resolution=64x64", "--transform=center-crop-wide"), ["too small"]),
        (source("three", "--resolution=8x16", "--transform=center-crop-wide"), ["center-crop-wide"]),
        (source("three", "--split=train"), ["--split"]),
        (source("three", "--letters=A-C"), ["--letters"]),
        (source("json", "--labels=folders"), ["--labels=folders"]),
        (source("json", "--labels=json"), ["--labels=json", "no dataset.json"]),
        (source("json", "--classes=0"), ["--classes"]),
        ((f"--source={good}", f"--dest={odd}/full"), ["full", "not empty"]),
        ((f"--source={good}", f"--dest={odd}/full/file"), ["is a file"]),
        ((f"--source={good}", f"--dest={tmp_path}/out.tar"), [".tar"]),
        ((f"--source={good}", f"--dest={good}"), ["same as --source"]),
        ((f"--source={good}", f"--dest={odd}/full/file/deep.zip"), ["deep.zip"]),
        (("--source=sklearn:faces", out), ["sklearn:digits"]),
        (("--source=sklearn:digits", out, "--transform=pad", "--resolution=16x16"), ["--transform"]),
        (("--source=sklearn:digits", out, "--resolution=22x22"), ["power of two"]),
        ((f"--source=fonts:{odd}", out), ["no .ttf"]),
        ((f"--source=fonts:{tmp_path}/nowhere", out), ["no such folder"]),
        (("--source=x",), ["--dest is missing"]),
        ((out,), ["--source is missing"]),
    ]
    before = sorted(str(p) for p in tmp_path.rglob("*"))
    for args, words in cases:
        line = refused(*args)
        assert all(w in line for w in words), (args, line)
        assert sorted(str(p) for p in tmp_path.rglob("*")) == before, args


@pytest.mark.parametrize("labels, words", [
    ([["0.png", 0], ["1.png", [1]]], ["lists among others"]),
    ([["0.png", 0], ["1.png", 1.5]], ["[1.5]", "1.png"]),
    ([["0.png", 0], ["1.png", -1]], ["negative"]),
    ([["0.png", 0]], ["1 of 2 images", "1.png"]),
    ([["x.png", 0]], ["names none"]),
])
def test_bad_labels_in_the_source(tmp_path, refused, labels, words):
    for i in range(2):
        save(tmp_path / f"in/{i}.png", picture(i))
    (tmp_path / "in/dataset.json").write_text(json.dumps({"labels": labels}))
    err = refused(f"--source={tmp_path}/in", f"--dest={tmp_path}/out.zip")
    assert all(w in err for w in words)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


def test_numbers_are_ids_and_what_does_not_exist_is_one_line(tmp_path, tool, refused):
    for name in ("3", "one", "two", "x"):
        (tmp_path / "in" / name).mkdir(parents=True)
        Image.fromarray(picture(0)).save(tmp_path / "in" / name / "a.png")
    words = [f"--source={tmp_path}/in", f"--dest={tmp_path}/a.zip"]
    for bad in ("0,99", "2-9", "zebra", "9" * 30, "name:7"):
        err = refused(*words, f"--classes={bad}")
        assert "--classes=" in err and "knows 0 to 3 (3, one, two, x)" in err
    code, _, err = tool(*words, "--classes=3")
    assert code == 0 and "--classes=3 is class number 3 (x); the class called 3 is number 0: write name:3" in err
    assert read_set(tmp_path / "a.zip")[0]["class_names"] == ["x"]
    assert tool(*words, "--classes=name:3,1-2")[0] == 0
    assert read_set(tmp_path / "a.zip")[0]["class_names"] == ["3", "one", "two"]


def test_classes_of_a_set_without_names(tmp_path, tool, refused):
    source = write_image_zip(tmp_path / "s.zip", [picture(k) for k in range(4)], [0, 2, 2, 5])
    words = [f"--source={source}", f"--dest={tmp_path}/a.zip"]
    assert "no image of class 3, 4" in refused(*words, "--classes=2,3,4") and not (tmp_path / "a.zip").exists()
    assert tool(*words, "--classes=5,2")[0] == 0
    assert [label for _, label in read_set(tmp_path / "a.zip")[0]["labels"]] == [1, 1, 0]
