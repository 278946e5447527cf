# SPDX-License-Identifier: Apache-2.0
"""Path length on a linear generator, where the exact value is known, and on the real network."""

import dataclasses
import inspect

import numpy as np
import pytest
import torch

from dnnlib.util import UserError
from gantransfer.data.dataset import ImageDataset
from gantransfer.detectors import features
from gantransfer.metrics import path_length, ppl, table
from gantransfer.networks.stylegan2 import Generator
from gantransfer.sampler import Sampler
from tests.conftest import write_image_zip

perceptual = features.Perceptual(lambda x: x.flatten(1) / 127.5, "ab")


class Linear:
    """w = z for two layers, image = A w: the distance of a pair is |A (w1 - w0)|^2 over the linear path."""

    def __init__(self):
        self.A = torch.randn(3 * 16 * 16, 8, generator=torch.Generator().manual_seed(0)) * 1e-2

    def mapping(self, z, c):
        return z[:, None].repeat(1, 2, 1)

    def synthesis(self, ws, noise_mode, rng, force_fp32):
        assert force_fp32 and len(rng.generators) == len(ws)
        return (ws.mean(1).double() @ self.A.double().T).reshape(-1, 3, 16, 16)

    def __call__(self, z, c, rng=None):
        return self.synthesis(self.mapping(z, c), "random", rng, True).float()


@pytest.fixture
def context(reference, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "load_lpips", lambda device, overrides: perceptual)

    def make(net, **kw):
        spec = dataclasses.replace(reference.spec, channels=3, label=type(reference.spec.label)("none", 0))
        sampler = Sampler(net, kw.pop("z_dim", 8), spec, network=None if inspect.isfunction(net) else net)
        return table.MetricContext(sampler=sampler, reference=reference, cache_dir=tmp_path / "c", **kw)

    return make


def test_lerp_on_a_linear_generator(context, monkeypatch):
    """A path through a linear map has the same length everywhere: |A (w1 - w0)|^2 for every t."""
    net = Linear()
    monkeypatch.setattr(ppl, "EPSILON", 1e-2)
    values, plain = {}, []
    monkeypatch.setattr(ppl, "trimmed_mean", lambda d: plain.append(np.array(d)) or float(d.mean()))
    for sampling in ("end", "full"):
        values[sampling] = path_length.path_length(context(net), 40, "w", sampling, crop=False)
    draws = [path_length.step_generator(s, 0x9A7) for s in range(40)]
    z = torch.stack([torch.randn(2, 8, generator=g) for g in draws]).double()
    expected = ((z[:, 1] - z[:, 0]) @ net.A.double().T).square().sum(1).numpy()
    assert np.allclose(plain[0], expected, rtol=2e-3)
    assert np.allclose(plain[1], expected, rtol=2e-3)
    assert values["end"] == pytest.approx(expected.mean(), rel=1e-3)


def test_slerp_moves_on_the_sphere(context, monkeypatch):
    net = Linear()
    net.A = torch.eye(768, 8)
    monkeypatch.setattr(ppl, "EPSILON", 1e-2)
    monkeypatch.setattr(ppl, "trimmed_mean", lambda d: np.sort(np.array(d)))
    got = path_length.path_length(context(net), 40, "z", "full", crop=False)
    draws = [path_length.step_generator(s, 0x9A7) for s in range(40)]
    z = torch.nn.functional.normalize(torch.stack([torch.randn(2, 8, generator=g) for g in draws]), dim=-1)
    angle = torch.acos((z[:, 0] * z[:, 1]).sum(-1))  # speed of slerp is the angle
    assert np.allclose(got, np.sort(angle.numpy() ** 2), rtol=2e-2)


def test_batch_size_changes_nothing(context):
    a, b = (table.compute("ppl2_wend_30", context(Linear(), batch=n))["results"]["ppl2_wend_30"] for n in (7, 64))
    assert a == pytest.approx(b, rel=1e-4)


@pytest.mark.parametrize("name", ["ppl2_wend_6", "ppl_wfull_6", "ppl_zend_6", "ppl_zfull_6"])
def test_real_network(context, name):
    torch.manual_seed(0)
    net = Generator(z_dim=8, c_dim=0, w_dim=8, img_resolution=16, img_channels=3,
                    synthesis_kwargs=dict(channel_base=64, channel_max=8)).eval()
    line = table.compute(name, context(net))
    assert line["results"][name] > 0 and line["num_real"] is None and line["detector"]["sha256"] == "ab"
    assert table.compute(name, context(net))["results"] == line["results"]


def test_models_without_mapping(context):
    with pytest.raises(UserError, match="style-based"):
        table.compute("ppl2_wend_6", context(lambda z, c, rng=None: z))


def test_images_have_no_path(reference, tmp_path):
    ctx = table.MetricContext(sampler=None, generated=reference, reference=reference, cache_dir=tmp_path)
    with pytest.raises(UserError, match="needs a model"):
        table.compute("ppl2_wend_6", ctx)


def test_lpips_diversity(context, make_context, reference, digits, tmp_path):
    """Zero for a collapsed class, positive for a varied one; pairs stay within a class."""
    images, labels = digits
    collapsed = images.copy()
    collapsed[labels == 2] = images[labels == 2][0]
    rgb = [np.repeat(x[..., None], 3, 2) for x in collapsed]
    data = ImageDataset(write_image_zip(tmp_path / "g.zip", rgb, labels.tolist()), use_labels=True)
    ctx = table.MetricContext(sampler=None, generated=data, reference=data, cache_dir=tmp_path / "c")
    line = table.compute("lpips_diversity_5", ctx)
    values = line["per_class"]["values"]
    assert values[2] == 0 and min(values[:2]) > 0
    assert line["results"]["lpips_diversity_5"] == pytest.approx(np.mean(values))
    own = table.compute("lpips_diversity_20", make_context())
    assert len(own["per_class"]["values"]) == 4 and min(own["per_class"]["values"]) > 0


def test_paths_between_classes_share_latent_and_noise(context, reference, monkeypatch):
    """On a linear generator whose styles carry the class: |A (w1 - w0)|^2, whatever the latent and the noise."""
    class Labelled(Linear):
        def mapping(self, z, c):
            return (torch.cat([z, c], 1)[:, None]).repeat(1, 2, 1)

        def synthesis(self, ws, noise_mode, rng, force_fp32):
            noise = torch.stack([torch.randn(3, 16, 16, generator=g) for g in rng.generators])
            return (ws.mean(1).double() @ self.A.double().T).reshape(-1, 3, 16, 16) + noise

    net = Labelled()
    net.A = torch.randn(768, 8 + 4, generator=torch.Generator().manual_seed(0)) * 1e-2
    monkeypatch.setattr(ppl, "EPSILON", 1e-2)
    monkeypatch.setattr(ppl, "trimmed_mean", lambda d: float(np.mean(d)))
    ctx = context(net)
    ctx.sampler.spec = dataclasses.replace(reference.spec, channels=3)
    ctx.sampler.label_dim = 4
    result = table.compute("ppl_class_48", ctx)
    columns = net.A[:, 8:].double()
    steps = [[float((columns[:, j] - columns[:, i]).square().sum()) for j in range(4) if j != i] for i in range(4)]
    for k, value in zip(result["per_class"]["ids"], result["per_class"]["values"]):
        assert min(steps[k]) * 0.99 <= value <= max(steps[k]) * 1.01
    assert result["results"]["ppl_class_48"] == pytest.approx(np.mean(result["per_class"]["values"]))
    assert result["labels"] == "uniform"
