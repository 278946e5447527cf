# SPDX-License-Identifier: Apache-2.0
"""What the contract promises to methods that are no ordinary GAN: items of their own, figures of their own."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from dnnlib.util import UserError
from gantransfer import method, snapshot, training_loop
from gantransfer.data.dataset import DataSpec, LabelSpec
from gantransfer.method import Phase, RunConfig


class Latents:
    """Float items on no image's scale."""

    in_memory, label_dim = True, 2

    def __init__(self, n=6):
        self.x = torch.arange(n * 3, dtype=torch.float32).reshape(n, 3) * 100
        self.class_ids = np.arange(n) % 2
        self.spec = DataSpec(name="x", resolution=16, channels=1, num_images=n, label=LabelSpec("class", 2, (3, 3)))

    def __len__(self):
        return len(self.x)

    def read(self, indices):
        return self.x[torch.as_tensor(indices)]

    def labels(self, indices):
        return np.eye(2, dtype=np.float32)[self.class_ids[indices]]


class Fit(method.Method):
    """A table of class means of the items: neither images nor a generator."""

    name, Options = "fit", method.Options

    class Net(nn.Module):
        init_kwargs: dict = {}

        def __init__(self):
            super().__init__()
            self.mean = nn.Parameter(torch.zeros(2, 3))

    def __init__(self, *args):
        super().__init__(*args)
        self.nets = {"net": Fit.Net()}
        self.seen = []

    def prepare(self, dataset):
        self.reals = Latents()
        return self.reals

    def phases(self):
        return [Phase("fit", list(self.nets["net"].parameters()), torch.optim.SGD(self.nets["net"].parameters(), 0.5))]

    def loss(self, phase, batch):
        assert batch.x.dtype == torch.float32 and len(self.reals.x) == 6  # prepared before the phases
        self.seen.append(batch.x)
        yield (batch.x - batch.c @ self.nets["net"].mean).square().sum(1)

    def evaluate(self, cur_nimg):
        return {"error": float((self.reals.x.mean(0) - self.nets["net"].mean.mean(0)).abs().max())}


def test_items_pass_the_loop_as_they_are_and_figures_are_asked_for(tmp_path):
    config = RunConfig(batch=2, batch_gpu=2, kimg=0.012, tick=0.006, snap=1)
    m = Fit(method.Options(), Latents().spec, config)
    asked = []
    out = training_loop.Outputs(tmp_path, images=False, network_ticks=1,
                                evaluate=lambda m, nimg, path: asked.append((nimg, m.evaluate(nimg), path)) or {})
    training_loop.run(m, SimpleNamespace(spec=Latents().spec), config, out)
    seen = torch.cat(m.seen)
    assert len(seen) == 12 and set(seen[:, 0].tolist()) == set(Latents().x[:, 0].tolist())
    assert [n for n, _, _ in asked] == [6, 12] and all(np.isfinite(v["error"]) for _, v, _ in asked)
    assert asked[0][1] != asked[1][1] and Path(asked[1][2]).exists()
    lines = [json.loads(x) for x in (tmp_path / "stats.jsonl").read_text().splitlines()]
    assert lines[-1]["Progress/kimg"]["mean"] == pytest.approx(0.012)


def test_equal_tensors_of_two_networks_are_stored_once(tmp_path):
    def record(seed):
        t = torch.randn(300, 300, generator=torch.Generator().manual_seed(seed))
        return snapshot.NetRecord("gantransfer.networks.x", {}, {"frozen": t, "mine": torch.full([3], float(seed))})

    one, same, other = ({"G": record(0), "G_ema": record(k)} for k in (0, 0, 1))
    del one["G_ema"]
    sizes = []
    for k, nets in enumerate((one, same, other)):
        snapshot.Snapshot("m", nets).save(tmp_path / f"{k}.pkl")
        sizes.append((tmp_path / f"{k}.pkl").stat().st_size)
        loaded = snapshot.load(tmp_path / f"{k}.pkl")
        for name, r in nets.items():
            assert all(torch.equal(loaded.nets[name].state[n], t) for n, t in r.state.items())
    assert sizes[1] - sizes[0] < 5_000 and sizes[2] - sizes[0] > 300_000


def test_where_a_run_begins(tmp_path):
    """A run that goes on copies nothing, whatever it began with, and has the networks of its state."""
    source = snapshot.Snapshot("fit", {"net": snapshot.NetRecord("x", {}, {})})
    assert (method.FRESH.continues, method.FRESH.networks, method.FRESH.weights) == (False, None, None)
    start = method.Start(source)
    assert (start.continues, start.networks, start.weights) == (False, source, source)
    start = method.Start(source, tmp_path / "training-state-000000.pt")
    assert start.continues and start.weights is None and start.source is source
    with pytest.raises(UserError):
        _ = start.networks  # of the state, which is not there, and not of the source
