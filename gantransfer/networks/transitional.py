# SPDX-License-Identifier: Apache-2.0
"""Transitional-cGAN networks (Shahbazi et al., "Collapse by Conditioning", ICLR 2022).

Training starts unconditional and the label fades in with one scalar, the transition weight t in [0, 1], kept in the
buffers `mapping.transition` (generator) and `transition` (discriminator). The generator adds t times a projection of
the label embedding behind the first mapping layer. The discriminator gives an unconditional and a conditional logit;
weighting them with t is the loss's business.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from gantransfer.networks import stylegan2
from gantransfer.networks.stylegan2 import FullyConnectedLayer, project


class Logits(NamedTuple):
    """Both [N, 1]."""

    uncond: torch.Tensor
    cond: torch.Tensor


class MappingNetwork(stylegan2.MappingNetwork):
    """`fc0(z) + t * proj_embedd(embed(c))`, then the remaining layers."""

    def __init__(self, z_dim, c_dim, w_dim, num_ws, activation="lrelu", lr_multiplier=0.01, **kwargs):
        if c_dim == 0:
            raise ValueError("transitional training needs labels (c_dim > 0)")
        super().__init__(z_dim, c_dim, w_dim, num_ws, activation=activation, lr_multiplier=lr_multiplier, **kwargs)
        layers = [(name, self._modules.pop(name)) for name in list(self._modules) if name.startswith("fc")]
        width = layers[0][1].weight.shape[0]  # what it is added to
        self.proj_embedd = FullyConnectedLayer(self.embed.weight.shape[0], width, activation=activation,
                                               lr_multiplier=lr_multiplier)
        for name, layer in layers:  # the published order: embed, proj_embedd, fc0, ...
            self.add_module(name, layer)
        self.register_buffer("transition", torch.zeros([]))

    def layer_sizes(self, z_dim, embed_features, layer_features):
        return super().layer_sizes(z_dim, 0, layer_features)

    def layers(self, x):
        z, y = x[:, : self.z_dim], x[:, self.z_dim :]
        x = self.fc0(z) + self.transition * self.proj_embedd(y)
        for i in range(1, self.num_layers):
            x = getattr(self, f"fc{i}")(x)
        return x


class Generator(stylegan2.Generator):
    """z [N, z_dim], c [N, c_dim] -> image [N, channels, R, R]; set the transition weight with `set_transition`."""

    mapping_class = MappingNetwork

    def set_transition(self, t: float) -> None:
        self.mapping.transition.fill_(float(t))


class DiscriminatorEpilogue(stylegan2.DiscriminatorEpilogue):
    def make_heads(self, features, cmap_dim):
        self.out_uc = FullyConnectedLayer(features, 1)
        self.out_c = FullyConnectedLayer(features, cmap_dim)

    def forward(self, x, img, cmap):
        x = self.features(x, img)
        return Logits(self.out_uc(x), project(self.out_c(x), cmap))


class Discriminator(stylegan2.Discriminator):
    """image, c -> Logits(uncond [N, 1], cond [N, 1])."""

    epilogue_class = DiscriminatorEpilogue

    def __init__(self, c_dim, *args, **kwargs):
        if c_dim == 0:
            raise ValueError("transitional training needs labels (c_dim > 0)")
        super().__init__(c_dim, *args, **kwargs)
        self.register_buffer("transition", torch.zeros([]))

    def set_transition(self, t: float) -> None:
        self.transition.fill_(float(t))
