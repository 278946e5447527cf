# SPDX-License-Identifier: Apache-2.0
"""cGAN-KD's HDF5 files and continuous labels in dataset_tool.py: splits, formats, bad input. With
data/sources/hdf5.py."""

import json
import sys
import zipfile

import numpy as np
import pytest
from click.testing import CliRunner

from dnnlib.util import UserError
from gantransfer.commands import dataset_tool
from gantransfer.data import h5
from gantransfer.data.dataset import ImageDataset
from tests.conftest import write_image_zip
from tests.data.picture_sets import png

h5py = pytest.importorskip("h5py", reason="needs h5py (extra `data`)")


def images(n, channels=1, size=16, seed=0):
    return np.random.RandomState(seed).randint(0, 256, [n, channels, size, size]).astype(np.uint8)


def make(path, **arrays):
    with h5py.File(path, "w") as f:
        for k, v in arrays.items():
            f.create_dataset(k, data=v)
    return path


def tool(*words):
    """dataset_tool.py within this process; returns what it printed, or raises its UserError."""
    done = CliRunner().invoke(dataset_tool.main, [str(w) for w in words], catch_exceptions=False, standalone_mode=False)
    return done.output


def listing(path):
    return json.loads(zipfile.ZipFile(path).read("dataset.json"))


def utkface(path, ages=(1, 30, 60, 12, 45, 2)):
    n = len(ages)
    return make(path, images=images(n), labels=np.asarray(ages), indx_train=np.arange(n - 1),
                indx_subtrain=np.array([3, 0]), indx_subvalid=np.array([1]), indx_test=np.array([n - 1]))


def test_a_split_and_its_parts(tmp_path):
    tool(f"--source={utkface(tmp_path / 'a.h5')}", f"--dest={tmp_path / 'a.zip'}")
    content = listing(tmp_path / "a.zip")
    assert [v for _, v in content["labels"]] == [[1.0], [30.0], [60.0], [12.0], [45.0]]
    assert content["splits"] == {"subtrain": [3, 0], "subvalid": [1]} and content["label_meta"]["unit"] == "year"
    label = ImageDataset(tmp_path / "a.zip", use_labels=True).spec.label
    assert (label.kind, label.normalise(30.0), label.raw(0.5)) == ("value", 0.5, 30.0)
    tool(f"--source={tmp_path / 'a.h5'}", f"--dest={tmp_path / 'b.zip'}", "--split=subtrain")
    assert [v for _, v in listing(tmp_path / "b.zip")["labels"]] == [[12.0], [1.0]]  # in the list's own order
    # Parts follow the images through a second conversion that leaves some out.
    tool(f"--source={tmp_path / 'a.zip'}", f"--dest={tmp_path / 'c.zip'}", "--max-images=2")
    assert listing(tmp_path / "c.zip")["splits"] == {"subtrain": [0], "subvalid": [1]}


def test_rows_are_read_in_any_order_and_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(h5, "BLOCK", 3)
    x = images(11, 3)
    index = np.array([9, 2, 2, 10, 0, 5, 1])
    make(tmp_path / "a.h5", images=x, labels=np.arange(11.0), indx_train=index)
    got = h5.read(str(tmp_path / "a.h5"), "train", label_range=(0, 10))
    assert np.array_equal(np.stack(list(got.images())), x[index])


@pytest.mark.parametrize("kind, labels, dtype", [("class", [0, 2, 1, 1], np.int64), ("value", [0.5, 2, 1, 1], float)])
def test_second_format_has_a_test_part(tmp_path, monkeypatch, kind, labels, dtype):
    values = labels if kind == "class" else [[v] for v in labels]
    pictures = images(4)[:, 0]
    write_image_zip(tmp_path / "a.zip", pictures, values)
    write_image_zip(tmp_path / "t.zip", pictures[:2], values[:2])
    tool(f"--source={tmp_path / 'a.zip'}", f"--test-source={tmp_path / 't.zip'}", f"--dest={tmp_path / 'a.h5'}")
    with h5py.File(tmp_path / "a.h5") as f:
        assert f["labels_train"].dtype == dtype and f["labels_train"][()].tolist() == labels
        assert np.array_equal(f["images_test"][:, 0], pictures[:2])
    other = [[v] for v in labels] if kind == "class" else [0, 1, 0, 1]
    write_image_zip(tmp_path / "large.zip", images(4, size=32)[:, 0], values)
    write_image_zip(tmp_path / "other.zip", pictures, other)
    for words, said in (((), "--test-source"), (["--format=cgankd-v1", "--test-source=t.zip"], "cgankd-v1 has none"),
                        (["--test-source=large.zip"], "gives a 32x32x1 image, the first one .* is 16x16x1"),
                        (["--test-source=other.zip"], "other.zip has .* as labels, a.zip"),
                        (["--test-source=none.zip"], "^--test-source=none.zip: no such file")):
        with monkeypatch.context() as m, pytest.raises(UserError, match=said):
            m.chdir(tmp_path)
            tool("--source=a.zip", "--dest=b.h5", *words)
    assert sorted(p.name for p in tmp_path.glob("*.h5")) == ["a.h5"]


