# SPDX-License-Identifier: Apache-2.0
"""Small vision transformers with weights that depend on their tensors' names, as the numbers in the tests were made."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tests.golden.test_metrics_inception import recipe_state

CLIP = dict(dim=128, depth=2, heads=2, patch=14, grid=3, out=24)
DINOV2 = dict(dim=32, depth=2, heads=4, patch=14, grid=5)
HF_CLIP = dict(hidden_size=128, intermediate_size=512, projection_dim=24, num_hidden_layers=2, num_attention_heads=2,
               image_size=42, patch_size=14, hidden_act="quick_gelu")
HF_DINOV2 = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=70, patch_size=14, mlp_ratio=4)


def images(size: int) -> Tensor:
    """float32 [2, 3, size, size] in -2..2."""
    return torch.linspace(-2, 2, 6 * size * size).reshape(2, 3, size, size).sin() * 2


def filled(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    return recipe_state(dict(shapes), "vit")


def shapes(net: nn.Module) -> dict[str, tuple[int, ...]]:
    return {k: tuple(v.shape) for k, v in net.state_dict().items()}
