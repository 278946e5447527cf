# SPDX-License-Identifier: Apache-2.0
"""WebDataset shards: what the package webdataset writes, and tars made by hand."""

import gzip
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tests.data.picture_sets import class_folders, picture, png, read_set


def shard(path: Path, members: list[tuple[str, bytes]], **kw) -> Path:
    with tarfile.open(path, "w", **kw) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def sample(key: str, seed: int, **more: str) -> list[tuple[str, bytes]]:
    return [(f"{key}.png", png(picture(seed))), *((f"{key}.{e}", text.encode()) for e, text in more.items())]


def test_shards_of_the_package(tmp_path, accepted, converted):
    """Written by webdataset's own writer, in several shards: pixels, classes, their order, and the other column."""
    wds = pytest.importorskip("webdataset", reason="the package webdataset is not installed")
    with wds.ShardWriter(f"{tmp_path}/s-%03d.tar", maxcount=3, verbose=0) as writer:
        for i in range(7):
            writer.write({"__key__": f"part/a{i:03d}", "png": picture(i), "cls": i % 3,
                          "json": {"kind": "xyz"[i % 3], "age": i + 0.5}})
    path = f"{tmp_path}/s-{{000..002}}.tar"
    out = accepted(f"--source={path}", f"--dest={tmp_path}/a.zip", "--keep-names")
    info, images = read_set(tmp_path / "a.zip")
    assert [v for _, v in info["labels"]] == [i % 3 for i in range(7)] and "7 images, 16x16" in out
    assert all(np.array_equal(images[n], picture(i)) for i, (n, _) in enumerate(info["labels"]))
    assert info["attributes"]["original_name"] == [f"part/a{i:03d}.png" for i in range(7)]
    # A shell without quotes makes several arguments of the braces: all of them count.
    each = [f"--source={tmp_path}/s-{k:03d}.tar" for k in range(3)]
    info, images = converted(*each, f"--dest={tmp_path}/b.zip", "--label-column=kind")
    assert len(images) == 7 and info["class_names"] == ["x", "y", "z"] and info["labels"][4][1] == 1
    info, _ = converted(f"--source={path}", f"--dest={tmp_path}/c.zip", "--label-column=age")
    assert info["labels"][3][1] == [3.5] and info["label_meta"]["max"] == 6.5


def test_a_tar_by_hand(tmp_path, tool, accepted, converted):
    """Compressed, as `tar -c .` names its members, with a sample that has no image, and no label named .cls."""
    shard(tmp_path / "x.tar", [*sample("./b.1", 0, txt="dog"), ("./._b.png", b"x"), ("./c.json", b"{}"),
                               *sample("./d", 1, txt="cat")])
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress((tmp_path / "x.tar").read_bytes()))
    out = accepted(f"--source={tmp_path}/x.tar.gz", f"--dest={tmp_path}/a.zip")
    assert "1 samples without an image are left out: 1 of .json" in out
    assert "--label-column=NAME takes labels from" in out and read_set(tmp_path / "a.zip")[0]["labels"] is None
    assert tool(f"--source={tmp_path}/x.tar.gz", f"--dest={tmp_path}/b.zip", "--label-column=txt")[0] == 2, "1.txt"
    shard(tmp_path / "y.tar", [*sample("b", 0, txt="dog"), *sample("d", 1, txt="cat\n")])
    info, images = converted(f"--source={tmp_path}/y.tar", f"--dest={tmp_path}/b.zip", "--label-column=.txt")
    assert info["class_names"] == ["cat", "dog"] and [v for _, v in info["labels"]] == [1, 0]
    assert converted(f"--source={tmp_path}/y.tar", f"--dest={tmp_path}/c.zip", "--labels=none")[0]["labels"] is None


@pytest.mark.parametrize("members, flags, said", [
    ([("a.png", b"x"), ("a.jpg", b"x")], (), "several images (png, jpg); choose one with --image-column=png"),
    ([("a.png", b"x"), ("a.PNG", b"x")], (), "holds a.PNG twice"),
    ([("a.txt", b"x")], (), "holds no images"),
    (sample("a", 0, cls="1") + sample("b", 1), (), "1 of 2 images"),
    (sample("a", 0, cls="1"), ("--label-column=kind",), "--label-column=kind: "),
    (sample("a", 0, json="{"), ("--label-column=kind",), "is not valid JSON"),
    (sample("a", 0, cls="1") + sample("b", 1, cls="x"), (), ""),
    (sample("a", 0, cls="-1"), (), "negative class indices"),
    (sample("a", 0) + sample("b", 0) + [("a.cls", b"1")], (), "is there twice, apart"),
    ([("a.png", b"x"), ("a.cls", b"\xff\xfe")], (), "bytes that are no text"),
    (sample("a", 0, cls="1"), ("--split=train",), "--split does not apply"),
    (sample("a", 0, cls="1"), ("--labels=folders",), "brings its own labels"),
    (sample("a", 0, cls="1") + sample("b", 1) + sample("a", 2), (), "is there twice, apart")])
