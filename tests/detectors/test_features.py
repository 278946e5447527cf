# SPDX-License-Identifier: Apache-2.0
"""Detectors of every kind: the shipped judge, pixels, own files and programs."""

import hashlib
import json

import numpy as np
import pytest
import torch
from torch import nn

from dnnlib.util import UserError
from gantransfer.detectors import features, weights
from gantransfer.detectors.judge import DigitsJudge
from tests.chaos.corpus import Program

images = torch.from_numpy(np.random.RandomState(0).randint(0, 256, (3, 3, 20, 20)).astype(np.uint8))


def test_shipped_judge_works_out_of_the_box(empty_home, no_network, reference):
    d = features.load("digits32")
    out = d(torch.from_numpy(reference.images_uint8(np.arange(40))))
    assert out.features.shape == (40, 32) and out.logits.shape == (40, 10)
    assert (out.logits.argmax(1).numpy() == reference.class_ids).mean() >= 0.95
    assert d.identity()["sha256"] == hashlib.sha256((weights.package_data() / "digits32.pt").read_bytes()).hexdigest()
    assert (weights.package_data() / "digits32.pt").stat().st_size < 200_000


def test_pixel_rulers():
    d = features.load("pix64")
    x = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    expected = x.float().reshape(8, 2, 8, 2).mean((1, 3)).reshape(1, 64) / 255
    assert torch.allclose(d(x).features, expected)
    assert features.load("pixel16")(images).features.shape == (3, 3 * 256)
    assert features.load("pixel16")(images[:, :, :8, :8]).features.shape == (3, 3 * 64)
    with pytest.raises(UserError, match="its descriptor says 64"):
        d(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))


@pytest.mark.parametrize("arch", ["digits_judge", "vgg16", "fid_inception_v3", "dinov2_vitl14"])
def test_a_program_does_not_run_where_weights_are_expected(tmp_path, monkeypatch, arch):
    monkeypatch.chdir(tmp_path)
    torch.jit.script(Program()).save("net.pth")
    torch.jit.load("net.pth")
    written = tmp_path / "WRITTEN"
    assert written.exists(), "the program of this test does not work"
    written.unlink()
    path = tmp_path / "net.detector.json"
    path.write_text(json.dumps(dict(name="net", file="net.pth", arch=arch)))
    with pytest.raises(UserError, match="form of their own"):
        features.load("net", overrides={"net": path})
    assert not written.exists()
    path.write_text(json.dumps(dict(name="net", kind="torchscript", file="net.pth")))
    features.load("net", overrides={"net": path})
    assert written.exists()  # as the descriptor says that it is a program


def test_tensors_of_a_program_are_its_state_dict(tmp_path):
    class Inner(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3)
            self.register_buffer("mean", torch.arange(3.0))
            self.other = torch.ones(3)  # neither parameter nor buffer

        def forward(self, x):
            return self.conv(x) + self.other.sum() + self.mean.sum()

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([Inner(), Inner()])
            self.sizes, self.names = [1, 2], {"a": 1.5}

        def forward(self, x):
            for layer in self.layers:
                x = layer(x)
            return x + self.sizes[0] + self.names["a"]

    torch.jit.script(Outer()).save(str(tmp_path / "net.pt"))
    expected, got = torch.jit.load(str(tmp_path / "net.pt")).state_dict(), weights.read_state(tmp_path / "net.pt")
    assert set(got) == set(expected) and len(got) == 6
    assert all(torch.equal(got[k], v) for k, v in expected.items())


def write_judge(folder, name="mine", **changes):
    net = DigitsJudge(num_classes=3)
    torch.save(net.state_dict(), folder / "net.pt")
    d = dict(name=name, version=1, kind="state_dict", file="net.pt", arch="digits_judge",
             arch_kwargs=dict(num_classes=3), sha256=hashlib.sha256((folder / "net.pt").read_bytes()).hexdigest(),
             input=dict(channels=1, size=16, resize=None), outputs=dict(features=dict(key=0, dim=32)))
    for k, v in changes.items():
        d[k] = v
    (folder / f"{name}.detector.json").write_text(json.dumps(d))
    return folder / f"{name}.detector.json"


class Pair(nn.Module):
    def forward(self, x, double: bool = False):
        y = x.mean([2, 3])
        return {"f": y * (2.0 if double else 1.0), "l": y[:, :2]}


@pytest.mark.parametrize("kind", ["torchscript", "export"])
def test_script_and_export_detectors(tmp_path, kind):
    if kind == "torchscript":
        torch.jit.script(Pair()).save(str(tmp_path / "net.pt"))
        call = dict(kwargs=dict(double=True))
    else:
        batch = torch.export.Dim("batch", min=1, max=64)
        program = torch.export.export(Pair(), (torch.zeros(2, 3, 20, 20),), dynamic_shapes={"x": {0: batch}})
        torch.export.save(program, str(tmp_path / "net.pt"))
        call = {}
    path = tmp_path / "pair.detector.json"
    path.write_text(json.dumps(dict(name="pair", kind=kind, file="net.pt", call=call, input=dict(size=None),
                                    outputs=dict(features=dict(key="f", dim=3), logits=dict(key="l")))))
    out = features.load("pair", overrides={"pair": path})(images)
    scale = 2 if kind == "torchscript" else 1
    assert torch.allclose(out.features, scale * images.float().mean((2, 3)))
    assert out.logits.shape == (3, 2)


def test_tf32_is_off_while_detecting():
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    seen = []
    d = features.load("pix64")
    d.network = lambda x: seen.append((torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)) or \
        features.Features(x.flatten(1), None)
    try:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        d(images)
        assert seen == [(False, False)]
        assert torch.backends.cuda.matmul.allow_tf32 and torch.backends.cudnn.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
