# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import errno
import gzip
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dnnlib.util import UserError, sole_writer
from gantransfer.commands import dataset_tool
from gantransfer.data import sources
from gantransfer.data.dataset import ImageDataset
from tests.conftest import ROOT, write_image_zip

REPO = ROOT


@pytest.fixture
def tool(call):
    """Run the command in this process: (exit code, stdout, stderr)."""
    def run(*args) -> tuple[int, str, str]:
        done = call("dataset_tool", *args, check=None)
        return done.returncode, done.stdout, done.stderr
    return run


def picture(seed: int, h: int = 16, w: int = 16, c: int = 3) -> np.ndarray:
    small = np.random.RandomState(seed).randint(0, 256, (4, 4, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(small).resize((w, h), Image.Resampling.BICUBIC))
    return image if c == 3 else image[:, :, 0]


def save(path: Path, image: np.ndarray | Image.Image, **kw) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **kw)


def class_folders(root: Path) -> dict[str, np.ndarray]:
    """Three classes with 3, 2, 1 images."""
    out = {}
    for i, (folder, n) in enumerate((("dog", 3), ("ape", 2), ("cat", 1))):
        for k in range(n):
            out[f"{folder}/{k}.png"] = picture(10 * i + k)
            save(root / f"{folder}/{k}.png", out[f"{folder}/{k}.png"])
    return out


def read_set(path) -> tuple[dict, dict[str, np.ndarray]]:
    files = sources.Container(path)
    images = {n: np.asarray(Image.open(io.BytesIO(files.read(n)))) for n in files.image_names}
    return files.read_json("dataset.json"), images


def only_line(err: str) -> str:
    lines = err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("Error: "), err
    return lines[0]


def test_class_folders_become_sorted_labels(tmp_path, tool):
    content = class_folders(tmp_path / "in")
    code, out, _ = tool(f"--source={tmp_path}/in", f"--dest={tmp_path}/out.zip")
    assert code == 0 and "3 classes, 6 images" in out and "sub-folders" in out
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


def test_round_trip_is_pixel_exact(tmp_path, tool):
    content = class_folders(tmp_path / "in")
    assert tool(f"--source={tmp_path}/in", f"--dest={tmp_path}/a.zip")[0] == 0
    assert tool("export", f"--source={tmp_path}/a.zip", f"--dest={tmp_path}/b")[0] == 0
    info, images = read_set(tmp_path / "b")
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
    assert tool("export", f"--source={tmp_path}/b", f"--dest={tmp_path}/c.zip")[0] == 0
    assert read_set(tmp_path / "c.zip")[0]["labels"] == info["labels"]


def test_export_of_chosen_vectors_and_clashing_names(tmp_path, tool):
    for k, n in enumerate(("a/x.png", "b/x.png", "a/y.png")):
        save(tmp_path / "in" / n, picture(k))
    labels = {"labels": [["a/x.png", 1], ["b/x.png", 1], ["a/y.png", 0]], "class_names": ["no/yes", "no/yes"]}
    (tmp_path / "in/dataset.json").write_text(json.dumps(labels))
    (tmp_path / "in/few.json").write_text(json.dumps({"labels": [["a/y.png", 0]]}))
    assert tool("export", f"--source={tmp_path}/in", f"--dest={tmp_path}/out")[0] == 0
    info, images = read_set(tmp_path / "out")
    assert sorted(images) == ["no_yes/y.png", "no_yes_1/b_x.png", "no_yes_1/x.png"] and len(info["labels"]) == 3
    assert tool("export", f"--source={tmp_path}/in", f"--dest={tmp_path}/few", "--fname=few.json")[0] == 0
    assert sorted(read_set(tmp_path / "few")[1]) == ["0/y.png"]
    (tmp_path / "in/dataset.json").write_text(json.dumps({"labels": [[n, [0.5, 1]] for n, _ in labels["labels"]]}))
    assert tool("export", f"--source={tmp_path}/in", f"--dest={tmp_path}/v")[0] == 0
    info, images = read_set(tmp_path / "v")
    assert sorted(images) == ["a/x.png", "a/y.png", "b/x.png"] and info["labels"][0][1] == [0.5, 1]
    for args in ((f"--dest={tmp_path}/v",), (f"--dest={tmp_path}/n", "--fname=none.json")):
        code, _, err = tool("export", f"--source={tmp_path}/in", *args)
        assert code == 2 and only_line(err)


