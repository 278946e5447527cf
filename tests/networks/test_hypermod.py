# SPDX-License-Identifier: Apache-2.0
"""Hyper-modulated networks: the exact start, three ways to apply kernels, gradients, baking, soft labels."""

import pytest
import torch

from gantransfer.networks import hypermod, hypermod_stylegan1, stylegan1, stylegan2
from torch_utils.random import SeedStack

SIZES = dict(mapping_kwargs={"num_layers": 2}, synthesis_kwargs={"channel_base": 128, "channel_max": 8})
C = 3


def base(**kw):
    torch.manual_seed(0)
    G = stylegan2.Generator(8, 0, 8, 16, 3, **{**SIZES, **kw}).eval()
    for name, p in G.named_parameters():
        if name.endswith(("noise_strength", ".bias")):
            p.data += 0.3 * torch.randn_like(p)
    return G.requires_grad_(False)


def hyper(G=None, random=False, **kw):
    torch.manual_seed(1)
    G = G or base()
    H = hypermod.Generator(8, C, 8, 16, 3, **SIZES, **kw).eval()
    assert not H.load_state_dict(G.state_dict(), strict=False).unexpected_keys
    if random:
        for p in H.hyper_parameters():
            p.data.normal_(std=0.5)
    return H


def make1(**kw):
    torch.manual_seed(0)
    G = stylegan1.Generator([6, 6, 4], code_dim=8, n_mlp=2, fused_from=2)
    for name, p in G.named_parameters():
        if ".noise" in name or name.endswith(".bias"):
            p.data += 0.3 * torch.randn_like(p)
    return G.eval(), hypermod_stylegan1.convert(G, C, task_dim=4, **kw).eval()


def soft(n, seed=0):
    return torch.randn(n, C, generator=torch.Generator().manual_seed(seed)).softmax(1)


@pytest.mark.parametrize("kw", [dict(rank=1), dict(rank=4), dict(rank=0), dict(vectors="onehot")], ids=str)
@pytest.mark.parametrize("path", hypermod.PATHS)
def test_exact_start_is_the_base(kw, path):
    G = base()
    H = hyper(G, path=path, **kw)
    z, seeds = torch.randn(6, 8), SeedStack(range(6))
    with torch.no_grad():
        expected = G(z, None, rng=seeds)
        for c in (torch.eye(C)[[0, 1, 2, 1, 0, 2]], soft(6)):
            assert (H(z, c, rng=SeedStack(range(6))) - expected).abs().max() < 1e-5 * expected.abs().max()
    R = hyper(G, exact=False, **kw) if "vectors" not in kw else None
    if R is not None:
        assert (R(z, soft(6), rng=SeedStack(range(6))) - expected).abs().max() > 0.1


@pytest.mark.parametrize("labels", ["classes", "soft", "one"])
@pytest.mark.parametrize("kind", ["stylegan2", "stylegan1"])
def test_paths_agree_in_values_and_gradients(kind, labels):
    c = dict(classes=torch.eye(C)[[2, 0, 1, 0, 2]], soft=soft(5), one=torch.eye(C)[[1] * 5])[labels].double()
    H = (hyper(random=True) if kind == "stylegan2" else make1(exact=False)[1]).double()
    z, weigh = torch.randn(5, 8).double(), torch.randn(5, 3, 16, 16).double()
    results = {}
    for path in hypermod.PATHS:
        H.path = path
        H.zero_grad()
        image = H(z, c, rng=SeedStack(range(5)))
        (image * weigh).sum().backward()
        trained = [*H.hyper_parameters(), *H.class_parameters()]
        assert all(p.grad is not None for p in trained)
        results[path] = [image.detach(), *(p.grad.clone() for p in trained)]
    for path in ("auto", "grouped", "samples"):
        for a, b in zip(results["classes"], results[path]):
            assert (a - b).abs().max() <= 2e-5 * a.abs().max() + 1e-9


