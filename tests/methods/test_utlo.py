# SPDX-License-Identifier: Apache-2.0
"""UTLO's losses. Golden numbers: tests/golden/test_utlo_training.py."""

import torch

from tests.methods.test_methods import batch, grads_of, make


def test_lazy_gain_switch():
    options = dict(res_uc=4, pl_weight=2.0, g_reg_interval=4)
    gains = {on: {p.name: p.gain for p in make("utlo", **options, lazy_gain=on).phases()} for on in (True, False)}
    assert gains[True]["Dreg"] is None and gains[False]["Dreg"] == 1.0 and gains[False]["Greg"] == 1.0


def test_utlo_loss_is_the_weighted_sum():
    values = {}
    for alpha in (0.0, 1.0, 3.0):
        m = make("utlo", res_uc=4, alpha=alpha)
        values[alpha] = next(m.loss("Gmain", batch())).detach()
    # a L_c + b L_u is linear in a: from alpha 0 (a = 1) and alpha 1 (a = 1/2) follows alpha 3 (a = 1/4)
    assert torch.allclose(values[3.0], 1.5 * values[1.0] - 0.5 * values[0.0], atol=1e-5)
    assert (values[1.0] - values[0.0]).abs().max() > 1e-4


def test_utlo_r1_leaves_the_unconditional_entry_alone():
    grads = grads_of(make("utlo", res_uc=4), "Dreg", batch(), "D")
    for name, g in grads.items():
        if name.startswith(("fromrgb_uc", "b4.out_uc")):
            assert g is None or not g.any(), name
    assert grads["b4.conv.weight"].any()


def test_w_average_waits_for_the_end_of_the_step():
    m = make("utlo", res_uc=4)
    m.G.mapping.w_avg.fill_(1), m.G.mapping.w_avg_uc.fill_(2)
    list(m.loss("Gmain", batch()))
    assert m.G.mapping.w_avg.eq(1).all() and m.G.mapping.w_avg_uc.eq(2).all()
    m.end_step(0, 8)
    assert not m.G.mapping.w_avg.eq(1).any() and not m.G.mapping.w_avg_uc.eq(2).any()
    assert torch.equal(m.G_ema.mapping.w_avg_uc, m.G.mapping.w_avg_uc)
