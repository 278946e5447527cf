# SPDX-License-Identifier: Apache-2.0
"""Inception from files of both origins. Random weights stand in for the published ones."""

import hashlib

import numpy as np
import pytest
import torch
from torch import nn

from dnnlib.util import UserError
from gantransfer.data.dataset import ImageDataset
from gantransfer.detectors import inception, weights
from gantransfer.detectors.features import _load_inception
from gantransfer.detectors.input_path import PRESETS
from gantransfer.metrics import table
from gantransfer.metrics.fid import frechet_distance
from gantransfer.metrics.table import MetricContext
from tests.conftest import write_image_zip
from tests.metrics.conftest import NoisyMeans


def random_state(net: nn.Module, seed: int = 0) -> dict:
    """Weights of the scale that keeps activations finite, positive variances."""
    g = torch.Generator().manual_seed(seed)
    state = {}
    for k, v in net.state_dict().items():
        if v.ndim > 1:
            v = torch.randn(v.shape, generator=g) * (2 / v[0].numel()) ** 0.5
        elif v.is_floating_point():
            v = torch.rand(v.shape, generator=g) * 0.1 + ("var" in k)
        state[k] = v
    return state


def nvidia_module(state: dict) -> nn.Module:
    """A module tree with the names and leaves of NVIDIA's file, filled from an FID state dict of ours."""

    class Node(nn.Module):
        def forward(self, x):
            return x

    root = Node()

    def node(path):
        at = root
        for part in path.split("."):
            if not hasattr(at, part):
                at.add_module(part, Node())
            at = getattr(at, part)
        return at

    for theirs, ours in inception.nvidia_layers().items():
        at = node(theirs)
        if ours == "fc":
            at.weight, at.bias = (nn.Parameter(state[f"fc.{k}"]) for k in ("weight", "bias"))
            continue
        at.weight = nn.Parameter(state[f"{ours}.conv.weight"])
        at.beta = nn.Parameter(state[f"{ours}.bn.bias"])
        at.register_buffer("mean", state[f"{ours}.bn.running_mean"])
        at.register_buffer("var", state[f"{ours}.bn.running_var"])
    return root


@pytest.fixture(scope="module")
def nvidia_file(tmp_path_factory):
    net = inception.InceptionV3("fid")
    state = {k: torch.ones_like(v) if k.endswith("bn.weight") else v for k, v in random_state(net).items()}
    path = tmp_path_factory.mktemp("nvidia") / "inception-2015-12-05.pt"
    torch.jit.script(nvidia_module(state)).save(str(path))
    return path, state


def test_torchscript_key_map(nvidia_file):
    path, state = nvidia_file
    loaded = inception.from_nvidia(weights.read_state(path))
    for k, v in state.items():
        if not k.endswith("num_batches_tracked"):
            assert torch.equal(loaded[k], v), k
    run = _load_inception("fid")(path, torch.device("cpu"))
    net = inception.InceptionV3("fid")
    net.load_state_dict(state)
    x = torch.randn(1, 3, 299, 299)
    got, want = run(x).features, net.eval()(x).features  # one lies in memory otherwise than the other
    assert (got - want).abs().max() < 1e-5 * want.abs().max()


def test_fid_from_images_to_value(nvidia_file, digits, tmp_path, no_network):
    """fid<N>_full and kid<N>_clean with a network of the right shape: grey images, resize, features, distance."""
    path, state = nvidia_file
    data = ImageDataset(write_image_zip(tmp_path / "few.zip", digits[0][:4], digits[1][:4].tolist()), use_labels=True)
    ctx = MetricContext(sampler=NoisyMeans(data), reference=data, cache_dir=tmp_path / "c",
                        detectors={"inception": path}, batch=3)
    fid, clean = (table.compute(n, ctx) for n in ("fid4_full", "kid4_clean"))
    net = inception.InceptionV3("fid")
    net.load_state_dict(state)
    plan = ctx.plan(4)
    prepared = [PRESETS["tf1"].prepare(x) for x in (torch.from_numpy(data.images_uint8(np.arange(4))),
                                                    ctx.images(plan, 0, 4))]
    with torch.no_grad():
        real, fake = (net.eval()(x) for x in prepared)
    assert fid["results"]["fid4_full"] == pytest.approx(frechet_distance(real.features, fake.features, 0), rel=1e-3)
    assert fid["detector"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest() and fid["low_sample"]
    assert clean["detector"]["input"]["resize"] == "pil_bicubic" and np.isfinite(clean["results"]["kid4_clean"])


def test_unknown_torchscript_layer():
    with pytest.raises(KeyError, match="belongs to no known layer"):
        inception.from_nvidia({"layers.mixed_11.conv.weight": torch.zeros(3, 3, 1, 1)})


def test_a_file_of_another_network_is_refused(tmp_path):
    path = tmp_path / "other.pth"
    torch.save(nn.Linear(3, 3).state_dict(), path)
    with pytest.raises(UserError, match="tensor 'Conv2d_1a_3x3.conv.weight' is missing; this file holds another"):
        _load_inception("fid")(path, torch.device("cpu"))
    state = inception.InceptionV3("torchvision").state_dict()
    torch.save(state, path)
    with pytest.raises(UserError, match=r"'fc.weight' has shape \(1000, 2048\) instead of \(1008, 2048\)"):
        _load_inception("fid")(path, torch.device("cpu"))
