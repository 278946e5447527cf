# SPDX-License-Identifier: Apache-2.0
"""How far gradients of whole networks in float32 are from float64, with compiled kernels and with torch's operators:
`python -m tests.bench.gradients [--resolution=32 --widest=64 --networks=24]`.

For each of the networks, drawn anew, the relative error of every parameter's gradient: their median and their largest.
Where a rounding takes a value across the kink of a leaky ReLU, the derivative is another one, and errors are ten times
and more those of rounding: such networks are counted apart.
"""

import argparse
import statistics

import torch

from gantransfer.networks import stylegan2
from torch_utils import build

KINK = 10  # times the median of all networks, from which on a network's median is put down to a kink


def gradients(dtype: torch.dtype, kernels: str, seed: int, resolution: int, widest: int) -> dict[str, torch.Tensor]:
    """Of the generator's loss, with respect to all parameters of both networks, in float64: {name: gradient}."""
    torch.manual_seed(seed)
    size = dict(channel_base=16384, channel_max=widest)
    G = stylegan2.Generator(64, 0, 64, resolution, 3, dict(num_layers=2), size)
    D = stylegan2.Discriminator(0, resolution, 3, **size)
    z, c = torch.randn(4, 64), torch.zeros(4, 0)
    nets = torch.nn.ModuleDict(dict(G=G, D=D)).to(dtype)
    with build.using(kernels):
        logits = nets["D"](nets["G"](z.to(dtype), c.to(dtype), noise_mode="const"), c.to(dtype))
        names, params = zip(*nets.named_parameters())
        found = torch.autograd.grad(torch.nn.functional.softplus(-logits).mean(), params, allow_unused=True)
    return {name: g.double() for name, g in zip(names, found) if g is not None}


def errors(networks: int, resolution: int, widest: int) -> dict[str, list[tuple[float, float]]]:
    """{kernels: [(median, largest) relative error of a network's gradients]}"""
    out: dict[str, list[tuple[float, float]]] = {"native": [], "ref": []}
    for seed in range(networks):
        exact = gradients(torch.float64, "ref", seed, resolution, widest)
        for kernels, rows in out.items():
            got = gradients(torch.float32, kernels, seed, resolution, widest)
            each = [float((got[k] - v).norm() / v.norm()) for k, v in exact.items() if v.any()]
            rows.append((statistics.median(each), max(each)))
    return out


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--networks", type=int, default=24)
    p.add_argument("--resolution", type=int, default=32)
    p.add_argument("--widest", type=int, default=64)
    args = p.parse_args()
    torch.set_num_threads(1)
    for kernels, rows in errors(args.networks, args.resolution, args.widest).items():
        medians = sorted(m for m, _ in rows)
        smooth = [m for m in medians if m < KINK * statistics.median(medians)]
        print(f"{kernels:8s}median error {statistics.median(smooth):.1e} in {len(smooth)} networks; beyond a kink in "
              f"{len(medians) - len(smooth)}: {', '.join(f'{m:.0e}' for m in medians[len(smooth):]) or '-'}")


if __name__ == "__main__":
    main()
