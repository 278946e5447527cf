# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of the StyleGAN v1 that Hyper-Modulation builds on."""

import torch

from gantransfer.importers import load_any
from gantransfer.networks import stylegan1
from tests.networks.test_stylegan1 import small


def test_import_finds_the_last_trained_block(tmp_path):
    """The published 256-pixel file also holds blocks for 512 and 1024 that training never reached."""
    G = small()
    for j in (1, 2):
        getattr(G.generator.progression[2], f"noise{j}").weight_orig.data.zero_()
    D = stylegan1.Discriminator([8, 8, 6], fused=1)
    torch.save({"g_running": G.state_dict(), "discriminator": D.state_dict()}, tmp_path / "x.model")
    snap = load_any(tmp_path / "x.model")
    assert snap.data["resolution"] == 8
    G2, D2 = snap.build("G_ema"), snap.build("D")
    image = G2(torch.randn(2, 8))
    assert image.shape == (2, 3, 8, 8) and D2(image).shape == (2, 1)
    assert snap.nets["G_ema"].kwargs["channels"] == [8, 8, 6]  # nothing is lost
