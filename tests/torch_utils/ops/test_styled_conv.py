# SPDX-License-Identifier: Apache-2.0
"""The layer that inference runs, against the definition in float64 and against the layer that training runs."""

import copy

import pytest
import torch

from gantransfer.networks import stylegan2
from tests.torch_utils.ops.conftest import EMULATED, rel
from torch_utils import ema
from torch_utils.ops import native, styled_conv, upfirdn2d
from torch_utils.ops.modulated_conv2d import modulated_conv_act

pytestmark = [pytest.mark.usefixtures("native"),
              pytest.mark.skipif(bool(EMULATED), reason="it has no CUDA kernel")]


@pytest.fixture(autouse=True)
def chosen(monkeypatch):
    """As on a processor with AVX2 or AVX-512."""
    monkeypatch.setattr(native, "long_vectors", lambda: True)


def arguments(n, c, o, resolution, up, seed=0):
    g = torch.Generator().manual_seed(seed)
    side = resolution // up
    return dict(x=torch.randn(n, c, side, side, generator=g).contiguous(memory_format=torch.channels_last),
                weight=torch.randn(o, c, 3, 3, generator=g), styles=torch.rand(n, c, generator=g) + 0.5,
                noise=torch.randn(n, 1, resolution, resolution, generator=g), strength=torch.tensor(0.3),
                b=torch.randn(o, generator=g))


def layer(a, up, act="lrelu", gain=1.5, clamp=None, f=(1, 3, 3, 1)):
    packed = styled_conv.Packed(a["weight"], up, a["x"].shape[2] * up)
    return styled_conv.styled_conv(a["x"], packed, a["styles"], a["noise"], a["strength"], a["b"],
                                   upfirdn2d.setup_filter(list(f)), up, act, gain, clamp)


# From 4 and 8 pixels a side directly or by minimal filters, by the number of channels; from 16 by filters. 48 channels:
# a panel and a half
@pytest.mark.parametrize(("c", "o", "resolution", "up"), [(16, 16, 4, 1), (16, 48, 8, 1), (272, 256, 8, 1),
                                                          (48, 32, 16, 1), (16, 48, 8, 2), (80, 64, 8, 2),
                                                          (32, 16, 32, 2)])
@pytest.mark.parametrize(("act", "clamp"), [("lrelu", 2.0), ("linear", None)])
def test_equals_the_definition_in_float64(c, o, resolution, up, act, clamp):
    a = arguments(3, c, o, resolution, up)
    expected = modulated_conv_act(**{k: v.double() for k, v in a.items()}, act=act, gain=1.5, clamp=clamp,
                                  f=upfirdn2d.setup_filter([1, 3, 3, 1]).double(), up=up, padding=1,
                                  flip_weight=up == 1, impl="ref")
    with torch.no_grad():
        y = layer(a, up, act, clamp=clamp)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert rel(y, expected) < 2e-6


@pytest.mark.parametrize("f", [(1, 2, 1), (1, 3, 3, 1), (1, 2, 4, 2, 1)])
def test_any_resampling_filter(f):
    a = arguments(1, 16, 16, 16, 2)
    expected = modulated_conv_act(**a, act="lrelu", gain=1.5, f=upfirdn2d.setup_filter(list(f)), up=2, padding=1,
                                  flip_weight=False, impl="ref")
    torch.testing.assert_close(layer(a, 2, f=f), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("resolution", "up"), [(4, 1), (16, 1), (16, 2)])
def test_an_image_is_the_same_in_every_batch_bit_for_bit(resolution, up):
    a = arguments(13, 16, 16, resolution, up)
    whole = layer(a, up)
    for k in (0, 12):
        one = {key: v[k:k + 1] if key in ("x", "styles", "noise") else v for key, v in a.items()}
        torch.testing.assert_close(layer(one, up)[0], whole[k], rtol=0, atol=0)


def test_wrong_shapes_are_refused():
    a = arguments(2, 16, 16, 16, 1)
    packed = styled_conv.Packed(a["weight"], 1, 16)
    call = torch.ops.gantransfer.styled_conv
    for x, s, b in ((a["x"][:, :8], a["styles"], a["b"]), (a["x"], a["styles"][:1], a["b"]),
                    (a["x"], a["styles"], a["b"][:3]), (a["x"][:, :, :6], a["styles"], a["b"])):
        with pytest.raises(RuntimeError, match="styled_conv"):
            call(x, s, packed.w, packed.q, None, None, b, 0.2, 1.0, -1.0, True)


@pytest.fixture
def generator():
    torch.manual_seed(0)
    G = stylegan2.Generator(16, 0, 16, 16, 3, dict(num_layers=1), dict(channel_base=512, channel_max=32))
    return G.eval().requires_grad_(False)


def images(G, **kw):
    with torch.no_grad():
        return G(torch.randn(2, 16, generator=torch.Generator().manual_seed(1)), torch.zeros(2, 0), noise_mode="const",
                 **kw)


def test_a_generator_makes_the_images_of_the_trained_formulation(generator):
    fast = images(generator)
    assert generator.synthesis.b16.conv1.packed is not None
    torch.testing.assert_close(fast, images(generator, formulation="activations"), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("change", ["average", "load", "data"])
def test_changed_weights_are_packed_again(generator, change):
    images(generator)
    other = copy.deepcopy(generator)
    for p in other.parameters():
        p.mul_(1.5).add_(0.1)
    if change == "average":
        ema.step_network(generator, other, 0.5)
    elif change == "load":
        generator.load_state_dict(other.state_dict())
    else:
        for p in generator.parameters():
            p.data = p.data * 1.5
    torch.testing.assert_close(images(generator), images(generator, formulation="activations"), rtol=1e-4, atol=1e-4)


def test_a_copy_has_its_own_weights_and_a_gradient_takes_the_other_way(generator):
    images(generator)
    other = copy.deepcopy(generator)
    assert other.synthesis.b16.conv1.packed is None
    ws = torch.randn(1, generator.num_ws, 16, requires_grad=True)
    generator.synthesis(ws, noise_mode="const").sum().backward()
    assert ws.grad.abs().sum() > 0
    first = generator.synthesis.b4.conv1  # what comes before it wants no gradient
    for wanted in (first.bias, first.noise_strength, first.noise_const):
        wanted.requires_grad_(True)
        (grad,) = torch.autograd.grad(generator.synthesis(ws.detach(), noise_mode="const").square().sum(), wanted)
        assert wanted is first.noise_const or grad.abs().sum() > 0, "its strength is 0"
        wanted.requires_grad_(False)


def test_a_fused_optimiser_changes_what_is_drawn():
    """Its steps leave no new version behind; in training the prepared weights are not used at all."""
    torch.manual_seed(0)
    G = stylegan2.Generator(8, 0, 8, 16, 1, {"num_layers": 1}, {"channel_base": 512, "channel_max": 32})
    z, c = torch.randn(2, 8), torch.zeros(2, 0)
    opt = torch.optim.Adam(G.parameters(), lr=0.1, fused=True)

    def drawn():
        with torch.no_grad():
            return G(z, c, noise_mode="const")

    for mode in (True, False):
        G.train(mode)
        before = drawn()
        G(z, c, noise_mode="const").square().mean().backward()
        opt.step()
        with torch.no_grad():
            expected = G(z, c, noise_mode="const", formulation="activations")
        assert not torch.allclose(before, expected, atol=1e-2)
        assert torch.allclose(drawn(), expected, rtol=1e-3, atol=1e-4), mode
        assert (G.synthesis.b16.conv1.packed is None) == mode