def test_first_format_splits_every_label(tmp_path):
    write_image_zip(tmp_path / "a.zip", images(40)[:, 0], [int(i % 4) for i in range(40)])
    tool(f"--source={tmp_path / 'a.zip'}", f"--dest={tmp_path / 'a.h5'}", "--format=cgankd-v1")
    with h5py.File(tmp_path / "a.h5") as f:
        first, second, y = (f[k][()] for k in ("subtrain_indx", "subvalid_indx", "labels_train"))
    assert sorted([*first, *second]) == list(range(40)) and np.bincount(y[second]).tolist() == [2, 2, 2, 2]


@pytest.mark.usefixtures("no_look")
def test_class_names_go_along(tmp_path):
    names = ["Äpfel", "b", "c"]
    write_image_zip(tmp_path / "a.zip", images(6)[:, 0], [0, 1, 2, 0, 1, 2], class_names=names)
    tool(f"--source={tmp_path / 'a.zip'}", f"--dest={tmp_path / 'a.h5'}", "--format=cgankd-v1")
    tool(f"--source={tmp_path / 'a.h5'}", f"--dest={tmp_path / 'b.zip'}")
    assert listing(tmp_path / "b.zip")["class_names"] == names
    write_image_zip(tmp_path / "t.zip", images(2)[:, 0], [0, 1], class_names=["b", "c"])
    with pytest.raises(UserError, match="has other classes .b, c. than"):
        tool(f"--source={tmp_path / 'a.zip'}", f"--test-source={tmp_path / 't.zip'}", f"--dest={tmp_path / 'c.h5'}")
    assert not (tmp_path / "c.h5").exists()
    for damaged in ([1, 2], [b"a", b"a"], [b"a", b""], [b"a", b"\xff"]):
        (tmp_path / "d.h5").unlink(missing_ok=True)
        make(tmp_path / "d.h5", fake_images=images(2), fake_labels=[0, 1], class_names=damaged)
        with pytest.raises(UserError, match="class_names"):
            h5.read(str(tmp_path / "d.h5"))


def test_a_test_part_is_not_trained_on(tmp_path):
    write_image_zip(tmp_path / "a.zip", images(4)[:, 0], [0, 1, 0, 1], splits={"train": [0, 1], "test": [2, 3]})
    write_image_zip(tmp_path / "t.zip", images(2)[:, 0], [0, 1])
    words = [f"--source={tmp_path / 'a.zip'}", f"--test-source={tmp_path / 't.zip'}", f"--dest={tmp_path / 'a.h5'}"]
    with pytest.raises(UserError, match="a test part of its own.*--split=train"):
        tool(*words)
    assert not (tmp_path / "a.h5").exists()


def test_generated_images_keep_their_layout(tmp_path):
    write_image_zip(tmp_path / "f.zip", images(5)[:, 0], [[30.0]] * 5, provenance={"sampler": "x"})
    tool(f"--source={tmp_path / 'f.zip'}", f"--dest={tmp_path / 'f.h5'}")
    with h5py.File(tmp_path / "f.h5") as f:
        assert f["fake_images"].compression == "gzip" and f["fake_labels"].dtype == np.int64
    tool(f"--source={tmp_path / 'f.zip'}", f"--dest={tmp_path / 'f.h5'}", "--format=cgankd-v1", "--overwrite")
    with h5py.File(tmp_path / "f.h5") as f:
        assert f["fake_images"].compression is None and f["fake_labels"].dtype == np.float64


