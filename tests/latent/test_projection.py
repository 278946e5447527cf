# SPDX-License-Identifier: Apache-2.0
"""Projection: the schedule, the noise term, what moves, and that an image of the network's own is found again."""

from pathlib import Path

import numpy as np
import pytest
import torch

import gantransfer
from dnnlib.util import UserError
from gantransfer.data.dataset import DataSpec, LabelSpec
from gantransfer.latent import nearness, projection
from gantransfer.latent.projection import Procedure
from gantransfer.methods.stylegan2 import StyleGAN2
from gantransfer.methods.utlo import UTLO
from gantransfer.networks import stylegan2, utlo
from gantransfer.sampler import Sampler, one_hot
from torch_utils.pixels import to_uint8

CLASSES = DataSpec("set", 16, 1, 100, LabelSpec("class", 3, (50, 40, 10)))
KW = dict(mapping_kwargs=dict(num_layers=2), synthesis_kwargs=dict(channel_base=64, channel_max=8, num_fp16_res=0))
QUICK = dict(steps=150, samples=200)


def sampler_of(method=StyleGAN2, module=stylegan2, **kw):
    torch.manual_seed(0)
    G = module.Generator(16, 3, 16, 16, 1, **KW, **kw).eval().requires_grad_(False)
    for m in G.modules():
        if hasattr(m, "noise_strength"):
            m.noise_strength.fill_(0.1)
    return method.sampler_of(G, CLASSES, "cpu")


def made(sampler, seed=3, label=1):
    return sampler([seed], one_hot([label], 3), noise_mode="const")[0].numpy()


def test_learning_rate_rises_over_a_twentieth_and_falls_over_the_last_quarter():
    p = Procedure()
    rates = [projection.learning_rate(s, p) for s in (0, 0.025, 0.05, 0.5, 0.75, 0.875, 1)]
    assert rates == pytest.approx([0, 0.05, 0.1, 0.1, 0.1, 0.05, 0])


def test_the_noise_term_is_the_squared_correlation_of_neighbours_at_every_scale():
    n = torch.randn(16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    want = 0
    for x in (n.numpy(), n.numpy().reshape(8, 2, 8, 2).mean((1, 3))):
        want += (x * np.roll(x, 1, 1)).mean() ** 2 + (x * np.roll(x, 1, 0)).mean() ** 2
    assert float(projection.signal_in([n, n])) == pytest.approx(2 * want)
    assert float(projection.signal_in([torch.ones(8, 8)])) == 2


def test_an_image_of_the_networks_own_is_found_again():
    """By a trained network: the digits that are installed."""
    s = gantransfer.load(Path(gantransfer.__file__).parent / "assets" / "digits16.pkl").sampler()
    c = one_hot([3], 10)
    image = s([5], c, noise_mode="const")[0].numpy()
    mean = projection.Latents(s, c, Procedure()).expand(projection.Latents(s, c, Procedure()).mean)
    first = to_uint8(s.render(mean, noise_mode="const", rng=None))
    before = float((first[0].float() - torch.from_numpy(image)).square().mean().sqrt())
    found = projection.project(s, image, c, nearness.pixels, Procedure(**QUICK))
    assert found.rms < 0.2 * before and found.latent.shape == (s.network.num_ws, 64)
    again = projection.project(s, image, c, nearness.pixels, Procedure(**QUICK))
    assert np.array_equal(found.latent, again.latent) and found.distance == again.distance
    plus = projection.project(s, image, c, nearness.pixels, Procedure(**QUICK, plus=True))
    assert np.abs(np.diff(found.latent, axis=0)).max() == 0 < np.abs(np.diff(plus.latent, axis=0)).max()


def test_noise_maps_are_put_back_and_stay_noise():
    s = sampler_of()
    own = {k: m.noise_const.clone() for k, (m, _) in projection.noise_maps(s).items()}
    found = projection.project(s, made(s), one_hot([1], 3), nearness.pixels, Procedure(**{**QUICK, "steps": 10}))
    assert own and set(found.noise) == set(own)
    for k, (m, _) in projection.noise_maps(s).items():
        assert torch.equal(m.noise_const, own[k]) and not np.allclose(found.noise[k], own[k])
        assert found.noise[k].mean() == pytest.approx(0, abs=1e-5)
        assert np.square(found.noise[k]).mean() == pytest.approx(1, abs=1e-4)
    fixed = projection.project(s, made(s), one_hot([1], 3), nearness.pixels,
                               Procedure(**{**QUICK, "steps": 2}, noise=False))
    assert fixed.noise == {}


def test_layers_move_together_that_have_one_w_in_common():
    """UTLO's low layers have a w that knows no label; what the label alone decides stays where it is."""
    s = sampler_of(UTLO, utlo, res_uc=8)
    latents = projection.Latents(s, one_hot([1], 3), Procedure(samples=50))
    ws = s.styles(torch.randn(4, 16), one_hot([1] * 4, 3))
    same = [[bool(torch.equal(ws[:, i], ws[:, j])) for j in range(ws.shape[1])] for i in range(ws.shape[1])]
    assert same == [[a == b for b in latents.group] for a in latents.group] and len(set(latents.group)) == 2
    wide = Sampler(s.synthesise, 16, CLASSES, network=s.network, render=s.render,
                   styles=lambda z, c, **kw: torch.cat([s.styles(z, c), c[:, None].expand(-1, ws.shape[1], -1)], 2))
    moves = projection.Latents(wide, one_hot([1], 3), Procedure(samples=50)).moves
    assert moves[:, :16].all() and not moves[:, 16:].any()


def test_the_class_is_the_one_that_comes_nearest():
    s = sampler_of()
    tried = {}
    k = projection.likely_class(s, made(s, label=2), torch.eye(3), nearness.pixels, Procedure(samples=200, steps=300),
                                tried.__setitem__)
    assert k == 2 and min(tried, key=tried.get) == 2 and len(tried) == 3


def test_files(tmp_path):
    s, c = sampler_of(), one_hot([1], 3)
    found = projection.project(s, made(s), c, nearness.pixels, Procedure(steps=2, samples=20))
    projection.save(tmp_path / "w.npz", found, c)
    ws, label, maps = projection.load(str(tmp_path / "w.npz"), s)
    assert np.array_equal(ws[0], found.latent) and torch.equal(label, c)
    assert all(np.array_equal(maps[k], v) for k, v in found.noise.items())
    np.savez(tmp_path / "published.npz", w=found.latent[None])
    assert projection.load(str(tmp_path / "published.npz"), s)[1].tolist() == [[0, 0, 0]]
    np.savez(tmp_path / "other.npz", w=found.latent[None, :, :5])
    np.savez(tmp_path / "nan.npz", w=found.latent[None] * np.nan)
    np.savez(tmp_path / "object.npz", w=np.array([{}], object))
    (tmp_path / "text.npz").write_text("no")
    for name, says in dict(other="of another network", nan="finite", object="is not an", text="is not an",
                           missing="is not an").items():
        with pytest.raises(UserError, match=says):
            projection.load(str(tmp_path / f"{name}.npz"), s)
    strange = {"x.noise_const": torch.ones(4, 4)}
    with pytest.raises(UserError, match="another network"), projection.with_noise(s, strange):
        pass
