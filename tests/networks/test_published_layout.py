# SPDX-License-Identifier: Apache-2.0
"""Buffers as published states have them, where an own configuration makes them differ from the usual ones."""

import torch

from gantransfer.networks import stylegan2, utlo
from torch_utils.ops import upfirdn2d


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
