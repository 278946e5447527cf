# SPDX-License-Identifier: Apache-2.0
"""UTLO's promises: the low-resolution image never depends on the label, nor its loss on label parameters; with
res_uc = 0 the networks are StyleGAN2's; weights move over by name."""

import pytest
import torch
import torch.nn.functional as F

from gantransfer.networks import stylegan2, transitional, utlo

SMALL = dict(channel_base=128, channel_max=8)


def make_g(cls=utlo.Generator, res=16, c_dim=3, z_dim=6, **kw):
    return cls(z_dim=z_dim, c_dim=c_dim, w_dim=7, img_resolution=res, img_channels=3,
               mapping_kwargs=dict(num_layers=2), synthesis_kwargs=dict(SMALL), **kw)


def make_d(cls=utlo.Discriminator, res=16, c_dim=3, **kw):
    return cls(c_dim=c_dim, img_resolution=res, img_channels=3, mapping_kwargs=dict(num_layers=2), **SMALL, **kw)


def randomize(net):
    """Give everything that starts at zero or one a value, so that every path matters."""
    with torch.no_grad():
        for name, t in [*net.named_parameters(), *net.named_buffers()]:
            if name.endswith(("bias", "noise_strength", "w_avg", "w_avg_uc")):
                t.add_(torch.randn_like(t) * 0.3)
    return net.eval()


def labels(*ids, c_dim=3):
    return F.one_hot(torch.tensor(ids), c_dim).float()


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(5)


@pytest.mark.parametrize("psi", [1, 0.6, 0])
@pytest.mark.parametrize("uc_truncation", utlo.UC_TRUNCATION)
@pytest.mark.parametrize("res_uc", [4, 8, 16])
def test_low_image_ignores_the_label(res_uc, psi, uc_truncation):
    G = randomize(make_g(res_uc=res_uc))
    z = torch.randn(4, 6)
    kw = dict(add_uc=True, noise_mode="const", truncation_psi=psi, uc_truncation=uc_truncation)
    a, b = G(z, labels(0, 1, 2, 0), **kw), G(z, labels(2, 2, 1, 1), **kw)
    assert a.image_uc.shape == (4, 3, res_uc, res_uc)
    assert torch.equal(a.image_uc, b.image_uc)
    if psi and res_uc < 16:
        assert not torch.allclose(a.image, b.image)
    if res_uc == 16:
        assert torch.equal(a.image, a.image_uc) and torch.equal(a.image, b.image)


@pytest.mark.parametrize("size, res_uc, small", [((48, 32), 12, (12, 8)), ((48, 32), 6, (6, 4)), (28, 14, (14, 14))])
def test_the_low_image_has_the_shape_of_its_level(size, res_uc, small):
    """Generated, real and judged small images have one shape; the loss reaches the discriminator's shared blocks."""
    G, D = make_g(res=size, res_uc=res_uc), make_d(res=size, res_uc=res_uc)
    made = G(torch.randn(4, 6), labels(0, 1, 2, 0), add_uc=True)
    real = D.downsample_uc(made.image)
    assert made.image_uc.shape == real.shape == (4, 3, *small)
    D.forward_uc(made.image_uc).sum().backward()
    assert [res for res in D.block_resolutions if getattr(D, f"b{res}").conv0.weight.grad is not None] == [
        res for res in D.block_resolutions if res <= res_uc]
    with pytest.raises(ValueError, match="forward_uc"):
        D.forward_uc(made.image)
    with pytest.raises(ValueError, match="res_uc"):
        make_g(res=size, res_uc=8)


def test_each_part_is_truncated_towards_its_own_mean():
    G = randomize(make_g(res_uc=8))
    k = G.mapping.num_uc_ws
    z, c = torch.randn(2, 6), labels(0, 1)
    ws = G.mapping(z, c, truncation_psi=0)
    assert torch.allclose(ws[:, :k], G.mapping.w_avg_uc.expand(2, k, -1))
    assert torch.allclose(ws[:, k:], G.mapping.w_avg.expand(2, ws.shape[1] - k, -1))
    assert torch.allclose(G.mapping(z, c, truncation_psi=0, uc_truncation="w_avg"), G.mapping.w_avg.expand_as(ws))
    full, cut = G.mapping(z, c), G.mapping(z, c, truncation_psi=0.5, truncation_cutoff=k + 1)
    half = G.mapping(z, c, truncation_psi=0.5)
    assert torch.equal(cut[:, : k + 1], half[:, : k + 1]) and torch.equal(cut[:, k + 1 :], full[:, k + 1 :])
    cut = G.mapping(z, c, truncation_psi=0.5, truncation_cutoff=1)
    assert torch.equal(cut[:, :1], half[:, :1]) and torch.equal(cut[:, 1:], full[:, 1:])


