# SPDX-License-Identifier: Apache-2.0
"""What training costs: multiply-adds per image, counted, and the cost at which a curve of figures reaches a bound."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dnnlib import json_file


@contextlib.contextmanager
def counted_macs() -> Iterator[list[float]]:
    """A list whose only number becomes the multiply-adds of all matrix products and convolutions in the block."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    from torch_utils import build

    total, before = [0.0], build.mode()

    class Counter(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            count = flop_registry.get(getattr(func, "overloadpacket", func))
            if count is not None:
                total[0] += count(*args, **(kwargs or {}), out_val=out) / 2
            return out

    build.configure("ref")  # convolutions inside compiled operators would not be seen
    try:
        with Counter():
            yield total
    finally:
        build.configure(before)


def macs_per_image(path: Path) -> float:
    """Multiply-adds of training per real image shown: steps are counted until lazy regularisation has come round."""
    import torch

    from gantransfer import training_loop
    from gantransfer.data.dataset import ImageDataset
    from gantransfer.method import RunConfig, Start
    from gantransfer.methods import METHODS
    from gantransfer.model import load
    from torch_utils.pixels import from_uint8

    given = json_file.read(path.parent / "training_options.json")
    snap = load(path)
    kind = METHODS[snap.method]
    data = ImageDataset(given["training_set_kwargs"]["path"], use_labels=True)
    run = RunConfig(batch=given["batch_size"], batch_gpu=given["batch_gpu"], kimg=given["total_kimg"])
    with contextlib.redirect_stdout(io.StringIO()):
        m = kind(kind.Options(**snap.options), data.spec, run, Start(snap))
        reals = m.prepare(data)
    stepper, rows = training_loop.Stepper(m, run), np.arange(run.batch) % len(reals)
    x, c = reals.read(rows), torch.from_numpy(reals.labels(rows))
    x = from_uint8(x) if x.dtype == torch.uint8 else x
    total, rounds = 0.0, math.lcm(*(p.every for p in stepper.phases))
    for i in range(rounds):
        with counted_macs() as macs:
            stepper.step(i, 0, lambda rep, k: (x, c), lambda n, g: c[torch.arange(n) % len(c)])
        total += macs[0]
    return total / rounds / run.batch


def macs_of_encoding(encoder: Path) -> float:
    """Multiply-adds of encoding one image."""
    import torch

    from gantransfer.latent import autoencoder
    from gantransfer.model import load
    from gantransfer.networks.sizes import ImageSize

    ae = autoencoder.load(load(encoder))
    x = torch.zeros(1, ae.encoder.img_channels, *ImageSize.of(ae.encoder.img_resolution))
    with counted_macs() as macs, torch.no_grad():
        ae.encode(x)
    return macs[0]


def first_below(curve: list[dict], judge: int, bound: float, column: str) -> dict[str, float] | None:
    """Cost at which the curve first falls to the bound, on a straight line between snapshots; None if it never does."""
    keys = ("kimg", "seconds", "macs")
    for before, after in zip([None, *curve], curve):
        high = math.inf if before is None else before["judges"][judge][column]
        low = after["judges"][judge][column]
        if low <= bound:
            share = 1.0 if before is None else (high - bound) / (high - low)
            return {k: after[k] if before is None else before[k] + share * (after[k] - before[k]) for k in keys}
    return None
