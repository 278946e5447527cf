# SPDX-License-Identifier: Apache-2.0
"""Every kind of source gives the right pixels and labels, and a damaged one is a line."""

import dataclasses
import gzip
import io
import os
import pickle
import struct
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dnnlib.util import UserError
from gantransfer.data import h5, sources, transforms
from gantransfer.data.dataset import ImageDataset
from gantransfer.data.sources import fonts
from tests.chaos.corpus import Call
from tests.data.picture_sets import picture, read_set


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
def test_cifar_archives(tmp_path, tool, converted, dump):
    rng = np.random.RandomState(0)

    def batch(n: int, key: str, classes: int) -> dict:
        return {"data": rng.randint(0, 256, (n, 3072), dtype=np.uint8), key: rng.randint(0, classes, n).tolist()}

    ten = {f"data_batch_{i}": batch(4, "labels", 10) for i in range(1, 6)} | {"test_batch": batch(3, "labels", 10)}
    names = [f"kind {i}" for i in range(10)]
    (tmp_path / "a").mkdir()
    cifar(tmp_path / "a/cifar-10-python.tar.gz", {f"cifar-10-batches-py/{k}": dump(v) for k, v in ten.items()} |
          {"cifar-10-batches-py/batches.meta": dump({"label_names": names})})
    info, images = converted(f"--source={tmp_path}/a/cifar-10-python.tar.gz", f"--dest={tmp_path}/ten.zip")
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


@pytest.mark.parametrize("content", [
    lambda p: pickle.dumps({"data": Call(os.system, f"touch {p}")}), lambda p: pickle.dumps([1]),
    lambda p: b"\x80\x02garbage",
    lambda p: pickle.dumps({"data": np.zeros([2, 3], np.uint8), "labels": [0, 1]}),
    lambda p: pickle.dumps({"data": np.array([Call(os.system, f"touch {p}")], object), "labels": [0]}),
    lambda p: pickle.dumps({"data": np.zeros([2, 3072], np.uint8), "labels": [0, 77]})])
def test_cifar_pickles_are_not_executed(tmp_path, refused, content):
    marker = tmp_path / "marker"
    (tmp_path / "a").mkdir()
    cifar(tmp_path / "a/cifar-10-python.tar.gz",
          {f"cifar-10-batches-py/data_batch_{i}": content(marker) for i in range(1, 6)} |
          {"cifar-10-batches-py/batches.meta": pickle.dumps({"label_names": []})})
    assert "data_batch_1" in refused(f"--source={tmp_path}/a/cifar-10-python.tar.gz", f"--dest={tmp_path}/out.zip")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"]


def test_damaged_cifar_archive(tmp_path, refused):
    cifar(tmp_path / "cifar-10-python.tar.gz", {"x": b"1" * 1000})
    assert "batches.meta" in refused(f"--source={tmp_path}/cifar-10-python.tar.gz", f"--dest={tmp_path}/out.zip")
    whole = (tmp_path / "cifar-10-python.tar.gz").read_bytes()
    for damaged in (whole[:40], b"nothing"):
        (tmp_path / "cifar-10-python.tar.gz").write_bytes(damaged)
        err = refused(f"--source={tmp_path}/cifar-10-python.tar.gz", f"--dest={tmp_path}/out.zip")
        assert "cifar-10-python.tar.gz" in err


def idx(path: Path, array: np.ndarray) -> None:
    path.write_bytes(gzip.compress(struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()))


def test_mnist(tmp_path, tool, refused, converted):
    rng = np.random.RandomState(0)
    pictures, labels = rng.randint(0, 256, (7, 28, 28), dtype=np.uint8), rng.randint(0, 10, 7).astype(np.uint8)
    idx(tmp_path / "train-images-idx3-ubyte.gz", pictures)
    source = f"--source={tmp_path}/train-images-idx3-ubyte.gz"
    assert "train-labels-idx1-ubyte.gz" in refused(source, f"--dest={tmp_path}/out.zip")
    assert tool(source, f"--dest={tmp_path}/none.zip", "--labels=none")[0] == 0
    idx(tmp_path / "train-labels-idx1-ubyte.gz", labels)
    info, images = converted(source, f"--dest={tmp_path}/out.zip")
    stack = np.stack(list(images.values()))
    assert stack.shape == (7, 32, 32) and np.array_equal(stack[:, 2:30, 2:30], pictures)
    assert stack.sum() == pictures.sum() and [v for _, v in info["labels"]] == labels.tolist()
    assert read_set(tmp_path / "none.zip")[0]["labels"] is None
    assert tool(source, "--resolution=28x28", f"--dest={tmp_path}/as-they-are.zip")[0] == 0
    assert np.array_equal(ImageDataset(tmp_path / "as-they-are.zip").images_uint8(range(len(pictures)))[:, 0], pictures)
    idx(tmp_path / "train-labels-idx1-ubyte.gz", labels[:5])
    assert "5 labels" in refused(source, f"--dest={tmp_path}/x.zip")
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"\0\0\x08\x03" + bytes(20)))
    assert "IDX" in refused(source, f"--dest={tmp_path}/x.zip")


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


def test_glyphs(tmp_path, accepted):
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
        families[split] = {fonts.font_family(" ".join(i.name[5:].split()[:-1])) for i in items}
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
    out = accepted(f"--source=fonts:{folder}", f"--dest={tmp_path}/f.zip", "--letters=A-E", "--resolution=16x16")
    assert "families" in out
    assert ImageDataset(tmp_path / "f.zip", use_labels=True).spec.label.names == tuple("ABCDE")