def test_running_means():
    G = make_g(res_uc=8)
    G.train()
    z, c = torch.randn(4, 6), labels(0, 1, 2, 0)
    own, free = [], []
    G.mapping(z, c, w_out=own, w_uc_out=free)
    assert not G.mapping.w_avg.any() and not G.mapping.w_avg_uc.any()
    ws = G.mapping(z, c)
    for buffer, (seen,), w in ((G.mapping.w_avg, own, ws[:, -1]), (G.mapping.w_avg_uc, free, ws[:, 0])):
        assert torch.allclose(seen, w) and torch.allclose(buffer, 0.005 * w.mean(0))
    before = G.mapping.w_avg.clone()
    G.mapping(z, c, update_w_avg=False)
    G.mapping.eval()(z, c)
    assert torch.equal(G.mapping.w_avg, before)


@pytest.mark.parametrize("res_uc", [4, 8, 16])
def test_gradients_of_the_unconditional_loss(res_uc):
    G, D = randomize(make_g(res_uc=res_uc)), randomize(make_d(res_uc=res_uc))
    images = G(torch.randn(4, 6), labels(0, 1, 2, 0), add_uc=True, noise_mode="const")
    F.softplus(-D.forward_uc(images.image_uc)).sum().backward()
    assert not any(p.grad is not None and p.grad.any() for p in G.mapping.embed.parameters())
    fc0 = G.mapping.fc0.weight.grad
    assert fc0[:, :6].any() and not fc0[:, 6:].any()
    for res in G.synthesis.block_resolutions:
        touched = any(p.grad is not None and p.grad.any() for p in getattr(G.synthesis, f"b{res}").parameters())
        assert touched == (res <= res_uc)
    assert all(p.grad is None for p in [*D.b4.out_c.parameters(), *D.mapping.parameters()])
    assert D.fromrgb_uc.fromrgb.weight.grad.any() and D.b4.out_uc.weight.grad.any()
    for res in D.block_resolutions:
        block = dict(getattr(D, f"b{res}").named_parameters())
        assert all((p.grad is not None) == (res <= res_uc) for n, p in block.items() if "fromrgb" not in n)


@pytest.mark.parametrize("c_dim", [0, 3])
def test_without_label_free_layers_it_is_stylegan2(c_dim):
    base_g, base_d = randomize(make_g(stylegan2.Generator, c_dim=c_dim)), randomize(
        make_d(stylegan2.Discriminator, c_dim=c_dim))
    G, D = make_g(c_dim=c_dim, res_uc=0), make_d(c_dim=c_dim, res_uc=0)
    G.load_state_dict(base_g.state_dict(), strict=True)
    warm = utlo.from_base_state(base_d.state_dict(), D)
    D.load_state_dict(warm.state, strict=True)
    assert warm.dropped == [] and warm.fresh == (["b4.out_uc.weight", "b4.out_uc.bias"] if c_dim else [])
    z, c = torch.randn(4, 6), labels(0, 1, 2, 0) if c_dim else None
    for kw in (dict(), dict(truncation_psi=0.5)):
        a, b = base_g(z, c, noise_mode="const", **kw), G.eval()(z, c, noise_mode="const", **kw)
        assert torch.equal(a, b)
    assert torch.equal(base_d(a, c), D.eval()(a, c))


@pytest.mark.parametrize("source_c, target_c", [(0, 3), (3, 3), (3, 0), (5, 3)])
def test_warm_start(source_c, target_c):
    base_g, base_d = randomize(make_g(stylegan2.Generator, c_dim=source_c)), randomize(
        make_d(stylegan2.Discriminator, c_dim=source_c))
    G, D = make_g(c_dim=target_c, res_uc=8).eval(), make_d(c_dim=target_c, res_uc=8).eval()
    warm_g, warm_d = utlo.from_base_state(base_g.state_dict(), G), utlo.from_base_state(base_d.state_dict(), D)
    G.load_state_dict(warm_g.state, strict=True)
    D.load_state_dict(warm_d.state, strict=True)
    for warm, net in ((warm_g, G), (warm_d, D)):
        assert set(warm.state) == set(net.state_dict())
        assert all(torch.equal(warm.state[k], net.state_dict()[k]) for k in warm.fresh)
    z = torch.randn(4, 6)
    c = labels(0, 1, 2, 0) if target_c else None
    if source_c == 0:  # every class starts as the source's images, judged by the source's critic
        a, b = base_g(z, None, noise_mode="const"), G(z, c, noise_mode="const", add_uc=True)
        assert torch.allclose(a, b.image, atol=1e-5)
        assert "mapping.embed.weight" in warm_g.fresh and "b4.out_uc.weight" not in warm_d.fresh
    elif source_c == target_c:
        # only the label-free slots differ
        assert torch.equal(base_g.mapping(z, c)[:, -1], G.mapping(z, c)[:, -1]) and warm_g.fresh == []
        assert torch.equal(base_d(torch.ones(4, 3, 16, 16), c), D(torch.ones(4, 3, 16, 16), c))
    else:  # another number of classes: a new embedding, everything else kept
        assert "mapping.embed.weight" in warm_g.dropped
        assert warm_g.fresh == (["mapping.embed.weight"] if target_c else [])
    # 8 channels at 16 px and at 8 px: the low entry starts as a copy
    assert torch.equal(D.fromrgb_uc.fromrgb.weight, base_d.b16.fromrgb.weight)


