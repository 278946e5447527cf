# SPDX-License-Identifier: Apache-2.0
"""How long Mind2Mind's original run takes here: `python -m tests.bench.bench_mind`.

300 epochs of 29 000 latents of 512 numbers at batch 128, five critic steps each: 67 968 full iterations. Some of them
are run through the loop's own Stepper and data order, with the published network sizes; the rest is multiplied.
"""

from __future__ import annotations

import time

import click
import numpy as np
import torch

from gantransfer.data.dataset import BatchSource, DataSpec
from gantransfer.latent.cache import LatentSet
from gantransfer.method import RunConfig, Start
from gantransfer.methods import METHODS
from gantransfer.networks import alae
from gantransfer.snapshot import NetRecord, Snapshot
from gantransfer.training_loop import Stepper

LATENTS, SIZE, EPOCHS = 29_000, 512, 300


class _Unlabelled:
    """What LatentSet asks of a data set, for latents without images."""

    class_ids, label_dim = None, 0

    def __init__(self, spec: DataSpec):
        self.spec = spec

    def labels(self, items: np.ndarray) -> np.ndarray:
        return np.zeros([len(items), 0], np.float32)


@click.command()
@click.option("--preset", type=click.Choice(["paper", "default"]), default="paper", show_default=True)
@click.option("--iterations", type=click.IntRange(min=10), default=200, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
def main(preset: str, iterations: int, threads: int) -> None:
    """Time a stretch of the original-length run and extrapolate."""
    torch.set_num_threads(threads)
    nets = {"E": alae.Encoder(SIZE, [1] * 10, 1), "G": alae.Generator(SIZE, [1] * 9, 1)}
    source = Snapshot("alae", {k: NetRecord.of(v) for k, v in nets.items()})
    data, kind = DataSpec("latents", 1024, 1, LATENTS), METHODS["mind2mind"]
    opts, run = kind.Options(mind_preset=preset, latent_aug="none", mind_heldout=0.0), RunConfig(batch=128)
    kind.resolve(opts, run, data)
    m = kind(opts, data, run, Start(source))
    codes = torch.randn(LATENTS, SIZE, generator=torch.Generator().manual_seed(0)) * 0.15 + 0.3
    reals = LatentSet(_Unlabelled(data), np.arange(LATENTS), codes)
    order, stepper = BatchSource(reals, 0), Stepper(m, run)

    def step(i: int) -> None:
        def fetch(rep: int, k: int) -> tuple[torch.Tensor, torch.Tensor]:
            rows = order.indices((i * stepper.repeat + rep) * run.batch, run.batch)
            return reals.read(rows), torch.from_numpy(reals.labels(rows))

        stepper.step(i, i * run.batch, fetch, lambda n, g: torch.zeros(n, 0))
        m.end_step(i * run.batch, run.batch)

    for i in range(10):
        step(i)
    wall, cpu = time.perf_counter(), time.process_time()
    for i in range(10, 10 + iterations):
        step(i)
    wall, cpu = ((b - a) / iterations for a, b in ((wall, time.perf_counter()), (cpu, time.process_time())))
    total = EPOCHS * LATENTS // run.batch
    print(f"{preset}, {threads} thread(s): {wall * 1000:.1f} ms per iteration ({cpu * 1000:.1f} ms of CPU time); "
          f"{total} iterations: {wall * total / 3600:.2f} h ({cpu * total / 3600:.2f} h of CPU time)")


if __name__ == "__main__":
    main()
