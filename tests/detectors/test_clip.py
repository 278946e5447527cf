# SPDX-License-Identifier: Apache-2.0
"""CLIP's image side: the embeddings that the published code computes with the same weights, from files of every layout.

The numbers are of torch-fidelity 0.4 (OpenAI's layout) and transformers 5.24 (Hugging Face's), divided by their length.
"""

import pytest
import torch

from dnnlib.util import UserError
from gantransfer.detectors import layouts
from gantransfer.detectors.clip import CLIPVision
from gantransfer.detectors.features import RESERVED
from gantransfer.detectors.weights import load_strictly, read_state
from gantransfer.formats import safetensors
from tests.detectors import vit

OPENAI = [[-0.1364583671, -0.0427307524, -0.2423251867, 0.1583030373],
          [0.0016967680, 0.0116881626, -0.0611433052, 0.0041022548]]
HUGGING_FACE = [[-0.1692096293, 0.3028129041, 0.2910266221, -0.1471516192],
                [-0.1609114259, -0.1410693675, -0.4925139248, 0.3075169325]]
HALVES = ("weight", "bias")
HF_LAYER = {f"{name}.{kind}": shape if kind == "weight" else shape[:1] for name, shape in {
    **{f"self_attn.{p}_proj": (128, 128) for p in ("q", "k", "v", "out")}, "layer_norm1": (128,), "layer_norm2": (128,),
    "mlp.fc1": (512, 128), "mlp.fc2": (128, 512)}.items() for kind in HALVES}
HF_SHAPES = {"vision_model.embeddings.class_embedding": (128,),
             "vision_model.embeddings.patch_embedding.weight": (128, 3, 14, 14),
             "vision_model.embeddings.position_embedding.weight": (10, 128), "visual_projection.weight": (24, 128),
             **{f"vision_model.{n}.{k}": (128,) for k in HALVES for n in ("pre_layrnorm", "post_layernorm")},
             **{f"vision_model.encoder.layers.{i}.{k}": s for i in (0, 1) for k, s in HF_LAYER.items()}}


@torch.no_grad()
def embedded(path):
    return load_strictly(CLIPVision(**vit.CLIP), layouts.clip(read_state(path)), path)(vit.images(42))


def test_openai_file(tmp_path):
    """With the text side beside it, as the published archive has it."""
    state = vit.filled({f"visual.{k}": s for k, s in vit.shapes(CLIPVision(**vit.CLIP)).items()})
    torch.save({**state, "text_projection": torch.zeros(3, 3), "logit_scale": torch.tensor(1.0),
                "positional_embedding": torch.zeros(77, 3)}, tmp_path / "clip.pt")
    got = embedded(tmp_path / "clip.pt")
    assert torch.allclose(got[:, :4], torch.tensor(OPENAI), atol=1e-5)
    assert torch.allclose(got.norm(dim=1), torch.ones(2))


def test_hugging_face_file(tmp_path):
    state = vit.filled(HF_SHAPES)
    path = tmp_path / "clip.safetensors"
    safetensors.write(path, {**state, "text_model.final_layer_norm.bias": torch.zeros(3), "logit_scale": torch.ones(()),
                             "vision_model.embeddings.position_ids": torch.arange(10)}, {})
    assert torch.allclose(embedded(path)[:, :4], torch.tensor(HUGGING_FACE), atol=1e-5)


def test_against_transformers(tmp_path):
    transformers = pytest.importorskip("transformers", reason="needs transformers (requirements-compare.txt)")
    net = transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**vit.HF_CLIP)).eval()
    assert vit.shapes(net) == HF_SHAPES
    net.load_state_dict(vit.filled(HF_SHAPES))
    net.save_pretrained(tmp_path)
    with torch.no_grad():
        theirs = net(pixel_values=vit.images(42)).image_embeds
    theirs = theirs / theirs.norm(dim=1, keepdim=True)
    assert torch.allclose(theirs[:, :4], torch.tensor(HUGGING_FACE), atol=1e-5)
    assert torch.allclose(embedded(tmp_path / "model.safetensors"), theirs, atol=1e-5)


def test_published_sizes_and_other_networks(tmp_path):
    with torch.device("meta"):
        state = CLIPVision().state_dict()
    assert tuple(state["positional_embedding"].shape) == (577, 1024) and tuple(state["proj"].shape) == (1024, 768)
    assert {"transformer.resblocks.23.attn.in_proj_weight", "ln_pre.bias", "conv1.weight"} <= set(state)
    assert sum(v.numel() for v in state.values()) == 304_293_888
    torch.save({"visual.proj": torch.zeros(1024, 768)}, tmp_path / "x.pt")
    with pytest.raises(UserError, match="'class_embedding' is missing; this file holds another network"):
        RESERVED["clip"].load(tmp_path / "x.pt", torch.device("cpu"))
    torch.save({"visual.class_embedding": torch.zeros(768)}, tmp_path / "x.pt")
    with pytest.raises(UserError, match=r"'class_embedding' has shape \(768,\) instead of \(1024,\)"):
        RESERVED["clip"].load(tmp_path / "x.pt", torch.device("cpu"))
