# SPDX-License-Identifier: Apache-2.0
"""UTLO and transitional networks against the authors' implementations."""

import functools

import pytest
import torch

from gantransfer.networks import transitional, utlo
from tests.golden.conftest import assert_close, golden_files, load_npz, tensors, under

close = functools.partial(assert_close, floor=1e-5)


def load(path):
    config, arrays = load_npz(path)
    arrays = tensors(arrays)
    nets = {n: under(arrays, f"{n}/") for n in "GD"}
    width = dict(channel_base=config["channel_base"], channel_max=config["channel_max"])
    image = dict(c_dim=config["c_dim"], img_resolution=config["res"], img_channels=config["ch"])
    clamp = dict(conv_clamp=config.get("conv_clamp"))
    g_kwargs = dict(image, z_dim=config["z_dim"], w_dim=config["w_dim"], synthesis_kwargs=dict(width, **clamp),
                    mapping_kwargs=dict(num_layers=config["map_layers"]))
    d_kwargs = dict(image, **width, **clamp, mapping_kwargs=dict(num_layers=config["d_map_layers"]),
                    epilogue_kwargs=dict(mbstd_group_size=config["mbstd_group_size"]))
    if "res_uc" in config:
        d_kwargs.update(res_uc=config["res_uc"], faithful=True)
    return config, arrays, nets, g_kwargs, d_kwargs


def fill(net, state):
    net.load_state_dict(state, strict=True)
    own = dict(net.named_parameters())
    assert list(own) == [k for k in state if k in own], "order of parameters"
    return net.eval()


@pytest.mark.parametrize("path", golden_files("utlo", "g_*.npz"))
def test_generator(path):
    config, a, nets, g_kwargs, _ = load(path)
    G = fill(utlo.Generator(**g_kwargs, res_uc=config["res_uc"]), nets["G"])
    assert G.num_ws == config["num_ws"] and G.synthesis.num_uc_ws == config["noc_broadcast"]
    assert [sum(w) for w in G.synthesis.windows.values()] == config["num_ws_list"]
    z, c = a["z"], a.get("c")
    close(G.mapping(z, c), a["ws"], what="ws")
    for mode in ("const", "none"):
        close(G(z, c, noise_mode=mode), a[f"img_{mode}"], what=f"img_{mode}")
        if config["res_uc"]:
            image, image_uc = G(z, c, noise_mode=mode, add_uc=True)
            close(image, a[f"img_{mode}"], what=f"img_{mode} beside img_uc")
            close(image_uc, a[f"img_uc_{mode}"], what=f"img_uc_{mode}")
    for key in a:
        if key.startswith("ws_psi"):
            psi, _, cut = key[len("ws_psi"):].partition("_")
            kw = dict(truncation_psi=float(psi), truncation_cutoff=config["truncation_cutoff"] if cut else None)
            close(G.mapping(z, c, uc_truncation="w_avg", **kw), a[key], what=key)
        if key.startswith("img_psi"):
            psi, mode = key[len("img_psi"):].split("_")
            close(G(z, c, truncation_psi=float(psi), noise_mode=mode, uc_truncation="w_avg"), a[key], what=key)
    G.train()
    G.mapping(z, c)
    close(G.mapping.w_avg, a["w_avg_after_train_call"], what="w_avg")


@pytest.mark.parametrize("path", golden_files("utlo", "d_*.npz"))
def test_discriminator(path):
    config, a, nets, _, d_kwargs = load(path)
    D = fill(utlo.Discriminator(**d_kwargs), nets["D"])
    img, c = a["img"].clone().requires_grad_(True), a.get("c")
    logits = D(img, c)
    close(logits, a["logits_c"], what="logits_c")
    (grad,) = torch.autograd.grad(logits.sum(), img)
    close(grad, a["grad_logits_c_wrt_img"], rel=1e-3, what="gradient of the conditional logits")
    close(grad.square().sum((1, 2, 3)), a["r1_penalty_c"], rel=1e-3, what="r1")
    if not config["res_uc"]:
        assert "logits_uc" not in a
        return
    small = D.downsample_uc(img)
    close(small, a["img_down"], what="img_down")
    logits = D.forward_uc(small)
    close(logits, a["logits_uc"], what="logits_uc")
    params = dict(D.named_parameters())
    grads = torch.autograd.grad(logits.sum(), [img, *params.values()], allow_unused=True)
    close(grads[0], a["grad_logits_uc_wrt_img"], rel=1e-3, what="gradient of the unconditional logits")
    assert {n for n, g in zip(params, grads[1:]) if g is not None} == set(a_names(path))
    close(D.forward_uc(a["img_low_other"]), a["logits_uc_other"], what="logits_uc_other")


def a_names(path):
    return load_npz(path)[1]["uc_path_params"].tolist()


@pytest.mark.parametrize("path", golden_files("utlo", "trans_res*.npz"))
def test_transitional(path):
    config, a, nets, g_kwargs, d_kwargs = load(path)
    G = fill(transitional.Generator(**g_kwargs), nets["G"])
    D = fill(transitional.Discriminator(**d_kwargs), nets["D"])
    assert G.num_ws == config["num_ws"] and config["transitions"]
    z, c = a["gen_z"], a["gen_c"]
    for t in config["transitions"]:
        G.set_transition(t)
        D.set_transition(t)
        close(G.mapping(z, c), a[f"t{t}/ws"], what=f"t{t}/ws")
        for key in [k for k in a if k.startswith(f"t{t}/ws_psi")]:
            psi = float(key.rpartition("psi")[2])
            close(G.mapping(z, c, truncation_psi=psi), a[key], what=key)
        close(G(z, c, noise_mode="const"), a[f"t{t}/img_const"], what=f"t{t}/img_const")
        logits = D(a["real_img"], a["real_c"])
        close(torch.cat(logits, 1), a[f"t{t}/D_real"], what=f"t{t}/D_real")
