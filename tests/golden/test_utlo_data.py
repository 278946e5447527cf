# SPDX-License-Identifier: Apache-2.0
"""Long-tailed label files, class counts and class sampling against the published UTLO."""

import io
import json
import sys
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from dnnlib.util import run_cli
from gantransfer.commands import lt_dataset
from gantransfer.data import longtail
from gantransfer.data.dataset import ImageDataset, class_weights
from tests.golden.conftest import golden_files


def with_key(pattern: str, key: str | None) -> list:
    """Files of `pattern` that hold an object with `key`, or (None) a list."""
    def fits(p) -> bool:
        if p is None:
            return True
        content = json.loads(p.read_text())
        return isinstance(content, list) if key is None else isinstance(content, dict) and key in content
    return [p for p in golden_files("utlo", pattern) if fits(p.values[0])]


@pytest.mark.parametrize("form", ["folder", "zip"])
@pytest.mark.parametrize("path", with_key("lt_*.json", "outputs"))
def test_legacy_files(path, form, tmp_path, monkeypatch):
    case = json.loads(path.read_text())
    args = case["args"]
    if form == "zip":
        fn = tmp_path / "set.zip"
        with zipfile.ZipFile(fn, "w") as z:
            z.writestr("dataset.json", json.dumps(case["input"]))
    else:
        fn = tmp_path / "dataset.json"
        fn.write_text(json.dumps(case["input"]))
    argv = ["lt_dataset.py", f"--fn={fn}", "--legacy", f"--seed={case['numpy_global_seed']}", f"--imf={args['imf']}",
            f"--dname={args['dname']}"]
    argv += [f"--{flag.replace('_', '-')}" for flag in ("reverse", "shot_labels") if args[flag]]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as e:
        run_cli(lt_dataset.main)
    assert not e.value.code
    if form == "zip":
        with zipfile.ZipFile(fn) as z:
            written = {n: z.read(n).decode() for n in z.namelist() if n != "dataset.json"}
    else:
        written = {p.name: p.read_text() for p in tmp_path.iterdir() if p != fn}
    assert written == {n: json.dumps(content) for n, content in case["outputs"].items()}
    _, order, counts = longtail.legacy_files(dict(map(tuple, case["input"]["labels"])), args["dname"], args["imf"],
                                               args["reverse"], args["shot_labels"], case["numpy_global_seed"])
    assert order == case["order"] and counts == case["counts"]


@pytest.mark.parametrize("path", with_key("lt_*.json", None))
def test_profile(path):
    cases = json.loads(path.read_text())
    assert cases
    for c in cases:
        counts = longtail.profile(c["n_max"], c["num_classes"], c["imf"], c["reverse"])
        assert counts == c["counts"] and sum(counts) == c["total"]


@pytest.mark.parametrize("path", with_key("dataset_counts*.json", "cases"))
def test_counts(path, tmp_path):
    config = json.loads(path.read_text())
    png = io.BytesIO()
    Image.fromarray(np.zeros([8, 8, 3], np.uint8)).save(png, "png")
    names = sorted({row[0] for case in config["cases"].values() for row in case["file"]["labels"]})
    files = {n: png.getvalue() for n in names}
    files |= {f: json.dumps(case["file"]).encode() for f, case in config["cases"].items()}
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as z:
        for n, data in files.items():
            z.writestr(n, data)
        z.extractall(tmp_path / "set")
    for fname, case in config["cases"].items():
        for source in ("set", "set.zip"):
            d = ImageDataset(tmp_path / source, fname=fname, use_labels=True, xflip=config["xflip"])
            counts = np.asarray(d.spec.label.counts)
            assert len(d) == case["len"] and d.label_dim == case["label_dim"]
            # The original counts mirrored copies; ours counts images.
            assert (counts * (2 if config["xflip"] else 1)).tolist() == case["class_counts"]
            assert counts[0] / counts[-1] == case["imf"]
            assert d.class_ids[:20].tolist() == case["first20_labels"]
            for policy, key in (("balanced", "exp_weights_1"), ("sqrt", "exp_weights_half")):
                per_image = class_weights(counts, policy) / counts
                assert np.allclose(per_image / per_image.max(), case[key], rtol=1e-12)
                if policy == "balanced":
                    sample = (per_image / per_image.max())[d.class_ids]
                    assert np.allclose(sample[:len(case["sample_weights_first5"])], case["sample_weights_first5"])
        if "shot_labels" in case:
            bounds = next(b for _, b in longtail.KNOWN_SETS.values() if b[-1] == case["label_dim"])
            assert [list(range(a, b)) for a, b in zip(bounds, bounds[1:])] == case["shot_labels"]


@pytest.mark.parametrize("path", golden_files("utlo", "label_sampling*.npz"))
def test_label_sampling(a):
    """Our class probabilities, drawn as the original draws them, give the original's labels."""
    cases = sorted({k.split("/")[0] for k in a})
    assert cases
    for case in cases:
        counts, (low, high), seed = (a[f"{case}/{k}"] for k in ("class_counts", "class_range_inclusive", "seed"))
        group = np.where((np.arange(len(counts)) >= low) & (np.arange(len(counts)) <= high), counts, 0)
        for key, weights in (("shot_labels", class_weights(group, "balanced")),
                             ("count_labels", class_weights(counts, "empirical"))):
            expected = a[f"{case}/{key}"]
            rng = torch.Generator().manual_seed(int(seed))
            w = torch.from_numpy(weights)
            drawn = [int(torch.multinomial(w, 1, replacement=True, generator=rng)) for _ in expected]
            assert drawn == expected.tolist(), (case, key)