def test_authors_states_load():
    G = make_g(res_uc=8)
    state = G.state_dict()
    del state["mapping.w_avg_uc"]
    state["mapping.w_avg"].add_(1)
    G2 = make_g(res_uc=8)
    G2.load_state_dict(state, strict=True)
    assert torch.equal(G2.mapping.w_avg_uc, state["mapping.w_avg"])
    D = make_d(res_uc=0)
    state = dict(D.state_dict(), **{"fromrgb_uc.fromrgb.weight": torch.zeros(0, 3, 1, 1),
                                    "fromrgb_uc.fromrgb.bias": torch.zeros(0),
                                    "fromrgb_uc.fromrgb.resample_filter": torch.zeros(4, 4)})
    D.load_state_dict(state, strict=True)


def test_unconditional():
    G, D = randomize(make_g(c_dim=0, res_uc=8)), randomize(make_d(c_dim=0, res_uc=8))
    images = G(torch.randn(4, 6), None, add_uc=True)
    assert images.image.shape == (4, 3, 16, 16) and images.image_uc.shape == (4, 3, 8, 8)
    assert D(images.image, None).shape == D.forward_uc(images.image_uc).shape == (4, 1)
    assert not hasattr(G.mapping, "w_avg_uc") and not hasattr(D.b4, "out_c")


@pytest.mark.parametrize("architecture", ["resnet", "orig"])
@pytest.mark.parametrize("res, res_uc", [(8, 4), (8, 8), (16, 4), (16, 16), (32, 8)])
def test_every_split(res, res_uc, architecture):
    D = randomize(make_d(res=res, res_uc=res_uc, architecture=architecture))
    img = torch.randn(4, 3, res, res)
    low = D.downsample_uc(img)
    assert low.shape == (4, 3, res_uc, res_uc) and D.forward_uc(low).shape == (4, 1)
    assert res_uc < res or low is img
    if res_uc == res:  # one entry, not two: the block's own fromRGB plays no part
        before = D.forward_uc(low)
        faithful = make_d(res=res, res_uc=res_uc, architecture=architecture, faithful=True).eval()
        faithful.load_state_dict(D.state_dict())
        assert not torch.allclose(before, faithful.forward_uc(low))
        with torch.no_grad():
            getattr(D, f"b{res}").fromrgb.weight.add_(1)
        assert torch.equal(before, D.forward_uc(low))


def test_rebuilt_from_its_arguments():
    for net in (make_g(res_uc=8), make_d(res_uc=8, faithful=True), make_g(transitional.Generator),
                make_d(transitional.Discriminator)):
        again = type(net)(**net.init_kwargs)
        again.load_state_dict(net.state_dict(), strict=True)
        assert again.init_kwargs == net.init_kwargs


def test_mistakes_are_explained():
    with pytest.raises(ValueError, match=r"res_uc must be 0 or one of \[4, 8, 16\]"):
        make_g(res_uc=12)
    with pytest.raises(ValueError, match="res_uc must be"):
        make_d(res_uc=32)
    with pytest.raises(ValueError, match="skip"):
        make_d(architecture="skip")
    with pytest.raises(ValueError, match="skip"):
        utlo.SynthesisNetwork(7, 16, 3, architecture="resnet")
    with pytest.raises(ValueError, match="res_uc > 0"):
        make_g(res_uc=0)(torch.randn(1, 6), labels(0), add_uc=True)
    with pytest.raises(ValueError, match="res_uc > 0"):
        make_d(res_uc=0).forward_uc(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="images"):
        make_d(res_uc=8).forward_uc(torch.zeros(1, 3, 16, 16))
    with pytest.raises(ValueError, match="uc_truncation"):
        make_g()(torch.randn(1, 6), labels(0), truncation_psi=0.5, uc_truncation="mine")
    for cls, make in ((transitional.Generator, make_g), (transitional.Discriminator, make_d)):
        with pytest.raises(ValueError, match="labels"):
            make(cls, c_dim=0)


def test_transition_fades_the_label_in():
    G = randomize(make_g(transitional.Generator))
    z = torch.randn(3, 6)
    G.set_transition(0)
    assert torch.equal(G.mapping(z, labels(0, 1, 2)), G.mapping(z, labels(1, 1, 0)))
    G.set_transition(1)
    assert not torch.allclose(G.mapping(z, labels(0, 1, 2)), G.mapping(z, labels(1, 2, 0)))
    # z and w widths may differ: the projection has the width of what it is added to
    assert make_g(transitional.Generator, z_dim=5).mapping.proj_embedd.weight.shape == (7, 7)
    D = randomize(make_d(transitional.Discriminator))
    img = torch.randn(4, 3, 16, 16)
    a, b = D(img, labels(0, 1, 2, 0)), D(img, labels(1, 2, 0, 1))
    assert torch.equal(a.uncond, b.uncond) and not torch.allclose(a.cond, b.cond)
