# SPDX-License-Identifier: Apache-2.0
"""Sets as people have them: wrapped in a folder, zipped on Windows, in older encodings, in splits, with files left out.

Every right value here is what the files mean to the one who made them.
"""

import io
import json
import os
import subprocess
import sys
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dnnlib.util import UserError
from gantransfer.data.container import Container
from gantransfer.data.dataset import ImageDataset
from gantransfer.data.folder_labels import folder_labels, split_of
from gantransfer.data.labels import label_array
from gantransfer.data.names import clean_name, is_litter, sorted_classes, valid_text
from tests.conftest import ROOT
from tests.data import picture_sets


def png(seed: int = 0, size: int = 16) -> bytes:
    return picture_sets.png(np.random.RandomState(seed).randint(0, 256, (size, size, 3), dtype=np.uint8))


def write(path: Path, entries: dict[str, bytes]) -> Path:
    """A zip (by its name) or a folder with these files; names are stored as they are, a '/' at the end is a folder."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as z:
            for name, data in entries.items():
                info = zipfile.ZipInfo("x")
                info.filename = name
                z.writestr(info, data)
        return path
    for name, data in entries.items():
        target = os.path.join(os.fspath(path), name)
        os.makedirs(target if name.endswith("/") else os.path.dirname(target), exist_ok=True)
        if not name.endswith("/"):
            Path(target).write_bytes(data)
    return path


def write_old_zip(path: Path, entries: dict[bytes, bytes]) -> Path:
    """A zip whose names are these bytes, without the mark that they are UTF-8."""
    path = write(path, {f"{k:0{len(name)}d}": data for k, (name, data) in enumerate(entries.items())})
    content = path.read_bytes()
    for k, name in enumerate(entries):
        assert content.count(b"%0*d" % (len(name), k)) >= 2
        content = content.replace(b"%0*d" % (len(name), k), name)
    path.write_bytes(content)
    return path


def images(*names: str) -> dict[str, bytes]:
    return {n: png(k) for k, n in enumerate(names)}


def labels(rows: dict[str, object], **more) -> bytes:
    return json.dumps({"labels": [[n, v] for n, v in rows.items()], **more}).encode()


@pytest.fixture
def made(accepted, tmp_path):
    """dataset.json of what the tool makes of a source, and what it printed."""
    def run(source: Path, *args) -> tuple[dict, str]:
        out = accepted(f"--source={source}", f"--dest={tmp_path}/made.zip", "--overwrite", *args)
        return Container(tmp_path / "made.zip").read_json("dataset.json"), out
    return run


# ---- label files below the root ----


WRAPPED = {"b0/1.png": 0, "b0/2.png": 1, "b1/3.png": 2, "b1/4.png": 0}


def wrapped(path: Path, folder: str, *, beside: dict[str, bytes] | None = None, sep: str = "/", **more) -> Path:
    entries = {folder + n: d for n, d in {**images(*WRAPPED), "dataset.json": labels(WRAPPED)}.items()}
    return write(path, {n.replace("/", sep): d for n, d in {**entries, **(beside or {}), **more}.items()})


@pytest.mark.parametrize("form", ["x.zip", "x"])
@pytest.mark.parametrize("folder, beside, sep", [
    ("mydata/", {}, "/"),
    ("a/b/c/", {}, "/"),
    ("./mydata/", {}, "/"),
    ("mydata/", {"__MACOSX/mydata/._dataset.json": b"x", "__MACOSX/mydata/b0/._1.png": b"x", ".DS_Store": b"x"}, "/"),
    ("mydata/", {"README.txt": b"hello", "Thumbs.db": b"x", "docs/DESKTOP.INI": b"x"}, "/"),
    ("mydata/", {"__MACOSX/._mydata": b"x"}, "\\"),
])
def test_one_top_folder_is_the_set_for_every_command(tmp_path, tool, accepted, made, form, folder, beside, sep):
    if form == "x" and folder.startswith("."):
        pytest.skip("a path on disk has no such part")
    path = wrapped(tmp_path / form, folder, beside=beside, sep=sep)
    plain = ImageDataset(wrapped(tmp_path / "plain.zip", ""), use_labels=True)
    direct = ImageDataset(path, use_labels=True)
    assert direct.spec.label.counts == (2, 1, 1)
    assert direct.fingerprint() == plain.fingerprint()
    for how in ((), ("--labels=json",)):
        info, _ = made(path, *how)
        assert [v for _, v in info["labels"]] == [0, 1, 2, 0]
    out = accepted("check", path)
    assert "3 classes, 4 images" in out and "no problems" in out
    assert tool("export", f"--source={path}", f"--dest={tmp_path}/exported")[0] == 0
    assert sorted(p.name for p in (tmp_path / "exported").iterdir()) == ["0", "1", "2", "dataset.json"]
    fn = path if form == "x.zip" else Path(Container(path).place("dataset.json"))
    assert tool("--fn", fn, "--imf=1", command="lt_dataset")[0] == 0
    few = ImageDataset(path, fname="lt_1.json", use_labels=True)
    assert few.spec.label.counts == (2, 1, 1)
    for fname in ("lt_1.json", f"{Container(path).root}/lt_1.json"):
        assert tool("check", path, f"--fname={fname}")[0] == 0
    # again: the file is replaced, not doubled
    assert tool("--fn", fn, "--imf=1", command="lt_dataset")[0] == 0
    assert Container(path).names.count("lt_1.json") == 1


def test_a_label_file_for_a_part_of_the_set_is_not_passed_over(tmp_path, tool, refused):
    path = write(tmp_path / "x", {**images("a/1.png", "b/2.png"), "a/dataset.json": labels({"1.png": 0})})
    for words in ([f"--dest={tmp_path}/o.zip"], ["export", f"--dest={tmp_path}/o"]):
        message = refused(*words, f"--source={path}")
        assert "a/dataset.json" in message and f"give {path}/a" in message
    code, out, _ = tool("check", path)
    assert code == 1 and "a/dataset.json" in out
    with pytest.raises(UserError, match="must be at the root"):
        ImageDataset(path, use_labels=True)
    assert len(ImageDataset(path)) == 2  # without labels nothing is in doubt
    assert tool(f"--source={path}", f"--dest={tmp_path}/o.zip", "--labels=folders")[0] == 0


def test_class_folders_below_one_folder_stay_class_folders(tmp_path, made):
    info, _ = made(write(tmp_path / "x.zip", images("pets/cat/1.png", "pets/dog/2.png")))
    assert info["class_names"] == ["cat", "dog"]
    info, _ = made(write(tmp_path / "y.zip", images("cat/1.png", "cat/2.png")), "--labels=folders")
    assert info["class_names"] == ["cat"]


# ---- names ----


def test_windows_zips(tmp_path, made):
    names = [f"pets\\{c}\\p{k}.png" for k in range(3) for c in ("cat", "dog")]
    info, _ = made(write(tmp_path / "w.zip", {**images(*names), "pets\\": b"", "pets\\cat\\": b"",
                                              "__MACOSX\\pets\\cat\\._p0.png": b"x", "pets\\cat\\Thumbs.db": b"x"}))
    assert info["class_names"] == ["cat", "dog"] and [v for _, v in info["labels"]] == [0, 0, 0, 1, 1, 1]
    rows = {"d0\\p0.png": 1, "d1\\p1.png": 0}
    path = write(tmp_path / "j.zip", {**images(*rows), "dataset.json": labels(rows, splits={"train": [0]})})
    assert ImageDataset(path, use_labels=True).spec.label.counts == (1, 1)
    info, _ = made(path)
    assert [v for _, v in info["labels"]] == [1, 0] and info["splits"] == {"train": [0]}
    # unpacked by a program that does not know the separator
    assert ImageDataset(write(tmp_path / "f", {**images(*rows), "dataset.json": labels(rows)}), use_labels=True
                        ).spec.label.counts == (1, 1)


@pytest.mark.parametrize("form", ["x.zip", "x"])
@pytest.mark.parametrize("a, b", [("NFC", "NFD"), ("NFD", "NFC")])
def test_two_spellings_of_an_accent_are_one_name(tmp_path, tool, form, a, b):
    there, said = (unicodedata.normalize(f, "été/ü.png") for f in (a, b))
    path = write(tmp_path / form, {**images(there, "b.png"), "dataset.json": labels({said: 1, "b.png": 0}),
                                   "few.json": labels({said: 0})})
    assert ImageDataset(path, use_labels=True).get_label(1).tolist() == [0, 1]
    assert len(ImageDataset(path, fname="few.json", use_labels=True)) == 1
    assert tool("check", path, "--strict")[0] == 0
    assert tool(f"--source={path}", f"--dest={tmp_path}/o.zip")[0] == 0


def test_one_name_twice_in_two_spellings_is_refused(tmp_path):
    for form in ("x.zip", "x"):
        path = write(tmp_path / form, images(*(unicodedata.normalize(f, "ü.png") for f in ("NFC", "NFD"))))
        with pytest.raises(UserError, match="ü.png"):
            Container(path)
    with pytest.raises(UserError, match="a/1.png twice"):
        Container(write(tmp_path / "y.zip", images("a/1.png", "a\\1.png")))


OLD = [("猫", "cp932"), ("表", "cp932"), ("zoë", "cp437"), ("zoë", "latin-1"), ("собака", "cp866"), ("猫", "utf-8")]


@pytest.mark.parametrize("form", ["x.zip", "x"])
@pytest.mark.parametrize("word, codec", OLD)
def test_class_names_in_old_encodings_are_valid_text(tmp_path, tool, accepted, form, word, codec):
    """Which encoding it was can only be guessed; that it is text, one class, and that nothing is lost is certain."""
    entries = {word.encode(codec) + b"/1.png": png(1), word.encode(codec) + b"/2.png": png(2), b"b/3.png": png(3)}
    path = tmp_path / form
    if form == "x.zip":
        write_old_zip(path, entries)
    else:
        try:
            write(path, {os.fsdecode(n): d for n, d in entries.items()})
        except OSError:
            pytest.skip("this file system takes UTF-8 only")
    accepted(f"--source={path}", f"--dest={tmp_path}/o.zip")
    content = Container(tmp_path / "o.zip").read_json("dataset.json")
    assert len(content["class_names"]) == 2 and content["class_names"][0] == "b"
    assert content["class_names"][1].encode("utf-8").decode().isprintable()
    assert [v for _, v in content["labels"]] == [0, 1, 1]
    if codec == "utf-8" or (codec, form) in (("cp437", "x.zip"), ("latin-1", "x")) or word == "表" and form == "x.zip":
        assert content["class_names"][1] == word
    assert tool("export", f"--source={tmp_path}/o.zip", f"--dest={tmp_path}/e")[0] == 0
    assert len(ImageDataset(tmp_path / "e", use_labels=True)) == 3


def test_lone_surrogates_in_a_label_file(tmp_path, tool):
    path = write(tmp_path / "x.zip", {**images("a.png", "b.png"),
                                      "dataset.json": b'{"labels": [["a.png", 0], ["b.png", 1]], '
                                                      b'"class_names": ["\\ud83d", "Zo\\udceb"]}'})
    data = ImageDataset(path, use_labels=True)
    assert data.spec.label.names == ("\ufffd", "Zoë")
    assert tool(f"--source={path}", f"--dest={tmp_path}/o.zip")[0] == 0
    assert tool("export", f"--source={path}", f"--dest={tmp_path}/e")[0] == 0


def test_a_terminal_that_cannot_show_a_name_does_not_end_a_command(tmp_path):
    path = write(tmp_path / "x", images("猫/1.png", "b/2.png"))
    env = dict(os.environ, PYTHONIOENCODING="ascii")
    done = subprocess.run([sys.executable, "dataset_tool.py", f"--source={path}", f"--dest={tmp_path}/o.zip"], cwd=ROOT,
                          env=env, capture_output=True, text=True)
    assert done.returncode == 0 and "2 classes" in done.stdout, done.stderr
    assert Container(tmp_path / "o.zip").read_json("dataset.json")["class_names"] == ["b", "猫"]


@pytest.mark.parametrize("name", ["__MACOSX/a.png", "x/__macosx/a.png", "._a.png", "x/._a.png", ".DS_Store",
                                  "x/.ds_store", "Thumbs.db", "THUMBS.DB", "x/desktop.ini", "Desktop.ini",
                                  "@eaDir/a.png",
                                  ".ipynb_checkpoints/a.png", "$RECYCLE.BIN/a.png"])
def test_litter_in_every_spelling(name):
    assert is_litter(name) and is_litter(clean_name(name.replace("/", "\\")))


@pytest.mark.parametrize("raw, clean", [
    ("a\\b/c.png", "a/b/c.png"), (".\\a.png", "a.png"), ("./a//b/./c.png", "a/b/c.png"), ("a/", "a/"), ("a\\", "a/"),
    ("e\u0301.png", "é.png"), ("Zo\udceb.png", "Zoë.png"), ("a.b.png", "a.b.png"), ("a..png", "a..png"),
])
def test_clean_names(raw, clean):
    assert clean_name(raw) == clean == clean_name(clean)


@pytest.mark.parametrize("data", [bytes([k, j]) for k in (0x81, 0x94, 0xe9, 0xff) for j in (0x2f, 0x5c, 0x80, 0xfc)])
def test_any_bytes_of_a_file_name_become_text(data):
    assert valid_text(data.decode("utf-8", "surrogateescape")).encode("utf-8")


# ---- order of classes ----


@pytest.mark.parametrize("names, expected", [
    ([str(k) for k in range(12)], [str(k) for k in range(12)]),
    ([f"{k:02d}" for k in range(12)], [f"{k:02d}" for k in range(12)]),
    (["10", "9", "other", "100", "Zoo"], ["9", "10", "100", "Zoo", "other"]),
    (["-1", "-10", "0.5", "0.25", "+2"], ["-10", "-1", "0.25", "0.5", "+2"]),
    (["class10", "class2"], ["class10", "class2"]),  # words sort as text, as other tools do
    (["dog", "Cat", "été"], ["Cat", "dog", "été"]),
])
def test_numbers_sort_by_value(names, expected):
    assert sorted_classes(set(names), "x") == expected


def test_one_number_written_in_two_ways_is_refused(tmp_path, tool, refused):
    path = write(tmp_path / "x", images("2/a.png", "02/b.png", "10/c.png"))
    assert "02 and 2" in refused(f"--source={path}", f"--dest={tmp_path}/o.zip")
    code, out, _ = tool("check", path)
    assert code == 1 and "02 and 2" in out


def test_folder_10_is_class_10(tmp_path, made):
    info, _ = made(write(tmp_path / "x.zip", images(*(f"s/{k}/p.png" for k in range(12)))))
    assert info["class_names"] == [str(k) for k in range(12)]
    assert sorted(v for _, v in info["labels"]) == list(range(12))


# ---- splits ----


@pytest.mark.parametrize("train, val, test", [
    ("train", "val", "test"), ("Training", "VALIDATION", "Testing"), ("train", "valid", "test"),
    ("training_set", "val_set", "test_set"), ("seg_train", "seg_val", "seg_test"), ("train2017", "val2017", "test2017"),
    ("TrainSet", "ValSet", "TestSet"),
])
@pytest.mark.parametrize("order", ["{s}/{c}/{k}.png", "top/{s}/{c}/{k}.png", "{s}/images/{c}/{k}.png",
                                   "{c}/{s}/{k}.png", "top/{c}/{s}/{k}.png"])
def test_splits_are_no_classes(tmp_path, made, train, val, test, order):
    places = [(s, c, k) for s, n in ((train, 4), (val, 2), (test, 2)) for c in ("cat", "dog", "wild") for k in range(n)]
    path = write(tmp_path / "x.zip", images(*(order.format(s=s, c=c, k=f"{s}{k}") for s, c, k in places)))
    info, out = made(path)
    assert info["class_names"] == ["cat", "dog", "wild"] and "8 to 8 per class" in out
    assert {s: len(v) for s, v in info["splits"].items()} == {"train": 12, "val": 6, "test": 6}
    assert sorted(i for v in info["splits"].values() for i in v) == list(range(24))
    names = Container(path).image_names
    assert all(train in names[i] for i in info["splits"]["train"])
    info, _ = made(path, "--split=train")
    assert len(info["labels"]) == 12 and "splits" not in info and info["class_names"] == ["cat", "dog", "wild"]
    assert len(made(path, "--split=test")[0]["labels"]) == 6 == len(made(path, "--split=val")[0]["labels"])


def test_splits_travel(tmp_path, tool, made):
    path = write(tmp_path / "x.zip", images(*(f"{s}/{c}/{s}{k}.png" for s in ("train", "test") for c in "ab"
                                              for k in range(2))))
    info, _ = made(path)
    assert tool("export", f"--source={tmp_path}/made.zip", f"--dest={tmp_path}/e")[0] == 0
    again, _ = made(tmp_path / "e")
    assert {s: len(v) for s, v in again["splits"].items()} == {"train": 4, "test": 4}
    rows = [json.dumps(r) for r in again["labels"]]
    assert len(set(rows)) == 8
    # pixel by pixel: what was in train is in train
    first, second = Container(tmp_path / "e"), Container(tmp_path / "made.zip")
    source = Container(path)
    train = {source.read(n) for n in source.image_names if n.startswith("train")}
    decoded = {Image.open(io.BytesIO(d)).tobytes() for d in train}
    assert {Image.open(io.BytesIO(second.read(again["labels"][i][0]))).tobytes()
            for i in again["splits"]["train"]} == decoded and len(first.image_names) == 8


def test_splits_without_classes_are_no_labels(tmp_path, made, refused):
    path = write(tmp_path / "x.zip", images("train/1.png", "train/2.png", "test/3.png"))
    info, _ = made(path)
    assert info["labels"] is None and info["splits"] == {"train": [1, 2], "test": [0]}
    assert made(path, "--split=train")[0]["labels"] is None
    assert "no sub-folders other than splits" in refused(f"--source={path}", f"--dest={tmp_path}/n.zip",
                                                         "--labels=folders")
    ours, _ = made(path)
    (tmp_path / "made.zip").rename(tmp_path / "ours.zip")
    assert made(tmp_path / "ours.zip")[0]["splits"] == ours["splits"]


@pytest.mark.parametrize("names, words", [
    (("train/a/1.png", "train/b/2.png", "val/images/3.png"), ["images", "train", "/train"]),
    (("train/a/1.png", "test/a/2.png", "extra/a/3.png"), ["train", "extra", "--source="]),
    (("train/a/1.png", "train/b/1.png", "unlabelled/3.png"), ["train", "unlabelled", "--source="]),
    (("trainA/1.png", "trainB/2.png", "testA/3.png", "testB/4.png"), ["trainA", "test/a/"]),
    (("cat_train/1.png", "cat_test/2.png", "dog_train/3.png", "dog_test/4.png"), ["cat_test", "test/cat/"]),
])
def test_unclear_splits_are_refused(tmp_path, refused, names, words):
    message = refused(f"--source={write(tmp_path / 'x', images(*names))}", f"--dest={tmp_path}/o.zip")
    assert all(w in message for w in words), message


def test_a_class_may_be_called_train(tmp_path, made):
    info, _ = made(write(tmp_path / "x.zip", images("bus/1.png", "car/2.png", "train/3.png")))
    assert info["class_names"] == ["bus", "car", "train"]


@pytest.mark.parametrize("folder", ["train_station", "test_tube", "valley", "trainer", "contest", "été"])
def test_words_that_only_contain_a_split(folder, tmp_path):
    files = Container(write(tmp_path / "x.zip", images(f"{folder}/1.png", "mountain/2.png")))
    assert sorted(folder_labels(files, files.image_names).class_names) == sorted([folder, "mountain"])
    assert split_of("valley") is None


# ---- files left out ----


@pytest.mark.parametrize("form", ["x.zip", "x"])
def test_files_left_out_are_counted_and_no_class_vanishes(tmp_path, tool, accepted, form):
    entries = {**images("a/1.png", "c/2.png", "c/3.png"), "b/1.svg": b"x", "b/2.SVG": b"x", "a/notes.txt": b"x",
               "a/.hidden": b"x"}
    path = write(tmp_path / form, entries)
    code, out, err = tool(f"--source={path}", f"--dest={tmp_path}/o.zip")
    assert code == 2 and "3 files are left out: 2 .svg (convert them first), 1 .txt" in out
    assert "class folder b" in err and "2 .svg" in err and not (tmp_path / "o.zip").exists()
    code, out, _ = tool("check", path)
    assert code == 1 and "3 files are left out: 2 .svg" in out and "class folder b" in out
    # One image of the class is enough for its number.
    path = write(tmp_path / f"more_{form}", {**entries, "b/3.png": png(9)})
    out = accepted(f"--source={path}", f"--dest={tmp_path}/o.zip")
    assert "3 files are left out" in out
    assert Container(tmp_path / "o.zip").read_json("dataset.json")["class_names"] == ["a", "b", "c"]


@pytest.mark.parametrize("table, labels", [("data.txt", "steering"), ("angles.csv", "{folder}/angles.csv:angle")])
def test_a_table_that_labels_are_read_from_is_not_left_out(tmp_path, accepted, table, labels):
    text = "name,angle\n1.png,0.5\n2.png,-3\n" if table.endswith("csv") else "1.png 0.5\n2.png -3\n"
    path = write(tmp_path / "x", {**images("1.png", "2.png"), table: text.encode()})
    words = [f"--source={path}", f"--labels={labels.format(folder=path)}"]
    assert "left out" not in accepted(*words, f"--dest={tmp_path}/o.zip")
    (tmp_path / "x" / "notes.txt").write_text("x")
    assert "1 file is left out: 1 .txt" in accepted(*words, f"--dest={tmp_path}/p.zip")


@pytest.mark.parametrize("extra, empty", [
    ({"b/": b""}, True), ({"b/.DS_Store": b"x"}, True), ({"b/deep/x.mp4": b"x"}, True),
    ({"docs/readme.txt": b"x"}, False),
    ({"labels.csv": b"x"}, False), ({"c/deeper/": b""}, False), ({"__MACOSX/b/._1.png": b"x"}, False),
])
def test_empty_class_folders(tmp_path, accepted, refused, extra, empty):
    words = [f"--source={write(tmp_path / 'x', {**images('a/1.png', 'c/2.png'), **extra})}", f"--dest={tmp_path}/o.zip"]
    assert "class folder b" in refused(*words) if empty else accepted(*words)


def test_a_class_whose_images_are_all_too_small_is_refused(tmp_path, refused):
    path = write(tmp_path / "x", {"a/1.png": png(1, 32), "b/2.png": png(2, 8), "b/3.png": png(3, 8)})
    message = refused(f"--source={path}", f"--dest={tmp_path}/o.zip", "--transform=center-crop-wide",
                      "--resolution=32x32")
    assert "class b" in message and "too small" in message and not (tmp_path / "o.zip").exists()


def test_per_class_counts_what_it_leaves_out(tmp_path, tool, accepted):
    path = write(tmp_path / "x", images(*(f"{c}/{k}.png" for c in "abc" for k in range(7))))
    out = accepted(f"--source={path}", f"--dest={tmp_path}/o.zip", "--per-class=2")
    assert "6 images" in out and "left out 15: 15 beyond --per-class" in out
    code, out, _ = tool(f"--source={path}", f"--dest={tmp_path}/p.zip", "--per-class=2", "--classes=0,2")
    assert "4 images" in out and "left out 17" in out and "7 of other classes" in out and "10 beyond" in out


def test_check_of_a_raw_folder_says_sizes_and_labels(tmp_path, tool):
    path = write(tmp_path / "x", {"a/1.png": png(1, 22), "a/2.png": png(2, 22), "b/3.png": png(3, 32)})
    code, out, _ = tool("check", path)
    assert code == 1 and "22x22x3 2, 32x32x3 1" in out and "usual size is 22x22" in out
    assert "2 classes, 3 images" in out and "  0        2  a" in out and "  1        1  b" in out


@pytest.mark.parametrize("args, enlarged", [
    (("--resolution=32x32",), 2), (("--resolution=16x16",), 0), (("--resolution=8x8",), 0), ((), 0),
    (("--transform=center-crop", "--resolution=32x32"), 2), (("--transform=pad", "--resolution=32x32"), 2),
    (("--transform=center-crop", "--resolution=16x16"), 0), (("--transform=pad", "--resolution=16x16"), 0),
])
def test_enlarging_is_said(tmp_path, accepted, args, enlarged):
    path = write(tmp_path / "x", images("1.png", "2.png"))
    out = accepted(f"--source={path}", f"--dest={tmp_path}/o.zip", *args)
    assert (f"{enlarged} of 2 images were smaller than 32x32" in out) == bool(enlarged)
    assert ("enlarged" in out) == bool(enlarged)


# ---- one-hot and vector labels ----


def onehot(path: Path) -> Path:
    rows = ([[1, 0, 0], [0, 1, 0], [0, 0, 1]] * 4 + [[1.0, 0.0, 0.0]] * 10)
    names = [f"{k:02d}.png" for k in range(len(rows))]
    return write(path, {**images(*names), "dataset.json": labels(dict(zip(names, rows)), class_names=["p", "q", "r"])})


def test_one_hot_labels_are_classes_for_every_command(tmp_path, tool, accepted, made):
    path = onehot(tmp_path / "x.zip")
    assert ImageDataset(path, use_labels=True).spec.label.counts == (14, 4, 4)
    assert [v for _, v in made(path)[0]["labels"]][:4] == [0, 1, 2, 0]
    assert len(made(path, "--per-class=2")[0]["labels"]) == 6
    info, _ = made(path, "--classes=0")
    assert len(info["labels"]) == 14 and info["class_names"] == ["p"]
    assert made(path, "--classes=r,p")[0]["labels"][0][1] == 1
    out = accepted("check", path)
    assert "3 classes, 22 images: 4 to 14 per class" in out and "  0       14  p" in out
    assert tool("export", f"--source={path}", f"--dest={tmp_path}/e")[0] == 0
    exported = {p.name: len(list(p.iterdir())) for p in (tmp_path / "e").iterdir() if p.is_dir()}
    assert exported == {"p": 14, "q": 4, "r": 4}
    assert tool("--fn", path, "--imf=5", command="lt_dataset")[0] == 0
    few = ImageDataset(path, fname="lt_5.json", use_labels=True)
    assert few.spec.label.counts == (14, 4, 2)
    from gantransfer.data.dataset import reference_dataset

    assert reference_dataset(few.spec).spec.label.counts == (14, 4, 4)
    # A label file without a manifest: its classes are found by comparison, of one-hot lists too.
    with zipfile.ZipFile(path, "a") as z:
        z.writestr("own.json", labels({"02.png": 0, "00.png": 1}))
    assert ImageDataset(path, fname="own.json", use_labels=True).spec.label.class_map == {2: 0, 0: 1}


def test_one_hot_lists_keep_their_length(tmp_path, made, tool):
    rows = {"a.png": [1, 0, 0, 0], "b.png": [0, 1, 0, 0]}
    path = write(tmp_path / "x.zip", {**images(*rows), "dataset.json": labels(rows)})
    assert "2 class ids have no image: 2, 3" in made(path)[1]
    for seen in (path, tmp_path / "made.zip"):  # the table and the warning say the same
        assert tool("check", seen)[1].count("2 class ids have no image: 2, 3") == 2
    with pytest.warns(UserWarning, match="2 of the 4 class ids have no image"):
        assert ImageDataset(tmp_path / "made.zip", use_labels=True).label_dim == 4


@pytest.mark.parametrize("value", [[0.5, 1], [1, 1], [2.5], [0, 0], [1.0000001, 0]])
@pytest.mark.parametrize("flag", ["--classes=0", "--per-class=1"])
def test_flags_for_classes_refuse_other_labels(tmp_path, tool, refused, value, flag):
    rows = {"a.png": value, "b.png": [v + 0.25 for v in value]}
    path = write(tmp_path / "x.zip", {**images(*rows), "dataset.json": labels(rows)})
    message = refused(f"--source={path}", f"--dest={tmp_path}/o.zip", flag)
    assert f"{flag.split('=')[0]} needs class labels" in message
    assert tool("check", path)[0] == 0


@pytest.mark.parametrize("values, kind", [
    ([[1, 0], [0, 1]], "class"), ([[1.0, 0], [1, 0]], "class"), ([[1, 0], [1, 1]], "value"), ([[1], [1]], "value"),
    ([[0, 0], [0, 1]], "value"), ([[2, 0], [0, 1]], "value"), ([[-1, 0, 2], [0, 1, 0]], "value"), ([0, 1], "class"),
])
def test_the_rule(values, kind):
    assert label_array(["a", "b"], values, "x")[0] == kind


def test_label_kind_is_not_passed_over(tmp_path, refused, made):
    path = onehot(tmp_path / "x.zip")
    assert "one-hot" in refused(f"--source={path}", f"--dest={tmp_path}/o.zip", "--label-kind=value")
    rows = {"a.png": [2.0], "b.png": [0.0]}
    numbers = write(tmp_path / "y.zip", {**images(*rows), "dataset.json": labels(rows)})
    assert [v for _, v in made(numbers, "--label-kind=class")[0]["labels"]] == [2, 0]
    rows = {"a.png": [2.5], "b.png": [0.0]}
    other = write(tmp_path / "z.zip", {**images(*rows), "dataset.json": labels(rows)})
    assert "no class indices" in refused(f"--source={other}", f"--dest={tmp_path}/o.zip", "--label-kind=class")


# ---- names that cannot be shown ----


@pytest.mark.slow
def test_a_path_that_is_no_text_ends_no_command_after_its_work(tmp_path):
    """Such a path reaches Python with lone surrogates, which no UTF-8 terminal takes."""
    source = os.fsencode(tmp_path) + b"/caf\xe9"
    try:
        os.mkdir(source)
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    for name, data in images("a/1.png", "b/2.png").items():
        os.makedirs(source + b"/" + os.path.dirname(name).encode(), exist_ok=True)
        Path(os.fsdecode(source), name).write_bytes(data)
    dest = source + b".zip"
    env = dict(os.environ, PYTHONIOENCODING="utf-8:strict", OMP_NUM_THREADS="1")
    for words in (["dataset_tool.py", b"--source=" + source, b"--dest=" + dest], ["dataset_tool.py", "check", dest],
                  ["dataset_tool.py", "export", b"--source=" + dest, b"--dest=" + source + b"_out"],
                  ["lt_dataset.py", b"--fn=" + dest, "--imf=1"],
                  ["train.py", b"--data=" + dest, b"--outdir=" + source, "--cfg=tiny", "--cond=True", "--cbase=64",
                   "--cmax=8", "--kimg=0.064", "--batch=8", "--metrics=none", "--kernels=ref"]):
        done = subprocess.run([sys.executable, *words], cwd=ROOT, env=env, capture_output=True)
        assert done.returncode == 0, (words, done.stderr.decode("utf-8", "replace"))
    meta = Container(os.fsdecode(dest)).read_json("dataset.json")["meta"]
    assert meta["source"] == "café"


def test_classes_are_found_in_either_spelling_of_an_accent(tmp_path, made):
    from gantransfer.data.classes import parse_classes
    from gantransfer.data.labels import LabelSpec

    nfd = unicodedata.normalize("NFD", "été")
    path = write(tmp_path / "x.zip", images(f"{nfd}/1.png", "b/2.png"))
    assert made(path, f"--classes={nfd}")[0]["class_names"] == ["été"] == made(path, "--classes=été")[0]["class_names"]
    label = LabelSpec.from_dict(dict(kind="class", dim=2, names=["b", nfd]))  # of an older snapshot
    assert label.names == ("b", "été") and parse_classes(nfd, label) == parse_classes("été", label) == [1]


def test_a_label_file_away_from_the_images_is_named(tmp_path, refused):
    path = write(tmp_path / "x", {**images("im/1.png", "im/2.png"), "meta/dataset.json": labels({"1.png": 0})})
    message = refused(f"--source={path}", f"--dest={tmp_path}/o.zip")
    assert "meta/dataset.json" in message and "as the set" not in message


def test_folders_that_do_not_count_from_zero_are_pointed_out(tmp_path, made):
    _, out = made(write(tmp_path / "x.zip", images(*(f"{k}/p.png" for k in range(1, 12)))))
    assert "folder 1 is class 0" in out
    assert "note" not in made(write(tmp_path / "y.zip", images(*(f"{k}/p.png" for k in range(12)))))[1]


def test_lt_dataset_says_what_it_replaces(tmp_path, tool):
    path = write(tmp_path / "x.zip", {**images(*(f"{k}.png" for k in range(9))),
                                      "dataset.json": labels({f"{k}.png": k % 2 for k in range(9)})})
    run = [tool("--fn", path, "--imf=2", f"--seed={s}", command="lt_dataset")[1] for s in (0, 0, 3)]
    assert ["replaced" in out for out in run] == [False, False, True] and "lt_2.json" in run[2]


def test_check_says_the_size_of_images_that_training_cannot_read(tmp_path, tool):
    for k in range(3):
        (tmp_path / "x").mkdir(exist_ok=True)
        Image.new("RGBA", (24, 16), (k, 2, 3, 4)).save(tmp_path / f"x/{k}.png")
    code, out, _ = tool("check", tmp_path / "x")
    assert code == 1 and "24x16x4 3" in out


def test_what_is_written_is_not_read_again(tmp_path, tool, refused):
    path = write(tmp_path / "x", images("a/1.png", "b/2.png"))
    assert tool(f"--source={path}", f"--dest={path}/out")[0] == 0
    assert "lies in" in refused(f"--source={path}", f"--dest={path}/out", "--overwrite")


@pytest.mark.parametrize("values", [([1, 0, 0], [0, 1, 0]), (0, 2)])
def test_too_few_class_names_are_seen_by_every_command(tmp_path, tool, refused, values):
    rows = dict(zip(("a.png", "b.png"), values))
    path = write(tmp_path / "x.zip", {**images(*rows), "dataset.json": labels(rows, class_names=["p", "q"])})
    assert "names 2 classes" in refused(f"--source={path}", f"--dest={tmp_path}/o.zip")
    code, out, _ = tool("check", path)
    assert code == 1 and "names 2 classes" in out
    with pytest.warns(UserWarning), pytest.raises(UserError, match="names 2 classes"):
        ImageDataset(path, use_labels=True)
