# SPDX-License-Identifier: Apache-2.0
"""HDF5 files in the original layouts: what is in them arrives, and survives the way to a zip and back."""

import json
import zipfile

import numpy as np
import pytest

from gantransfer.data import h5
from gantransfer.data.dataset import ImageDataset
from tests.golden.conftest import golden_files, load_npz

h5py = pytest.importorskip("h5py", reason="needs h5py (extra `data`)")


def contents(path) -> dict[str, np.ndarray]:
    """The arrays of one file as the samples' list has them."""
    out = {}
    for samples in sorted(path.parent.glob("h5_samples*.npz")):
        _, arrays = load_npz(samples)
        out |= {k.partition("/")[2]: v for k, v in arrays.items() if k.partition("/")[0] == path.stem}
    assert out, f"no samples list {path.stem}"
    return out


def chosen(a, parts):
    images, labels = [], []
    for image_key, label_key, index_key in parts:
        rows = np.arange(len(a[image_key])) if index_key is None else a[index_key]
        images.append(a[image_key][rows])
        labels.append(np.asarray(a[label_key], np.float64)[rows])
    return np.concatenate(images), np.concatenate(labels)


@pytest.mark.parametrize("path", golden_files("cgan-kd", "h5_*.h5"))
def test_every_split_is_read(path):
    a = contents(path)
    layout = h5.read(str(path), "all").layout
    for split, parts in h5.LAYOUTS[layout][1].items():
        if not all(k in a for p in parts for k in p if k is not None):
            continue
        images, labels = chosen(a, parts)
        got = h5.read(str(path), split)
        assert np.array_equal(np.stack(list(got.images())), images), split
        assert np.array_equal([v[0] if isinstance(v, list) else v for v in got.labels], labels), split
        assert all(isinstance(v, list) for v in got.labels) == (got.label_meta is not None)


@pytest.mark.parametrize("path", golden_files("cgan-kd", "h5_*.h5"))
def test_to_a_zip_and_back(path, call, tmp_path):
    a, first, back = contents(path), tmp_path / "a.zip", tmp_path / "b.h5"
    call("dataset_tool", f"--source={path}", "--split=all", f"--dest={first}")
    layout = h5.read(str(path), "all").layout
    images, labels = chosen(a, h5.LAYOUTS[layout][1]["all"])
    data = ImageDataset(first, use_labels=True)
    assert np.array_equal(data.images_uint8(np.arange(len(data))), images)
    given = [v for _, v in json.loads(zipfile.ZipFile(first).read("dataset.json"))["labels"]]
    assert np.array_equal(np.asarray(given, np.float64).reshape(-1), labels)
    kind = data.spec.label.kind
    assert kind == ("class" if isinstance(given[0], int) else "value")
    if kind == "value":
        assert np.allclose(data.spec.label.raw(data.spec.label.normalise(labels)), labels)
    call("dataset_tool", f"--source={first}", f"--dest={back}", "--format=cgankd-v1")
    again = h5.read(str(back), "all", kind=kind)
    assert np.array_equal(np.stack(list(again.images())), images)
    assert np.array_equal(np.asarray(again.labels, np.float64).reshape(-1), labels)
    with h5py.File(back) as f:
        assert all(d.dtype == np.uint8 for k, d in f.items() if "im" in k)
