# SPDX-License-Identifier: Apache-2.0
"""Structure and behaviour of the StyleGAN2 networks that golden numbers do not show."""

import json

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gantransfer.networks import hypermod, sizes, stylegan2, utlo
from gantransfer.networks.stylegan2 import Discriminator, Generator, MinibatchStd
from torch_utils import build
from torch_utils.ops import upfirdn2d
from torch_utils.random import SeedStack

SMALL = dict(channel_base=128, channel_max=8)


def make_g(res=16, c_dim=3, **synthesis):
    torch.manual_seed(0)
    G = Generator(z_dim=6, c_dim=c_dim, w_dim=7, img_resolution=res, img_channels=3,
                  mapping_kwargs=dict(num_layers=2), synthesis_kwargs=dict(SMALL, **synthesis))
    return randomize(G)


def make_d(res=16, c_dim=3, **kw):
    torch.manual_seed(1)
    return randomize(Discriminator(c_dim=c_dim, img_resolution=res, img_channels=3, mapping_kwargs=dict(num_layers=2),
                                   **{**SMALL, **kw}))


def randomize(net):
    with torch.no_grad():
        for name, p in net.named_parameters():
            if name.endswith(("bias", "noise_strength")):
                p.add_(torch.randn_like(p) * 0.3)
    return net.eval()


def labels(n, c_dim=3):
    return torch.eye(c_dim)[torch.arange(n) % c_dim] if c_dim else None


def test_published_sizes():
    """The 32 px, 10-class 'auto' configuration: parameter counts of the published networks."""
    with torch.device("meta"):
        kw = dict(c_dim=10, img_resolution=32, img_channels=3)
        G = Generator(z_dim=512, w_dim=512, mapping_kwargs=dict(num_layers=2),
                      synthesis_kwargs=dict(channel_base=16384), **kw)
        D = Discriminator(channel_base=16384, **kw)
    assert sum(p.numel() for p in G.parameters()) == 20215315
    assert sum(p.numel() for p in D.parameters()) == 23876096
    assert next(iter(G.state_dict())).startswith("synthesis.") and G.num_ws == 8
    state = {k: tuple(v.shape) for k, v in G.state_dict().items()}
    assert state["synthesis.b8.conv0.weight"] == (512, 512, 3, 3) and state["mapping.fc0.weight"] == (512, 1024)
    assert state["synthesis.b4.conv1.noise_strength"] == () and state["synthesis.b32.conv1.noise_const"] == (32, 32)
    assert "synthesis.b4.conv0.weight" not in state and "synthesis.b4.torgb.resample_filter" not in state
    state = {k: tuple(v.shape) for k, v in D.state_dict().items()}
    assert state["b4.conv.weight"] == (512, 513, 3, 3) and state["b4.fc.weight"] == (512, 8192)
    assert [k for k in state if k.startswith("b32.")][:4] == [
        "b32.resample_filter", "b32.fromrgb.weight", "b32.fromrgb.bias", "b32.fromrgb.resample_filter"]
    assert "b32.skip.bias" not in state and "mapping.fc7.weight" in state and "mapping.w_avg" not in state


@pytest.mark.parametrize("res, num_ws", [(4, 2), (8, 4), (32, 8), (256, 14), (1024, 18)])
def test_number_of_ws(res, num_ws):
    with torch.device("meta"):
        net = stylegan2.SynthesisNetwork(4, res, 3, channel_base=2048, channel_max=2)
    assert net.num_ws == num_ws


@pytest.mark.parametrize("architecture", stylegan2.ARCHITECTURES)
@pytest.mark.parametrize("res, channels, c_dim", [(8, 3, 0), (8, 1, 2), (32, 4, 3), (28, 1, 2), ((48, 32), 3, 0),
                                                  ((12, 24), 1, 2)])
