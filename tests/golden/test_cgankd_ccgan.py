# SPDX-License-Identifier: Apache-2.0
"""CcGAN against the published code: networks of both architectures."""

from __future__ import annotations

import pytest
import torch

from gantransfer.networks import ccgan
from tests.golden.conftest import assert_close, golden_files, load_npz


def tensors(arrays, prefix):
    return {k[len(prefix):]: torch.from_numpy(v) for k, v in arrays.items() if k.startswith(prefix)}


def load(net, state):
    """Load strictly; only the original's duplicates and its unused path may be left over."""
    own = net.state_dict()
    extra = [k for k in state if k not in own]
    assert all(".model." in k or ".bypass." in k or k.endswith("num_batches_tracked") for k in extra), extra
    net.load_state_dict({k: v for k, v in state.items() if k in own}, strict=True)
    return net.eval().requires_grad_(False)


@pytest.mark.parametrize("path", [p for pattern in ("ccgan_sngan*.npz", "ccgan_sagan*.npz")
                                  for p in golden_files("cgan-kd", pattern)])
def test_networks(path):
    config, a = load_npz(path)
    arch = config["arch"].lower()
    g, d = ccgan.ARCHS[arch]
    resolution, channels = a["images"].shape[-1], a["images"].shape[1]
    G = load(g(z_dim=config["z"], h_dim=config["e"], ch=config[f"{arch}_g"], resolution=resolution,
               img_channels=channels), tensors(a, "G/"))
    D = load(d(h_dim=config["e"], ch=config[f"{arch}_d"], resolution=resolution, img_channels=channels),
             tensors(a, "D/"))
    z, h, x = (torch.from_numpy(a[k]) for k in ("z", "h", "images"))
    assert_close(G(z, h), a["g_eval"], what="g_eval")
    assert_close(D(x, h[: len(x)]).reshape(a["d_eval"].shape), a["d_eval"], what="d_eval")
    if "g_train" in a:
        assert_close(G.train()(z, h), a["g_train"], what="g_train")