@pytest.mark.parametrize("names, expected", [
    (["cat/1.png", "dog/1.png"], {"cat/1.png": "cat", "dog/1.png": "dog"}),
    (["train/cat/1.png", "train/dog/1.png"], {"train/cat/1.png": "cat", "train/dog/1.png": "dog"}),
    (["cat/a/1.png", "cat/b/2.png", "dog/3.png"], {"cat/a/1.png": "cat", "cat/b/2.png": "cat", "dog/3.png": "dog"}),
    (["1.png", "cat/1.png"], {"cat/1.png": "cat"}),
    (["1.png", "2.png"], {}),
    (["x/cat/1.png", "x/cat/2.png"], {"x/cat/1.png": "cat", "x/cat/2.png": "cat"}),
])
def test_what_a_class_folder_is(names, expected):
    assert sources.class_folders(names) == expected


def test_label_sources(tmp_path, tool):
    root = tmp_path / "in"
    class_folders(root)

    def labels(*args) -> list:
        code, _, err = tool(f"--source={root}", f"--dest={tmp_path}/out.zip", "--overwrite", *args)
        assert code == 0, err
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
    assert tool(f"--source={tmp_path}/shards", f"--dest={tmp_path}/s.zip")[0] == 0
    assert read_set(tmp_path / "s.zip")[0]["labels"] is None


def test_partial_labels_are_an_error_unless_dropped(tmp_path, tool):
    root = tmp_path / "in"
    class_folders(root)
    (root / "dataset.json").write_text(json.dumps({"labels": [["ape/0.png", 1], ["dog/2.png", 0]]}))
    code, _, err = tool(f"--source={root}", f"--dest={tmp_path}/out.zip")
    assert code == 2 and "4 of 6 images" in only_line(err) and "ape/1.png" in err and "--drop-unlabelled" in err
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


def test_classes_and_max_images(tmp_path, tool):
    class_folders(tmp_path / "in")
    assert tool(f"--source={tmp_path}/in", f"--dest={tmp_path}/a.zip", "--classes=2,0")[0] == 0
    info, _ = read_set(tmp_path / "a.zip")
    assert info["class_names"] == ["dog", "ape"] and [v for _, v in info["labels"]] == [1, 1, 0, 0, 0]
    assert info["meta"]["classes"] == [2, 0]
    assert tool(f"--source={tmp_path}/in", f"--dest={tmp_path}/b.zip", "--classes=cat,dog", "--max_images=4")[0] == 0
    info, _ = read_set(tmp_path / "b.zip")
    assert info["class_names"] == ["cat", "dog"] and [v for _, v in info["labels"]] == [0, 1]
    assert tool(f"--source={tmp_path}/in", f"--dest={tmp_path}/c.zip", "--max-images=2")[0] == 0
    assert len(read_set(tmp_path / "c.zip")[1]) == 2
    assert tool(f"--source={tmp_path}/in", f"--dest={tmp_path}/e.zip", "--classes=2,0", "--per-class=1")[0] == 0
    assert [v for _, v in read_set(tmp_path / "e.zip")[0]["labels"]] == [1, 0]
    code, _, err = tool(f"--source={tmp_path}/in", f"--dest={tmp_path}/f.zip", "--labels=none", "--per-class=1")
    assert code == 2 and "--per-class" in only_line(err) and not (tmp_path / "f.zip").exists()
    for bad in ("cow", "1,1", "3-1", "7", "1,,2"):
        code, _, err = tool(f"--source={tmp_path}/in", f"--dest={tmp_path}/d.zip", f"--classes={bad}")
        assert code == 2 and only_line(err) and not (tmp_path / "d.zip").exists()


def test_modes_are_converted_explicitly(tmp_path):
    rgb = Image.fromarray(picture(0))
    grey = rgb.convert("L")
    deep = (np.arange(256, dtype=np.uint32).reshape(16, 16) * 257).astype(np.uint16)

    def array(image, **kw):
        return dataset_tool.to_array(image, "x.png", **kw)

    assert np.array_equal(array(rgb), np.asarray(rgb)) and np.array_equal(array(grey)[:, :, 0], np.asarray(grey))
    assert np.array_equal(array(rgb.convert("P", palette=Image.Palette.ADAPTIVE)),
                          np.asarray(rgb.convert("P", palette=Image.Palette.ADAPTIVE).convert("RGB")))
    assert np.array_equal(array(Image.fromarray(deep))[:, :, 0], np.arange(256).reshape(16, 16))
    assert np.array_equal(array(Image.fromarray(deep.astype(np.int32)))[:, :, 0], np.arange(256).reshape(16, 16))
    assert set(np.unique(array(grey.convert("1")))) <= {0, 255} and array(grey.convert("1")).shape == (16, 16, 1)
    assert np.array_equal(array(rgb.convert("CMYK")), np.asarray(rgb.convert("CMYK").convert("RGB")))
    assert array(rgb.convert("YCbCr")).shape == (16, 16, 3)
    assert np.array_equal(array(rgb, channels="1")[:, :, 0], np.asarray(grey))
    assert np.array_equal(array(grey, channels="3"), np.repeat(np.asarray(grey)[:, :, None], 3, 2))
    with pytest.raises(UserError, match="x.png has floating"):
        array(Image.fromarray(np.zeros([4, 4], np.float32)))
    with pytest.raises(UserError, match="x.png has integer pixels"):
        array(Image.fromarray(np.full([4, 4], 70000, np.int32)))