def test_shapes_of_every_architecture(architecture, res, channels, c_dim):
    kw = dict(c_dim=c_dim, img_resolution=res, img_channels=channels)
    G = Generator(z_dim=5, w_dim=6, synthesis_kwargs=dict(SMALL, architecture=architecture), **kw)
    D = Discriminator(architecture=architecture, **SMALL, **kw)
    img = G(torch.randn(4, 5), labels(4, c_dim))
    assert img.shape == (4, channels, *sizes.ImageSize.of(res)) and img.dtype == torch.float32
    logits = D(img, labels(4, c_dim))
    assert logits.shape == (4, 1)
    logits.sum().backward()
    used = [p for n, p in [*G.named_parameters(), *D.named_parameters()]]
    assert all(p.grad is not None for p in used)
    assert any("skip" in k for k in D.state_dict()) == (architecture == "resnet")
    assert sum(".torgb.bias" in k for k in G.state_dict()) == (1 if architecture != "skip" else len(
        G.synthesis.block_resolutions))


def test_levels_are_called_by_their_longer_side():
    """A portrait of 48 x 32: the first map is 6 x 4 in both networks; noise maps have their level's shape."""
    G = Generator(z_dim=5, c_dim=0, w_dim=6, img_resolution=(48, 32), img_channels=3, synthesis_kwargs=SMALL)
    D = Discriminator(c_dim=0, img_resolution=(48, 32), img_channels=3, **SMALL)
    state = G.state_dict()
    assert state["synthesis.b6.const"].shape[1:] == (6, 4)
    assert {k.split(".")[1]: tuple(v.shape) for k, v in state.items() if k.endswith("conv1.noise_const")} == {
        "b6": (6, 4), "b12": (12, 8), "b24": (24, 16), "b48": (48, 32)}
    assert D.block_resolutions == [48, 24, 12] and D.b4.fc.weight.shape[1] == 24 * D.b4.conv.weight.shape[0]
    assert [tuple(x.shape[2:]) for _, x, _ in G.synthesis.run_blocks(torch.zeros(1, G.num_ws, 6))] == [
        (6, 4), (12, 8), (24, 16), (48, 32)]
    assert json.loads(json.dumps(G.init_kwargs))["img_resolution"] == [48, 32]
    again = Generator(**json.loads(json.dumps(G.init_kwargs)))
    again.load_state_dict(state)
    z = torch.randn(2, 5)
    assert torch.equal(again(z, None, noise_mode="const"), G(z, None, noise_mode="const"))


