# SPDX-License-Identifier: Apache-2.0
"""compat 'release' against the original: the state after extraction, outputs, penalties, both stages."""

import pytest
import torch

from gantransfer.networks import biggan, cgantransfer
from tests.golden.conftest import assert_close, golden_files, tensor, under
from tests.golden.test_cgantransfer_networks import D_ARGS, G_ARGS, build, check_buffers, load, one_hot


def networks(config, weights):
    plain = {k: v for k, v in config.items() if k in G_ARGS - {"n_classes"}}
    G = load(cgantransfer.TransferGenerator(config["n_classes"], config["n_pretrain_classes"], compat="release",
                                            **plain), under(weights, "G/"))
    D = load(build(config, cgantransfer.TransferDiscriminator, D_ARGS), under(weights, "D/"))
    return G, D


@pytest.mark.parametrize("path", golden_files("cgantransfer", "transfer_*_state_forward.npz"))
def test_state_and_forward(config, a):
    G, D = networks(config, a)
    z, c = tensor(a["in/z"]), one_hot(a["in/y"], config["n_classes"])
    image = G.eval()(z, c)
    assert_close(image.detach(), a["out/G_eval"], 2e-4)
    assert_close(D.eval()(image, c).detach(), a["out/D_eval"], 2e-4, floor=1e-5)
    t = torch.eye(config["n_classes"])
    for name, norm in zip(G.norm_names(), G.transfer_norms()):
        none = torch.zeros(len(t), G.chunk) if G.chunk else None
        for part, what, offset in (("g", "gain", 1), ("b", "bias", 0)):
            got = offset + norm.part(part, cgantransfer.New(t, none, None))
            if G.chunk:  # the file leaves the whole z part out, with its bias
                got = got - getattr(norm, f"z_layer_{part}").bias
            assert_close(got.detach(), a[f"eff/{name}/{what}_eval_noz"], 1e-3, what=f"{name} {what}")
    l1 = sum(p.abs().mean() for p in G.score_parameters())
    l2 = sum(p.square().mean() for p in G.residual_parameters())
    assert_close(config["comb_l1_scale"] * l1.detach(), a["out/l1_penalty"], 1e-5)
    assert_close(config["res_l2_scale"] * l2.detach(), a["out/l2_penalty"], 1e-5)
    with torch.no_grad():
        assert_close(G.train()(z, c), a["out/G_train"], 2e-4)
    check_buffers(G, under(a, "G_buffers_after_train_fwd/"), "G")


@pytest.mark.parametrize("path", golden_files("cgantransfer", "transfer_*_state_forward.npz"))
def test_extraction(config, a):
    """Extending the pretrained network gives the file's tables, and exactly the file's missing keys."""
    missing, dropped = set(a["missing_keys_G"].tolist()), set(a["unexpected_keys_D"].tolist())
    pre = build({**config, "n_classes": config["n_pretrain_classes"]}, biggan.Generator, G_ARGS)
    load(pre, {k: v for k, v in under(a, "G/").items() if k not in missing})
    G = cgantransfer.extend(pre, config["n_classes"], compat="release")
    state = G.state_dict()
    assert set(state) - set(pre.state_dict()) == missing
    expected = under(a, "G/")
    assert set(state) == set(expected)
    tables = [k for k in missing if k.endswith(".weight") and ("prev_knowledge" in k or "z_layer" in k)]
    assert tables
    for k in tables:
        assert_close(state[k], expected[k], 1e-5, what=k)
    source = build({**config, "n_classes": config["n_pretrain_classes"]}, biggan.Discriminator, D_ARGS)
    D = cgantransfer.extend_discriminator(source, None, config["n_classes"])
    assert set(D.state_dict()) - set(source.state_dict()) == set(a["missing_keys_D"].tolist())
    assert set(source.state_dict()) - set(D.state_dict()) == dropped
