# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools
import json
import multiprocessing
import pickle
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from dnnlib.util import UserError
from gantransfer.data import decode as pixels
from gantransfer.data.dataset import BatchSource, ImageDataset, reference_dataset, training_dataset
from gantransfer.data.decode import decode
from gantransfer.data.labels import DataSpec, LabelSpec, class_weights, shot_groups
from gantransfer.data.schedule import Span
from tests.data.picture_sets import png


def images(n: int, size: int = 8, channels: int = 3, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.RandomState(seed)
    shape = (size, size, 3) if channels == 3 else (size, size)
    return [rng.randint(0, 256, shape, dtype=np.uint8) for _ in range(n)]


def name(i: int) -> str:
    return f"0000{i % 2}/img{i:08d}.png"


class Made:
    """One set as a folder and as a zip."""

    def __init__(self, root: Path, files: dict[str, bytes]):
        self.folder, self.zip = str(root / "set"), str(root / "set.zip")
        for n, data in files.items():
            (root / "set" / n).parent.mkdir(parents=True, exist_ok=True)
            (root / "set" / n).write_bytes(data)
        with zipfile.ZipFile(self.zip, "w") as z:
            for n, data in reversed(files.items()):
                z.writestr(n, data)


def make(root: Path, labels=None, pictures=None, extra: dict[str, bytes] | None = None,
         top: dict | None = None) -> Made:
    """Images name(0), name(1), ... with `labels` (a list by index, or a ready list of pairs) in dataset.json."""
    pictures = images(8) if pictures is None else pictures
    files = {name(i): png(p) for i, p in enumerate(pictures)}
    if labels is not None:
        pairs = labels if labels and isinstance(labels[0], tuple) else [(name(i), v) for i, v in enumerate(labels)]
        files["dataset.json"] = json.dumps({"labels": [list(p) for p in pairs], **(top or {})}).encode()
    return Made(root, files | (extra or {}))


def label_file(pairs, **more) -> bytes:
    return json.dumps({"labels": [list(p) for p in pairs], **more}).encode()


@pytest.fixture(params=["folder", "zip"])
def form(request) -> str:
    return request.param


CLASSES = [0, 2, 1, 0, 0, 2, 1, 0]


def test_zip_and_folder_are_the_same_set(tmp_path):
    made = make(tmp_path, CLASSES, extra={"lt.json": label_file([(name(5), 0), (name(0), 1), (name(3), 1)]),
                                          "notes.txt": b"x", "__MACOSX/._img00000000.png": b"x"})
    for kw in ({}, {"xflip": True}, {"max_size": 3, "seed": 4}, {"fname": "lt.json"},
               {"fname": "lt.json", "xflip": True}):
        a, b = (ImageDataset(p, use_labels=True, **kw) for p in (made.folder, made.zip))
        assert len(a) == len(b) > 0
        assert a.spec.label == b.spec.label and a.fingerprint() == b.fingerprint()
        assert np.array_equal(a.images_uint8(range(len(a))), b.images_uint8(range(len(b))))
        assert np.array_equal(a.labels(range(len(a))), b.labels(range(len(b))))
        batch = [BatchSource(d, seed=1).indices(0, 16) for d in (a, b)]
        assert np.array_equal(a.images_uint8(batch[0]), b.images_uint8(batch[1]))
        assert [a.get_details(i) for i in range(len(a))] == [b.get_details(i) for i in range(len(b))]


def test_items_are_sorted_by_name_and_mirrored_copies_follow(tmp_path, form):
    pictures = images(8)
    made = make(tmp_path, CLASSES, pictures)
    d = ImageDataset(getattr(made, form), use_labels=True, xflip=True)
    order = sorted(range(8), key=name)
    assert len(d) == 16 and d.spec.num_images == 8 and d.image_shape == [3, 8, 8]
    for k, i in enumerate(order):
        image, label = d[k]
        assert image.dtype == np.uint8 and label.dtype == np.float32
        assert np.array_equal(image, pictures[i].transpose(2, 0, 1))
        assert np.array_equal(d[8 + k][0], image[:, :, ::-1])
        assert label.tolist() == np.eye(3)[CLASSES[i]].tolist() == d.get_label(8 + k).tolist()
        assert d.get_details(8 + k) == {"raw_idx": k, "xflip": True, "raw_label": CLASSES[i], "name": name(i)}
    assert d.class_ids.tolist() == [CLASSES[i] for i in order] * 2
    assert d.spec.label.counts == (4, 2, 2)  # mirrored copies are not counted
    image[:] = 0  # a copy: the set is not changed by its user
    assert np.array_equal(d[len(order) - 1][0], pictures[order[-1]].transpose(2, 0, 1))
    with pytest.raises(IndexError):
        d.images_uint8([16])


def test_greyscale_has_one_channel(tmp_path, form):
    pictures = images(3, channels=1)
    d = ImageDataset(getattr(make(tmp_path, None, pictures), form))
    assert d.num_channels == 1 and np.array_equal(d[0][0][0], pictures[0])
    assert d.label_dim == 0 and d.class_ids is None and d[0][1].shape == (0,)


def test_subset_keeps_all_classes_of_the_file_and_counts_what_it_selects(tmp_path):
    d = ImageDataset(make(tmp_path, CLASSES).zip, use_labels=True, max_size=3, seed=4)
    expected = np.arange(8)
    np.random.RandomState(4).shuffle(expected)
    assert [d.get_details(i).raw_idx for i in range(3)] == sorted(expected[:3])
    assert d.label_dim == 3 and sum(d.spec.label.counts) == 3
    assert np.bincount(d.class_ids, minlength=3).tolist() == list(d.spec.label.counts)


def test_label_file_restricts_and_labels(tmp_path, form):
    made = make(tmp_path, CLASSES, extra={"lt.json": label_file([(name(5), 0), (name(0), 1)])})
    d = ImageDataset(getattr(made, form), fname="lt.json", use_labels=True)
    assert [d.get_details(i).name for i in range(2)] == [name(0), name(5)] and len(d) == 2
    assert d.class_ids.tolist() == [1, 0]
    without = ImageDataset(getattr(made, form), fname="lt.json")
    assert len(without) == 2 and without.label_dim == 0
    outside = tmp_path / "elsewhere.json"
    outside.write_bytes(label_file([("./" + name(1), 0)]))
    assert len(ImageDataset(getattr(made, form), fname=str(outside))) == 1


@pytest.mark.parametrize("content, message", [
    (label_file([(name(1), 0), ("no.png", 0), ("no2.png", 1)]), r"2 of 3 images .*no\.png, no2\.png"),
    (b'{"labels": null}', "null"),
    (b'{"labels": []}', "lists no images"),
    (b'{"labels": 3}', "not a list"),
    (b'{"labels": [["a.png"]]}', "not a pair"),
    (b'[]', 'no "labels"'),
    (b'{"labels"', "not valid JSON"),
    (label_file([(name(1), 0), (name(1), 1)]), "two different labels"),
    (label_file([(name(0), 0), (name(1), 1)], class_names=["a"]), "names 1 classes"),
    (label_file([(name(0), 0), (name(1), 1)], class_names="ab"), "list of strings"),
    (label_file([(name(0), 0), (name(1), 1)], meta={"shots": {"few": [7]}}), "meta"),
    (label_file([(name(0), 0), (name(1), 1)], meta={"class_map": {"x": 7}}), "meta"),
])
def test_bad_label_files(tmp_path, form, content, message):
    made = make(tmp_path, CLASSES, extra={"lt.json": content})
    with pytest.raises(UserError, match=message) as e:
        ImageDataset(getattr(made, form), fname="lt.json", use_labels=True)
    assert "lt.json" in str(e.value) and "\n" not in str(e.value)


def test_label_file_that_does_not_exist(tmp_path, form):
    made = make(tmp_path, CLASSES)
    with pytest.raises(UserError, match=r"--fname=lt_25\.json.*dataset\.json"):
        ImageDataset(getattr(made, form), fname="lt_25.json")


@pytest.mark.parametrize("labels, message", [
    ([0, 1, 2.5, 1, 0, 0, 3.25, 1], r"2 of 8 labels.*fractional.*img00000002\.png: 2\.5.*\[2\.5\]"),
    ([0, 1, -1, 1, 0, 0, 1, 1], r"1 of 8 labels.*negative"),
    ([0, 1, [1], 1, 0, 0, 1, 1], r"1 of 8 labels.*lists among others"),
    ([[1, 2]] * 7 + [[1]], r"1 of 8 labels.*not of length 2"),
    ([0, 1, None, 1, 0, 0, "cat", 1], r"2 of 8 labels.*neither"),
    ([0, 1, True, 1, 0, 0, 1, 1], r"1 of 8 labels.*neither"),
    ([[]] * 8, r"8 of 8 labels.*neither"),
    ([0, 1, 10**9, 1, 0, 0, 1, 1], "million"),
    ([(name(i), 0) for i in range(5)], r"3 of 8 images.*no label.*dataset\.json"),
])
def test_bad_labels(tmp_path, form, labels, message):
    made = make(tmp_path, labels)
    with pytest.raises(UserError, match=message) as e:
        ImageDataset(getattr(made, form), use_labels=True)
    assert "\n" not in str(e.value)
    assert len(ImageDataset(getattr(made, form))) == 8  # without labels in use they do not matter


def test_kinds_of_labels(tmp_path):
    def label(i: int, labels) -> LabelSpec:
        (tmp_path / str(i)).mkdir()
        return ImageDataset(make(tmp_path / str(i), labels).zip, use_labels=True).spec.label

    assert label(0, [float(v) for v in CLASSES]) == label(1, CLASSES)
    onehot = label(2, np.eye(3, dtype=int)[CLASSES].tolist())
    assert onehot.kind == "class" and onehot.counts == (4, 2, 2)
    multi = label(3, [[1, 1, 0]] * 4 + [[0, 1, 0]] * 4)
    assert multi.kind == "value" and multi.dim == 3 and multi.counts == ()
    assert label(4, [[0.25 * i] for i in range(8)]).dim == 1
    assert ImageDataset(make(tmp_path / "4", [[0.25 * i] for i in range(8)]).zip, use_labels=True).labels(
        range(8)).ravel().tolist() == [0.25 * i for i in sorted(range(8), key=name)]
    null = make(tmp_path / "0", None, extra={"dataset.json": b'{"labels": null}'})
    assert ImageDataset(null.zip, use_labels=True).spec.label == LabelSpec()


def test_gaps_in_class_ids_warn_and_count_zero(tmp_path):
    with pytest.warns(UserWarning, match=r"3 of the 6 class ids have no image \(1, 3, 4\)"):
        d = ImageDataset(make(tmp_path, [0, 2, 0, 0, 5, 2, 2, 0]).zip, use_labels=True)
    assert d.spec.label.counts == (4, 0, 3, 0, 0, 1)


def test_extra_labels_are_tolerated_in_dataset_json_only(tmp_path):
    pairs = [(name(i), 0) for i in range(8)] + [("gone.png", 1)]
    made = make(tmp_path, pairs, extra={"other.json": label_file(pairs)})
    assert ImageDataset(made.zip, use_labels=True).label_dim == 1
    with pytest.raises(UserError, match="gone.png"):
        ImageDataset(made.zip, fname="other.json")


def test_manifest_reaches_the_spec_and_the_reference(tmp_path, form):
    lt = label_file([(name(1), 0), (name(5), 0), (name(2), 1), (name(0), 2)], class_names=["c", "b", "a"],
                    meta={"class_map": {"2": 0, "1": 1, "0": 2}, "shots": {"many": [0], "medium": [1], "few": [2]}})
    made = make(tmp_path, CLASSES, extra={"lt.json": lt}, top={"class_names": ["a", "b", "c"]})
    path = getattr(made, form)
    d = ImageDataset(path, fname="lt.json", use_labels=True, xflip=True, max_size=3)
    assert d.spec.label.class_map == {2: 0, 1: 1, 0: 2}
    assert d.spec.label.shots == {"many": (0,), "medium": (1,), "few": (2,)}
    assert d.spec.label.names == ("c", "b", "a")
    ref = reference_dataset(d.spec)
    assert len(ref) == 8 and not ref.spec.xflip and ref.label_dim == 3
    assert ref.class_ids.tolist() == [{2: 0, 1: 1, 0: 2}[CLASSES[i]] for i in sorted(range(8), key=name)]
    assert ref.spec.label.names == ("c", "b", "a")
    assert DataSpec.from_dict(json.loads(json.dumps(d.spec.to_dict()))) == d.spec


def test_class_map_of_plain_label_files_is_found_by_comparison(tmp_path):
    renumbered = label_file([(name(1), 0), (name(5), 0), (name(2), 1), (name(0), 2)])
    same = label_file([(name(0), 0), (name(2), 1), (name(1), 2)])
    part = label_file([(name(0), 0), (name(2), 1)])
    mixed = label_file([(name(0), 0), (name(3), 1), (name(1), 2)])
    made = make(tmp_path, CLASSES, extra={"r.json": renumbered, "s.json": same, "p.json": part, "m.json": mixed},
                top={"class_names": ["a", "b", "c"]})

    def spec(fname: str) -> DataSpec:
        return ImageDataset(made.zip, fname=fname, use_labels=True).spec

    assert spec("r.json").label.class_map == {2: 0, 1: 1, 0: 2} and spec("r.json").label.names == ("c", "b", "a")
    assert spec("s.json").label.class_map == {}
    assert spec("p.json").label.class_map == {0: 0, 1: 1}
    assert len(reference_dataset(spec("p.json"))) == 6  # class 2 is unknown to the network
    with pytest.warns(UserWarning, match="class 0"):
        assert spec("m.json").label.class_map == {}


def test_reference_of_another_set(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    lt = label_file([(name(1), 0), (name(0), 1)], meta={"class_map": {"2": 0, "0": 1}})
    spec = ImageDataset(make(tmp_path / "a", CLASSES, extra={"lt.json": lt}).zip, fname="lt.json", use_labels=True).spec
    held_out = make(tmp_path / "b", [2, 2, 0, 1], images(4, seed=1)).folder
    ref = reference_dataset(spec, held_out)
    assert ref.class_ids.tolist() == [0, 1, 0] and ref.label_dim == 2
    with pytest.raises(UserError, match="3 classes, the network knows 2"):
        reference_dataset(spec, held_out, class_map=None)
    (tmp_path / "c").mkdir()
    with pytest.raises(UserError, match="none|no image"):
        reference_dataset(spec, make(tmp_path / "c", [1, 1], images(2)).zip)
    (tmp_path / "d").mkdir()
    with pytest.raises(UserError, match="16x16.*8x8 is needed"):
        reference_dataset(spec, make(tmp_path / "d", [0, 2], images(2, size=16)).zip)


def test_classes_that_are_called_otherwise_are_said(tmp_path, capsys):
    """A set made of other folders numbers its classes otherwise, and figures per class would compare different ones."""
    sets = {}
    trees = ["ash", "birch", "cedar"]
    for place, labels, names in (("a", [0, 1, 2, 2], trees), ("b", [0, 1, 2], trees),
                                 ("c", [0, 1, 1], ["ash", "cedar", "birch"]), ("d", [0, 0], ["ash", "cedar", "oak"]),
                                 ("e", [0, 1, 2], None)):
        (tmp_path / place).mkdir()
        top = {} if names is None else {"class_names": names}
        sets[place] = make(tmp_path / place, labels, images(len(labels)), top=top).zip
    spec = ImageDataset(sets["a"], use_labels=True).spec
    for find in (reference_dataset, training_dataset):
        for place in "abde":  # equal names; classes without images do not count; no names say nothing
            find(spec, sets[place])
        assert capsys.readouterr().err == ""
        find(spec, sets["c"])
        assert capsys.readouterr().err == (f"Note: {sets['c']} calls class 1 'cedar', the network 'birch'; classes are "
                                           "matched by number: give a set that was made of the same classes\n")
    lt = label_file([(name(2), 0), (name(0), 1)], meta={"class_map": {"2": 0, "0": 1}})
    (tmp_path / "lt").mkdir()
    spec = ImageDataset(make(tmp_path / "lt", [0, 1, 2], images(3), {"lt.json": lt}, {"class_names": [
        "ash", "birch", "cedar"]}).zip, fname="lt.json", use_labels=True).spec
    assert spec.label.names[:2] == ("cedar", "ash")
    reference_dataset(spec, sets["b"])  # the same classes, which the network numbers by rank
    assert capsys.readouterr().err == ""


def test_cache_changes_nothing(tmp_path, form):
    made = make(tmp_path, CLASSES)
    a = ImageDataset(getattr(made, form), xflip=True)
    b = ImageDataset(getattr(made, form), xflip=True, cache_mb=0)
    assert a.in_memory and not b.in_memory
    for indices in ([3, 3, 11], range(16), [0]):
        assert np.array_equal(a.images_uint8(indices), b.images_uint8(indices))
    with ThreadPoolExecutor(4) as pool:
        for d in (a, b):
            for x in pool.map(lambda k, d=d: d.images_uint8([k % 16, (7 * k) % 16]), range(200)):
                assert x.shape == (2, 3, 8, 8)
            got = list(pool.map(lambda k, d=d: d.images_uint8([k % 16])[0], range(64)))
            assert np.array_equal(np.stack(got[:16]), b.images_uint8(range(16)))


def test_pickles_without_handles_or_images(tmp_path, form):
    d = ImageDataset(getattr(make(tmp_path, CLASSES, images(8, size=64)), form), use_labels=True)
    d.images_uint8(range(8))
    data = pickle.dumps(d)
    assert len(data) < 8 * 3 * 64 * 64 / 2
    e = pickle.loads(data)
    assert np.array_equal(d.images_uint8(range(8)), e.images_uint8(range(8))) and d.spec == e.spec


def _read_in_child(args):
    d, k = args
    return d.images_uint8([k % len(d)])[0]


def _set_child(d):
    global _inherited
    _inherited = d


def _read_inherited(k):
    return _inherited.images_uint8([k % len(_inherited)])[0]


def test_processes_do_not_share_a_handle(tmp_path):
    d = ImageDataset(make(tmp_path, None, images(8, size=64)).zip, cache_mb=0)
    expected = d.images_uint8(range(8))
    # Inherited by fork, not pickled: a shared file offset would mix up reads.
    with multiprocessing.get_context("fork").Pool(2, initializer=_set_child, initargs=(d,)) as pool:
        for k, image in enumerate(pool.map(_read_inherited, range(64), chunksize=1)):
            assert np.array_equal(image, expected[k % 8])
        assert np.array_equal(pool.map(_read_in_child, [(d, 5)])[0], expected[5])


def test_fingerprint_follows_the_content(tmp_path):
    base = images(4)
    prints = set()
    variants = [dict(), dict(use_labels=False), dict(xflip=True), dict(max_size=3)]
    sets = [([0, 1, 0, 1], base), ([0, 1, 1, 1], base), ([0, 1, 0, 1], images(4, seed=9))]
    for i, (labels, pictures) in enumerate(sets):
        (tmp_path / str(i)).mkdir()
        made = make(tmp_path / str(i), labels, pictures)
        for kw in variants:
            prints.add(ImageDataset(made.zip, **{"use_labels": True, **kw}).fingerprint())
    # Without labels the first two sets are the same.
    assert len(prints) == 3 * len(variants) - 1


@pytest.mark.parametrize("data, message", [
    (png(images(1, size=16)[0]), "16x16x3, the first image is 8x8x3"),
    (png(images(1, channels=1)[0]), "8x8x1, the first image is 8x8x3"),
    (b"not a png", "cannot decode"),
    (png(images(1)[0])[:80], "cannot decode"),
    (png(np.zeros([8, 8, 4], np.uint8)), "mode RGBA"),
    (png(np.zeros([8, 8], np.uint16)), "mode I;16"),
])
def test_odd_images_are_named_when_read(tmp_path, form, data, message):
    made = make(tmp_path, extra={"00000/img00000002.png": data})
    d = ImageDataset(getattr(made, form))
    assert d[0][0].shape == (3, 8, 8)
    with pytest.raises(UserError, match=message) as e:
        d[1]
    assert "img00000002.png" in str(e.value) and "\n" not in str(e.value)
    if b"IEND" in data or not data.startswith(b"\x89PNG"):  # a cut file has a good header
        with pytest.raises(UserError, match=message):
            d.check_headers()
    ImageDataset(getattr(made, form), max_size=1).check_headers()


def test_size_is_checked_at_once(tmp_path):
    (tmp_path / "a").mkdir()
    wide = make(tmp_path / "a", None, [np.zeros([8, 16, 3], np.uint8)])
    with pytest.raises(UserError, match=r"power of two.*16x8.*--transform=center-crop --resolution=14x8"):
        ImageDataset(wide.zip)
    with pytest.raises(UserError, match=r"8x8, but 16x16 is needed.*--resolution=16x16"):
        ImageDataset(make(tmp_path).zip, resolution=16)
    with pytest.raises(UserError, match="--subset=0"):
        ImageDataset(make(tmp_path).zip, max_size=0)


def test_pyspng_and_pillow_agree(monkeypatch):
    if pixels.pyspng is None:
        pytest.skip("pyspng is not installed")
    rng = np.random.RandomState(0)
    samples = []
    for channels, size, level in itertools.product((1, 3), (1, 5, 32, 256), (0, 1, 9)):
        shape = (size, size, 3) if channels == 3 else (size, size)
        smooth = np.cumsum(rng.randint(0, 3, shape), axis=0).astype(np.uint8)
        samples.append(png(smooth, compress_level=level))
    fast = [decode(s, "x") for s in samples]
    monkeypatch.setattr(pixels, "pyspng", None)
    for a, s in zip(fast, samples):
        b = decode(s, "x")
        assert a.dtype == b.dtype and np.array_equal(a, b)
    monkeypatch.undo()
    with pytest.raises(UserError, match="RGB with transparency"):  # which the fast way must not drop
        decode(png(smooth, transparency=(1, 2, 3)), "x")


def test_data_tools_start_without_torch():
    code = "import sys, dataset_tool, lt_dataset; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0


def published_order(n, seed):
    """The published order, step by step."""
    order, rng, window = np.arange(n), np.random.RandomState(seed), int(np.rint(n * 0.5))
    rng.shuffle(order)
    for i in itertools.cycle(range(n)):
        yield int(order[i])
        if window >= 2:
            j = (i - rng.randint(window)) % n
            order[i], order[j] = order[j], order[i]


@pytest.mark.parametrize("n, seed", [(10, 0), (700, 3), (7, 1), (1, 0), (3, 5), (2, 8), (50, 2)])
def test_published_order_from_any_position(n, seed):
    expected = list(itertools.islice(published_order(n, seed), 9000))
    for start in (0, 1, 17, 1000, 5000):
        assert BatchSource(range(n), seed).indices(start, 3000).tolist() == expected[start : start + 3000]


class Ids:
    """What BatchSource needs of a data set."""

    def __init__(self, counts, xflip=False):
        ids = np.random.RandomState(0).permutation(np.repeat(np.arange(len(counts)), counts))
        self.class_ids, self.label_dim = np.tile(ids, 2 if xflip else 1), len(counts)
        self.spec = DataSpec("x", 8, 3, len(ids), path="x.zip")

    def __len__(self):
        return len(self.class_ids)


COUNTS = (114, 40, 9, 0, 2)


@pytest.mark.parametrize("policy", ["empirical", "sqrt", "effective", "balanced"])
def test_stream_is_a_function_of_position(policy):
    d = Ids(COUNTS)
    whole = BatchSource(d, 5, policy).indices(0, 50000)
    source = BatchSource(d, 5, policy)
    for position, n in ((0, 3), (3, 64), (40000, 7), (39990, 30), (4090, 12), (16380, 10), (0, 5), (49999, 1), (7, 0)):
        assert np.array_equal(source.indices(position, n), whole[position: position + n])
    # Two processes that take halves of each batch of 32 see the same stream.
    ranks = [BatchSource(d, 5, policy) for _ in range(2)]
    halves = np.stack([np.concatenate([s.indices(32 * k + 16 * r, 16) for k in range(40)]).reshape(40, 16)
                       for r, s in enumerate(ranks)], 1)
    assert np.array_equal(halves.reshape(-1), whole[:1280])
    assert not np.array_equal(BatchSource(d, 6, policy).indices(0, 100), whole[:100])
    if policy == "empirical":
        assert whole[:2000].tolist() == list(itertools.islice(published_order(len(d), 5), 2000))


@pytest.mark.parametrize("policy", ["sqrt", "effective", "balanced"])
def test_policies_draw_their_shares_and_use_up_classes(policy):
    d = Ids(COUNTS, xflip=True)
    n = 40000
    stream = BatchSource(d, 1, policy).indices(0, n)
    classes = d.class_ids[stream]
    shares = np.bincount(classes, minlength=5) / n
    expected = class_weights(COUNTS, policy)
    assert np.abs(shares - expected).max() < 4 * np.sqrt(0.25 / n)
    for k in (0, 1, 2, 4):
        members = np.flatnonzero(d.class_ids == k)
        used = stream[classes == k]
        rounds = len(used) // len(members)
        table = used[: rounds * len(members)].reshape(rounds, len(members))
        assert rounds > 3 and (np.sort(table, axis=1) == members).all()  # each image and mirror image once per round
        assert len({tuple(r) for r in table[:50].tolist()}) > 1  # in changing order


@pytest.mark.parametrize("repeat", [1, 2])
def test_a_shift_moves_from_the_datas_frequencies_to_the_policys(repeat):
    d, shift = Ids(COUNTS), Span(40, 80)
    source = BatchSource(d, 3, "balanced", shift, repeat)
    stream = d.class_ids[source.indices(0, 120000 * repeat)]
    before, after = class_weights(COUNTS, "empirical"), class_weights(COUNTS, "balanced")
    for kimg, share in ((0, 0), (20, 0), (50, 0.375), (70, 0.875), (90, 1), (110, 1)):
        part = stream[kimg * 1000 * repeat : (kimg + 10) * 1000 * repeat]
        seen = np.bincount(part, minlength=5) / len(part)
        assert np.abs(seen - (1 - share) * before - share * after).max() < 4 * np.sqrt(0.25 / len(part)), kimg
    # A function of position, and with its own policy's draws where the shift is over.
    again = BatchSource(d, 3, "balanced", shift, repeat)
    for position, n in ((100001, 50), (16380, 10), (50000, 300)):
        assert np.array_equal(d.class_ids[again.indices(position, n)], stream[position : position + n])
    plain = d.class_ids[BatchSource(d, 3, "balanced").indices(0, 120000 * repeat)]
    assert np.array_equal(plain[80000 * repeat :], stream[80000 * repeat :])


def test_sampling_needs_classes():
    d = Ids((4, 2))
    d.class_ids = None
    d.__class__ = type("NoIds", (Ids,), {"__len__": lambda self: 6})
    assert len(BatchSource(d, 0).indices(0, 4)) == 4
    with pytest.raises(UserError, match="--sampling=sqrt.*--cond"):
        BatchSource(d, 0, "sqrt")
    with pytest.raises(UserError, match="unknown sampling policy.*balanced"):
        BatchSource(d, 0, "uniform")


def test_class_weights():
    counts = (100, 0, 16, 4)
    assert class_weights(counts, "empirical").tolist() == [100 / 120, 0, 16 / 120, 4 / 120]
    assert np.allclose(class_weights(counts, "sqrt"), [10 / 16, 0, 4 / 16, 2 / 16])
    assert np.allclose(class_weights(counts, "balanced"), [1 / 3, 0, 1 / 3, 1 / 3])
    beta = 1 - 1 / 120
    effective = np.array([n * (1 - beta) / (1 - beta**n) if n else 0 for n in counts])
    assert np.allclose(class_weights(counts, "effective"), effective / effective.sum())
    for policy in ("empirical", "sqrt", "balanced", "effective"):
        for some_counts in (counts, (1,), (10**9, 1), (0, 1)):
            w = class_weights(some_counts, policy)
            assert np.isfinite(w).all() and abs(w.sum() - 1) < 1e-12
            assert ((np.asarray(some_counts) > 0) == (w > 0)).all()
        with pytest.raises(UserError):
            class_weights((0, 0), policy)
    # The head's share falls from policy to policy.
    head = [class_weights(counts, p)[0] for p in ("empirical", "sqrt", "effective", "balanced")]
    assert head == sorted(head, reverse=True)


def test_shot_rule():
    assert shot_groups((500, 101, 100, 20, 19, 1, 0)) == {"many": (0, 1), "medium": (2, 3), "few": (4, 5)}
    ranked = {"many": (1, 3, 9), "medium": (0, 2, 5), "few": (4, 6, 7, 8)}
    assert shot_groups((5, 60, 7, 30, 2, 4, 3, 2, 2, 9)) == ranked
    assert shot_groups((118, 122, 114, 123)) == {} and shot_groups((50, 2)) == {} and shot_groups(()) == {}


def test_spec_round_trip():
    spec = DataSpec("n", 32, 1, 9, LabelSpec("class", 3, (5, 3, 1), ("a", "b", "c"), {"few": (2,)}, {7: 0, 1: 1, 4: 2}),
                    "p.zip", "lt.json", 9, True, 3)
    assert DataSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert DataSpec.from_dict(DataSpec("n", 8, 3, 1).to_dict()) == DataSpec("n", 8, 3, 1)


def test_held_out_images_and_the_rest(tiny_zip):
    def part(which, seed=0, **kw):
        d = ImageDataset(tiny_zip, use_labels=True, heldout=3, part=which, seed=seed, **kw)
        return d, {d.get_details(i).raw_idx for i in range(len(d))}

    (held, a), (rest, b) = part("heldout"), part("train")
    assert not a & b and a | b == set(range(40)) and np.bincount(held.class_ids).tolist() == [3] * 4
    assert rest.spec.label.counts == (7,) * 4 and rest.spec.label.dim == held.spec.label.dim
    assert part("heldout", seed=1)[1] != a
    small, c = part("train", max_size=5, xflip=True)
    assert len(small) == 10 and c < b
    assert DataSpec.from_dict(rest.spec.to_dict()) == rest.spec
    unlabelled = ImageDataset(tiny_zip, heldout=3)
    assert len(unlabelled) == 37
    with pytest.raises(UserError, match="class 0 .* has 10 images"):
        ImageDataset(tiny_zip, use_labels=True, heldout=10)
