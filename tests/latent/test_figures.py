# SPDX-License-Identifier: Apache-2.0
"""Mind2Mind's figures where they are known exactly: a linear decoder, codes that are moved copies of the real ones."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gantransfer.data.dataset import DataSpec, LabelSpec
from gantransfer.latent.figures import Figures

D, N, STRETCH, SLOPE, WRONG = 4, 512, 3.0, 2.0, 0.25


class Linear:
    """An auto-encoder of 4-pixel images: decoding is a rotation times STRETCH, encoding is off by WRONG."""

    slots, w_dim, num_ws = 1, D, 1

    def __init__(self):
        self.turn = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(3)))[0]
        self.mean = torch.full([D], 0.01)

    def decode(self, w):
        return (STRETCH * w[:, 0] @ self.turn).reshape(-1, 1, 2, 2)

    def synthesis(self, w, noise_mode):
        return self.decode(w)

    def encode(self, x):
        w = x.flatten(1) @ self.turn.t() / STRETCH
        return (w + WRONG * (w - self.mean))[:, None]

    def features(self, x):
        return x.flatten(1)


class Moved:
    """A generator of codes: the real ones, changed by `change`."""

    z_dim, dense = 2, False

    def __init__(self, real, change, mean):
        self.real, self.change, self.code_scale, self.w_avg = real, change, torch.tensor([1.0, 5.0, 2.0, 1.0]), mean

    def to_prior(self, z):
        return z

    def codes(self, z, c):
        return self.change(self.real)[: len(z)]

    def decode(self, codes):
        return codes[:, None]


def figures(change=lambda x: x, wasserstein=True):
    g = torch.Generator().manual_seed(0)
    real = torch.randn(N, D, generator=g) * torch.tensor([0.02, 0.01, 0.03, 0.02])
    ae, ids = Linear(), np.arange(N) % 2
    spec = DataSpec("x", 2, 1, N, LabelSpec("class", 2, counts=(N // 2, N // 2)))
    one_hot = np.eye(2, dtype=np.float32)[ids]
    data = SimpleNamespace(labels=lambda rows: one_hot[rows],
                           read=lambda rows: (ae.decode(real[rows][:, None]) + 1) * 127.5)
    train = type("Train", (), dict(data=data, spec=spec, labels=lambda self, rows: one_hot[rows],
                                   __len__=lambda self: N))()
    mappings = {"M": Moved(real, change, ae.mean), "copy": Moved(real, lambda x: x, ae.mean)}
    f = Figures(ae, mappings, lambda w, c: SLOPE * w[:, 0], train, real, ids, real, np.arange(N), 0,
                torch.device("cpu"), wasserstein, N)
    recon = np.stack([np.linspace(0.1, 0.3, 2 * N), np.linspace(1, 2, 2 * N)], 1)
    cache = SimpleNamespace(recon=recon, flip=np.arange(2 * N) % 2, w=real.numpy()[:, None])
    f.before(cache, np.arange(N), lambda w: w)
    return f, real, recon[::2]


def test_figures_of_the_data_and_its_auto_encoder():
    f, real, recon = figures()
    assert f.start["floor_mse"] == pytest.approx(recon[:, 0].mean())
    assert f.start["floor_feature_distance"] == pytest.approx(recon[:, 1].mean())
    assert f.start["bound_reconstruction"] == pytest.approx(np.sqrt(4 * recon[:, 0]).mean())
    assert f.start["bound_lipschitz"] == pytest.approx(STRETCH, rel=1e-3)
    for name in ("latent_fd_floor", "latent_fd_copy"):
        assert f.start[name] == pytest.approx(0, abs=1e-6)
    assert 0 < f.start["latent_fd_neighbours"] < 1
    assert torch.allclose(f.whitened(real).t() @ f.whitened(real) / N, torch.eye(D, dtype=torch.float64), atol=1e-6)


def test_copies_of_the_data():
    out = figures()[0].now()
    for name in ("latent_fd", "source_fd", "critic_gap_heldout", "bound_latent_gap", "class_mean_gap"):
        assert out[name] == pytest.approx(0, abs=1e-4), name
    assert (out["latent_precision"], out["latent_recall"]) == (1, 1)
    assert out["bypass_residual"] == pytest.approx(WRONG, rel=1e-3)


def test_a_shift_is_measured_in_deviations_of_the_data():
    shift = torch.tensor([-0.04, 0, 0, 0])  # the first coordinate deviates by 0.02
    f, real, _ = figures(lambda x: x + shift)
    out, moved = f.now(), f.whitened(real + shift) - f.whitened(real)
    away = float(moved[0].norm())
    assert away == pytest.approx(2, rel=0.1)
    assert out["latent_fd"] == pytest.approx(away**2, rel=1e-4)
    for name in ("class_mean_gap", "class_mean_gap_0", "class_mean_gap_1"):
        assert out[name] == pytest.approx(away, rel=1e-4)
    assert out["critic_gap_heldout"] == pytest.approx(SLOPE * 0.04, rel=1e-3)
    assert out["bound_latent_gap"] == pytest.approx(5 * SLOPE * 0.04, rel=1e-3)  # the largest entry of code_scale
    assert out["bound_product"] == pytest.approx(STRETCH * 5 * SLOPE * 0.04, rel=2e-3)
    assert out["bound_sum"] == pytest.approx(out["bound_product"] + out["bound_reconstruction"])
    assert out["source_fd"] == pytest.approx((STRETCH * 0.04) ** 2, rel=1e-3)  # in pixels


def test_twice_the_spread():
    out = figures(lambda x: x.mean(0) + 2 * (x - x.mean(0)))[0].now()
    assert out["latent_fd"] == pytest.approx(D, rel=1e-4)  # (2 - 1)^2 in each of D whitened coordinates
    assert out["latent_kd"] > 0.01


def test_the_largest_stretch_is_found_in_whichever_direction_it_lies():
    f, real, _ = figures()
    f.ae.decode = lambda w: (w[:, 0] * torch.tensor([1.0, 10.0, 1.0, 1.0])).reshape(-1, 1, 2, 2)
    assert f.lipschitz(real[:1], rounds=1) < 9 < 9.99 < f.lipschitz(real[:1]) < 10.01


def test_no_bound_for_losses_that_measure_no_distance():
    assert "bound_latent_gap" not in figures(wasserstein=False)[0].now()


def test_a_warning_comes_when_it_begins_and_a_verdict_when_it_changes(capsys):
    """The figures come with every snapshot."""
    figures = Figures.__new__(Figures)
    figures.said, figures.mappings = {}, {"M": None, "copies": None}
    lines = []
    for residual, fd in ((0.9, 3.0), (0.8, 2.9), (0.0, 1.0), (0.9, 0.9)):
        figures.say(dict(bypass_residual=residual, latent_fd=fd, latent_fd_copies=2.0, latent_fd_floor=0.1))
        lines.append([line.split(" ")[0] + " NOT" * ("NOT" in line) for line in capsys.readouterr().out.splitlines()])
    assert lines == [["Warning:", "latent_fd NOT"], [], ["latent_fd"], ["Warning:"]]
