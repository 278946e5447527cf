# SPDX-License-Identifier: Apache-2.0
"""FID-Inception and its input paths against stored features; weights come from the recipe of the golden README."""

import json
import zlib

import numpy as np
import pytest
import torch

from gantransfer.detectors import resize
from gantransfer.detectors.features import _load_inception
from gantransfer.detectors.inception import InceptionV3
from gantransfer.detectors.input_path import PRESETS
from tests.golden.conftest import assert_close, golden_files, load_npz

FILES = golden_files("metrics", "inception_parity*.npz")

NEAR = 3e-5  # what the smallest wrong step of the input path changes is above 1e-4


def recipe_state(shapes: dict, salt: str) -> dict:
    """Weights that depend on the tensor's name only."""
    state = {}
    for key, shape in shapes.items():
        rng = np.random.RandomState(zlib.crc32((salt + key).encode()))
        if key.endswith("num_batches_tracked"):
            state[key] = torch.zeros(shape, dtype=torch.int64)
            continue
        if key.endswith("running_var"):
            value = 1 + 0.5 * rng.random_sample(shape)
        elif key.endswith(("running_mean", "bias")):
            value = 0.1 * rng.standard_normal(shape)
        elif key.endswith("bn.weight"):
            value = 1 + 0.1 * rng.standard_normal(shape)
        else:
            value = np.sqrt(2 / np.prod(shape[1:])) * rng.standard_normal(shape)
        state[key] = torch.as_tensor(value).float()
    return state


def build(variant: str, salt: str) -> InceptionV3:
    net = InceptionV3(variant)
    net.load_state_dict(recipe_state({k: tuple(v.shape) for k, v in net.state_dict().items()}, salt))
    return net.eval().requires_grad_(False)


@pytest.fixture(params=FILES, scope="module")
def parity(request):
    config, g = load_npz(request.param)
    batches = sorted({k.split("_")[0] for k in g if k.startswith("batch")})
    return config, g, batches, {v: build(v, config["salt"]) for v in ("fid", "torchvision")}


def test_names_shapes_and_fill(parity):
    _, g, _, nets = parity
    state = nets["fid"].state_dict()
    assert sorted(state) == g["param_keys"].tolist()
    for key, shape, total, first in zip(g["param_keys"], g["param_shapes"], g["param_sum"], g["param_first"]):
        t = state[str(key)]
        assert list(t.shape) == json.loads(str(shape)), key
        assert_close(t.double().sum(), total, 1e-6, what=str(key))
        assert_close(t.reshape(-1)[0], first, 1e-6, what=str(key))


def test_resizing(parity):
    _, g, batches, _ = parity
    for b in batches:
        x = torch.as_tensor(g[f"{b}_images"]).float()
        for name, fn in {"tf1": resize.tf1, "affine": resize.tf1, "halfpixel": resize.half_pixel,
                         "pilbicubic": resize.pil_bicubic, "aligncorners": resize.aligned_corners}.items():
            got = fn(x, 299)[:, :, ::23, ::23]
            # Rounding of a coordinate grows with the image; a pixel of difference is worth up to 255 grey levels.
            assert_close(got, g[f"{b}_resize_{name}_s23"], 0, 255 * 2**-21 * max(64, *x.shape[2:]), f"{b} {name}")


def test_features(parity):
    _, g, batches, nets = parity
    for b in batches:
        images = torch.as_tensor(g[f"{b}_images"])
        out = nets["fid"](PRESETS["tf1"].prepare(images))
        for name, value in (("feat_2048", out.features), ("feat_2048_affine", out.features),
                            ("logits_unbiased", out.logits_unbiased), ("logits", out.logits)):
            assert_close(value, g[f"{b}_{name}"], 0, NEAR, f"{b} {name}")
        for preset, name in (("pytorch_fid", "pytorchfid"), ("clean", "clean")):
            got = nets["fid"](PRESETS[preset].prepare(images)).features
            assert_close(got, g[f"{b}_feat_2048_{name}"], 0, NEAR, f"{b} {name}")
        out = nets["torchvision"](PRESETS["biggan"].prepare(images))
        assert_close(out.features, g[f"{b}_feat_2048_biggan"], 0, NEAR, f"{b} biggan")
        assert_close(out.logits, g[f"{b}_logits_biggan"], 0, NEAR, f"{b} biggan logits")


def test_the_comparison_is_sensitive(parity):
    """A wrong normalisation or resize moves the features by far more than the tolerance."""
    _, g, batches, nets = parity
    b = batches[0]
    x = torch.as_tensor(g[f"{b}_images"]).float()
    for wrong in ((resize.tf1(x, 299) - 127.5) / 127.5, (resize.half_pixel(x, 299) - 128) / 128):
        assert np.abs(nets["fid"](wrong).features.numpy() - g[f"{b}_feat_2048"]).max() > 1e-4


def test_weights_files(parity, tmp_path):
    """The same network from a plain state dict, one without batch counters, and one with an auxiliary head."""
    _, g, batches, nets = parity
    b = batches[0]
    x = PRESETS["tf1"].prepare(torch.as_tensor(g[f"{b}_images"][:1]))
    state = {k: v for k, v in nets["fid"].state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "fid.pth")
    got = _load_inception("fid")(tmp_path / "fid.pth", torch.device("cpu"))(x)
    assert_close(got.features, g[f"{b}_feat_2048"][:1], 0, NEAR)
    assert_close(got.logits, g[f"{b}_logits_unbiased"][:1], 0, NEAR)
    torch.save({**nets["torchvision"].state_dict(), "AuxLogits.fc.bias": torch.zeros(1000)}, tmp_path / "tv.pth")
    got = _load_inception("torchvision")(tmp_path / "tv.pth", torch.device("cpu"))(
        PRESETS["biggan"].prepare(torch.as_tensor(g[f"{b}_images"][:1])))
    assert_close(got.logits, g[f"{b}_logits_biggan"][:1], 0, NEAR)
