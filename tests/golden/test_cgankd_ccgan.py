# SPDX-License-Identifier: Apache-2.0
"""CcGAN against the published code: networks of both architectures, widths, vicinities, losses."""

import numpy as np
import pytest
import torch

from gantransfer.distillation import vicinity
from gantransfer.networks import ccgan
from tests.golden.conftest import assert_close, golden_files, tensors


def load(net, state):
    """Load strictly; only the original's duplicates and its unused path may be left over."""
    own = net.state_dict()
    extra = [k for k in state if k not in own]
    assert all(".model." in k or ".bypass." in k or k.endswith("num_batches_tracked") for k in extra), extra
    net.load_state_dict({k: v for k, v in state.items() if k in own}, strict=True)
    return net.eval().requires_grad_(False)


@pytest.mark.parametrize("path", [p for pattern in ("ccgan_sngan*.npz", "ccgan_sagan*.npz")
                                  for p in golden_files("cgan-kd", pattern)])
def test_networks(config, a):
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


@pytest.mark.parametrize("path", golden_files("cgan-kd", "ccgan_bandwidth*.npz"))
def test_bandwidth(config, a):
    for i, case in enumerate(config["cases"]):
        labels, flag = a[f"labels_norm_{i}"], case["kappa_flag"]
        for kind in vicinity.KINDS:
            sigma, kappa = vicinity.bandwidth(labels, kind, flag)
            assert_close(sigma, a[f"sigma_{i}"], 1e-9)
            assert_close(kappa, a[f"kappa_{kind}_{i}"], 1e-9, what=kind)


@pytest.mark.parametrize("path", golden_files("cgan-kd", "ccgan_vicinity*.npz"))
def test_vicinity(config, a):
    for kind, kappa in (("hard", config["kappa_hard"]), ("soft", config["nu_soft"])):
        labels, targets = a[f"{kind}_train_labels"], a[f"{kind}_targets"]
        v = vicinity.Vicinity(labels, kind, kappa, 0.0, config["soft_weight_threshold"])
        assert np.array_equal(v.near(targets, labels), a[f"{kind}_member_mask"]), kind
        low, high = v.fake_range(targets)
        assert_close(low, a[f"{kind}_fake_label_low"], 1e-12)
        assert_close(high, a[f"{kind}_fake_label_high"], 1e-12)


@pytest.mark.parametrize("path", golden_files("cgan-kd", "ccgan_losses*.npz"))
def test_losses(config, a):
    target = a["y_target"].astype(np.float64)
    soft = vicinity.Vicinity(np.linspace(0, 1, 5), "soft", config["nu"], 0.0)
    weights = {"hard": (1.0, 1.0), "soft": tuple(
        torch.from_numpy(soft.weight(a[k], target)).float() for k in ("y_real", "y_fake"))}
    assert_close(weights["soft"][0], a["soft_w_real"], 2e-5)
    assert_close(weights["soft"][1], a["soft_w_fake"], 2e-5)
    for loss in vicinity.LOSSES:
        for kind, (w_real, w_fake) in weights.items():
            real, fake = (torch.from_numpy(a[k]).requires_grad_() for k in ("d_real", "d_fake"))
            value = vicinity.d_loss(real, fake, w_real, w_fake, loss).mean()
            value.backward()
            name = f"{kind}_{loss}"
            assert_close(value.detach(), a[f"{name}_d_loss"], 2e-5, what=name)
            assert_close(real.grad, a[f"{name}_grad_real"], 2e-5, what=name)
            assert_close(fake.grad, a[f"{name}_grad_fake"], 2e-5, what=name)
        fake = torch.from_numpy(a["d_fake"]).requires_grad_()
        value = vicinity.g_loss(fake, loss).mean()
        value.backward()
        assert_close(value.detach(), a[f"{loss}_g_loss"], 2e-5)
        assert_close(fake.grad, a[f"{loss}_g_grad"], 2e-5)
