# SPDX-License-Identifier: Apache-2.0
"""LPIPS and VGG features against their definitions."""

import dataclasses
import hashlib

import numpy as np
import pytest
import torch
from torch import nn

from dnnlib.util import UserError
from gantransfer.detectors import features, vgg, weights

images = torch.from_numpy(np.random.RandomState(0).randint(0, 256, (3, 3, 20, 20)).astype(np.uint8))


def lpips_files(folder):
    features_only = nn.Module()
    features_only.features = vgg._features()
    torch.manual_seed(0)
    state = {k: torch.randn_like(v) * (2 / max(v[0].numel(), 1)) ** 0.5 for k, v in features_only.state_dict().items()}
    linear = {f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1) for i, c in enumerate(vgg.STAGES)}
    torch.save({**state, "classifier.0.bias": torch.zeros(4096)}, folder / "vgg16-397923af.pth")
    torch.save(linear, folder / "weights-vgg16-lpips.pth")
    return state, linear


def test_lpips_against_its_definition(tmp_path, empty_home, monkeypatch):
    monkeypatch.setenv("GANTRANSFER_DETECTORS", str(tmp_path))
    state, linear = lpips_files(tmp_path)
    monkeypatch.setattr(weights, "sha256_of", lambda p: "397923af" + "0" * 56)
    monkeypatch.setattr(features, "sha256_of", lambda p: "397923af" + "0" * 56)
    lpips = features.load_lpips()
    torch.manual_seed(1)
    a, b = (torch.rand(2, 3, 40, 40) * 255 for _ in range(2))
    got = (lpips.embed(a) - lpips.embed(b)).square().sum(1)

    # shift and scale of the published scaling layer, for inputs in [-1, 1]
    shift, scale = (torch.tensor(v).reshape(1, 3, 1, 1) for v in ([-.030, -.088, -.188], [.458, .448, .450]))
    layers = vgg._features()
    layers.load_state_dict({k.removeprefix("features."): v for k, v in state.items()})
    total, stage = torch.zeros(2), 0
    x, y = ((t / 127.5 - 1 - shift) / scale for t in (a, b))
    for layer in layers:
        if isinstance(layer, nn.MaxPool2d):
            u, v = (t / (t.square().sum(1, keepdim=True).sqrt() + 1e-10) for t in (x, y))
            total += ((u - v).square() * linear[f"lin{stage}.model.1.weight"]).sum(1).mean((1, 2))
            stage += 1
        x, y = layer(x), layer(y)
    assert stage == 5
    assert torch.allclose(got, total, rtol=1e-3)
    assert float((lpips.embed(a) - lpips.embed(a)).square().sum()) == 0


def test_lpips_files_are_asked_for(empty_home, no_network):
    with pytest.raises(features.MissingWeights, match="weights-vgg16-lpips.pth"):
        features.load_lpips()
    with pytest.raises(KeyError, match="lin0"):
        vgg.lpips_state({"features.0.weight": torch.zeros(1)}, {})


class ScriptVGG(nn.Module):
    """The call signature of NVIDIA's vgg16.pt."""

    def forward(self, img, resize_images: bool = True, return_features: bool = False, return_lpips: bool = False):
        x = nn.functional.adaptive_avg_pool2d(img.float(), [1, 1]).flatten(1)
        if return_lpips:
            return x[:, :1] * (2.0 if resize_images else 1.0)
        return x[:, :1].repeat(1, 4096) if return_features else x


def test_nvidia_vgg_runs_as_it_is(tmp_path, empty_home, monkeypatch):
    path = tmp_path / "vgg16.pt"
    torch.jit.script(ScriptVGG()).save(str(path))
    for name in ("vgg16", "lpips"):  # it is not the published file: under that name it must not run
        with pytest.raises(UserError, match="published"):
            features.load(name, overrides={name: path}) if name == "vgg16" else features.load_lpips(
                overrides={name: path})
    published = dataclasses.replace(features._VGG_NVIDIA, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.setattr(features, "_VGG_NVIDIA", published)
    monkeypatch.setitem(features.RESERVED, "vgg16", dataclasses.replace(features.RESERVED["vgg16"],
                                                                        files=(published,)))
    d = features.load("vgg16", overrides={"vgg16": path})
    out = d(images)
    assert out.features.shape == (3, 4096)
    assert torch.allclose(out.features[:, 0], images[:, 0].float().mean((1, 2)))
    lpips = features.load_lpips(overrides={"vgg16": path})
    assert torch.allclose(lpips.embed(images.float())[:, 0], images[:, 0].float().mean((1, 2)))


def test_vgg_features_are_the_second_linear_layer():
    """All weights zero (and shared, so without memory) except two biases: what comes out is relu(second bias)."""
    with torch.device("meta"):
        net = vgg.VGG16()
    state = {k: torch.zeros(1).expand(v.shape) for k, v in net.state_dict().items()}
    state["classifier.3.bias"], state["classifier.6.bias"] = torch.linspace(-1, 1, 4096), torch.full((1000,), 9.0)
    net.load_state_dict(state, assign=True)
    with torch.no_grad():
        out = net.eval()(torch.randn(2, 3, 64, 64))
    assert torch.equal(out, torch.linspace(-1, 1, 4096).relu().expand(2, -1))
