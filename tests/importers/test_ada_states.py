# SPDX-License-Identifier: Apache-2.0
"""State dicts without arguments: sizes are found, and what they do not say is refused."""

import pytest
import torch

from dnnlib.util import UserError
from gantransfer.importers import load_any
from gantransfer.networks import stylegan2
from tests.importers.pickles import (
    SMALL_D,
    SMALL_G,
    agrees,
    drawn,
    small_networks,
)


@pytest.mark.parametrize("method, c_dim", [("stylegan2", 3), ("stylegan2", 0), ("transitional", 3)])
def test_state_dicts(tmp_path, method, c_dim):
    g, d = dict(SMALL_G, c_dim=c_dim), dict(SMALL_D, c_dim=c_dim)
    module = __import__(f"gantransfer.networks.{method}", fromlist=["Generator"])
    G, D = drawn(module.Generator(**g)), drawn(module.Discriminator(**d), 2)
    states = dict(G=G.state_dict(), D=D.state_dict(), G_ema=G.state_dict(), cur_nimg=5)
    for content in (G.state_dict(), states, dict(state_dict=G.state_dict()),
                    {f"module.{k}": v for k, v in G.state_dict().items()}):
        torch.save(content, tmp_path / "x.pt")
        snap = load_any(tmp_path / "x.pt")
        assert snap.method == method
        agrees(snap, G)
        assumed = snap.extra["assumed"]
        assert assumed["lr_multiplier of the mapping"] == 0.01 and assumed["conv_clamp of the generator"] == 256
    torch.save(states, tmp_path / "x.pt")
    built, x = load_any(tmp_path / "x.pt").build("D"), torch.randn(2, 3, 16, 16)
    c = torch.eye(3)[[0, 1]][:, :c_dim]
    torch.testing.assert_close(built(x, c), D.eval()(x, c))


@pytest.mark.parametrize("changed", [
    dict(synthesis_kwargs=dict(channel_base=64, channel_max=6, architecture="resnet")),
    dict(synthesis_kwargs=dict(channel_base=128, channel_max=9, resample_filter=[1, 2, 1])),
    dict(mapping_kwargs=dict(num_layers=3, layer_features=5, embed_features=4)), dict(img_channels=1),
    dict(img_resolution=4), dict(img_resolution=32)], ids=str)
def test_sizes_of_a_state_dict_are_found(tmp_path, changed):
    G = drawn(stylegan2.Generator(**{**SMALL_G, **changed}))
    torch.save(G.state_dict(), tmp_path / "x.pt")
    agrees(load_any(tmp_path / "x.pt"), G)


def test_a_state_dict_that_does_not_say_enough_is_refused(tmp_path):
    _, D = small_networks("utlo", dict(res_uc=8), dict(res_uc=8))
    torch.save(D.state_dict(), tmp_path / "x.pt")
    with pytest.raises(UserError, match="res_uc"):
        load_any(tmp_path / "x.pt")
    torch.save(small_networks("stylegan2")[1].state_dict(), tmp_path / "x.pt")
    with pytest.raises(UserError, match="discriminator alone"):
        load_any(tmp_path / "x.pt")
