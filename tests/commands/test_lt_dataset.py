# SPDX-License-Identifier: Apache-2.0
import functools
import io
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dnnlib.util import run_cli
from gantransfer.commands import dataset_tool
from gantransfer.data import longtail
from gantransfer.data.dataset import ImageDataset, reference_dataset
from tests.data.test_longtail import COUNTS, labels_of


@pytest.fixture
def tool(tool):
    return functools.partial(tool, command="lt_dataset")


@pytest.fixture
def refused(refused):
    return functools.partial(refused, command="lt_dataset")


def folder_with(root: Path, counts, **top) -> Path:
    """A data set of 8x8 images in a folder and the same as a zip beside it."""
    labels = labels_of(counts)
    root.mkdir(parents=True)
    (root / "00000").mkdir()
    content = json.dumps({"labels": [list(p) for p in labels.items()], **top})
    (root / "dataset.json").write_text(content)
    with zipfile.ZipFile(f"{root}.zip", "w") as z:
        z.writestr("dataset.json", content)
        for i, (n, k) in enumerate(labels.items()):
            (root / n).write_bytes(_png((37 * k + i) % 256))
            z.writestr(n, _png((37 * k + i) % 256))
    return root


def test_digits_of_the_demo(tmp_path, tool, monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.setattr(sys, "argv", ["dataset_tool.py", "--source=sklearn:digits", f"--dest={tmp_path}/d.zip",
                                      "--split=pool"])
    with pytest.raises(SystemExit) as e:
        run_cli(dataset_tool.main)
    assert not e.value.code
    assert tool(f"--fn={tmp_path}/d.zip", "--n-max=114", "--imf=25", "--order=label")[0] == 0
    spec = ImageDataset(tmp_path / "d.zip", fname="lt_25.json", use_labels=True).spec
    assert spec.label.counts == (114, 79, 55, 38, 27, 19, 13, 9, 6, 4) and spec.num_images == 364
    assert spec.label.shots == {"many": (0, 1, 2), "medium": (3, 4, 5), "few": (6, 7, 8, 9)}
    assert spec.label.class_map == {k: k for k in range(10)} and spec.label.names == tuple("0123456789")


def test_published_command_on_folder_and_zip(tmp_path, tool):
    counts = np.random.RandomState(0).randint(30, 60, 20).tolist()
    root = folder_with(tmp_path / "af", counts, class_names=[f"k{i}" for i in range(20)])
    before = (tmp_path / "af.zip").read_bytes()
    for fn in (root / "dataset.json", tmp_path / "af.zip"):
        code, out, err = tool("--fn", fn, "--imf", 25, "--shot-labels", "--dname", "animals")
        assert code == 0, err
        assert "lt_25.json" in out and "few" in out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["af", "af.zip"]
    files = ("lt_25.json", "class_0_4.json", "class_5_9.json", "class_10_19.json")
    with zipfile.ZipFile(tmp_path / "af.zip") as z:
        assert z.testzip() is None
        for f in files:
            assert json.loads(z.read(f)) == json.loads((root / f).read_text())
    a, b = (ImageDataset(p, fname="lt_25.json", use_labels=True) for p in (root, tmp_path / "af.zip"))
    assert a.spec.label == b.spec.label and a.fingerprint() == b.fingerprint()
    assert np.array_equal(a.images_uint8(range(len(a))), b.images_uint8(range(len(b))))
    order = sorted(range(20), key=lambda k: (-counts[k], k))
    assert a.spec.label.names == tuple(f"k{k}" for k in order)
    assert a.spec.label.class_map == {k: i for i, k in enumerate(order)}
    assert a.spec.label.shots == {"many": tuple(range(5)), "medium": tuple(range(5, 10)), "few": tuple(range(10, 20))}
    wanted = longtail.profile(max(counts), 20, 25)
    assert list(a.spec.label.counts) == [min(n, counts[k]) for n, k in zip(wanted, order)]
    # The full reference in the network's numbering.
    ref = reference_dataset(b.spec)
    assert ref.class_ids.tolist() == [order.index(ref.get_details(i).raw_label) for i in range(len(ref))]
    assert list(ref.spec.label.counts) == [counts[k] for k in order]
    with pytest.warns(UserWarning, match="10 of the 20 class ids"):
        few = ImageDataset(root, fname="class_10_19.json", use_labels=True)
    assert len(few) == sum(counts[k] for k in order[10:])
    assert list(few.spec.label.counts) == [0] * 10 + [counts[k] for k in order[10:]]
    # Once more: the files in the zip are replaced, not doubled.
    assert tool("--fn", tmp_path / "af.zip", "--imf", 25, "--shot-labels", "--dname", "animals")[0] == 0
    with zipfile.ZipFile(tmp_path / "af.zip") as z:
        assert len(set(z.namelist())) == len(z.namelist())
        with zipfile.ZipFile(io.BytesIO(before)) as old:
            assert all(z.read(n) == old.read(n) for n in old.namelist())
    assert ImageDataset(tmp_path / "af.zip", fname="lt_25.json", use_labels=True).spec.label == b.spec.label


def _png(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full([8, 8], shade, np.uint8)).save(buffer, "png")
    return buffer.getvalue()


class _Raw(zipfile.ZipInfo):
    """A member whose name is written as it is, without a word about its encoding."""

    def _encodeFilenameFlags(self):
        return self.raw, self.flag_bits


@pytest.mark.parametrize("encoding, words", [("utf-8", ("caf\u00e9", "\u1f00")), ("cp437", ("caf\u00e9", "\u00fc")),
                                             ("cp932", ("\u732b\u8868", "\u72ac\u8868"))])
def test_a_zip_with_names_in_an_older_encoding_stays_readable(tmp_path, tool, encoding, words):
    rows, path = [], tmp_path / "old.zip"
    with zipfile.ZipFile(path, "w") as z:
        for k, (name, data) in enumerate([(f"{words[k % 2]}/p{k}.png", _png(k)) for k in range(12)]):
            info = _Raw("x")
            info.filename, info.raw = name, f"top/{name}".encode(encoding)
            z.writestr(info, data)
            rows.append([name, k % 2])
        z.writestr("top/dataset.json", json.dumps({"labels": rows}))
    before = ImageDataset(path, use_labels=True)
    for seed in (0, 1):  # written into the zip, then replaced in it
        assert tool("--fn", path, "--imf=2", "--seed", seed)[0] == 0
        assert ImageDataset(path, use_labels=True).fingerprint() == before.fingerprint()
        assert ImageDataset(path, fname="lt_2.json", use_labels=True).spec.label.counts == (6, 3)
    with zipfile.ZipFile(path) as z:
        assert z.testzip() is None and len(set(z.namelist())) == len(z.namelist()) == 14


def test_manifest(tmp_path, tool):
    root = folder_with(tmp_path / "s", COUNTS)
    assert tool("--fn", root / "dataset.json", "--imf", 10.5, "--seed", 3, "--reverse", "--order=label")[0] == 0
    content = json.loads((root / "lt_10.5_reverse.json").read_text())
    meta = content["meta"]
    assert meta["seed"] == 3 and meta["imf"] == 10.5 and meta["order"] == "label" and meta["args"]["reverse"] is True
    assert meta["class_map"] == {str(k): k for k in range(5)} and meta["full_counts"] == list(COUNTS)
    assert meta["counts"] == np.bincount([k for _, k in content["labels"]]).tolist()
    assert meta["source"]["file"] == "dataset.json" and len(meta["source"]["sha256"]) == 64
    assert tool("--fn", root / "dataset.json")[0] == 0
    assert len(json.loads((root / "lt_natural.json").read_text())["labels"]) == sum(COUNTS)


def test_warns_when_the_table_does_not_fit(tmp_path, tool):
    root = folder_with(tmp_path / "s", COUNTS)
    code, out, _ = tool("--fn", root / "dataset.json", "--imf", 10, "--dname=cifar10")
    assert code == 0 and "cifar10 has 10 classes, this set 5" in out


def test_old_readers_see_only_labels(tmp_path, tool):
    root = folder_with(tmp_path / "s", COUNTS)
    tool("--fn", root / "dataset.json", "--imf", 10, "--shot-labels")
    for file in root.glob("*.json"):
        rows = json.loads(file.read_text())["labels"]
        assert rows and all(len(r) == 2 and isinstance(r[0], str) and type(r[1]) is int for r in rows)


@pytest.mark.parametrize("content, args, words", [
    ({"labels": None}, ["--imf=5"], ["no labels"]),
    ({"labels": []}, ["--imf=5"], ["no labels"]),
    ({}, ["--imf=5"], ['no "labels"']),
    ({"labels": [["a", 0], ["b", 0]]}, ["--imf=5"], ["one class"]),
    ({"labels": [["a", 0], ["b", 2]]}, ["--imf=5"], ["class 1 has no image"]),
    ({"labels": [["a", [0, 1]], ["b", [1, 1]]]}, ["--imf=5"], ["vectors"]),
    ({"labels": [["a", 0], ["b", 0.5]]}, ["--imf=5"], ["fractional", "[0.5]"]),
    ({"labels": [["a", 0], ["b", "x"]]}, ["--imf=5"], ["neither"]),
    (None, ["--imf=0"], ["--imf=0", "positive"]),
    (None, ["--imf=-2"], ["--imf=-2", "positive"]),
    (None, ["--imf=nan"], ["--imf=nan"]),
    (None, ["--imf=0.5"], ["--imf=0.5", "--reverse"]),
    (None, ["--imf=5", "--n-max=0"], ["--n-max"]),
    (None, ["--imf=5", "--min-per-class=0"], ["--min-per-class"]),
    (None, ["--imf=5", "--shots=0,x"], ["--shots=0,x"]),
    (None, ["--imf=1", "--shot-labels"], ["--shot-labels", "--shots"]),
    (None, ["--imf=5", "--legacy"], ["--legacy needs --dname"]),
    (None, ["--imf=5", "--legacy", "--dname=lsun", "--order=count"], ["--order"]),
    (None, ["--imf=0", "--legacy", "--dname=lsun"], ["--imf=0"]),
    ({"labels": [["a", 1], ["b", 2]]}, ["--imf=5", "--legacy", "--dname=lsun"], ["label 0"]),
])
def test_bad_input(tmp_path, refused, content, args, words):
    content = {"labels": [list(p) for p in labels_of((4, 3, 5)).items()]} if content is None else content
    file = tmp_path / "dataset.json"
    file.write_text(json.dumps(content))
    line = refused("--fn", file, *args)
    assert all(w in line for w in words), line
    assert [p.name for p in tmp_path.iterdir()] == ["dataset.json"]


def test_bad_paths(tmp_path, refused):
    (tmp_path / "noise.zip").write_bytes(b"noise")
    with zipfile.ZipFile(tmp_path / "none.zip", "w") as z:
        z.writestr("a.png", "x")
    (tmp_path / "bad.json").write_text("{")
    for fn, words in (("no.json", "no such file"), (".", "is a folder"), ("noise.zip", "not a readable zip"),
                      ("none.zip", "no dataset.json"), ("bad.json", "not valid JSON")):
        assert words in refused("--fn", tmp_path / fn, "--imf=5")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.json", "noise.zip", "none.zip"]