def test_alpha_is_an_error_unless_told_otherwise(tmp_path):
    rgba = np.dstack([picture(0), np.tile(np.arange(16, dtype=np.uint8) * 17, (16, 1))])
    cases = [Image.fromarray(rgba), Image.fromarray(rgba).convert("LA")]
    palette = Image.fromarray(picture(1)).quantize(8)
    palette.info["transparency"] = 0
    keyed = Image.fromarray(picture(2))
    keyed.info["transparency"] = tuple(int(v) for v in picture(2)[0, 0])
    for image in (*cases, palette, keyed):
        with pytest.raises(UserError, match=r"y\.png has transparency.*--alpha"):
            dataset_tool.to_array(image, "y.png")
    for alpha, ground in (("black", 0), ("white", 255)):
        out = dataset_tool.to_array(cases[0], "y", alpha=alpha).astype(float)
        a = rgba[:, :, 3:] / 255
        assert np.abs(out - (rgba[:, :, :3] * a + ground * (1 - a))).max() <= 1
        assert dataset_tool.to_array(cases[1], "y", alpha=alpha).shape == (16, 16, 1)
        assert (dataset_tool.to_array(keyed, "y", alpha=alpha)[0, 0] == ground).all()
    assert np.array_equal(dataset_tool.to_array(cases[0], "y", alpha="drop"), rgba[:, :, :3])
    assert dataset_tool.to_array(palette, "y", alpha="drop").shape == (16, 16, 3)


def test_exif_orientation_is_applied(tmp_path, tool):
    image = Image.fromarray(picture(3, 16, 16))
    for orientation, turned in ((1, image), (3, image.rotate(180)), (6, image.rotate(-90)),
                                (2, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))):
        exif = Image.Exif()
        exif[0x0112] = orientation
        save(tmp_path / f"{orientation}/in.png", image, exif=exif)
        assert tool(f"--source={tmp_path}/{orientation}", f"--dest={tmp_path}/{orientation}.zip")[0] == 0
        assert np.array_equal(next(iter(read_set(tmp_path / f"{orientation}.zip")[1].values())), np.asarray(turned))


def test_transforms_of_greyscale_and_pad(tmp_path):
    grey = picture(0, 20, 32, 1)[:, :, None]
    colour = np.repeat(grey, 3, 2)
    for args in ((None, 16, 16), ("center-crop", 8, 8), ("center-crop-wide", 16, 8), ("pad", 16, 16)):
        for f in ("lanczos", "box"):
            a, b = (dataset_tool.transform_image(x, *args, f) for x in (grey, colour))
            assert a.shape == (16, 16, 1) if args[0] != "center-crop" else (8, 8, 1)
            assert np.array_equal(np.repeat(a, 3, 2), b)
    padded = dataset_tool.transform_image(np.full([20, 40, 3], 200, np.uint8), "pad", 16, 16)
    assert (padded[4:12] == 200).all() and (padded[:4] == 0).all() and (padded[12:] == 0).all()
    padded = dataset_tool.transform_image(np.full([40, 20, 1], 200, np.uint8), "pad", 16, 16)
    assert (padded[:, 4:12] == 200).all() and (padded[:, :4] == 0).all() and (padded[:, 12:] == 0).all()


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


def test_dropped_images_leave_gaps(tmp_path, tool):
    for i, w in enumerate((32, 10, 32)):
        save(tmp_path / f"in/{i}.png", picture(i, 24, w))
    code, out, _ = tool(f"--source={tmp_path}/in", f"--dest={tmp_path}/a.zip", "--transform=center-crop-wide",
                        "--resolution=16x8")
    assert code == 0 and "left out 1" in out
    assert sorted(read_set(tmp_path / "a.zip")[1]) == ["00000/img00000000.png", "00000/img00000002.png"]


