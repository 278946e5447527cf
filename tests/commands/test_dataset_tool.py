# SPDX-License-Identifier: Apache-2.0
import errno
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dnnlib.util import sole_writer
from gantransfer.commands import dataset_tool
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


def test_round_trip_is_pixel_exact(tmp_path, tool, converted):
    content = class_folders(tmp_path / "in")
    assert tool(f"--source={tmp_path}/in", f"--dest={tmp_path}/a.zip")[0] == 0
    info, images = converted("export", f"--source={tmp_path}/a.zip", f"--dest={tmp_path}/b")
    assert {n.split("/")[0] for n in images} == {"ape", "cat", "dog"}
    assert sorted(n.split("/")[0] for n in images) == sorted(n.split("/")[0] for n in content)
    for (_, image), key in zip(sorted(images.items()), sorted(content)):
        assert np.array_equal(image, content[key])
    # Back into a zip and into a folder, with the labels from the folders or from dataset.json.
    for how in ("folders", "json"):
        assert tool(f"--source={tmp_path}/b", f"--dest={tmp_path}/{how}.zip", f"--labels={how}")[0] == 0
        assert tool(f"--source={tmp_path}/a.zip", f"--dest={tmp_path}/{how}")[0] == 0
        sets = [ImageDataset(tmp_path / p, use_labels=True) for p in ("a.zip", f"{how}.zip", how)]
        assert len({d.fingerprint() for d in sets}) == 1
        assert len({d.spec.label.names for d in sets}) == 1
    assert converted("export", f"--source={tmp_path}/b", f"--dest={tmp_path}/c.zip")[0]["labels"] == info["labels"]


def test_export_of_chosen_vectors_and_clashing_names(tmp_path, tool, refused, converted):
    for k, n in enumerate(("a/x.png", "b/x.png", "a/y.png")):
        save(tmp_path / "in" / n, picture(k))
    labels = {"labels": [["a/x.png", 1], ["b/x.png", 1], ["a/y.png", 0]], "class_names": ["no/yes", "no/yes"]}
    (tmp_path / "in/dataset.json").write_text(json.dumps(labels))
    (tmp_path / "in/few.json").write_text(json.dumps({"labels": [["a/y.png", 0]]}))
    info, images = converted("export", f"--source={tmp_path}/in", f"--dest={tmp_path}/out")
    assert sorted(images) == ["no_yes/y.png", "no_yes_1/b_x.png", "no_yes_1/x.png"] and len(info["labels"]) == 3
    assert tool("export", f"--source={tmp_path}/in", f"--dest={tmp_path}/few", "--fname=few.json")[0] == 0
    assert sorted(read_set(tmp_path / "few")[1]) == ["0/y.png"]
    (tmp_path / "in/dataset.json").write_text(json.dumps({"labels": [[n, [0.5, 1]] for n, _ in labels["labels"]]}))
    info, images = converted("export", f"--source={tmp_path}/in", f"--dest={tmp_path}/v")
    assert sorted(images) == ["a/x.png", "a/y.png", "b/x.png"] and info["labels"][0][1] == [0.5, 1]
    for args in ((f"--dest={tmp_path}/v",), (f"--dest={tmp_path}/n", "--fname=none.json")):
        assert refused("export", f"--source={tmp_path}/in", *args)


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


def test_dropped_images_leave_gaps(tmp_path, accepted):
    for i, w in enumerate((32, 10, 32)):
        save(tmp_path / f"in/{i}.png", picture(i, 24, w))
    out = accepted(f"--source={tmp_path}/in", f"--dest={tmp_path}/a.zip", "--transform=center-crop-wide",
                   "--resolution=16x8")
    assert "left out 1" in out
    assert sorted(read_set(tmp_path / "a.zip")[1]) == ["00000/img00000000.png", "00000/img00000002.png"]


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


def test_too_little_space_is_seen_before_writing(tmp_path, refused, monkeypatch):
    class_folders(tmp_path / "in")
    monkeypatch.setattr("gantransfer.data.convert.shutil.disk_usage", lambda p: type("U", (), {"free": 1000})())
    assert "GiB" in refused(f"--source={tmp_path}/in", f"--dest={tmp_path}/out.zip")
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


def test_repeated_images_are_dropped_and_their_labels_compared(tmp_path, refused, accepted):
    """Also between the two sides of --holdout, where nothing else keeps a copy out of the test."""
    for i in range(8):
        for k, folder in enumerate("ab"):
            save(tmp_path / f"in/{folder}/{i}.png", picture(i + 8 * k))
            save(tmp_path / f"in/{folder}/copy-{i}.bmp", picture(i + 8 * k))
    save(tmp_path / "in/b/wrong.png", picture(0))
    out = accepted(f"--source={tmp_path}/in", f"--dest={tmp_path}/all.zip", "--drop-duplicates", "--per-class=5")
    info, images = read_set(tmp_path / "all.zip")
    assert len(images) == 10 and [v for _, v in info["labels"]] == [0] * 5 + [1] * 5
    out = accepted(f"--source={tmp_path}/in", f"--dest={tmp_path}/all.zip", "--drop-duplicates")
    assert "left out 17: 17 that repeat another" in out and len(read_set(tmp_path / "all.zip")[1]) == 16
    assert "warning: 1 of the images that repeat another have another label than it: b/wrong.png" in out
    out = accepted(f"--source={tmp_path}/in", f"--dest={tmp_path}/x.zip", "--holdout=0.25", "--drop-duplicates")
    sides = [{i.tobytes() for i in read_set(tmp_path / n)[1].values()} for n in ("x.zip", "x-heldout.zip")]
    assert not sides[0] & sides[1] and sum(map(len, sides)) == 16 and "too, pixel by pixel" not in out
    err = refused(f"--source={tmp_path}/in", f"--dest={tmp_path}/x.h5", "--drop-duplicates")
    assert "--drop-duplicates is for data sets" in err


def test_names_of_the_source_stay_with_the_images(tmp_path, tool):
    class_folders(tmp_path / "in")
    assert tool(f"--source={tmp_path}/in", f"--dest={tmp_path}/a.zip", "--keep-names", "--classes=dog,ape")[0] == 0
    names = ["ape/0.png", "ape/1.png", "dog/0.png", "dog/1.png", "dog/2.png"]
    assert read_set(tmp_path / "a.zip")[0]["attributes"] == {"original_name": names}
    # Through later conversions and exports they are the first ones.
    assert tool(f"--source={tmp_path}/a.zip", f"--dest={tmp_path}/b.zip", "--keep-names", "--classes=1")[0] == 0
    assert read_set(tmp_path / "b.zip")[0]["attributes"]["original_name"] == names[:2]
    assert tool("export", f"--source={tmp_path}/b.zip", f"--dest={tmp_path}/c")[0] == 0
    assert read_set(tmp_path / "c")[0]["attributes"]["original_name"] == names[:2]
    assert tool("--source=sklearn:digits", f"--dest={tmp_path}/d.zip", "--keep-names", "--max-images=2")[0] == 0
    assert read_set(tmp_path / "d.zip")[0]["attributes"]["original_name"] == ["digit 0", "digit 1"]
