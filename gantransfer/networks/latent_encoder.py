# SPDX-License-Identifier: Apache-2.0
"""An encoder image -> latent for a StyleGAN2 generator, on the trunk of that generator's own discriminator.

The trunk has the resolution, the channels and the features already, so no outside weights are needed. Minibatch
statistics are left out: an image's latent does not depend on its neighbours.
"""

import torch
from torch import nn

from gantransfer.networks.stylegan2 import Discriminator, FullyConnectedLayer, full_precision, plain


class LatentEncoder(nn.Module):
    """image [N, C, H, W] in [-1, 1] -> latents [N, slots, w_dim].

    trunk: arguments of the StyleGAN2 Discriminator. slots 1: one w for all layers; slots = num_ws: one w and an offset
    per layer, which starts at zero. The network predicts whitened coordinates u; w = w_mean + u @ to_w.
    """

    def __init__(self, trunk, w_dim, slots=1):
        super().__init__()
        self.init_kwargs = plain(trunk=trunk, w_dim=w_dim, slots=slots)
        trunk = {**trunk, "c_dim": 0, "epilogue_kwargs": {**trunk.get("epilogue_kwargs", {}), "mbstd_num_channels": 0}}
        self.trunk = Discriminator(**trunk)
        self.img_resolution, self.img_channels = self.trunk.img_resolution, self.trunk.img_channels
        self.w_dim, self.slots = w_dim, slots
        # Latents are read off the whole last map: the discriminator's last layer may be narrower than a latent.
        width = self.trunk.b4.fc.weight.shape[1]
        self.trunk.b4.fc = self.trunk.b4.out = nn.Identity()
        self.head = FullyConnectedLayer(width, w_dim)
        if slots > 1:
            self.offsets = FullyConnectedLayer(width, slots * w_dim)
            nn.init.zeros_(self.offsets.weight)
        self.register_buffer("w_mean", torch.zeros(w_dim))
        self.register_buffer("to_w", torch.eye(w_dim))

    def whitened(self, img):
        """(u [N, w_dim], offsets [N, slots, w_dim] or None), both in whitened coordinates."""
        x, rest = self.trunk.run_blocks(None, img)
        x = self.features_of(x, rest)
        offsets = self.offsets(x).reshape(len(x), self.slots, self.w_dim) if self.slots > 1 else None
        return self.head(x), offsets

    def features_of(self, x, rest):
        """What enters the heads, [N, pixels of the last map * C], from what leaves the trunk's last block."""
        return self.trunk.b4.features(full_precision(x), rest).flatten(1)

    def features(self, img):
        """What enters the heads, of images."""
        return self.features_of(*self.trunk.run_blocks(None, img))

    def forward(self, img):
        u, offsets = self.whitened(img)
        u = u[:, None] if offsets is None else u[:, None] + offsets
        return self.w_mean + u @ self.to_w