def test_the_automatic_path():
    """Few vectors for many samples: by classes; as many vectors as samples: one grouped convolution."""
    def chosen(vectors, samples):
        v = torch.zeros(vectors, 2)
        return hypermod.Classes(v, torch.arange(samples) % vectors).sorted()[0].path

    assert [chosen(3, 16), chosen(8, 16), chosen(16, 16), chosen(1, 1)] == ["classes", "grouped", "grouped", "classes"]


def test_shuffling_the_batch_permutes_images():
    H = hyper(random=True)
    z, c, order = torch.randn(6, 8), torch.eye(C)[[2, 0, 1, 0, 2, 1]], torch.tensor([3, 1, 5, 0, 4, 2])
    with torch.no_grad():
        a = H(z, c, rng=SeedStack(range(6)))
        b = H(z[order], c[order], rng=SeedStack(order.tolist()))
    torch.testing.assert_close(a[order], b, rtol=1e-5, atol=1e-5)
    assert (a[0] - a[1]).abs().max() > 0.01


@pytest.mark.parametrize("up", [1, 2])
def test_gradients_of_scale_shift_and_offset(up):
    torch.manual_seed(0)
    layer = hypermod.HyperLayer(3, 2, 4, 4 * up, vector_dim=3, rank=0, up=up).double().requires_grad_(False)
    x, w = torch.randn(2, 3, 4, 4).double(), torch.randn(2, 4).double()

    def run(scale, shift, offset):
        layer.hyper.forward = lambda v: (scale, shift, offset)
        classes, _ = hypermod.Classes(torch.zeros(2, 3).double(), torch.tensor([0, 1])).sorted()
        return layer(x, w, noise_mode="const", classes=classes)

    inputs = [torch.randn(2, *s).double().requires_grad_(True) for s in ((2, 3), (2, 3), (2,))]
    assert torch.autograd.gradcheck(run, inputs, atol=1e-6)


def test_published_formulation_is_the_same():
    """gamma standardised(W) + beta with gamma = std (1 + dG), beta = mean + std dB."""
    w, scale, shift = torch.randn(4, 3, 3, 3).double(), torch.randn(2, 4, 3).double(), torch.randn(2, 4, 3).double()
    mean, std = w.mean((2, 3)), w.std((2, 3))
    gamma, beta = std * (1 + scale), mean + std * shift
    expected = gamma[..., None, None] * hypermod_stylegan1.standardise(w) + beta[..., None, None]
    torch.testing.assert_close(hypermod.modulated_kernel(w, scale, shift), expected)


def test_constant_kernels_stay_finite():
    w = torch.zeros(2, 3, 3, 3)
    w[1] = 0.7
    scale, shift = (torch.randn(1, 2, 3, requires_grad=True) for _ in range(2))
    k = hypermod.modulated_kernel(w, scale, shift)
    k.square().sum().backward()
    torch.testing.assert_close(k[0].detach(), w)
    assert scale.grad.isfinite().all() and shift.grad.isfinite().all()
    assert hypermod_stylegan1.standardise(w).isfinite().all()
    assert not hypermod_stylegan1.standardise_bias(torch.ones(4)).any()


@pytest.mark.parametrize("kw", [dict(rank=2), dict(rank=0)], ids=str)
def test_baking(kw):
    G = base()
    exact = hypermod.bake(hyper(G, **kw), soft(1))
    assert type(exact) is stylegan2.Generator
    for (name, a), b in zip(G.state_dict().items(), exact.state_dict().values()):
        assert torch.equal(a, b), name
    H = hyper(G, random=True, **kw)
    z = torch.randn(4, 8)
    for c in (torch.eye(C)[1:2], soft(1)):
        with torch.no_grad():
            a = H(z, c.expand(4, -1), rng=SeedStack(range(4)))
            b = hypermod.bake(H, c)(z, None, rng=SeedStack(range(4)))
        assert (a - b).abs().max() < 1e-5 * a.abs().max()
        assert (a - G(z, None, rng=SeedStack(range(4)))).abs().max() > 0.01