def test_bad_shards_are_one_line(tmp_path, accepted, refused, members, flags, said):
    shard(tmp_path / "x.tar", members)
    words = [f"--source={tmp_path}/x.tar", f"--dest={tmp_path}/a.zip", *flags]
    if not said:  # a word among numbers: all are words
        assert accepted(*words) and read_set(tmp_path / "a.zip")[0]["class_names"] == ["1", "x"]
    else:
        assert said in refused(*words) and not (tmp_path / "a.zip").exists()


def test_damaged_and_hostile_tars_are_one_line(tmp_path, refused):
    whole = shard(tmp_path / "x.tar", sample("a", 0, cls="1") + sample("b", 1, cls="0")).read_bytes()
    header = whole.index(b"b.png")  # what stands before it is whole
    for data, said in ((whole[:header], "no mark at its end"), (whole[: header + 100], "no mark at its end"),
                       (whole[:header] + b"x" * 512 + whole[header + 512:], f"is damaged at byte {header:,}"),
                       (whole + whole, "more behind its end"), (whole[:700], "cut short|not a readable tar"),
                       (b"x" * 2000, "not a readable tar"),
                       (b"", "not a readable tar")):
        (tmp_path / "x.tar").write_bytes(data)
        line = refused(f"--source={tmp_path}/x.tar", f"--dest={tmp_path}/a.zip")
        assert any(s in line for s in said.split("|")) and len(line) < 300
    link = tarfile.TarInfo("a.png")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.addfile(link)
    err = refused(f"--source={tmp_path}/x.tar", f"--dest={tmp_path}/a.zip")
    assert "a.png" in err and "is no plain file" in err
    for source, said in (("y.tar", "no such file"), ("x-{2..1}.tar", "is empty"), ("x-{0..1}.tar", "x-0.tar: no such")):
        assert said in refused(f"--source={tmp_path}/{source}", f"--dest={tmp_path}/a.zip")
    (tmp_path / "f").mkdir()
    for second, said in (("f", "given 2 times"), ("x.tar", "given 2 times")):
        assert said in refused(f"--source={tmp_path}/f", f"--source={tmp_path}/{second}", f"--dest={tmp_path}/a.zip")
    for second, said in (("./x.tar", "x.tar is given twice"), ("f.parquet", "are of different kinds")):
        err = refused(f"--source={tmp_path}/x.tar", f"--source={tmp_path}/{second}", f"--dest={tmp_path}/a.zip")
        assert said in err


def test_labels_of_json_of_any_kind(tmp_path, tool, converted):
    shard(tmp_path / "x.tar", [m for i in range(3) for m in sample(f"{i}", i, json=json.dumps(
        {"v": [i, 0.5], "b": i > 1, "n": None if i else 3}))])
    assert tool(f"--source={tmp_path}/x.tar", f"--dest={tmp_path}/v.zip", "--label-column=v")[0] == 0
    assert [v for _, v in read_set(tmp_path / "v.zip")[0]["labels"]] == [[0, 0.5], [1, 0.5], [2, 0.5]]
    assert tool(f"--source={tmp_path}/x.tar", f"--dest={tmp_path}/b.zip", "--label-column=b")[0] == 0
    assert [v for _, v in read_set(tmp_path / "b.zip")[0]["labels"]] == [0, 0, 1]
    flags = "--label-column=n", "--drop-unlabelled", f"--source={tmp_path}/x.tar"
    assert [v for _, v in converted(*flags, f"--dest={tmp_path}/n.zip")[0]["labels"]] == [3]


def test_an_exported_set_comes_back(tmp_path, tool, accepted, converted):
    """Names of classes too; and the package webdataset reads what was written."""
    class_folders(tmp_path / "in")
    assert tool(f"--source={tmp_path}/in", f"--dest={tmp_path}/a.zip")[0] == 0
    assert "6 samples" in accepted("export", f"--source={tmp_path}/a.zip", f"--dest={tmp_path}/a.tar")
    assert tool("export", f"--source={tmp_path}/a.zip", f"--dest={tmp_path}/a.tar")[0] == 2, "it is there"
    assert tool(f"--source={tmp_path}/a.tar", f"--dest={tmp_path}/b.zip", "--label-column=class_name")[0] == 0
    (first, images), (second, again) = (read_set(tmp_path / f"{n}.zip") for n in "ab")
    assert first["labels"] == second["labels"] and first["class_names"] == second["class_names"]
    assert all(np.array_equal(images[n], again[n]) for n in images)
    assert converted(f"--source={tmp_path}/a.tar", f"--dest={tmp_path}/c.zip")[0]["labels"] == first["labels"]
    wds = pytest.importorskip("webdataset", reason="the package webdataset is not installed")
    read = list(wds.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False).decode("rgb8"))
    assert [s["cls"] for s in read] == [v for _, v in first["labels"]]
    assert all(np.array_equal(s["png"], images[n]) for s, (n, _) in zip(read, first["labels"]))
