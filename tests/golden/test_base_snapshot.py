# SPDX-License-Identifier: Apache-2.0
"""Published network pickles, read without executing them: tensors, arguments, and what the rebuilt networks compute."""

import numpy as np
import pytest
import torch

from gantransfer.importers import load_any, read_pickle
from tests.golden.conftest import assert_close, golden_files, load_npz

PICKLES = golden_files("base", "snapshot_structure*.pkl")


def expected(path):
    """The numbers that belong to a pickle: same name up to the protocol's suffix."""
    candidates = [p for p in path.parent.glob("snapshot_structure*.npz") if path.stem.startswith(p.stem)]
    return load_npz(max(candidates, key=lambda p: len(p.stem)))


@pytest.mark.parametrize("path", PICKLES)
def test_every_tensor_and_argument(path):
    config, arrays = expected(path)
    foreign = read_pickle(path)
    tensors = {f"{name}/{key}": t for name, net in foreign.networks.items() for key, t in net.tensors().items()}
    assert set(tensors) == {key for key in arrays if "/" in key}
    for key, t in tensors.items():
        assert t.numpy().dtype == arrays[key].dtype and np.array_equal(t.numpy(), arrays[key]), key
    classes = {name: kind for name, kind in config["classes"].items() if kind}  # None: the file has a place for it
    assert {name: net.class_name for name, net in foreign.networks.items()} == classes and "G_ema" in classes
    for name, key in (("G", "G"), ("G_ema", "G"), ("D", "D"), ("augment_pipe", "augment")):
        if name in classes:
            assert foreign.networks[name].init_kwargs == config[f"{key}_init_kwargs"], name
    assert foreign.training_set == (config.get("training_set_kwargs") or {})


@pytest.mark.parametrize("path", PICKLES)
def test_rebuilt_networks(path):
    config, arrays = expected(path)
    snap = load_any(path)
    assert snap.method == "stylegan2"
    assert set(snap.nets) == {k for k, kind in config["classes"].items() if kind and k != "augment_pipe"}
    for name, record in snap.nets.items():
        for key, t in record.state.items():
            assert np.array_equal(t.numpy(), arrays[f"{name}/{key}"]), (name, key)
    z, c, img, c_d = (torch.from_numpy(arrays[k]) if k in arrays else None for k in ("z", "c", "img", "c_D"))
    with torch.no_grad():
        out = snap.build("G_ema")(z, c, noise_mode="const", force_fp32=True)
        assert_close(out, arrays["img_G_ema"])
        if "D" in snap.nets:
            assert_close(snap.build("D")(img, c_d, force_fp32=True), arrays["logits_D"])
    training_set, g = config.get("training_set_kwargs") or {}, config["G_init_kwargs"]
    assert snap.data["resolution"] == g["img_resolution"] and snap.data["label"]["dim"] == g["c_dim"]
    assert snap.data["channels"] == g["img_channels"]
    assert snap.data["path"] == training_set.get("path", "") and snap.data["max_size"] == training_set.get("max_size")
    if config["classes"].get("augment_pipe"):
        assert snap.extra["augment_p"] == float(arrays["augment_pipe/p"])
    else:
        assert "augment_p" not in snap.extra


@pytest.mark.parametrize("path", PICKLES)
def test_import_survives_our_own_format(path, tmp_path):
    snap = load_any(path)
    snap.save(tmp_path / "ours.pkl")
    again = load_any(tmp_path / "ours.pkl")
    assert again.extra == snap.extra and again.data == snap.data and again.method == snap.method
    for name, record in snap.nets.items():
        assert again.nets[name].kwargs == record.kwargs
        assert all(torch.equal(again.nets[name].state[k], t) for k, t in record.state.items())
