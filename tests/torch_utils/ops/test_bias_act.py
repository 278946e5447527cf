# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest
import torch

from tests.torch_utils.ops.conftest import derivatives_fit
from torch_utils import build
from torch_utils.ops.bias_act import activation_funcs, bias_act

L, A = 1.0507009873554805, 1.6732632423543772
NAIVE = {
    "linear": lambda u, a: u,
    "relu": lambda u, a: np.maximum(u, 0),
    "lrelu": lambda u, a: np.where(u > 0, u, a * u),
    "tanh": lambda u, a: np.tanh(u),
    "sigmoid": lambda u, a: 1 / (1 + np.exp(-u)),
    "elu": lambda u, a: np.where(u >= 0, u, np.exp(u) - 1),
    "selu": lambda u, a: np.where(u >= 0, L * u, L * A * (np.exp(u) - 1)),
    "softplus": lambda u, a: np.log1p(np.exp(u)),
    "swish": lambda u, a: u / (1 + np.exp(-u)),
}
GAINS = {"relu": math.sqrt(2), "lrelu": math.sqrt(2), "swish": math.sqrt(2)}


def naive(x, b, dim, act, alpha, gain, clamp):
    shape = [1] * x.ndim
    shape[dim] = -1
    y = NAIVE[act](x + (0 if b is None else b.reshape(shape)), 0.2 if alpha is None else alpha)
    y = y * (GAINS.get(act, 1) if gain is None else gain)
    return y if clamp is None else np.clip(y, -clamp, clamp)


def test_table():
    assert set(activation_funcs) == set(NAIVE)
    assert {k: v.def_gain for k, v in activation_funcs.items() if v.def_gain != 1} == GAINS
    assert {k: v.def_alpha for k, v in activation_funcs.items() if v.def_alpha} == {"lrelu": 0.2}


@pytest.mark.parametrize("impl", ["auto", "ref"])
@pytest.mark.parametrize("act", NAIVE)
@pytest.mark.parametrize("kw", [{}, dict(clamp=0.7), dict(gain=0.3, alpha=0.5), dict(gain=-1.5), dict(gain=0),
                                dict(alpha=-0.3), dict(clamp=0)])
def test_forward(act, kw, impl):
    rng = np.random.default_rng(0)
    for shape, dim in (((2, 3, 5, 4), 1), ((5, 3), 1), ((5, 3), 0), ((2, 3, 4), 2), ((2, 3, 4), -1), ((6,), 0),
                       ((0, 3, 2, 2), 1)):
        for has_bias in (True, False):
            x = rng.standard_normal(shape) * 3
            b = rng.standard_normal(shape[dim]) if has_bias else None
            y = bias_act(torch.tensor(x), None if b is None else torch.tensor(b), dim=dim, act=act, impl=impl, **kw)
            expected = naive(x, b, dim % x.ndim, act, *(kw.get(k) for k in ("alpha", "gain", "clamp")))
            np.testing.assert_allclose(y.numpy(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("act", NAIVE)
@pytest.mark.parametrize("kw", [{}, dict(clamp=0.8), dict(gain=0.4, alpha=0.5)])
def test_gradients_without_compiled_kernels(act, kw, monkeypatch):
    monkeypatch.setattr(build._State, "mode", "ref")
    torch.manual_seed(1)
    x = torch.randn(2, 3, 2, 4, dtype=torch.float64, requires_grad=True)
    b = torch.randn(3, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():  # finite differences must not step over a kink
        u = x + b.reshape(1, 3, 1, 1)
        x += torch.where(u.abs() < 1e-2, 0.05, 0.0)
    derivatives_fit(lambda x, b: bias_act(x, b, act=act, **kw), (x, b))
    derivatives_fit(lambda x: bias_act(x, act=act, **kw), (x - 0.0001).detach().requires_grad_())


@pytest.mark.parametrize("impl", ["auto", "ref"])
def test_no_gradient_at_the_clamp(impl):
    x = torch.tensor([-2.0, -1.0, 0.5, 1.0, 2.0], requires_grad=True)
    bias_act(x, act="linear", clamp=1, impl=impl).sum().backward()
    assert x.grad.tolist() == [0, 0, 1, 0, 0]


def test_the_identity_is_free_and_inputs_stay():
    x, b = torch.randn(2, 3), torch.randn(3)
    assert bias_act(x) is x
    kept = x.clone()
    for act in activation_funcs:
        bias_act(x, b, act=act, clamp=1)
        bias_act(x, act=act, clamp=1)
    assert torch.equal(x, kept)


def test_mistakes_are_explained():
    x = torch.zeros(2, 3)
    for kw, message in ((dict(act="gelu"), "unknown activation"), (dict(clamp=-1), "clamp"),
                        (dict(impl="cuda"), "impl"), (dict(b=torch.zeros(2)), "does not fit"),
                        (dict(b=torch.zeros(3).double()), "does not fit"), (dict(b=torch.zeros(3), dim=2), "dim 2")):
        with pytest.raises(ValueError, match=message):
            bias_act(x, **kw)