BAD = {
    "missing keys": (dict(images_train=images(2)), "labels_train missing"),
    "no keys": ({}, "missing beside nothing"),
    "float images": (dict(fake_images=images(2).astype(np.float32), fake_labels=[0, 1]), "float32; images are uint8"),
    "channels last": (dict(fake_images=images(2).transpose(0, 2, 3, 1), fake_labels=[0, 1]), "[N, 1 or 3, H, W]"),
    "text labels": (dict(fake_images=images(2), fake_labels=np.array([b"a", b"b"])), "labels are numbers"),
    "too few labels": (dict(fake_images=images(2), fake_labels=[0]), "for 2 images"),
    "nan labels": (dict(fake_images=images(2), fake_labels=[0.0, np.nan]), "not finite"),
    "negative classes": (dict(fake_images=images(2), fake_labels=[-1, 1]), "--label-kind=value"),
    "index outside": (dict(images=images(2), labels=[1.0, 2.0], indx_train=[0, 2]), "no row of 2 images"),
    "age outside": (dict(images=images(2), labels=[1.0, 99.0], indx_train=[0, 1]), "outside 1 to 60, such as 99"),
}


@pytest.fixture
def no_look(monkeypatch):
    """Without another process's look at each file first, which takes longer than all else here."""
    monkeypatch.setattr(h5, "survives", lambda path: None)


@pytest.mark.usefixtures("no_look")
@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_one_line(name, tmp_path):
    arrays, said = BAD[name]
    make(tmp_path / "a.h5", **arrays)
    with pytest.raises(UserError) as e:
        tool(f"--source={tmp_path / 'a.h5'}", f"--dest={tmp_path / 'a.zip'}")
    assert said in str(e.value) and "\n" not in str(e.value)
    assert [p.name for p in tmp_path.iterdir()] == ["a.h5"]


def elsewhere(tmp_path):
    """Files whose images are in other files, or nowhere: name -> what is said."""
    (tmp_path / "secret.txt").write_text("a line that must not leave this machine\n" * 8)
    make(tmp_path / "other.h5", x=images(2))
    (tmp_path / "deep").mkdir()
    labels = np.zeros(2, int)

    def written(name, fill, **arrays):
        with h5py.File(tmp_path / name, "w") as f:
            fill(f)
            for k, v in {"fake_labels": labels, **arrays}.items():
                f.create_dataset(k, data=v)
        return name

    def group(f, link):
        f.create_group("g")["inner"] = link
        f["fake_images"] = h5py.SoftLink("/g/inner/x")

    layout = h5py.VirtualLayout((2, 1, 16, 16), dtype=np.uint8)
    layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "x", shape=(2, 1, 16, 16))
    huge = dict(shape=(10**6, 1, 256, 256), dtype=np.uint8, chunks=(1, 1, 256, 256))
    return {
        written("raw.h5", lambda f: f.create_dataset("fake_images", shape=(2, 1, 8, 16), dtype=np.uint8, external=[
            (str(tmp_path / "secret.txt"), 0, 256)])): "external storage",
        written("link.h5", lambda f: f.__setitem__("fake_images", h5py.ExternalLink("other.h5", "x"))): "another file",
        written("no.h5", lambda f: f.__setitem__("fake_images", h5py.ExternalLink("none.h5", "x"))): "another file",
        written("soft.h5", lambda f: group(f, h5py.ExternalLink("other.h5", "/"))): "another file",
        written("loop.h5", lambda f: f.__setitem__("fake_images", h5py.SoftLink("/fake_images"))): "leads to itself",
        written("label.h5", lambda f: f.__setitem__("fake_images", images(2)) or f.__setitem__(
            "types", h5py.ExternalLink("other.h5", "x")), fake_labels2=[0]): None,
        written("virtual.h5", lambda f: f.create_virtual_dataset("fake_images", layout)): "virtual storage",
        written("sparse.h5", lambda f: f.create_dataset("fake_images", **huge),
                fake_labels=np.zeros(10**6, np.int8)): "says that it holds",
        written("packed.h5", lambda f: f.create_dataset("fake_images", compression="gzip", **huge),
                fake_labels=np.zeros(10**6, np.int8)): "says that it holds",
        written("rows.h5", lambda f: f.create_dataset("fake_images", data=np.zeros((3 * 10**6, 1, 1, 1), np.uint8),
                                                      compression="gzip"),
                fake_labels=np.zeros(1, np.int8)): "says that it holds",
        written("chunk.h5", lambda f: f.create_dataset("fake_images", shape=(1, 1, 40_000, 40_000), dtype=np.uint8,
                                                       chunks=(1, 1, 40_000, 40_000), compression="gzip"),
                fake_labels=[0]): "says that it holds",
    }


