# SPDX-License-Identifier: Apache-2.0
"""The published LMDB layout against golden bytes and pixels."""

import re
import zipfile

import numpy as np
import pytest

from dnnlib.util import UserError
from gantransfer.data.dataset import ImageDataset
from gantransfer.data.decode import to_uint8
from gantransfer.data.sources import SourceOptions, open_source
from tests.golden.conftest import golden_files

lmdb = pytest.importorskip("lmdb", reason="needs the package lmdb (extra `data`)")


def database(path, arrays, without=(), **more):
    """The golden records as a database; `more` overrides records."""
    with lmdb.open(str(path), map_size=1 << 24) as db, db.begin(write=True) as txn:
        for i, key in enumerate(arrays["lmdb/keys"].tolist()):
            if key not in without:
                txn.put(key.encode(), more.get(key, bytes(arrays[f"lmdb/value{i:03d}"])))
    return str(path)


def images_of(source):
    return [(to_uint8(i.load(), i.name, "3"), i.label) for i in source.items()]


@pytest.mark.parametrize("path", golden_files("hypermod", "lmdb*.npz"))
@pytest.mark.parametrize("name", ["set.lmdb", "set_lmdb", "plain"])
def test_reading(config, a, tmp_path, name):
    source = open_source(database(tmp_path / name, a), SourceOptions())
    assert source.count == int(a["expect/length"])
    size = max(config["sizes"])
    read = images_of(source)
    assert len(read) == source.count
    for i, (pixels, label) in enumerate(read):
        assert label == int(a[f"expect/label{i:05d}"])
        assert np.abs(pixels.astype(int) - a[f"expect/{size}/{i:05d}"].astype(int)).max() <= 2


@pytest.mark.parametrize("path", golden_files("hypermod", "lmdb*.npz"))
def test_converting(config, a, tmp_path, call):
    folder = database(tmp_path / "set.lmdb", a)
    call("dataset_tool", f"--source={folder}", f"--dest={tmp_path / 'set.zip'}")
    data = ImageDataset(str(tmp_path / "set.zip"), use_labels=True)
    assert data.label_dim == int(a["expect/num_classes"]) and len(data) == int(a["expect/length"])
    assert data.class_ids.tolist() == [int(a[f"expect/label{i:05d}"]) for i in range(len(data))]
    expected = np.stack([a[f"expect/{max(config['sizes'])}/{i:05d}"].transpose(2, 0, 1) for i in range(len(data))])
    assert np.abs(data.images_uint8(np.arange(len(data))).astype(int) - expected).max() <= 2
    # Chosen classes, and of each the first few: names of files tell which records were kept.
    for case, kept in ((k, v) for k, v in a.items() if k.startswith("filter/class")):
        classes, _, first = case.split("_", 1)[1].partition("_first")
        choice = [f"--classes={classes.replace('_', ',')}"] + ([f"--per-class={first}"] if first else [])
        dest = tmp_path / f"{case.replace('/', '-')}.zip"
        call("dataset_tool", f"--source={folder}", f"--dest={dest}", *choice)
        names = [n for n in zipfile.ZipFile(dest).namelist() if n.endswith(".png")]
        assert sorted(int(re.search(r"img(\d+)", n)[1]) for n in names) == kept.tolist(), case
    # A chosen class, renumbered from zero.
    call("dataset_tool", f"--source={folder}", f"--dest={tmp_path / 'one.zip'}", "--classes=0,1")
    assert len(ImageDataset(str(tmp_path / "one.zip"))) == sum(int(a[f"expect/label{i:05d}"]) < 2
                                                                for i in range(len(data)))


@pytest.mark.parametrize("path", golden_files("hypermod", "lmdb*.npz"))
def test_damaged_and_unlabelled(a, tmp_path):
    keys = a["lmdb/keys"].tolist()
    plain = database(tmp_path / "plain", a, without=[k for k in keys if k.startswith(("label-", "num_classes"))])
    source = open_source(plain, SourceOptions())
    assert source.labelled == "none" and all(label is None for _, label in images_of(source))
    gaps = database(tmp_path / "gaps", a, without=["label-00002"])
    with pytest.raises(UserError, match="1 of .* have no label: image 2") as e:
        open_source(gaps, SourceOptions())
    assert "\n" not in str(e.value)
    assert open_source(gaps, SourceOptions(labels="none")).labelled == "none"
    largest = max(int(k.split("-")[0]) for k in keys if k[0].isdigit())
    holes = database(tmp_path / "holes", a, without=[f"{largest}-00003"])
    with pytest.raises(UserError, match="image 3 .* is missing"):
        images_of(open_source(holes, SourceOptions()))
    for key, value, says in (("length", b"six", "not a number"), ("label-00001", b"77", "label 77"),
                             ("length", b"0", "no images")):
        folder = database(tmp_path / f"{key}{value.decode()}", a, **{key: value})
        with pytest.raises(UserError, match=says):
            open_source(folder, SourceOptions())
    with pytest.raises(UserError, match="own labels"):
        open_source(plain, SourceOptions(labels="json"))
