# SPDX-License-Identifier: Apache-2.0
"""BigGAN's networks against the original: outputs, logits, buffers, standing statistics."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gantransfer.networks import biggan
from tests.golden.conftest import assert_close, golden_files, tensor, tensors, under

G_ARGS = {"G_ch", "dim_z", "resolution", "G_attn", "num_G_SVs", "num_G_SV_itrs", "G_shared", "shared_dim", "hier",
          "mybn", "BN_eps", "SN_eps", "G_init", "n_classes"}
D_ARGS = {"D_ch", "resolution", "D_attn", "num_D_SVs", "num_D_SV_itrs", "SN_eps", "D_init", "n_classes"}


def build(config, kind, args, **more):
    return kind(**{k: v for k, v in config.items() if k in args}, **more)


def load(net, state):
    net.load_state_dict(tensors(state), strict=True)
    return net


def one_hot(y, n):
    return F.one_hot(tensor(y).long(), n).float()


def check_buffers(net, expected, what):
    assert expected
    for k, v in expected.items():
        assert_close(net.state_dict()[k], v, 1e-3, what=f"{what} {k}")


@pytest.mark.parametrize("path", golden_files("cgantransfer", "biggan_*_forward.npz"))
def test_forward(config, a):
    G = load(build(config, biggan.Generator, G_ARGS), under(a, "G/"))
    D = load(build(config, biggan.Discriminator, D_ARGS), under(a, "D/"))
    assert G.z_dim == config["eff_dim_z"] and G.chunk == config["z_chunk"]
    n = config["n_classes"]
    z, c = tensor(a["in/z"]), one_hot(a["in/y"], n)
    x, cx = tensor(a["in/x_real"]), one_hot(a["in/y_real"], n)
    G.eval(), D.eval()
    image = G(z, c)
    assert_close(image.detach(), a["out/G_eval"], 2e-4)
    assert_close(D(image, c).detach(), a["out/D_eval_on_G_eval"], 2e-4)
    assert_close(D(x, cx).detach(), a["out/D_eval_on_real"], 2e-4)
    check_buffers(G, {k: v for k, v in under(a, "G/").items() if k in dict(G.named_buffers())}, "eval writes nothing")
    G.train(), D.train()
    with torch.no_grad():  # training forwards without gradients advance the buffers too
        image = G(z, c)
        fake = D(image, c)
        check_buffers(G, under(a, "G_buffers_after_train_fwd/"), "G")
        check_buffers(D, under(a, "D_buffers_after_train_fwd/"), "D")
        real = D(x, cx)
    assert_close(image, a["out/G_train"], 2e-4)
    assert_close(fake, a["out/D_train_on_G_train"], 2e-4)
    assert_close(real, a["out/D_train_on_real_second_call"], 2e-4)
    losses = dict(hinge_D_real=F.relu(1 - real), hinge_D_fake=F.relu(1 + fake), hinge_G=-fake,
                  dcgan_D_real=F.softplus(-real), dcgan_D_fake=F.softplus(fake), dcgan_G=F.softplus(-fake))
    for name, value in losses.items():
        assert_close(value.mean(), a[f"out/{name}"], 2e-4, floor=1e-5, what=name)


@pytest.mark.parametrize("path", golden_files("cgantransfer", "biggan_*standing*.npz"))
def test_standing_statistics(config, a):
    G = load(build(config, biggan.Generator, G_ARGS), under(a, "G/"))
    z, y, n = tensor(a["in/z_acc"]), a["in/y_acc"], config["n_classes"]
    with torch.no_grad():
        assert_close(G.train()(z[0], one_hot(y[0], n)), a["out/train_running"], 2e-4)
    check_buffers(G, under(a, "G_buffers_running/"), "running")
    G = load(build(config, biggan.Generator, G_ARGS), under(a, "G/"))  # both parts start from the stored weights
    biggan.standing_statistics(G, [(z[i], one_hot(y[i], n)) for i in range(len(z))])
    check_buffers(G, under(a, "G_buffers_standing/"), "standing")
    assert_close(G(z[1], one_hot(y[1], n)).detach(), a["out/eval_standing"], 2e-4)
    assert np.isfinite(G(z[0], one_hot(y[0], n)).detach().numpy()).all()