def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, tool):
    good, odd = tmp_path / "good", tmp_path / "odd"
    class_folders(good)
    mixed = {"size": picture(1, 32, 32), "channels": picture(1, c=1), "alpha": np.zeros([16, 16, 4], np.uint8)}
    for kind, image in mixed.items():
        save(odd / kind / "0.png", picture(0))
        save(odd / kind / "1.png", image)
    save(odd / "three/0.png", picture(0, 24, 24))
    save(odd / "wide/0.png", picture(0, 16, 32))
    (odd / "broken").mkdir()
    (odd / "broken/x.png").write_bytes(b"\x89PNG nonsense")
    (odd / "empty").mkdir()
    (odd / "empty.zip").write_bytes(b"")
    (odd / "noise.zip").write_bytes(b"PK" + bytes(100))
    (odd / "x.tar").write_bytes(b"x")
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
        (source("three"), ["24x24", "power of two", "--resolution=16x16", "32x32"]),
        (source("wide"), ["32x16", "square", "--transform=center-crop"]),
        (source("broken"), ["x.png", "decode"]),
        (source("empty"), ["no images"]),
        (source("empty.zip"), ["empty.zip", "not a readable zip"]),
        (source("noise.zip"), ["noise.zip", "not a readable zip"]),
        (source("x.tar"), ["x.tar", "unknown kind"]),
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
        (("--source=sklearn:digits", out, "--resolution=24x24"), ["power of two"]),
        ((f"--source=fonts:{odd}", out), ["no .ttf"]),
        ((f"--source=fonts:{tmp_path}/nowhere", out), ["no such folder"]),
        (("--source=x",), ["--dest is missing"]),
        ((out,), ["--source is missing"]),
    ]
    before = sorted(str(p) for p in tmp_path.rglob("*"))
    for args, words in cases:
        code, _, err = tool(*args)
        line = only_line(err)
        assert code == 2 and all(w in line for w in words), (args, line)
        assert sorted(str(p) for p in tmp_path.rglob("*")) == before, args


@pytest.mark.parametrize("labels, words", [
    ([["0.png", 0], ["1.png", [1]]], ["lists among others"]),
    ([["0.png", 0], ["1.png", 1.5]], ["[1.5]", "1.png"]),
    ([["0.png", 0], ["1.png", -1]], ["negative"]),
    ([["0.png", 0]], ["1 of 2 images", "1.png"]),
    ([["x.png", 0]], ["names none"]),
])
def test_bad_labels_in_the_source(tmp_path, tool, labels, words):
    for i in range(2):
        save(tmp_path / f"in/{i}.png", picture(i))
    (tmp_path / "in/dataset.json").write_text(json.dumps({"labels": labels}))
    code, _, err = tool(f"--source={tmp_path}/in", f"--dest={tmp_path}/out.zip")
    assert code == 2 and all(w in only_line(err) for w in words), err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


@pytest.mark.parametrize("dest", ["out.zip", "out"])
def test_full_disk_leaves_the_old_state(tmp_path, tool, monkeypatch, dest):
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
    code, _, err = tool(f"--source={tmp_path}/in", f"--dest={tmp_path}/{dest}", "--overwrite")
    assert code == 2 and "No space left" in only_line(err) and len(calls) == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == (["in", dest] if dest == "out.zip" else ["in"])
    if dest == "out.zip":
        assert (tmp_path / dest).read_bytes() == b"old"


def test_too_little_space_is_seen_before_writing(tmp_path, tool, monkeypatch):
    class_folders(tmp_path / "in")
    monkeypatch.setattr(dataset_tool.shutil, "disk_usage", lambda p: type("U", (), {"free": 1000})())
    code, _, err = tool(f"--source={tmp_path}/in", f"--dest={tmp_path}/out.zip")
    assert code == 2 and "GiB" in only_line(err)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


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
def test_cifar_archives(tmp_path, tool, dump):
    rng = np.random.RandomState(0)

    def batch(n: int, key: str, classes: int) -> dict:
        return {"data": rng.randint(0, 256, (n, 3072), dtype=np.uint8), key: rng.randint(0, classes, n).tolist()}

    ten = {f"data_batch_{i}": batch(4, "labels", 10) for i in range(1, 6)} | {"test_batch": batch(3, "labels", 10)}
    names = [f"kind {i}" for i in range(10)]
    (tmp_path / "a").mkdir()
    cifar(tmp_path / "a/cifar-10-python.tar.gz", {f"cifar-10-batches-py/{k}": dump(v) for k, v in ten.items()} |
          {"cifar-10-batches-py/batches.meta": dump({"label_names": names})})
    assert tool(f"--source={tmp_path}/a/cifar-10-python.tar.gz", f"--dest={tmp_path}/ten.zip")[0] == 0
    info, images = read_set(tmp_path / "ten.zip")
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


