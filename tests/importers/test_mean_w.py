# SPDX-License-Identifier: Apache-2.0
"""A mean latent that is no number is measured anew."""

import warnings

import pytest
import torch

from gantransfer.importers import load_any
from tests.importers.pickles import (
    SMALL_D,
    SMALL_G,
    Persistent,
    image,
    small_networks,
    write,
)


@pytest.mark.parametrize("method", ["stylegan2", "utlo", "transitional"])
def test_a_mean_latent_that_is_not_a_number_is_measured_anew(tmp_path, persistence, method):
    G, D = small_networks(method)
    for name in ("w_avg", "w_avg_uc"):
        if hasattr(G.mapping, name):
            getattr(G.mapping, name).fill_(float("nan"))
    g, d = Persistent(persistence, G, "Generator", SMALL_G, **(dict(res_uc=8) if method == "utlo" else {})), Persistent(
        persistence, D, "Discriminator", SMALL_D)
    path = write(tmp_path / "x.pkl", persistence, dict(G=g, D=d, G_ema=g))
    with pytest.warns(UserWarning, match="x.pkl: its mean latent is not a number .*w_avg.* measured anew"):
        snap = load_any(path)
    net = snap.build("G_ema")
    z = torch.randn(30_000, 8)
    ws = net.mapping(z, torch.eye(3)[torch.arange(30_000) % 3]).mean(0)
    spread = net.mapping(z, torch.eye(3)[torch.arange(30_000) % 3]).std(0).max()
    assert (net.mapping.w_avg - ws[-1]).abs().max() < 0.1 * spread
    if method == "utlo":
        assert (net.mapping.w_avg_uc - ws[0]).abs().max() < 0.1 * spread
    assert torch.isfinite(image(net, 0.5)).all() and torch.equal(image(net), image(G.eval()))
    rows = snap.extra["networks"]["G"]["account"]
    assert any(r[0] == "mapping.w_avg" and "not finite" in r[1] for r in rows["initialised"])
    assert "mapping.w_avg" not in rows["copied"]
    snap.save(tmp_path / "ours.pkl")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is said once, and is whole from then on
        assert torch.equal(load_any(tmp_path / "ours.pkl").nets["G"].state["mapping.w_avg"],
                           snap.nets["G"].state["mapping.w_avg"])
