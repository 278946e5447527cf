# SPDX-License-Identifier: Apache-2.0
"""Data set, sampler and image transforms against the published base."""

import zipfile

import numpy as np
import pytest

from gantransfer.data.dataset import BatchSource, ImageDataset
from gantransfer.data.transforms import transform_image
from tests.golden.conftest import golden_files, under


@pytest.mark.parametrize("form", ["zip", "folder"])
@pytest.mark.parametrize("path", golden_files("base", "dataset_expected*.npz"))
def test_dataset(path, config, a, form, tmp_path):
    assert config["cases"]
    for k, case in enumerate(config["cases"]):
        source = path.parent / case["zip"]
        if form == "folder":
            source = tmp_path / case["name"]
            if not source.exists():
                with zipfile.ZipFile(path.parent / case["zip"]) as z:
                    z.extractall(source)
        kwargs = {{"random_seed": "seed"}.get(n, n): v for n, v in case["kwargs"].items()}
        d = ImageDataset(source, use_labels=case["use_labels"], **kwargs)
        expected = under(a, f"case{k:02d}/")
        everything = range(len(d))
        assert len(d) == case["len"] and d.name == case["name"] and (d.label_dim > 0) == case["has_labels"]
        assert d.resolution == case["resolution"] and d.num_channels == case["num_channels"]
        assert [d.label_dim] == expected["label_shape"].tolist()
        assert np.array_equal(d.images_uint8(everything), expected["images"])
        assert np.array_equal(d.labels(everything), expected["labels"])
        assert np.array_equal(np.stack([d[i][0] for i in everything]), expected["images"])
        assert np.array_equal(np.stack([d[i][1] for i in everything]), expected["labels"])
        details = [d.get_details(i) for i in everything]
        assert [v.raw_idx for v in details] == expected["raw_idx"].tolist()
        assert [v.xflip for v in details] == expected["xflip"].astype(bool).tolist()


@pytest.mark.parametrize("path", golden_files("base", "dataset_expected*.npz"))
def test_sampler(config, a):
    used = [(k, c) for k, c in enumerate(config["sampler"]) if c["shuffle"] and c["window_size"] == 0.5]
    assert used
    for k, case in used:
        expected, step, rank = a[f"sampler{k:02d}"].tolist(), case["num_replicas"], case["rank"]
        stream = BatchSource(range(case["n"]), case["seed"])
        assert stream.indices(0, len(expected) * step)[rank::step].tolist() == expected
        assert [int(stream.indices(p * step + rank, 1)[0]) for p in range(len(expected))] == expected


@pytest.mark.parametrize("path", golden_files("base", "dataset_tool*.npz"))
def test_transforms(config, a):
    assert config["cases"]
    for k, case in enumerate(config["cases"]):
        out = transform_image(a[f"case{k:02d}/img"], case["transform"], case["width"], case["height"],
                              case["resize_filter"])
        if a[f"case{k:02d}/dropped"]:
            assert out is None
            continue
        expected = a[f"case{k:02d}/out"]
        assert out is not None and out.shape == expected.shape and out.dtype == np.uint8
        # Resampling differs by up to two grey levels between Pillow versions.
        assert np.abs(out.astype(int) - expected).max() <= 2