class _Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("content", [
    lambda p: pickle.dumps({"data": _Attack(p)}), lambda p: pickle.dumps([1]), lambda p: b"\x80\x02garbage",
    lambda p: pickle.dumps({"data": np.zeros([2, 3], np.uint8), "labels": [0, 1]}),
    lambda p: pickle.dumps({"data": np.array([_Attack(p)], object), "labels": [0]}),
    lambda p: pickle.dumps({"data": np.zeros([2, 3072], np.uint8), "labels": [0, 77]})])
def test_cifar_pickles_are_not_executed(tmp_path, tool, content):
    marker = tmp_path / "marker"
    (tmp_path / "a").mkdir()
    cifar(tmp_path / "a/cifar-10-python.tar.gz",
          {f"cifar-10-batches-py/data_batch_{i}": content(marker) for i in range(1, 6)} |
          {"cifar-10-batches-py/batches.meta": pickle.dumps({"label_names": []})})
    code, _, err = tool(f"--source={tmp_path}/a/cifar-10-python.tar.gz", f"--dest={tmp_path}/out.zip")
    assert code == 2 and "data_batch_1" in only_line(err)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"]


def test_damaged_cifar_archive(tmp_path, tool):
    cifar(tmp_path / "cifar-10-python.tar.gz", {"x": b"1" * 1000})
    code, _, err = tool(f"--source={tmp_path}/cifar-10-python.tar.gz", f"--dest={tmp_path}/out.zip")
    assert code == 2 and "batches.meta" in only_line(err)
    whole = (tmp_path / "cifar-10-python.tar.gz").read_bytes()
    for damaged in (whole[:40], b"nothing"):
        (tmp_path / "cifar-10-python.tar.gz").write_bytes(damaged)
        code, _, err = tool(f"--source={tmp_path}/cifar-10-python.tar.gz", f"--dest={tmp_path}/out.zip")
        assert code == 2 and "cifar-10-python.tar.gz" in only_line(err)


def idx(path: Path, array: np.ndarray) -> None:
    path.write_bytes(gzip.compress(struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()))


def test_mnist(tmp_path, tool):
    rng = np.random.RandomState(0)
    pictures, labels = rng.randint(0, 256, (7, 28, 28), dtype=np.uint8), rng.randint(0, 10, 7).astype(np.uint8)
    idx(tmp_path / "train-images-idx3-ubyte.gz", pictures)
    source = f"--source={tmp_path}/train-images-idx3-ubyte.gz"
    code, _, err = tool(source, f"--dest={tmp_path}/out.zip")
    assert code == 2 and "train-labels-idx1-ubyte.gz" in only_line(err)
    assert tool(source, f"--dest={tmp_path}/none.zip", "--labels=none")[0] == 0
    idx(tmp_path / "train-labels-idx1-ubyte.gz", labels)
    assert tool(source, f"--dest={tmp_path}/out.zip")[0] == 0
    info, images = read_set(tmp_path / "out.zip")
    stack = np.stack(list(images.values()))
    assert stack.shape == (7, 32, 32) and np.array_equal(stack[:, 2:30, 2:30], pictures)
    assert stack.sum() == pictures.sum() and [v for _, v in info["labels"]] == labels.tolist()
    assert read_set(tmp_path / "none.zip")[0]["labels"] is None
    idx(tmp_path / "train-labels-idx1-ubyte.gz", labels[:5])
    assert "5 labels" in only_line(tool(source, f"--dest={tmp_path}/x.zip")[2])
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"\0\0\x08\x03" + bytes(20)))
    assert "IDX" in only_line(tool(source, f"--dest={tmp_path}/x.zip")[2])


