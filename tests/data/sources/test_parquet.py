# SPDX-License-Identifier: Apache-2.0
"""Parquet files and folders of `datasets`, written by pyarrow in the layouts that the hub and save_to_disk have. With
data/sources/base.py."""

import datetime
import decimal
import json
import sys

import numpy as np
import pytest

from tests.data.picture_sets import picture, png, read_set

NAMES = ["cat", "dog", "ape"]


@pytest.fixture(scope="module")
def pa():
    return pytest.importorskip("pyarrow", reason="the package pyarrow is not installed")


def hub_table(pa, seeds, labels, **columns):
    """As `datasets` writes it: the image a struct, the names of classes in the schema's metadata."""
    features = {"image": {"_type": "Image"}, "label": {"names": NAMES, "_type": "ClassLabel"}}
    table = pa.table({"image": [{"bytes": png(picture(s)), "path": f"p{s}.png"} for s in seeds],
                      "label": pa.array(labels, pa.int64()), **columns})
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def test_parquet_of_the_hub(tmp_path, tool, accepted, refused, pa):
    import pyarrow.parquet as pq

    folder = tmp_path / "set/data"
    folder.mkdir(parents=True)
    (tmp_path / "set/README.md").write_text("x")
    pq.write_table(hub_table(pa, range(3), [0, 2, 1]), folder / "train-00000-of-00002.parquet")
    pq.write_table(hub_table(pa, range(3, 5), [1, 1]), folder / "train-00001-of-00002.parquet")
    pq.write_table(hub_table(pa, range(5, 7), [-1, -1]), folder / "test-00000-of-00001.parquet")
    assert "2 of 7 images" in refused(f"--source={tmp_path}/set", f"--dest={tmp_path}/a.zip"), "-1 is no label"
    out = accepted(f"--source={tmp_path}/set", f"--dest={tmp_path}/a.zip", "--split=train", "--keep-names")
    info, images = read_set(tmp_path / "a.zip")
    assert info["class_names"] == NAMES and [v for _, v in info["labels"]] == [0, 2, 1, 1, 1]
    assert all(np.array_equal(images[n], picture(i)) for i, (n, _) in enumerate(info["labels"]))
    assert info["attributes"] == {"original_name": [f"p{i}.png" for i in range(5)]}
    code, out, _ = tool(f"--source={tmp_path}/set", f"--dest={tmp_path}/b.zip", "--labels=none")
    info, images = read_set(tmp_path / "b.zip")
    assert "splits: test 2, train 5; all are taken" in out and info["labels"] is None and len(images) == 7
    assert sorted(len(v) for v in info["splits"].values()) == [2, 5]
    shards = f"{folder}/train-0000{{0..1}}-of-00002.parquet"
    assert tool(f"--source={shards}", f"--dest={tmp_path}/c.zip", "--per-class=1")[0] == 0
    assert [v for _, v in read_set(tmp_path / "c.zip")[0]["labels"]] == [0, 2, 1]


def test_plain_parquet_and_the_choice_of_columns(tmp_path, accepted, refused, converted, pa):
    import pyarrow.parquet as pq

    source, dest = f"--source={tmp_path}/x.parquet", f"--dest={tmp_path}/a.zip"
    pq.write_table(pa.table({"jpeg": [png(picture(i)) for i in range(4)], "mask": [png(picture(9))] * 4,
                             "kind": list("baab"), "weight": [0.5, 1.5, 2.0, 4.5]}), tmp_path / "x.parquet")
    assert "several columns of images (jpeg, mask); choose one with --image-column=jpeg" in refused(source, dest)
    out = accepted(source, dest, "--image-column=jpeg")
    assert "--label-column=NAME takes labels from mask, kind, weight" in out and "no labels" in out
    info, images = converted(source, dest, "--image-column=jpeg", "--label-column=kind")
    assert info["class_names"] == ["a", "b"] and [v for _, v in info["labels"]] == [1, 0, 0, 1]
    assert np.array_equal(images["00000/img00000003.png"], picture(3))
    info, _ = converted(source, dest, "--image-column=jpeg", "--label-column=weight", "--label-range=0,5")
    assert info["labels"][1][1] == [1.5] and info["label_meta"]["scale"] == 5
    for flags, said in ((["--image-column=kind"], "no column of image files called so; it has jpeg (binary)"),
                        (["--image-column=jpeg", "--label-column=x"], "no such column; it has mask, kind, weight"),
                        (["--image-column=jpeg", "--split=train"], "has no splits"),
                        (["--image-column=jpeg", "--label-column=mask"], "")):
        assert said in refused(source, f"--dest={tmp_path}/n.zip", *flags)


