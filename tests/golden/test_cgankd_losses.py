# SPDX-License-Identifier: Apache-2.0
"""Losses of knowledge distillation against the originals: values and gradients."""

import pytest
import torch

from gantransfer.distillation import losses as L
from tests.golden.conftest import assert_close, golden_files, tensor, tensors

REL = 2e-5


def leaf(x):
    return torch.from_numpy(x).requires_grad_(True)


@pytest.mark.parametrize("path", golden_files("cgan-kd", "kd_losses*.npz"))
def test_logit_losses(config, a):
    t, y = tensor(a["logits_t"]), tensor(a["labels"])
    ce = torch.nn.functional.cross_entropy(tensor(a["logits_s"]), y)
    assert_close(ce, a["ce"], REL)
    for i, case in enumerate(config["cases"]):
        T, lam = case["T"], case["lambda_kd"]
        s = leaf(a["logits_s"])
        losses = {"kl_batchmean_T2": L.kl(s, t, T), "repdistiller": L.blkd(s, t, y, T, config["gamma"],
                                                                           config["alpha"]).mean()}
        for name, reduction in (("v1_elementmean", "elementmean"), ("takd_batchmean", "batchmean")):
            losses[name] = L.blkd(s, t, y, T, 1 - lam, lam, reduction).mean()
            assert_close(L.kl(s, t, T, reduction).detach() / T**2, a[f"{name}_kl_{i}"], REL, what=f"{name}_kl_{i}")
        for name, loss in losses.items():
            (grad,) = torch.autograd.grad(loss, s, retain_graph=True)
            value = f"{name}_{i}" if name.startswith("kl") else f"{name}_total_{i}"
            assert_close(loss.detach(), a[value], REL, what=value)
            assert_close(grad, a[f"{name}_grad_{i}"], REL, what=f"{name}_grad_{i}")


@pytest.mark.parametrize("path", golden_files("cgan-kd", "kd_feature_losses*.npz"))
def test_feature_losses(config, a):
    map_t, emb_t = tensor(a["map_t"]), tensor(a["emb_t"])
    vid = L.VID(a["map_s"].shape[1], map_t.shape[1], eps=config["vid_eps"])
    assert torch.allclose(torch.nn.functional.softplus(vid.log_scale) + vid.eps, torch.tensor(5.0))
    vid.load_state_dict(tensors(a, "VID/"))
    rkd = config["rkd"]
    for name, source, f in (
            ("at", "map_s", lambda s: L.attention(s, map_t)), ("sp", "map_s", lambda s: L.similarity(s, map_t)),
            ("rkd", "emb_s", lambda s: L.relations(s, emb_t, rkd["w_d"], rkd["w_a"])),
            ("pkt", "emb_s", lambda s: L.probabilities(s, emb_t)),
            ("hint", "hint_regressed_s", lambda s: torch.nn.functional.mse_loss(s, map_t)),
            ("vid", "map_s", lambda s: vid(s, map_t))):
        s = leaf(a[source])
        loss = f(s)
        (g,) = torch.autograd.grad(loss, s)
        assert_close(loss.detach(), a[name], REL, what=name)
        assert_close(g, a[f"{name}_grad"], REL, what=f"{name}_grad")


@pytest.mark.parametrize("path", golden_files("cgan-kd", "sskd*.npz"))
def test_sskd(config, a):
    logits, rep = leaf(a["s_logits"]), leaf(a["s_rep"])
    out = L.sskd(logits, tensor(a["t_logits"]), rep, tensor(a["t_rep"]), tensor(a["labels"]),
                 **{k: config[k] for k in ("kd_T", "tf_T", "ss_T", "ratio_tf", "ratio_ss")})
    t_logits, own = tensor(a["t_logits"])[L.views(len(a["labels"]))[1]], torch.arange(len(a["labels"]))
    for scores, target, ratio, rows in ((t_logits, tensor(a["labels"]), "ratio_tf", "idx_tf"),
                                        (L.cosines(tensor(a["t_rep"])), own, "ratio_ss", "idx_ss")):
        assert L.chosen(scores, target.repeat_interleave(3), config[ratio]).tolist() == a[rows].tolist()
    for name in ("ce", "kd", "tf", "ss"):
        assert_close(getattr(out, name).detach(), a[f"loss_{name}"], REL, what=name)
    total = sum(config[f"{name}_weight"] * getattr(out, name) for name in ("ce", "kd", "tf", "ss"))
    assert_close(total.detach(), a["loss_total"], REL)
    g_logits, g_rep = torch.autograd.grad(total, [logits, rep])
    assert_close(g_logits, a["grad_s_logits"], REL)
    assert_close(g_rep, a["grad_s_rep"], REL)
    assert_close(L.cosines(rep).detach(), a["s_simi"], REL)
    assert_close(L.cosines(tensor(a["t_rep"])), a["t_simi"], REL)
    t_rep = leaf(a["t_rep"])
    loss = L.projection_loss(t_rep).mean()
    (g,) = torch.autograd.grad(loss, t_rep)
    assert_close(loss.detach(), a["ssp_head_loss"], REL)
    assert_close(g, a["ssp_head_grad_rep"], REL)


@pytest.mark.parametrize("path", golden_files("cgan-kd", "uda*.npz"))
def test_uda(config, a):
    clean, aug, y = leaf(a["s_clean"]), leaf(a["s_aug"]), tensor(a["labels"])
    lam, T = config["lambda_student"], config["T_student"]
    t_clean, t_aug = tensor(a["t_clean"]), tensor(a["t_aug"])
    loss = L.uda(clean, aug, t_clean, t_aug, y, T, 1 - lam, lam).mean()
    g_clean, g_aug = torch.autograd.grad(loss, [clean, aug])
    assert_close(loss.detach(), a["loss"], REL)
    assert_close(g_clean, a["grad_s_clean"], REL)
    assert_close(g_aug, a["grad_s_aug"], REL)
    for name, s, t in (("clean", clean, t_clean), ("aug", aug, t_aug)):
        assert_close(L.blkd(s, t, y, T, 1 - lam, lam).mean().detach(), a[f"kd_{name}"], REL)
    # The consistency term that the reference defines and never adds.
    assert_close(L.kl(clean, aug, 1).detach(), a["consistency_uda"], REL)