def test_digits(tmp_path, tool):
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    sets = {}
    for split, n in (("pool", 1197), ("reference", 600), ("all", 1797)):
        assert tool("--source=sklearn:digits", f"--dest={tmp_path}/{split}.zip", f"--split={split}")[0] == 0
        sets[split] = ImageDataset(tmp_path / f"{split}.zip", use_labels=True)
        assert len(sets[split]) == n and sets[split].image_shape == [1, 16, 16]
    assert sets["reference"].spec.label.counts == (60,) * 10
    assert sets["pool"].spec.label.counts == tuple(np.bincount(digits.target) - 60)
    # The rule of the pixels, written out.
    rng = np.random.RandomState(0)
    held = np.sort(np.concatenate([rng.permutation(np.flatnonzero(digits.target == k))[:60] for k in range(10)]))
    got = sets["reference"].images_uint8(range(600))[:, 0]
    for i in (0, 1, 300, 599):
        big = Image.fromarray((digits.images[held[i]] * 255 / 16).astype(np.float32)).resize((16, 16), Image.BICUBIC)
        assert np.array_equal(got[i], np.clip(np.round(np.asarray(big)), 0, 255).astype(np.uint8))
    assert sets["reference"].class_ids.tolist() == digits.target[held].tolist()

    def rows(d):
        return {d.images_uint8([i]).tobytes() for i in range(len(d))}
    assert not rows(sets["pool"]) & rows(sets["reference"])
    assert rows(sets["pool"]) | rows(sets["reference"]) == rows(sets["all"])
    assert tool("--source=sklearn:digits", f"--dest={tmp_path}/s.zip", "--split=reference", "--seed=1")[0] == 0
    assert rows(ImageDataset(tmp_path / "s.zip")) != rows(sets["reference"])
    assert tool("--source=sklearn:digits", f"--dest={tmp_path}/c.zip", "--classes=5-9", "--resolution=32x32")[0] == 0
    some = ImageDataset(tmp_path / "c.zip", use_labels=True)
    assert some.spec.label.names == tuple("56789") and some.resolution == 32 and some.label_dim == 5


def _a_font_folder() -> str | None:
    for folder in ("/usr/share/fonts", "/usr/local/share/fonts", "/Library/Fonts", os.path.expanduser("~/.fonts")):
        if os.path.isdir(folder) and sum(p.suffix.lower() in (".ttf", ".otf") for p in Path(folder).rglob("*")) >= 6:
            return folder
    return None


