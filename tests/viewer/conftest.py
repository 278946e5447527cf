# SPDX-License-Identifier: Apache-2.0
"""Small models of the kinds that differ on the page: random weights, 16 pixels."""

import functools
from collections.abc import Callable

import pytest
import torch

from gantransfer.data.dataset import DataSpec, LabelSpec
from gantransfer.methods import METHODS
from gantransfer.networks import stylegan2, utlo
from gantransfer.sampler import Sampler
from gantransfer.snapshot import NetRecord, Snapshot

LABEL = LabelSpec("class", 4, (9, 5, 2, 0), ("ash", "birch", "cedar", "oak"))


@functools.cache
def snapshot_of(kind: str) -> Snapshot:
    torch.manual_seed(3)
    sizes = dict(channel_base=128, channel_max=8)
    if kind == "utlo":
        G = utlo.Generator(8, 4, 8, 16, 1, 8, {"num_layers": 2}, sizes)
    else:
        G = stylegan2.Generator(8, 0 if kind == "uncond" else 4, 8, 16, 1, {"num_layers": 2}, sizes)
    for name, t in G.named_parameters():
        if "noise_strength" in name:
            t.data.fill_(0.3)
        if name.endswith("w_avg"):
            t.data.normal_()
    label = LabelSpec() if kind == "uncond" else LABEL
    return Snapshot("utlo" if kind == "utlo" else "stylegan2", {"G_ema": NetRecord.of(G)},
                    data=DataSpec("trees", 16, 1, 16, label).to_dict())


@pytest.fixture(scope="session")
def sampler_of() -> Callable[[str], Sampler]:
    """'classes', 'uncond' or 'utlo' to a sampler."""
    def make(kind: str) -> Sampler:
        snap = snapshot_of(kind)
        return METHODS[snap.method].sampler_from(snap)

    return functools.cache(make)
