# SPDX-License-Identifier: Apache-2.0
"""State dicts of vision transformers as others store them, under the names of their original authors.

Hugging Face's files (`transformers`) keep query, key and value apart; OpenAI's and open_clip's CLIP files hold the text
side too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

# (their name, the original name); parts `#0`, `#1`, `#2` of a name are joined along their first dimension.
_DINOV2 = [
    (r"embeddings\.(cls_token|mask_token)", r"\1"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.patch_embeddings\.projection\.(\w+)", r"patch_embed.proj.\1"),
    (r"encoder\.layer\.(\d+)\.attention\.attention\.query\.(\w+)", r"blocks.\1.attn.qkv.\2#0"),
    (r"encoder\.layer\.(\d+)\.attention\.attention\.key\.(\w+)", r"blocks.\1.attn.qkv.\2#1"),
    (r"encoder\.layer\.(\d+)\.attention\.attention\.value\.(\w+)", r"blocks.\1.attn.qkv.\2#2"),
    (r"encoder\.layer\.(\d+)\.attention\.output\.dense\.(\w+)", r"blocks.\1.attn.proj.\2"),
    (r"encoder\.layer\.(\d+)\.layer_scale([12])\.lambda1", r"blocks.\1.ls\2.gamma"),
    (r"encoder\.layer\.(\d+)\.((?:norm[12]|mlp\.fc[12])\.\w+)", r"blocks.\1.\2"),
    (r"layernorm\.(\w+)", r"norm.\1"),
]
_LAYER = r"vision_model\.encoder\.layers\.(\d+)"
_CLIP = [
    (r"vision_model\.embeddings\.class_embedding", "class_embedding"),
    (r"vision_model\.embeddings\.patch_embedding\.weight", "conv1.weight"),
    (r"vision_model\.embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"vision_model\.pre_layrnorm\.(\w+)", r"ln_pre.\1"),  # their spelling
    (r"vision_model\.post_layernorm\.(\w+)", r"ln_post.\1"),
    (_LAYER + r"\.self_attn\.q_proj\.(\w+)", r"transformer.resblocks.\1.attn.in_proj_\2#0"),
    (_LAYER + r"\.self_attn\.k_proj\.(\w+)", r"transformer.resblocks.\1.attn.in_proj_\2#1"),
    (_LAYER + r"\.self_attn\.v_proj\.(\w+)", r"transformer.resblocks.\1.attn.in_proj_\2#2"),
    (_LAYER + r"\.self_attn\.out_proj\.(\w+)", r"transformer.resblocks.\1.attn.out_proj.\2"),
    (_LAYER + r"\.layer_norm([12])\.(\w+)", r"transformer.resblocks.\1.ln_\2.\3"),
    (_LAYER + r"\.mlp\.fc1\.(\w+)", r"transformer.resblocks.\1.mlp.c_fc.\2"),
    (_LAYER + r"\.mlp\.fc2\.(\w+)", r"transformer.resblocks.\1.mlp.c_proj.\2"),
]


def dinov2(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of Meta's backbones, from those or from `transformers.Dinov2Model`."""
    return _renamed(state, _DINOV2) if "embeddings.cls_token" in state else dict(state)


def clip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names below `visual.` of OpenAI's files, from those, or from `transformers.CLIPModel` or its vision side."""
    if "vision_model.embeddings.class_embedding" in state:
        image = {k: v for k, v in state.items() if k.startswith("vision_model.") and not k.endswith(".position_ids")}
        out = _renamed(image, _CLIP)
        if "visual_projection.weight" in state:
            out["proj"] = state["visual_projection.weight"].T
        return out
    image = {k.removeprefix("visual."): v for k, v in state.items() if k.startswith("visual.")}
    return image or dict(state)


def _renamed(state: Mapping[str, Tensor], rules: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    """What no rule matches keeps its name. What does not fit together shows when the result is loaded."""
    out: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in state.items():
        found = next((m.expand(name) for pattern, name in rules if (m := re.fullmatch(pattern, key))), key)
        name, _, part = found.partition("#")
        if part:
            parts.setdefault(name, {})[part] = tensor
        else:
            out[name] = tensor
    for name, found in parts.items():
        tensors = [found[k] for k in sorted(found)]
        joined = tensors[0].ndim and len({t.shape for t in tensors}) == 1
        out[name] = torch.cat(tensors) if joined else tensors[0]
    return out