def test_a_folder_of_save_to_disk(tmp_path, tool, refused, converted, pa):
    """`datasets` writes Arrow's stream format, and says in state.json which files are the set."""
    for split, seeds in (("train", (0, 1, 2)), ("validation", (3,))):
        folder = tmp_path / "set" / split
        folder.mkdir(parents=True)
        table = hub_table(pa, seeds, [1] * len(seeds))
        with pa.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as f, pa.ipc.new_stream(f, table.schema) as w:
            w.write_table(table, max_chunksize=2)
        (folder / "cache-1.arrow").write_bytes(b"no part of the set")
        (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    (tmp_path / "set/dataset_dict.json").write_text('{"splits": ["train", "validation"]}')
    info, images = converted(f"--source={tmp_path}/set", f"--dest={tmp_path}/a.zip")
    assert len(images) == 4 and info["splits"] == {"train": [0, 1, 2], "val": [3]} and info["class_names"] == NAMES
    assert tool(f"--source={tmp_path}/set", f"--dest={tmp_path}/b.zip", "--split=val")[0] == 0
    assert np.array_equal(read_set(tmp_path / "b.zip")[1]["00000/img00000000.png"], picture(3))
    (tmp_path / "set/train/state.json").write_text(json.dumps({"_data_files": [{"filename": "../../x.arrow"}]}))
    assert "names no files of the folder" in refused(f"--source={tmp_path}/set", f"--dest={tmp_path}/c.zip")
    (tmp_path / "set/train/state.json").write_text(json.dumps({"_indices_files": [{"filename": "i.arrow"}]}))
    assert "flatten_indices" in refused(f"--source={tmp_path}/set", f"--dest={tmp_path}/c.zip")


def test_bad_tables_are_one_line(tmp_path, refused, converted, pa):
    import pyarrow.parquet as pq

    source, dest = f"--source={tmp_path}/x.parquet", f"--dest={tmp_path}/a.zip"
    pq.write_table(hub_table(pa, range(3), [0, 1, 2]), tmp_path / "x.parquet")
    whole = (tmp_path / "x.parquet").read_bytes()
    middle = bytearray(whole)
    middle[200:260] = bytes(60)
    for data in (whole[:500], b"", b"PAR1nothingPAR1", bytes(middle)):
        (tmp_path / "x.parquet").write_bytes(data)
        assert "x.parquet" in refused(source, dest) and not (tmp_path / "a.zip").exists()
    for table, said in ((pa.table({"n": [1]}), "no column of image files; it has n (int64)"),
                        (pa.table({"image": [b""]})[:0], "the table is empty"),
                        (pa.table({"image": [{"bytes": None, "path": "a/b.png"}]}), "names the file a/b.png and does"),
                        (pa.table({"image": [b"1"], "label": [0], "target": [1]}), "several columns of labels"),
                        (pa.table({"image": [b"1"], "label": [datetime.date(2020, 1, 1)]}), "2020-01-01 (date)"),
                        (pa.table([[b"1"], [0], [1]], ["image", "label", "label"]), "more than one column")):
        if "bytes" in str(table.schema):
            table = table.cast(pa.schema([("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))]))
        pq.write_table(table, tmp_path / "x.parquet")
        assert said in refused(source, dest)
    table = hub_table(pa, range(3), [0, 1, 2])
    pq.write_table(table, tmp_path / "x.parquet")
    pq.write_table(table.replace_schema_metadata({k: v.replace(b'"cat", "dog"', b'"dog", "cat"') for k, v in
                                                  table.schema.metadata.items()}), tmp_path / "y.parquet")
    err = refused(source, f"--source={tmp_path}/y.parquet", dest)
    assert "y.parquet names the classes of label dog, cat, ape" in err
    pq.write_table(pa.table({"image": [png(picture(1))], "label": [decimal.Decimal("1.50")]}), tmp_path / "d.parquet")
    assert converted(f"--source={tmp_path}/d.parquet", f"--dest={tmp_path}/d.zip")[0]["labels"][0][1] == [1.5]
    pq.write_table(pa.table({"other": [b"1"]}), tmp_path / "y.parquet")
    pq.write_table(pa.table({"image": [png(picture(1))]}), tmp_path / "x.parquet")
    assert "y.parquet has no column image" in refused(source, f"--source={tmp_path}/y.parquet", dest)


def test_without_the_package(tmp_path, refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    assert "pip install pyarrow" in refused(f"--source={tmp_path}/x.parquet", f"--dest={tmp_path}/a.zip")
