# SPDX-License-Identifier: Apache-2.0
"""The label's weight through a transition."""

from tests.methods.test_methods import batch, grads_of, make


def test_transitional_weight_zero_is_unconditional():
    m = make("transitional", t_start_kimg=1.0, t_end_kimg=2.0)
    grads = grads_of(m, "Dmain", batch(), "D")
    assert not grads["b4.out_c.weight"].any() and grads["b4.out_uc.weight"].any()
    m.set_weight(1500)
    assert m.weight == 0.5 and float(m.D.transition) == 0.5 and float(m.G_ema.mapping.transition) == 0.5
    assert grads_of(m, "Dmain", batch(), "D")["b4.out_c.weight"].any()
