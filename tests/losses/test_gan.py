# SPDX-License-Identifier: Apache-2.0
"""Adversarial losses against their formulas in NumPy, and their derivatives."""

import numpy as np
import pytest
import torch

from gantransfer.losses.gan import LOSSES

F, R = np.array([[-3.0], [0.25], [2.0]]), np.array([[1.5], [-0.75], [4.0]])


def log1pexp(x):
    return np.log(1 + np.exp(x))


FORMULAS = {
    "logistic": (log1pexp(-F), log1pexp(F) + log1pexp(-R)),
    "hinge": (-F, np.maximum(0, 1 + F) + np.maximum(0, 1 - R)),
    "rpgan": (log1pexp(-(F - R)), log1pexp(-(R - F))),
}


@pytest.mark.parametrize("name", LOSSES)
def test_formulas(name):
    loss, f, r = LOSSES[name](), torch.tensor(F), torch.tensor(R)
    generator, discriminator = FORMULAS[name]
    np.testing.assert_allclose(loss.generator(f, r).numpy(), generator, rtol=1e-12)
    np.testing.assert_allclose(loss.discriminator(f, r).numpy(), discriminator, rtol=1e-12)
    if not loss.paired:
        np.testing.assert_allclose((loss.on_fake(f) + loss.on_real(r)).numpy(), discriminator, rtol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients(name):
    loss, f, r = LOSSES[name](), torch.tensor(F, requires_grad=True), torch.tensor(R, requires_grad=True)
    assert torch.autograd.gradcheck(loss.discriminator, (f, r))
    assert torch.autograd.gradcheck(lambda f: loss.generator(f, r.detach()), (f,))


@pytest.mark.parametrize("name", LOSSES)
def test_logits_of_any_size_stay_finite(name):
    loss = LOSSES[name]()
    f, r = torch.tensor([1e4, -1e4], requires_grad=True), torch.tensor([-1e4, 1e4])
    for value in (loss.generator(f, r), loss.discriminator(f, r)):
        assert torch.isfinite(value).all()
        assert torch.isfinite(torch.autograd.grad(value.sum(), f)[0]).all()


def test_a_pair_is_indifferent_to_what_both_have_in_common():
    """Relativistic: adding a constant to the discriminator changes nothing, unlike in the other losses."""
    f, r = torch.tensor(F), torch.tensor(R)
    pair, plain = LOSSES["rpgan"](), LOSSES["logistic"]()
    assert torch.allclose(pair.discriminator(f + 7, r + 7), pair.discriminator(f, r))
    assert torch.allclose(pair.generator(f + 7, r + 7), pair.generator(f, r))
    assert not torch.allclose(plain.discriminator(f + 7, r + 7), plain.discriminator(f, r))