def test_glyphs(tmp_path, tool):
    folder = _a_font_folder()
    if folder is None:
        pytest.skip("no fonts on this machine")
    options = sources.SourceOptions(letters="A-E", font_distance=0.0, report=lambda text: None)
    everything = list(sources.open_source(f"fonts:{folder}", options).items())
    families = {}
    for split in ("train", "reference"):
        source = sources.open_source(f"fonts:{folder}", dataclasses.replace(options, split=split))
        items = list(source.items())
        assert source.count == len(items) and source.class_names == tuple("ABCDE")
        families[split] = {sources.font_family(" ".join(i.name[5:].split()[:-1])) for i in items}
        assert [i.label for i in items] == list(range(5)) * (len(items) // 5)
    assert families["train"] and families["reference"]
    arrays = [np.asarray(i.load()) for i in everything]
    assert len({a.tobytes() for a in arrays}) == len(arrays)  # no glyph twice
    assert all(a.shape == (32, 32) and 2 < a.mean() < 200 for a in arrays)
    border = np.mean([np.concatenate([a[0], a[-1], a[:, 0], a[:, -1]]).mean() for a in arrays])
    assert border < 1  # inside the frame
    # A letter resembles the same letter of other faces more than other letters.
    mean = [np.mean([a for a, i in zip(arrays, everything) if i.label == k], 0) for k in range(5)]
    nearest = [int(np.argmin([((a - m) ** 2).sum() for m in mean])) for a in arrays]
    assert np.mean(np.equal(nearest, [i.label for i in everything])) > 0.9
    code, out, _ = tool(f"--source=fonts:{folder}", f"--dest={tmp_path}/f.zip", "--letters=A-E", "--resolution=16x16")
    assert code == 0 and "families" in out
    assert ImageDataset(tmp_path / "f.zip", use_labels=True).spec.label.names == tuple("ABCDE")


def test_families_are_split_whole():
    families = ["a"] * 4 + ["b"] * 2 + ["c"] * 3 + ["d"] + ["e"] * 6
    for seed in range(20):
        held = sources.held_out_families(families, seed)
        share = sum(f in held for f in families) / len(families)
        assert held < set(families) and 0 < share <= 0.5
    assert sources.held_out_families(["a", "a"], 0) == set()
    assert sources.held_out_families(["a"] * 9 + ["b"] * 8, 0) == {"b"}
    assert len({frozenset(sources.held_out_families(families, s)) for s in range(20)}) > 1
    assert sources.font_family("Lato Semi-Bold") == sources.font_family("Lato Light") == "Lato"
    assert sources.font_family("DejaVu Sans Condensed") == "DejaVu Sans"
    assert sources.font_family("Black") == "Black"


@pytest.mark.parametrize("text, letters", [("A-C", "ABC"), ("A-B,x-z", "ABxyz"), ("QRS", "QRS")])
def test_letters(text, letters):
    assert sources.parse_letters(text) == letters


@pytest.mark.parametrize("text", ["C-A", "AA", "A", "A B", ""])
def test_bad_letters(text):
    with pytest.raises(UserError, match="--letters"):
        sources.parse_letters(text)


def test_lsun(tmp_path, tool, monkeypatch):
    lmdb = pytest.importorskip("lmdb")
    pictures = [picture(i, 20, 30) for i in range(3)]
    with lmdb.open(str(tmp_path / "church_lmdb"), map_size=1 << 20) as db, db.begin(write=True) as txn:
        for i, p in enumerate(pictures):
            buffer = io.BytesIO()
            Image.fromarray(p).save(buffer, "webp", lossless=True)
            txn.put(f"k{i}".encode(), buffer.getvalue())
        txn.put(b"k1b", b"damaged")
    code, out, _ = tool(f"--source={tmp_path}/church_lmdb", f"--dest={tmp_path}/out.zip", "--transform=center-crop",
                        "--resolution=16x16")
    assert code == 0 and "skipped" in out and "k1b" in out
    _, images = read_set(tmp_path / "out.zip")
    assert sorted(images) == [f"00000/img{i:08d}.png" for i in (0, 1, 3)]
    for p, (_, image) in zip(pictures, sorted(images.items())):
        assert np.array_equal(image, dataset_tool.transform_image(p, "center-crop", 16, 16))


def test_a_damaged_database_is_one_line(tmp_path, tool):
    """Its pages are memory: one behind the file's end ends the process, one that points back is read for ever."""
    lmdb = pytest.importorskip("lmdb")
    buffer = io.BytesIO()
    Image.fromarray(picture(0)).save(buffer, "png")
    for kind, records in (("a", {b"k%d" % i: buffer.getvalue() for i in range(9)}), (
            "b", {b"length": b"1000000000", b"num_classes": b"2", b"16-00000": b"x", b"label-00000": b"1"})):
        with lmdb.open(str(tmp_path / f"{kind}_lmdb"), map_size=1 << 20) as db, db.begin(write=True) as txn:
            for key, value in records.items():
                txn.put(key, value)
    code, _, err = tool(f"--source={tmp_path}/b_lmdb", f"--dest={tmp_path}/out.zip")
    assert code == 2 and "1,000,000,000 images, but it has 4 records" in only_line(err)
    whole = (tmp_path / "a_lmdb/data.mdb").read_bytes()
    for data, words in ((whole[:8192], "cut short"), (whole[:-1], "cut short"), (b"", "not readable as LMDB")):
        (tmp_path / "a_lmdb/data.mdb").write_bytes(data)
        code, _, err = tool(f"--source={tmp_path}/a_lmdb", f"--dest={tmp_path}/out.zip")
        assert code == 2 and words in only_line(err) and not (tmp_path / "out.zip").exists()


@pytest.mark.parametrize("program, said", [("import time; time.sleep(60)", "comes to no end"), (
    "import os, signal; os.kill(os.getpid(), signal.SIGBUS)", "crashes")])
def test_a_database_that_ends_its_library_is_one_line(tmp_path, tool, monkeypatch, program, said):
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(tmp_path / "a_lmdb"), map_size=1 << 20) as db, db.begin(write=True) as txn:
        txn.put(b"a", b"b")
    real = sources.h5.subprocess.run

    def stand_in(words, timeout, **kw):
        assert words[1:3] == ["-m", "gantransfer.data.lmdb_look"]
        return real([words[0], "-c", program], timeout=2 if "sleep" in program else 60, **kw)

    monkeypatch.setattr(sources.h5.subprocess, "run", stand_in)
    code, _, err = tool(f"--source={tmp_path}/a_lmdb", f"--dest={tmp_path}/out.zip")
    assert code == 2 and said in only_line(err)


def test_records_in_circles(tmp_path):
    class Circle:
        def cursor(self):
            while True:
                yield b"a", b"b"

    (tmp_path / "data.mdb").write_bytes(bytes(800))
    with pytest.raises(UserError, match="circles"):
        list(sources._records(str(tmp_path), Circle()))


