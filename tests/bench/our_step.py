# SPDX-License-Identifier: Apache-2.0
"""Our side of `against_original`: the very method, stepper and sampler that the commands use. See original_step."""

import copy
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from gantransfer import training_loop  # noqa: E402
from gantransfer.data.dataset import DataSpec, LabelSpec  # noqa: E402
from gantransfer.method import RunConfig  # noqa: E402
from gantransfer.methods import METHODS  # noqa: E402
from gantransfer.sampler import one_hot  # noqa: E402
from tests.bench.original_step import serve  # noqa: E402
from torch_utils import heap  # noqa: E402


class Ours:
    """A method as `train` makes it, its stepper split by phases, and a sampler of its average."""

    def __init__(self, weights: str, resolution: int, batch: int, classes: int, widths: dict, dim: int,
                 res_uc: int | None, precision: str):
        heap.keep_freed()  # as the commands do
        torch.manual_seed(0)
        kind = METHODS["stylegan2" if res_uc is None else "utlo"]
        more = {} if res_uc is None else dict(res_uc=res_uc)
        opts = kind.Options(cfg="stylegan2", gamma=1.0, aug="noaug", precision=precision, cbase=widths["channel_base"],
                            cmax=widths["channel_max"], z_dim=dim, w_dim=dim, map_depth=2, mbstd_group=4, glr=0.0025,
                            dlr=0.0025, **more)
        label = LabelSpec("class", classes, (100,) * classes) if classes else LabelSpec()
        data, run = DataSpec("bench", resolution, 3, 1000, label), RunConfig(batch=batch, batch_gpu=batch)
        kind.resolve(opts, run, data)
        self.method = kind(opts, data, run)
        torch.save({k: self.method.nets[k].state_dict() for k in ("G", "D")}, weights)
        whole = training_loop.Stepper(self.method, run)
        self.steppers = {}
        for k, phase in enumerate(whole.phases):
            one = copy.copy(whole)
            one.phases, one.grads, one.graphs = [phase], [whole.grads[k]], [None]
            one.timer = training_loop._Timer(self.method.device, 1)
            self.steppers[phase.name] = one
        self.batch, self.classes, self.shape, self.count = batch, classes, (3, resolution, resolution), 0
        self.sampler = None

    def labels(self, n: int, rng: torch.Generator | None = None) -> torch.Tensor:
        return one_hot([k % self.classes for k in range(n)], self.classes) if self.classes else torch.zeros(n, 0)

    def phase(self, name: str) -> None:
        def fetch(rep, m):
            return torch.rand(self.batch, *self.shape) * 2 - 1, self.labels(self.batch)

        self.count += 1
        self.steppers[name].step(0, self.count * self.batch, fetch, self.labels)
        self.method.commit()

    def ema(self) -> None:
        self.method.update_ema(self.count * self.batch, self.batch)

    def images(self, n: int, seed: int) -> torch.Tensor:
        if self.sampler is None:
            self.sampler = type(self.method).sampler_from(self.method.snapshot(0))
        return self.sampler([seed + k for k in range(n)], self.labels(n), noise_mode="const")


if __name__ == "__main__":
    serve(Ours)