def test_noise():
    G = make_g()
    z, c = torch.randn(3, 6), labels(3)
    a, b = (G(z, c, rng=torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(a, b) and not torch.equal(a, G(z, c, rng=torch.Generator().manual_seed(5)))
    torch.manual_seed(9)
    a = G(z, c)
    torch.manual_seed(9)
    assert torch.equal(a, G(z, c)) and not torch.equal(a, G(z, c))
    for mode in ("const", "none"):
        assert torch.equal(G(z, c, noise_mode=mode), G(z, c, noise_mode=mode))
    batch = G(z, c, rng=SeedStack([1, 2, 3]))
    one = G(z[1:2], c[1:2], rng=SeedStack([2]))
    torch.testing.assert_close(batch[1:2], one, rtol=1e-4, atol=1e-5)
    quiet = make_g(use_noise=False)
    assert torch.equal(quiet(z, c), quiet(z, c)) and not any("noise" in k for k in quiet.state_dict())
    with pytest.raises(ValueError, match="noise_mode"):
        G(z, c, noise_mode="constant")


def test_gradients_by_finite_differences():
    """Through mapping, every kind of layer, and the discriminator, in float64."""
    G, D = make_g(res=8).double(), make_d(res=8).double()
    z, c = torch.randn(2, 6, dtype=torch.float64), labels(2).double()

    def value():
        return D(G(z, c, noise_mode="const"), c).sum()

    params = {**dict(G.named_parameters()), **{f"D.{k}": p for k, p in D.named_parameters()}}
    grads = torch.autograd.grad(value(), list(params.values()))
    for (name, p), grad in zip(params.items(), grads):
        direction = torch.randn_like(p)
        with torch.no_grad():
            values = []
            for step in (1e-7, -2e-7):
                p += step * direction
                values.append(value())
            p += 1e-7 * direction
        slope = (grad * direction).sum()
        assert ((values[0] - values[1]) / 2e-7 - slope).abs() <= 1e-4 * (grad * direction).abs().sum() + 1e-6, name


def test_truncation_and_its_centre():
    G = make_g()
    G.mapping.w_avg.normal_()
    z, c = torch.randn(4, 6), labels(4)
    ws = G.mapping(z, c)
    torch.testing.assert_close(G.mapping(z, c, truncation_psi=0), G.mapping.w_avg.expand_as(ws))
    half = G.mapping(z, c, truncation_psi=0.5, truncation_cutoff=2)
    torch.testing.assert_close(half[:, :2], (ws[:, :2] + G.mapping.w_avg) / 2)
    assert torch.equal(half[:, 2:], ws[:, 2:])
    centres = torch.randn(4, 7)  # one per sample, as class centres would be
    torch.testing.assert_close(stylegan2.truncate(ws, centres, 0), centres[:, None].expand_as(ws))
    with pytest.raises(ValueError, match="running mean"):
        stylegan2.truncate(ws, None, 0.5)


def test_running_mean_rules():
    G = make_g()
    z, c = torch.randn(4, 6), labels(4)
    G.mapping(z, c)
    assert not G.mapping.w_avg.any(), "eval mode leaves it alone"
    G.train()
    G.mapping(z, c, update_w_avg=False)
    assert not G.mapping.w_avg.any()
    halves = []
    G(z[:2], c[:2], w_out=halves)
    G(z[2:], c[2:], w_out=halves)
    assert not G.mapping.w_avg.any() and not halves[0].requires_grad
    mean = torch.cat(halves).mean(0)
    G.mapping(z, c)
    torch.testing.assert_close(G.mapping.w_avg, 0.005 * mean)
    G.eval()
    G.mapping.w_avg.zero_()
    G.mapping(z, c, update_w_avg=True)
    torch.testing.assert_close(G.mapping.w_avg, 0.005 * mean)


def test_style_mixing_reaches_only_its_layers():
    """A block sees its own ws; its ToRGB shares the w of the next block's first layer."""
    G = make_g()
    ws = torch.randn(1, 6, 7)
    reference = dict((res, (x, img)) for res, x, img in G.synthesis.run_blocks(ws, noise_mode="const"))
    for layer, first_x, first_img in ((0, 4, 4), (1, 8, 4), (2, 8, 8), (3, 16, 8), (4, 16, 16), (5, None, 16)):
        changed = ws.clone()
        changed[:, layer] += 1
        for res, x, img in G.synthesis.run_blocks(changed, noise_mode="const"):
            assert torch.equal(x, reference[res][0]) == (first_x is None or res < first_x)
            assert torch.equal(img, reference[res][1]) == (res < first_img)


@pytest.mark.parametrize("group", [None, 1, 2, 4, 8])
@pytest.mark.parametrize("features", [1, 2])
def test_minibatch_std(group, features):
    x = torch.randn(8, 4, 3, 3, dtype=torch.float64)
    y = MinibatchStd(group, features)(x)
    g = group or 8
    assert y.shape == (8, 4 + features, 3, 3) and torch.equal(y[:, :4], x)
    for n in range(8):
        members = x[n % (8 // g) :: 8 // g]
        std = (members.var(0, unbiased=False) + 1e-8).sqrt().reshape(features, -1).mean(1)
        torch.testing.assert_close(y[n, 4:], std[:, None, None].expand(features, 3, 3))


def test_minibatch_std_says_what_to_change():
    with pytest.raises(ValueError, match="6 samples cannot be split into groups of 4"):
        make_d()(torch.zeros(6, 3, 16, 16), labels(6))
    assert make_d()(torch.zeros(3, 3, 16, 16), labels(3)).shape == (3, 1)


@pytest.mark.parametrize("freeze, frozen", [(0, 0), (1, 1), (3, 3), (5, 5), (99, 10)])
def test_freeze_d(freeze, frozen):
    D = make_d(res=32, block_kwargs=dict(freeze_layers=freeze))
    layers = [f"b32.{n}" for n in ("fromrgb", "conv0", "conv1", "skip")] + [
        f"b{r}.{n}" for r in (16, 8) for n in ("conv0", "conv1", "skip")]
    trainable = dict(D.named_parameters())
    assert [f"{n}.weight" in trainable for n in layers] == [i >= frozen for i in range(10)]
    assert sorted(D.state_dict()) == sorted(make_d(res=32).state_dict())
    D.load_state_dict(make_d(res=32).state_dict(), strict=True)
    D(torch.zeros(2, 3, 32, 32), labels(2)).sum().backward()


def test_half_precision_blocks():
    """Which blocks are 16-bit; 'auto' means float32 on the CPU; the image stays float32; force_fp32 wins."""
    assert [stylegan2.first_fp16_resolution(sizes.ImageSize.of(res).levels, n) for res, n in (
        (32, 4), (256, 4), (1024, 4), (32, 0), (28, 4), (28, 1), (28, 0), ((48, 32), 2))] == [
            8, 32, 128, 64, 14, 28, 56, 24]
    z, c = torch.randn(4, 6), labels(4)
    full = make_g(num_fp16_res=2, conv_clamp=256)
    reference = full(z, c, noise_mode="const")
    assert all(x.dtype == torch.float32 for _, x, _ in full.synthesis.run_blocks(full.mapping(z, c)))
    d_full = make_d(num_fp16_res=2, conv_clamp=256)
    logits = d_full(reference, c)
    for dtype, tolerance in (("float16", 1e-2), ("bfloat16", 8e-2)):
        for nhwc in (False, True):
            half = make_g(num_fp16_res=2, conv_clamp=256, fp16_dtype=dtype, fp16_channels_last=nhwc)
            half.load_state_dict(full.state_dict())
            seen = {res: x for res, x, _ in half.synthesis.run_blocks(half.mapping(z, c), noise_mode="const")}
            assert [str(seen[r].dtype) for r in (4, 8, 16)] == ["torch.float32", *[f"torch.{dtype}"] * 2]
            assert not nhwc or seen[16].is_contiguous(memory_format=torch.channels_last)
            img = half(z, c, noise_mode="const")
            assert img.dtype == torch.float32
            assert (img - reference).norm() <= tolerance * reference.norm()
            torch.testing.assert_close(half(z, c, noise_mode="const", force_fp32=True), reference)
            D = make_d(num_fp16_res=2, conv_clamp=256, block_kwargs=dict(fp16_dtype=dtype, fp16_channels_last=nhwc))
            out = D(reference, c)
            assert out.dtype == torch.float32 and (out - logits).norm() <= 3 * tolerance * logits.norm() + tolerance
            torch.testing.assert_close(D(reference, c, force_fp32=True), logits)
    with pytest.raises(ValueError, match="fp16_dtype"):
        make_g(num_fp16_res=2, fp16_dtype="half")(z, c)


def test_conv_clamp_bounds_activations():
    G = make_g(conv_clamp=0.5)
    for _, x, _ in G.synthesis.run_blocks(G.mapping(torch.randn(2, 6), labels(2))):
        assert x.abs().max() == 0.5
    assert make_g(conv_clamp=0.5)(torch.randn(2, 6), labels(2)).abs().max() <= 0.5 * 3 * 2


def test_gradients_do_not_depend_on_formulation():
    G = make_g().double()
    ws = torch.randn(2, 6, 7, dtype=torch.float64)
    results = []
    for formulation in (None, "activations", "weights"):
        p = ws.clone().requires_grad_(True)
        img = G.synthesis(p, noise_mode="const", formulation=formulation)
        (g,) = torch.autograd.grad((img * torch.linspace(-1, 1, 16, dtype=torch.float64)).sum(), p, create_graph=True)
        second = torch.autograd.grad(g.square().sum(), list(G.synthesis.parameters()), allow_unused=True)
        results.append([img, g, *(s for s in second if s is not None)])
    for other in results[1:]:
        for a, b in zip(results[0], other):
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize("layer_class", [stylegan2.SynthesisLayer, hypermod.HyperLayer])
def test_a_layer_ends_in_one_operator(layer_class, up):
    """Demodulation coefficients, a convolution, then one compiled operator for all that follows, the blur included."""
    if build.implementation("cpu") != "native":
        pytest.skip("no compiled kernels")
    layer, seen = layer_class(5, 3, 4, 8 * up, up=up), []
    one = hypermod.Classes(torch.randn(1, 64), torch.zeros(2, dtype=torch.long), "classes").sorted()[0]
    kw = dict(classes=one) if layer_class is hypermod.HyperLayer else {}

    class Note(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func.name())
            return func(*args, **(kwargs or {}))

    with torch.no_grad(), Note():
        layer(torch.randn(2, 5, 8, 8), torch.randn(2, 4), **kw)
    own = [name for name in seen if name.startswith("gantransfer::")]
    assert own == ["gantransfer::weight_sq", "gantransfer::" + ("epilogue", "blur_epilogue")[up - 1]]


def test_rebuilt_from_its_arguments():
    from dnnlib.util import EasyDict
    G = Generator(z_dim=6, c_dim=0, w_dim=7, img_resolution=8, img_channels=1, mapping_kwargs=EasyDict(num_layers=3),
                  synthesis_kwargs=EasyDict(SMALL, resample_filter=(1, 2, 1)))
    D = Discriminator(c_dim=2, img_resolution=8, img_channels=1, epilogue_kwargs=EasyDict(mbstd_group_size=2), **SMALL)
    for net in (G, D):
        kwargs = json.loads(json.dumps(net.init_kwargs))
        assert kwargs == net.init_kwargs
        again = type(net)(**kwargs)
        again.load_state_dict(net.state_dict(), strict=True)
    assert G.synthesis.b8.conv0.resample_filter.shape == (3, 3)


def test_mapping_learning_rate_multiplier():
    G = Generator(z_dim=6, c_dim=0, w_dim=7, img_resolution=4, img_channels=1, synthesis_kwargs=SMALL,
                  mapping_kwargs=dict(lr_multiplier=0.1, num_layers=2, layer_features=5, w_avg_beta=0.9))
    assert G.mapping.fc0.weight.shape == (5, 6) and G.mapping.fc0.bias_gain == 0.1
    z = torch.randn(4, 6)
    G.train()(z, None)
    torch.testing.assert_close(G.mapping.w_avg, 0.1 * G.eval().mapping(z, None)[:, 0].mean(0))


def test_mistakes_are_explained():
    for res in (2, 22, 0, (64, 32), 200):
        with pytest.raises(ValueError, match="power of two"):
            make_g(res=res)
    with pytest.raises(ValueError, match="8 pixels"):
        make_d(res=4)
    with pytest.raises(ValueError, match="architecture"):
        make_g(architecture="dense")
    with pytest.raises(ValueError, match="architecture"):
        make_d(architecture="dense")
    G = make_g()
    with pytest.raises(ValueError, match=r"z \[N, 6\]"):
        G(torch.randn(2, 5), labels(2))
    with pytest.raises(ValueError, match=r"c \[N, 3\]"):
        G(torch.randn(2, 6), None)
    with pytest.raises(ValueError, match="ws"):
        G.synthesis(torch.randn(2, 5, 7))


def test_empty_batch():
    G, D = make_g(), make_d()
    img = G(torch.zeros(0, 6), torch.zeros(0, 3))
    assert img.shape == (0, 3, 16, 16) and D(img, torch.zeros(0, 3)).shape == (0, 1)


def test_a_generators_own_filter_is_for_what_resamples():
    for kind in (stylegan2.Generator, utlo.Generator):
        G = kind(z_dim=4, c_dim=0, w_dim=4, img_resolution=8, img_channels=1,
                 synthesis_kwargs=dict(channel_base=32, channel_max=4, resample_filter=[1, 2, 1]))
        own, standard = upfirdn2d.setup_filter([1, 2, 1]), upfirdn2d.setup_filter([1, 3, 3, 1])
        state = {k: v for k, v in G.state_dict().items() if k.endswith("resample_filter")}
        for key, value in state.items():
            assert torch.equal(value, standard if ".conv1." in key else own), key
        assert len(state) == 5  # of two blocks, and of their layers


def test_a_frozen_layers_filter_comes_before_its_weights():
    D = stylegan2.Discriminator(c_dim=0, img_resolution=8, img_channels=1, channel_base=32, channel_max=4,
                                block_kwargs=dict(freeze_layers=2))
    names = [k for k, _ in D.named_buffers() if k.startswith("b8.")]
    assert names == [f"b8.{k}" for k in (
        "resample_filter", "fromrgb.resample_filter", "fromrgb.weight", "fromrgb.bias", "conv0.resample_filter",
        "conv0.weight", "conv0.bias", "conv1.resample_filter", "skip.resample_filter")]