def test_lsun_without_the_package(tmp_path, tool, monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    (tmp_path / "church_lmdb").mkdir()
    code, _, err = tool(f"--source={tmp_path}/church_lmdb", f"--dest={tmp_path}/out.zip")
    assert code == 2 and "pip install lmdb" in only_line(err)


def test_check_finds_everything(tmp_path, tool):
    root = tmp_path / "set"
    for i in range(6):
        save(root / f"{i}.png", picture(i))
    labels = [[f"{i}.png", i % 3] for i in range(6)]
    (root / "dataset.json").write_text(json.dumps({"labels": labels, "class_names": ["a", "b", "c"]}))
    code, out, _ = tool("check", root)
    assert code == 0 and "no problems" in out and "3 classes, 6 images: 2 to 2" in out and "RGB 6" in out
    save(root / "7.png", picture(1))  # repeats 1.png
    changed = [*labels[:5], ["5.png", 4], ["7.png", 1], ["gone.png", 6]]
    (root / "dataset.json").write_text(json.dumps({"labels": changed}))
    code, out, _ = tool("check", root)
    assert code == 0
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
        save(tmp_path / f"set/{i}.png", picture(i, 24, 24))
    code, out, _ = tool("check", tmp_path / "set")
    assert code == 1 and "power of two" in out and "no labels" in out


def test_as_a_script(tmp_path):
    class_folders(tmp_path / "in")

    def run(*args):
        return subprocess.run([sys.executable, str(REPO / "dataset_tool.py"), *args], capture_output=True, text=True,
                              cwd=tmp_path)

    done = run("--source=in", "--dest=out.zip")
    assert done.returncode == 0, done.stderr
    assert run("check", "out.zip").returncode == 0
    bad = run("--source=nowhere", "--dest=x.zip")
    assert bad.returncode == 2 and bad.stderr == "Error: --source=nowhere: no such file or folder\n"
    assert "Traceback" not in bad.stderr


def test_numbers_are_ids_and_what_does_not_exist_is_one_line(tmp_path, tool):
    for name in ("3", "one", "two", "x"):
        (tmp_path / "in" / name).mkdir(parents=True)
        Image.fromarray(picture(0)).save(tmp_path / "in" / name / "a.png")
    words = [f"--source={tmp_path}/in", f"--dest={tmp_path}/a.zip"]
    for bad in ("0,99", "2-9", "zebra", "9" * 30, "name:7"):
        code, _, err = tool(*words, f"--classes={bad}")
        assert code == 2 and "--classes=" in only_line(err) and "knows 0 to 3 (3, one, two, x)" in err
    code, _, err = tool(*words, "--classes=3")
    assert code == 0 and "--classes=3 is class number 3 (x); the class called 3 is number 0: write name:3" in err
    assert read_set(tmp_path / "a.zip")[0]["class_names"] == ["x"]
    assert tool(*words, "--classes=name:3,1-2")[0] == 0
    assert read_set(tmp_path / "a.zip")[0]["class_names"] == ["3", "one", "two"]


def test_classes_of_a_set_without_names(tmp_path, tool):
    source = write_image_zip(tmp_path / "s.zip", [picture(k) for k in range(4)], [0, 2, 2, 5])
    words = [f"--source={source}", f"--dest={tmp_path}/a.zip"]
    code, _, err = tool(*words, "--classes=2,3,4")
    assert code == 2 and "no image of class 3, 4" in only_line(err) and not (tmp_path / "a.zip").exists()
    assert tool(*words, "--classes=5,2")[0] == 0
    assert [label for _, label in read_set(tmp_path / "a.zip")[0]["labels"]] == [1, 1, 0]


@pytest.mark.parametrize("dest", ["new.zip", "new"])
def test_two_conversions_to_one_destination(tmp_path, tool, dest):
    """The second is one line, and harms nothing; so is a folder that appeared meanwhile."""
    for k in range(4):
        save(tmp_path / "in" / f"{k}.png", picture(k))
    with sole_writer(tmp_path / dest):  # as the first holds it while it works
        code, _, err = tool(f"--source={tmp_path}/in", f"--dest={tmp_path}/{dest}")
    assert code == 2 and "is being written by process" in only_line(err)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]
    assert tool(f"--source={tmp_path}/in", f"--dest={tmp_path}/{dest}")[0] == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", dest]


def test_a_folder_that_appears_meanwhile_is_not_touched(tmp_path, tool, monkeypatch):
    for k in range(4):
        save(tmp_path / "in" / f"{k}.png", picture(k))
    convert = dataset_tool.Conversion.image

    def appears(self, item):
        (tmp_path / "new").mkdir(exist_ok=True)
        (tmp_path / "new" / "mine").write_text("x")
        return convert(self, item)

    monkeypatch.setattr(dataset_tool.Conversion, "image", appears)
    code, _, err = tool(f"--source={tmp_path}/in", f"--dest={tmp_path}/new")
    assert code == 2 and "was made by somebody else meanwhile" in only_line(err)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "new"]
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["mine"]
