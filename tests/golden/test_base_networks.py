# SPDX-License-Identifier: Apache-2.0
"""Generator and discriminator against the reference implementation: values, activations, first and second order."""

import pytest
import torch

from gantransfer.networks import stylegan2
from tests.golden.conftest import assert_close as close
from tests.golden.conftest import golden_files, load_npz, tensors, under

SECOND = 2e-3


def load(cls, path, prefix):
    config, arrays = load_npz(path)
    arrays = tensors(arrays)
    net, state = cls(**config[f"{prefix}_kwargs"]), under(arrays, f"{prefix}/")
    net.load_state_dict(state, strict=True)
    for own in (dict(net.named_parameters()), dict(net.named_buffers())):
        assert list(own) == [k for k in state if k in own], "order of parameters or buffers"
    return net.eval(), config, arrays


def record_blocks(net, resolutions):
    seen = {}
    for res in resolutions:
        block = getattr(net, f"b{res}")
        block.register_forward_hook(lambda m, i, out, res=res: seen.__setitem__(res, out))
    return seen


@pytest.mark.parametrize("path", golden_files("base", "generator_*.npz"))
@pytest.mark.parametrize("formulation", [None, "weights"])
def test_generator(path, formulation):
    G, config, a = load(stylegan2.Generator, path, "G")
    z, c = a["z"], a.get("c")
    kw = dict(formulation=formulation)
    assert G.num_ws == config["num_ws"]
    close(G.mapping(z, c), a["ws"], what="ws")
    close(G(z, c, noise_mode="const", **kw), a["img_const"], what="img_const")
    close(G(z, c, noise_mode="const", **kw), a["img_const_unfused"], what="img_const_unfused")
    close(G(z, c, noise_mode="none", **kw), a["img_none"], what="img_none")
    if hasattr(G.mapping, "w_avg"):
        psi, cutoff = config["psi"], config["cutoff"]
        close(G.mapping(z, c, truncation_psi=psi), a["ws_psi"], what="ws_psi")
        cut = dict(truncation_psi=psi, truncation_cutoff=cutoff)
        close(G.mapping(z, c, **cut), a["ws_psi_cutoff"], what="ws_psi_cutoff")
        close(G(z, c, **cut, noise_mode="const", **kw), a["img_psi_cutoff"], what="img_psi_cutoff")
    seen = record_blocks(G.synthesis, G.synthesis.block_resolutions)
    ws = a["ws_layers"].clone().requires_grad_(True)
    img = G.synthesis(ws, noise_mode="const", **kw)
    close(img, a["img_layers"], what="img_layers")
    for res, (x, image) in seen.items():
        close(x, a[f"block{res}/x"], what=f"block{res}/x")
        if image is not None:
            close(image, a[f"block{res}/img"], what=f"block{res}/img")
    (d_ws,) = torch.autograd.grad((img * a["v_img"]).sum(), ws)
    close(d_ws, a["d_ws_layers"], rel=1e-3, what="d_ws_layers")


@pytest.mark.parametrize("path", golden_files("base", "generator_*.npz"))
def test_running_mean(path):
    G, _, a = load(stylegan2.Generator, path, "G")
    if not hasattr(G.mapping, "w_avg"):
        assert "w_avg_after_train_forward" not in a
        return
    before = G.mapping.w_avg.clone()
    G.train()
    seen = []
    G.mapping(a["z"], a.get("c"), w_out=seen)
    assert torch.equal(G.mapping.w_avg, before) and len(seen) == 1
    G.mapping(a["z"], a.get("c"))
    close(G.mapping.w_avg, a["w_avg_after_train_forward"], what="w_avg after a training forward")
    G.mapping.w_avg.copy_(before)
    G.mapping.update_w_avg(seen[0].mean(0))
    close(G.mapping.w_avg, a["w_avg_after_train_forward"], what="w_avg updated by hand")


@pytest.mark.parametrize("path", golden_files("base", "discriminator_*.npz"))
def test_discriminator(path):
    D, _, a = load(stylegan2.Discriminator, path, "D")
    img, c = a["img"].clone().requires_grad_(True), a.get("c")
    seen = record_blocks(D, D.block_resolutions)
    logits = D(img, c)
    close(logits, a["logits"], what="logits")
    for res, (x, small) in seen.items():
        close(x, a[f"block{res}/x"], what=f"block{res}/x")
        if small is not None:
            close(small, a[f"block{res}/img"], what=f"block{res}/img")
    close(D.b4.mbstd(seen[8][0]) if D.b4.mbstd else seen[8][0], a["b4_mbstd_out"], what="mbstd")
    if "cmap" in a:
        close(D.mapping(None, c), a["cmap"], what="cmap")
    (d_img,) = torch.autograd.grad(logits.sum(), img, create_graph=True)
    close(d_img, a["d_img"], what="d_img")
    r1 = d_img.square().sum((1, 2, 3))
    close(r1, a["r1_penalty"], what="r1_penalty")
    params = dict(D.named_parameters())
    grads = torch.autograd.grad(r1.sum(), list(params.values()), allow_unused=True)
    assert {k.removeprefix("r1grad/") for k in a if k.startswith("r1grad/")} == set(params)  # frozen layers have none
    for (name, p), grad in zip(params.items(), grads):
        close(torch.zeros_like(p) if grad is None else grad, a[f"r1grad/{name}"], rel=SECOND, what=f"r1grad/{name}")