def test_families_are_split_whole():
    families = ["a"] * 4 + ["b"] * 2 + ["c"] * 3 + ["d"] + ["e"] * 6
    for seed in range(20):
        held = fonts.held_out_families(families, seed)
        share = sum(f in held for f in families) / len(families)
        assert held < set(families) and 0 < share <= 0.5
    assert fonts.held_out_families(["a", "a"], 0) == set()
    assert fonts.held_out_families(["a"] * 9 + ["b"] * 8, 0) == {"b"}
    assert len({frozenset(fonts.held_out_families(families, s)) for s in range(20)}) > 1
    assert fonts.font_family("Lato Semi-Bold") == fonts.font_family("Lato Light") == "Lato"
    assert fonts.font_family("DejaVu Sans Condensed") == "DejaVu Sans"
    assert fonts.font_family("Black") == "Black"


@pytest.mark.parametrize("text, letters", [("A-C", "ABC"), ("A-B,x-z", "ABxyz"), ("QRS", "QRS")])
def test_letters(text, letters):
    assert fonts.parse_letters(text) == letters


@pytest.mark.parametrize("text", ["C-A", "AA", "A", "A B", ""])
def test_bad_letters(text):
    with pytest.raises(UserError, match="--letters"):
        fonts.parse_letters(text)


def test_lsun(tmp_path, accepted, monkeypatch):
    lmdb = pytest.importorskip("lmdb")
    pictures = [picture(i, 20, 30) for i in range(3)]
    with lmdb.open(str(tmp_path / "church_lmdb"), map_size=1 << 20) as db, db.begin(write=True) as txn:
        for i, p in enumerate(pictures):
            buffer = io.BytesIO()
            Image.fromarray(p).save(buffer, "webp", lossless=True)
            txn.put(f"k{i}".encode(), buffer.getvalue())
        txn.put(b"k1b", b"damaged")
    out = accepted(f"--source={tmp_path}/church_lmdb", f"--dest={tmp_path}/out.zip", "--transform=center-crop",
                   "--resolution=16x16")
    assert "skipped" in out and "k1b" in out
    _, images = read_set(tmp_path / "out.zip")
    assert sorted(images) == [f"00000/img{i:08d}.png" for i in (0, 1, 3)]
    for p, (_, image) in zip(pictures, sorted(images.items())):
        assert np.array_equal(image, transforms.transform_image(p, "center-crop", 16, 16))


def test_a_damaged_database_is_one_line(tmp_path, refused):
    """Its pages are memory: one behind the file's end ends the process, one that points back is read for ever."""
    lmdb = pytest.importorskip("lmdb")
    buffer = io.BytesIO()
    Image.fromarray(picture(0)).save(buffer, "png")
    for kind, records in (("a", {b"k%d" % i: buffer.getvalue() for i in range(9)}), (
            "b", {b"length": b"1000000000", b"num_classes": b"2", b"16-00000": b"x", b"label-00000": b"1"})):
        with lmdb.open(str(tmp_path / f"{kind}_lmdb"), map_size=1 << 20) as db, db.begin(write=True) as txn:
            for key, value in records.items():
                txn.put(key, value)
    err = refused(f"--source={tmp_path}/b_lmdb", f"--dest={tmp_path}/out.zip")
    assert "1,000,000,000 images, but it has 4 records" in err
    whole = (tmp_path / "a_lmdb/data.mdb").read_bytes()
    for data, words in ((whole[:8192], "cut short"), (whole[:-1], "cut short"), (b"", "not readable as LMDB")):
        (tmp_path / "a_lmdb/data.mdb").write_bytes(data)
        err = refused(f"--source={tmp_path}/a_lmdb", f"--dest={tmp_path}/out.zip")
        assert words in err and not (tmp_path / "out.zip").exists()


@pytest.mark.parametrize("program, said", [("import time; time.sleep(60)", "comes to no end"), (
    "import os, signal; os.kill(os.getpid(), signal.SIGBUS)", "crashes")])
def test_a_database_that_ends_its_library_is_one_line(tmp_path, refused, monkeypatch, program, said):
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(tmp_path / "a_lmdb"), map_size=1 << 20) as db, db.begin(write=True) as txn:
        txn.put(b"a", b"b")
    real = h5.subprocess.run

    def stand_in(words, timeout, **kw):
        assert words[1:3] == ["-m", "gantransfer.data.sources.lmdb_look"]
        return real([words[0], "-c", program], timeout=0.3 if "sleep" in program else 60, **kw)

    monkeypatch.setattr(h5.subprocess, "run", stand_in)
    assert said in refused(f"--source={tmp_path}/a_lmdb", f"--dest={tmp_path}/out.zip")


def test_records_in_circles(tmp_path):
    class Circle:
        def cursor(self):
            while True:
                yield b"a", b"b"

    (tmp_path / "data.mdb").write_bytes(bytes(800))
    with pytest.raises(UserError, match="circles"):
        list(sources.lmdb._records(str(tmp_path), Circle()))


def test_lsun_without_the_package(tmp_path, refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    (tmp_path / "church_lmdb").mkdir()
    assert "pip install lmdb" in refused(f"--source={tmp_path}/church_lmdb", f"--dest={tmp_path}/out.zip")
