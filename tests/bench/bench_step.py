# SPDX-License-Identifier: Apache-2.0
"""Time of the StyleGAN2 training phases on the CPU: this project's operators against the customary formulation.

    python -m tests.bench.bench_step [--nets=tiny16,small32,...] [--repeats=7] [--threads=1] [--no-memory]
                                     [--formulation=both|ours|baseline]

Both run on the same weights in one process, phase by phase in turn; medians, and ratios of medians. lazy = Gmain +
Dmain + Dreg/16 + Greg/4, optimiser excluded. Peak memory comes from one sub-process per formulation. Losses and
gradients of the first round are compared (activations on a kink differ in slope: 1e-3, or 1e-2 for a noise strength,
which is one number summed from many of both signs, is rounding).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F

from gantransfer.networks.stylegan2 import Discriminator, Generator
from tests.bench import baseline

NETS = {  # name: resolution, channel_base, channel_max, batch
    "tiny16": (16, 512, 32, 16),
    "small32": (32, 16384, 64, 4),
    "mid32": (32, 16384, 256, 16),
    "mid64": (64, 16384, 256, 8),
}
PHASES = ("Gmain", "Dmain", "Dreg", "Greg")
WEIGHTS = {"Gmain": 1, "Dmain": 1, "Dreg": 1 / 16, "Greg": 1 / 4}


class Step:
    def __init__(self, net: str):
        res, base, width, self.batch = NETS[net]
        torch.manual_seed(0)
        kw = dict(channel_base=base, channel_max=width)
        tiny = dict(z_dim=64, w_dim=64) if net.startswith("tiny") else dict(z_dim=512, w_dim=512)
        self.G = Generator(c_dim=0, img_resolution=res, img_channels=3, mapping_kwargs=dict(num_layers=2),
                           synthesis_kwargs=kw, **tiny)
        self.D = Discriminator(c_dim=0, img_resolution=res, img_channels=3, **kw)
        self.z = torch.randn(self.batch, self.G.z_dim)
        self.real = torch.rand(self.batch, 3, res, res) * 2 - 1
        self.pl_noise = torch.randn(max(self.batch // 2, 1), 3, res, res) / res

    def phase(self, name: str):
        net, other = (self.G, self.D) if name.startswith("G") else (self.D, self.G)
        net.requires_grad_(True).zero_grad(set_to_none=True)
        other.requires_grad_(False)
        rng = torch.Generator().manual_seed(1)
        loss = getattr(self, name)(rng)
        return loss, [p.grad for p in net.parameters()]

    def Gmain(self, rng):
        loss = F.softplus(-self.D(self.G(self.z, None, rng=rng), None)).mean()
        loss.backward()
        return loss.item()

    def Dmain(self, rng):
        with torch.no_grad():
            fake = self.G(self.z, None, rng=rng)
        a = F.softplus(self.D(fake, None)).mean()
        a.backward()
        b = F.softplus(-self.D(self.real, None)).mean()
        b.backward()
        return a.item() + b.item()

    def Dreg(self, rng):
        x = self.real.clone().requires_grad_(True)
        (g,) = torch.autograd.grad(self.D(x, None).sum(), x, create_graph=True)
        loss = g.square().sum((1, 2, 3)).mean() * 5
        loss.backward()
        return loss.item()

    def Greg(self, rng):
        ws = self.G.mapping(self.z[: len(self.pl_noise)], None)
        image = self.G.synthesis(ws, rng=rng)
        (g,) = torch.autograd.grad((image * self.pl_noise).sum(), ws, create_graph=True)
        loss = (g.square().sum(2).mean(1).sqrt() - 0.1).square().mean() * 2
        loss.backward()
        return loss.item()


def formulation(name: str):
    return baseline.formulation() if name == "baseline" else contextlib.nullcontext()


def difference(a, b) -> float:
    """Largest relative L2 difference between two lists of (loss, gradients...)."""
    pairs = [(torch.as_tensor(p), torch.as_tensor(q)) for p, q in zip(a, b) if p is not None and q is not None]
    return max(((p - q).norm() / q.norm().clamp(min=1e-6)).item() for p, q in pairs)


def measure(net: str, repeats: int, names: list[str], clock) -> dict:
    step = Step(net)
    times = {(name, phase): [] for name in names for phase in PHASES}
    error = None
    for i in range(repeats + 1):
        for phase in PHASES:
            first = []
            for name in names:
                with formulation(name):
                    start = clock()
                    loss, grads = step.phase(phase)
                    seconds = clock() - start
                if i:
                    times[name, phase].append(seconds)
                else:  # the first round warms up, and shows that the two compute the same
                    first.append([loss, *(None if g is None else g.clone() for g in grads)])
            if len(first) == 2:
                error = max(error or 0, difference(*first))
    result = {name: {phase: statistics.median(times[name, phase]) * 1e3 for phase in PHASES} for name in names}
    for row in result.values():
        row["lazy"] = sum(row[p] * w for p, w in WEIGHTS.items())
    return dict(net=net, error=error, ms=result)


def peak_memory(net: str, name: str, threads: int) -> float:
    """MiB at the peak of one round of all phases in a process of its own, less what loading torch takes."""
    code = ("import torch\nfrom tests.bench import bench_step as b\n"
            f"torch.set_num_threads({threads})\nstep = b.Step({net!r})\n"
            "start = b.high_water()\n"
            f"with b.formulation({name!r}):\n    for _ in range(2):\n        for p in b.PHASES: step.phase(p)\n"
            "print(b.high_water() - start)")
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    return int(out.split()[-1]) / 1024


def high_water() -> int:
    """Peak resident KiB of this process. (ru_maxrss would do, had Linux not let it inherit the parent's peak.)"""
    with contextlib.suppress(OSError), open("/proc/self/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmHWM"))
    import resource
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "darwin" else 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", default=",".join(NETS))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--formulation", choices=["both", "ours", "baseline"], default="both")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--cpu-time", action="store_true", help="count CPU time, for a machine that others use too")
    parser.add_argument("--json", action="store_true", help="one JSON line per network")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    names = ["baseline", "ours"] if args.formulation == "both" else [args.formulation]
    clock = time.process_time if args.cpu_time else time.perf_counter
    for net in args.nets.split(","):
        r = measure(net, args.repeats, names, clock)
        if not args.no_memory:
            r["peak_mib"] = {name: round(peak_memory(net, name, args.threads), 1) for name in names}
        if args.json:
            print(json.dumps(r), flush=True)
            continue
        print(f"\n{net} {NETS[net]}" + ("" if r["error"] is None else f"  largest difference {r['error']:.1e}"))
        for name in names:
            print(f"  {name:9}" + "".join(f"{k} {v:8.1f}  " for k, v in r["ms"][name].items()) + "ms"
                  + (f"  peak {r['peak_mib'][name]:.0f} MiB" if "peak_mib" in r else ""))
        if len(names) == 2:
            base, ours = r["ms"]["baseline"], r["ms"]["ours"]
            print("  ratio    " + "".join(f"{k} {base[k] / ours[k]:8.2f}  " for k in base), flush=True)


if __name__ == "__main__":
    main()
