# SPDX-License-Identifier: Apache-2.0
"""DINOv2: names, sizes, and the class tokens that transformers 5.24 computes with the same weights, where positions are
not resized (transformers resizes them otherwise than the published code)."""

import pytest
import torch

from gantransfer.detectors import layouts
from gantransfer.detectors.dinov2 import DinoV2
from gantransfer.detectors.weights import load_strictly, read_state
from gantransfer.formats import safetensors
from tests.detectors import vit

HUGGING_FACE = [[-1.0677219629, 1.2521129847, 0.5015980601, -1.2405862808],
                [0.4748157859, 0.0419716387, 1.2573288679, 0.8560156226]]
HF_LAYER = {"layer_scale1.lambda1": (32,), "layer_scale2.lambda1": (32,)} | {
    f"{name}.{kind}": shape if kind == "weight" else shape[:1] for name, shape in {
        **{f"attention.attention.{p}": (32, 32) for p in ("query", "key", "value")},
        "attention.output.dense": (32, 32), "norm1": (32,), "norm2": (32,), "mlp.fc1": (128, 32), "mlp.fc2": (32, 128),
    }.items() for kind in ("weight", "bias")}
HF_SHAPES = {"embeddings.cls_token": (1, 1, 32), "embeddings.mask_token": (1, 32),
             "embeddings.position_embeddings": (1, 26, 32), "embeddings.patch_embeddings.projection.bias": (32,),
             "embeddings.patch_embeddings.projection.weight": (32, 3, 14, 14), "layernorm.weight": (32,),
             "layernorm.bias": (32,), **{f"encoder.layer.{i}.{k}": s for i in (0, 1) for k, s in HF_LAYER.items()}}


@torch.no_grad()
def tokens(path):
    return load_strictly(DinoV2(**vit.DINOV2), layouts.dinov2(read_state(path)), path)(vit.images(70))


def test_hugging_face_file(tmp_path):
    safetensors.write(tmp_path / "x.safetensors", vit.filled(HF_SHAPES), {})
    assert torch.allclose(tokens(tmp_path / "x.safetensors")[:, :4], torch.tensor(HUGGING_FACE), atol=1e-5)


def test_against_transformers(tmp_path):
    transformers = pytest.importorskip("transformers", reason="needs transformers (requirements-compare.txt)")
    net = transformers.Dinov2Model(transformers.Dinov2Config(**vit.HF_DINOV2)).eval()
    net.save_pretrained(tmp_path)  # under the names of published files, whatever those of the classes are
    assert {k: tuple(v.shape) for k, v in read_state(tmp_path / "model.safetensors").items()} == HF_SHAPES
    safetensors.write(tmp_path / "model.safetensors", vit.filled(HF_SHAPES), {"format": "pt"})
    net = transformers.Dinov2Model.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        theirs = net(pixel_values=vit.images(70)).last_hidden_state[:, 0]
    assert torch.allclose(theirs[:, :4], torch.tensor(HUGGING_FACE), atol=1e-5)
    assert torch.allclose(tokens(tmp_path / "model.safetensors"), theirs, atol=1e-5)


def test_dinov2_names_and_sizes():
    """The published ViT-L/14 backbone: 304 million parameters, 37 x 37 positions resized for 224 pixels."""
    with torch.device("meta"):
        net = DinoV2()
    state = net.state_dict()
    assert sum(p.numel() for p in net.parameters()) == 304_368_640
    assert tuple(state["pos_embed"].shape) == (1, 1370, 1024) and tuple(state["blocks.23.attn.qkv.weight"].shape) == (
        3072, 1024)
    assert {"cls_token", "mask_token", "patch_embed.proj.weight", "blocks.0.ls1.gamma", "blocks.0.mlp.fc2.bias",
            "norm.bias"} <= set(state)
    small = DinoV2(dim=32, depth=2, heads=4, patch=14, grid=5).eval()
    torch.nn.init.normal_(small.pos_embed)
    assert torch.equal(small.positions(5), small.pos_embed) and small.positions(3).shape == (1, 10, 32)
    x = torch.randn(2, 3, 42, 42)
    both = small(x)
    assert both.shape == (2, 32) and torch.allclose(both[1], small(x[1:])[0], atol=1e-5)


def test_dinov2_attends_to_every_patch():
    small = DinoV2(dim=32, depth=1, heads=4, patch=14, grid=2).eval()
    x = torch.zeros(1, 3, 28, 28, requires_grad=True)
    small(x).square().sum().backward()
    per_patch = x.grad.abs().reshape(3, 2, 14, 2, 14).sum((0, 2, 4))
    assert float(per_patch.min()) > 0