def test_half_precision_is_near_full():
    H = hyper(random=True)
    half = hypermod.Generator(8, C, 8, 16, 3, SIZES["mapping_kwargs"], dict(
        SIZES["synthesis_kwargs"], num_fp16_res=4, fp16_dtype="bfloat16"))
    half.load_state_dict(H.state_dict())
    z, c = torch.randn(4, 8), soft(4)
    with torch.no_grad():
        a = H(z, c, rng=SeedStack(range(4)))
        for path in hypermod.PATHS:
            half.path = path
            b = half(z, c, rng=SeedStack(range(4)))
            assert 0 < (a - b).abs().max() < 0.1 * a.abs().max()
            same = half(z, c, rng=SeedStack(range(4)), force_fp32=True)
            assert (a - same).abs().max() < 1e-4 * a.abs().max()


def test_float16_kernels_do_not_overflow():
    x = 100 * torch.randn(2, 4, 8, 8)
    w, s = 300 * torch.randn(2, 3, 4, 3, 3), 200 * torch.randn(2, 4)
    a = hypermod.grouped_conv2d(x, w, s, padding=1)
    b = hypermod.grouped_conv2d(x.half(), w, s, padding=1)
    assert b.isfinite().all() and (a - b.float()).abs().max() < 0.01 * a.abs().max()


def test_published_numbers_of_parameters():
    """Tables of the published architecture at 256 and 1024 pixels, and of the low ranks on StyleGAN2."""
    wide = [512, 512, 512, 512, 256, 128, 64, 32, 16]
    with torch.device("meta"):
        H = hypermod_stylegan1.Generator(wide, num_classes=2)
        low = {r: hypermod.Generator(512, 2, 512, 256, 3, synthesis_kwargs=dict(channel_base=16384), rank=r)
               for r in (1, 4)}
    everything = sum(p.numel() for m in H.convolutions().values() for p in m.parameters())
    assert everything == 272_893_920 and sum(m.W.numel() + m.b.numel() for m in H.convolutions().values()) == 18_876_640
    H.img_resolution = 256
    assert sum(p.numel() for p in H.hyper_parameters()) == 272_388_480
    for rank, millions in ((1, 1.51), (4, 5.18)):
        assert round(sum(p.numel() for p in low[rank].hyper_parameters()) / 1e6, 2) == millions


def test_tools_see_the_class_in_the_styles():
    H = hyper(random=True)
    view, z, c = hypermod.ClassInStyles(H), torch.randn(5, 8), torch.eye(C)[[0, 2, 1, 0, 2]]
    with torch.no_grad():
        ws = view.mapping(z, c)
        assert ws.shape == (5, H.num_ws, 8 + 64)
        a = view.synthesis(ws, rng=SeedStack(range(5)))
        torch.testing.assert_close(a, H(z, c, rng=SeedStack(range(5))), rtol=1e-5, atol=1e-5)
        between = view.synthesis(torch.lerp(ws[:1], ws[1:2], 0.5), rng=SeedStack([0]))
    assert between.isfinite().all() and (between - a[:1]).abs().max() > 1e-3


def test_heads_of_the_discriminator():
    torch.manual_seed(0)
    kw = dict(channel_base=128, channel_max=8, block_kwargs={}, epilogue_kwargs=dict(mbstd_group_size=2))
    D = hypermod.Discriminator(C, 16, 3, **kw)
    again = hypermod.Discriminator(**D.init_kwargs)
    again.load_state_dict(D.state_dict())
    x, c = torch.randn(4, 3, 16, 16), torch.eye(C)[[0, 1, 2, 0]]
    with torch.no_grad():
        f = D.features(x)
        each = D.b4.out(f)
        torch.testing.assert_close(D(x, c)[:, 0], each[torch.arange(4), c.argmax(1)])
        torch.testing.assert_close(D(x, c), again(x, c))
        torch.testing.assert_close(D(x, soft(4))[:, 0], (each * soft(4)).sum(1))
    assert "mapping.embed.weight" not in D.state_dict()


def test_wrong_labels_are_refused():
    H = hyper()
    for c in (torch.zeros(2, C + 1), torch.zeros(2), torch.zeros(3, C)):
        with pytest.raises(ValueError):
            H(torch.randn(2, 8), c)
    with pytest.raises(ValueError, match="path"):
        hyper(path="fast")
