# SPDX-License-Identifier: Apache-2.0
"""The original code's side of `against_original`: a process that has nothing of ours on its path.

    python tests/bench/original_step.py CHECKOUT < requests

Requests and answers are lines of JSON. `{"make": {...}}` builds networks, losses, optimisers and the average as the
original's training loop does; `{"phase": NAME}` runs a phase with its optimiser's step; `{"ema": true}`,
`{"images": n}` as they say. Every answer has the milliseconds that it took.
"""

from __future__ import annotations

import copy
import inspect
import json
import os
import sys
import time


def high_water() -> float:
    """Peak resident MiB of this process."""
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmHWM")) / 1024


def serve(make) -> None:
    """Answer requests until there are no more. `make(**sizes)` gives what has `phase`, `ema` and `images`."""
    import torch

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what else is printed must not look like an answer
    side, clock = None, time.process_time
    for line in sys.stdin:
        request = json.loads(line)
        if "make" in request:
            torch.set_num_threads(request.pop("threads"))
            clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
            side = make(**request["make"])
            request = {}
        start = clock()
        extra = {}
        if "phase" in request:
            side.phase(request["phase"])
        elif "ema" in request:
            side.ema()
        elif "images" in request:
            images = side.images(request["images"], request.get("seed", 0))
            if "save" in request:
                torch.save(images, request["save"])
        ms = (clock() - start) * 1e3
        print(json.dumps(dict(ms=ms, peak_mib=high_water(), **extra)), file=answers, flush=True)


class Original:
    """The networks and phases of one configuration, from the modules that the checkout has."""

    def __init__(self, weights: str, resolution: int, batch: int, classes: int, widths: dict, dim: int,
                 res_uc: int | None):
        import torch
        from training.loss import StyleGAN2Loss
        from training.networks import Discriminator, Generator

        from torch_utils import misc

        low = {} if res_uc is None else dict(res_uc=res_uc)
        sizes = dict(c_dim=classes, img_resolution=resolution, img_channels=3)
        torch.manual_seed(0)
        self.G = Generator(z_dim=dim, w_dim=dim, mapping_kwargs=dict(num_layers=2),
                           synthesis_kwargs=dict(**widths, **low), **sizes).train().requires_grad_(False)
        self.D = Discriminator(epilogue_kwargs=dict(mbstd_group_size=4), **widths, **low,
                               **sizes).train().requires_grad_(False)
        found = torch.load(weights, weights_only=True)
        found["G"].pop("mapping.w_avg_uc", None)  # UTLO's keeps no mean of its label-free ws
        self.G.load_state_dict(found["G"])
        self.D.load_state_dict(found["D"])
        self.average = copy.deepcopy(self.G).eval()
        parts = dict(G=self.G) if res_uc else dict(G_mapping=self.G.mapping, G_synthesis=self.G.synthesis)
        self.loss = StyleGAN2Loss(device=torch.device("cpu"), D=self.D, r1_gamma=1, **parts)
        self.accepted = inspect.signature(self.loss.accumulate_gradients).parameters
        self.phases, self.clean = {}, misc.nan_to_num
        for key, net, every in (("G", self.G, 4), ("D", self.D, 16)):
            share = every / (every + 1)
            opt = torch.optim.Adam(net.parameters(), lr=0.0025 * share, betas=(0.0, 0.99**share), eps=1e-8)
            self.phases |= {f"{key}main": (net, opt, 1), f"{key}reg": (net, opt, every)}
        self.batch, self.classes, self.shape = batch, classes, (3, resolution, resolution)

    def labels(self, n: int):
        import torch

        eye = torch.eye(self.classes) if self.classes else torch.zeros(1, 0)
        return eye[torch.arange(n) % len(eye)]

    def phase(self, name: str) -> None:
        import torch

        net, opt, every = self.phases[name]
        opt.zero_grad(set_to_none=True)
        net.requires_grad_(True)
        given = dict(phase=name, real_img=torch.rand(self.batch, *self.shape) * 2 - 1, real_c=self.labels(self.batch),
                     gen_z=torch.randn(self.batch, self.G.z_dim), gen_c=self.labels(self.batch), sync=True, gain=every)
        self.loss.accumulate_gradients(**{k: v for k, v in given.items() if k in self.accepted})
        net.requires_grad_(False)
        for p in net.parameters():
            if p.grad is not None:
                self.clean(p.grad, nan=0, posinf=1e5, neginf=-1e5, out=p.grad)
        opt.step()

    def ema(self) -> None:
        import torch

        with torch.no_grad():
            for mean, p in zip(self.average.parameters(), self.G.parameters()):
                mean.copy_(p.lerp(mean, 0.999))
            for mean, b in zip(self.average.buffers(), self.G.buffers()):
                mean.copy_(b)

    def images(self, n: int, seed: int):
        import numpy as np
        import torch

        z = torch.from_numpy(np.stack([np.random.RandomState(seed + k).randn(self.G.z_dim) for k in range(n)]))
        with torch.no_grad():
            x = self.average(z.float(), self.labels(n), noise_mode="const")
        return (x * 127.5 + 128).clamp(0, 255).to(torch.uint8)


if __name__ == "__main__":
    sys.path[0] = sys.argv[1]
    serve(Original)