@pytest.mark.usefixtures("no_look")
def test_data_of_other_files_are_not_read(tmp_path):
    for name, said in elsewhere(tmp_path).items():
        if said is None:
            assert len(h5.read(str(tmp_path / name)).rows) == 2
            continue
        with pytest.raises(UserError) as e:
            tool(f"--source={tmp_path / name}", f"--dest={tmp_path / 'out.zip'}")
        assert said in str(e.value) and name in str(e.value) and "\n" not in str(e.value)
        assert not (tmp_path / "out.zip").exists()


def test_links_within_the_file_are_followed(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as f:
        f.create_group("sets")["pictures"] = images(3)
        f["sets/latest"] = h5py.SoftLink("pictures")
        f["fake_images"] = h5py.SoftLink("/sets/latest")
        f["fake_labels"] = [0, 1, 0]
    got = h5.read(str(tmp_path / "a.h5"))
    assert np.array_equal(np.stack(list(got.images())), images(3))


def test_filters_that_need_a_plugin_are_named(tmp_path, monkeypatch):
    with h5py.File(tmp_path / "a.h5", "w") as f:
        f.create_dataset("fake_images", data=images(2), compression="gzip", chunks=(1, 1, 16, 16))
        f["fake_labels"] = [0, 1]
    assert len(h5.read(str(tmp_path / "a.h5")).rows) == 2
    monkeypatch.setattr(h5, "_FILTERS", {2, 3})  # as if gzip were none of HDF5's own
    with pytest.raises(UserError, match="filter 1, which needs a plugin"):
        h5.read(str(tmp_path / "a.h5"))


def test_large_images_are_read_in_small_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(h5, "BLOCK_BYTES", 600)
    make(tmp_path / "a.h5", fake_images=images(7), fake_labels=np.arange(7))
    assert np.array_equal(np.stack(list(h5.read(str(tmp_path / "a.h5")).images())), images(7))


@pytest.mark.usefixtures("no_look")
@pytest.mark.parametrize("text", ["[", "3", "{}", '{"min": 1}', '{"kind": "regression", "min": "a", "max": 2}',
                                  "[" * 5000, '{"kind": "regression", "min": 0, "max": 1e999, "unit": ""}'])
def test_damaged_label_meta(tmp_path, text):
    make(tmp_path / "a.h5", fake_images=images(2), fake_labels=[0.5, 1.0])
    with h5py.File(tmp_path / "a.h5", "a") as f:
        f.attrs["label_meta"] = text
    with pytest.raises(UserError, match="label_meta"):
        h5.read(str(tmp_path / "a.h5"))


def test_bad_flags(tmp_path):
    path = utkface(tmp_path / "a.h5")
    (tmp_path / "no.h5").write_bytes(b"\x89HDF cut")
    for words, said in (
            ([f"--source={tmp_path / 'no.h5'}", "--dest=x.zip"], "not a readable HDF5 file"),
            ([f"--source={path}", "--dest=x.zip", "--split=rest"], "--split=rest"),
            ([f"--source={path}", "--dest=x.zip", "--label-range=5"], "for example 0,60"),
            ([f"--source={path}", "--dest=x.zip", "--label-range=9,2"], "above the first"),
            ([f"--source={path}", "--dest=x.zip", "--format=cgankd-v1"], "--dest=FILE.h5"),
            ([f"--source={path}", "--dest=x.zip", "--labels=folders"], "brings its own labels"),
            (["--source=sklearn:digits", "--dest=x.zip", "--split=subtrain"], "belongs to HDF5"),
            (["--source=sklearn:digits", f"--dest={tmp_path / 'x.h5'}", "--classes=1"], "--classes")):
        with pytest.raises(UserError, match=said):
            tool(*words)


def test_without_h5py_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    (tmp_path / "a.h5").write_bytes(b"")
    for words in ([f"--source={tmp_path / 'a.h5'}", f"--dest={tmp_path / 'a.zip'}"],
                  ["--source=sklearn:digits", f"--dest={tmp_path / 'b.h5'}"]):
        with pytest.raises(UserError, match="pip install h5py"):
            tool(*words)


# ---- continuous labels of other sources ----------------------------------------------------------------------------


def test_raw_folders_of_the_originals(tmp_path):
    faces, road = tmp_path / "UTKFace", tmp_path / "driving"
    for folder, names in ((faces, ["25_0_1_x.png", "3_1_0_y.png", "99_1_0_z.png", "cover.png"]),
                          (road, ["0.png", "1.png"])):
        folder.mkdir()
        for n in names:
            (folder / n).write_bytes(png(images(1)[0, 0]))
    (road / "data.txt").write_text("0.png -3.5\n1.png 20.25,2018-07-01 17:09:44:912\n")
    with pytest.raises(UserError, match="--drop-unlabelled"):  # 99 years are outside the published set
        tool(f"--source={faces}", f"--dest={tmp_path / 'f.zip'}", "--labels=utkface")
    with pytest.raises(UserError, match="no image of .* starts with an age"):
        tool(f"--source={road}", f"--dest={tmp_path / 'f.zip'}", "--labels=utkface", "--drop-unlabelled")
    tool(f"--source={faces}", f"--dest={tmp_path / 'f.zip'}", "--labels=utkface", "--drop-unlabelled")
    tool(f"--source={road}", f"--dest={tmp_path / 'r.zip'}", "--labels=steering")
    assert sorted(v for _, v in listing(tmp_path / "f.zip")["labels"]) == [[3.0], [25.0]]
    assert [v for _, v in listing(tmp_path / "r.zip")["labels"]] == [[-3.5], [20.25]]
    assert ImageDataset(tmp_path / "r.zip", use_labels=True).spec.label.normalise(-88.13) == 0
    (road / "data.txt").write_text("0.png left\n")
    with pytest.raises(UserError, match="is not a file name and an angle"):
        tool(f"--source={road}", f"--dest={tmp_path / 'q.zip'}", "--labels=steering")


def test_class_indices_become_values(tmp_path):
    write_image_zip(tmp_path / "a.zip", images(3)[:, 0], [18, 60, 33])
    tool(f"--source={tmp_path / 'a.zip'}", f"--dest={tmp_path / 'b.zip'}", "--label-kind=value", "--label-range=0,60",
         "--label-unit=year")
    content = listing(tmp_path / "b.zip")
    assert [v for _, v in content["labels"]] == [[18.0], [60.0], [33.0]]
    assert content["label_meta"] == dict(kind="regression", unit="year", offset=0.0, scale=60.0, min=0.0, max=60.0)
    with pytest.raises(UserError, match="outside 0 to 20"):
        tool(f"--source={tmp_path / 'a.zip'}", f"--dest={tmp_path / 'c.zip'}", "--label-kind=value",
             "--label-range=0,20")


@pytest.mark.parametrize("meta, said", [([1], "is not an object"), (dict(kind="regression", scale=0), "scale"),
                                        (dict(kind="regression", min=40), "outside 40 to"),
                                        (dict(kind="regression", offset="a"), "offset")])
def test_bad_label_meta(tmp_path, meta, said):
    write_image_zip(tmp_path / "a.zip", images(2)[:, 0], [[30.0], [50.0]], label_meta=meta)
    with pytest.raises(UserError, match=said):
        ImageDataset(tmp_path / "a.zip", use_labels=True)


def test_without_label_meta_the_range_is_the_data_s(tmp_path):
    write_image_zip(tmp_path / "a.zip", images(3)[:, 0], [[30.0], [50.0], [70.0]])
    label = ImageDataset(tmp_path / "a.zip", use_labels=True).spec.label
    assert label.normalise(np.array([30.0, 50.0, 70.0])).tolist() == [0, 0.5, 1]
    assert type(label).from_dict(label.to_dict()) == label
