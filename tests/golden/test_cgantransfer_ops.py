# SPDX-License-Identifier: Apache-2.0
"""Spectral norm, attention, orthogonal regularisation and EMA against the original."""

import pytest
import torch

from gantransfer.networks import biggan
from tests.golden.conftest import assert_close, golden_files, tensor, tensors, under
from torch_utils import ema


@pytest.mark.parametrize("path", golden_files("cgantransfer", "op_sn_attention*.npz"))
def test_spectral_norm_and_attention(config, a):
    for i, c in enumerate(config["linear"]):
        d = under(a, f"lin{i}/")
        layer = biggan.SNLinear(c["inp"], c["out"], sn=biggan.SN(c["num_svs"], c["num_itrs"], c["eps"]))
        layer.load_state_dict(tensors(d, "state/"))
        layer.eval()
        x, dy = tensor(d["x"]).requires_grad_(True), tensor(d["dy"])
        assert_close(layer(x).detach(), d["eval_out"], what="eval")
        assert_close(layer.effective_weight().detach(), d["eval_W_over_sigma"], what="weight")
        assert_close(layer.u0, d["state/u0"], 0, 0)
        layer.train()
        out = layer(x)
        assert_close(out.detach(), d["train_out"], what="train")
        out.backward(dy)
        for name, g in (("dx", x.grad), ("dweight", layer.weight.grad), ("dbias", layer.bias.grad)):
            assert_close(g, d[name], 1e-3, what=f"lin{i} {name}")
        for when in ("state_after1", "state_after2"):
            for k, v in under(d, f"{when}/").items():
                assert_close(layer.state_dict()[k], v, 1e-3, what=f"lin{i} {when} {k}")
            layer(x)
    d, c = under(a, "attn/"), config["attn"]
    layer = biggan.Attention(c["ch"], biggan.SN(c["num_svs"], c["num_itrs"], c["eps"]))
    layer.load_state_dict(tensors(d, "state/"))
    x = tensor(d["x"]).requires_grad_(True)
    assert_close(layer.eval()(x).detach(), d["eval_out"], what="attention eval")
    out = layer.train()(x)
    assert_close(out.detach(), d["train_out"], what="attention train")
    out.backward(tensor(d["dy"]))
    assert_close(x.grad, d["dx"], 1e-3, what="attention dx")
    for name, p in layer.named_parameters():
        assert_close(p.grad, d[f"d/{name}"], 3e-3, what=f"attention {name}")
    d, c = under(a, "emb/"), config["emb"]
    layer = biggan.SNEmbedding(c["num"], c["dim"], sn=biggan.SN(eps=c["eps"]))
    left = layer.load_state_dict(tensors(d, "state/"), strict=False)
    assert set(left.missing_keys) <= {"sv0"} and not left.unexpected_keys  # a number for the log
    one_hot = torch.nn.functional.one_hot(tensor(d["idx"]), c["num"]).float()
    assert_close(layer.eval()(one_hot).detach(), d["eval_out"], what="embedding eval")
    assert_close(layer.train()(one_hot).detach(), d["train_out"], what="embedding train")
    assert_close(layer.u0, d["u0_after"], 1e-3)


@pytest.mark.parametrize("path", golden_files("cgantransfer", "op_ortho_ema*.npz"))
def test_ortho_and_ema(config, a):
    skip = {name.split()[0] for name in config["blacklist"]}
    for name, p in under(a, "param/").items():
        p, grad = tensor(p).requires_grad_(True), tensor(a[f"grad_before/{name}"])
        if p.ndim > 1 and name not in skip:
            grad = grad + torch.autograd.grad(biggan.row_products(p) * (config["ortho_strength"] / 2), p)[0]
        assert_close(grad, a[f"modified_ortho_grad_after/{name}"], 1e-4, what=name)
    target, steps = None, sorted({int(k.split("/")[1][3:]) for k in a if k.startswith("ema/itr")})
    for itr in steps:
        source = tensors(a, f"ema/itr{itr}/src_")
        target = {k: torch.zeros_like(v) for k, v in source.items()} if target is None else target
        ema.step_state(target, source, config["ema_decay"] if itr >= config["ema_start"] else 0.0)
        for k, v in under(a, f"ema/itr{itr}/tgt_").items():
            assert_close(target[k], v, 1e-5, what=f"ema {itr} {k}")
