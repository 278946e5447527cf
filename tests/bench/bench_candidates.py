# SPDX-License-Identifier: Apache-2.0
"""Other ways to the same convolutions and to R1, each against what training takes now, in turn, one thread.

    python -m tests.bench.bench_candidates --out=candidates.json

A ratio is candidate over now: above 1 it is slower. Sizes as in the networks of `against_original`: 64 channels at 32
pixels (batch 4), 256 at 64 (batch 8), 512 at 32 (batch 4, the widest layer of the 128-pixel network).

* one product: the weight's gradient as a single product of matrices over the batch (im2col).
* oneDNN, contiguous and channels last: its direct convolutions, which is all that PyTorch asks it for.
* F(2x2): the products of Winograd's smaller tiles, 4 per output, over those of F(4x4), 2.25; both by `torch.bmm`,
  without transforms. Beside it the error of a whole layer against float64 (root mean square, relative).
* skip first: the 1x1 convolution of a discriminator's block before the blur that halves it, over after it.
* forward over reverse: R1's gradient as the gradient of a directional derivative, over a gradient of a gradient; a
  plain discriminator of PyTorch's operators on either side, since ours have no forward derivative.
* torch.compile: a generator's images, one and as many as above, as PyTorch's compiler makes them of the same network.
"""

import argparse
import functools
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from dnnlib.util import UserError  # noqa: E402
from gantransfer.networks import stylegan2  # noqa: E402
from tests.bench import common  # noqa: E402
from torch_utils import build  # noqa: E402
from torch_utils.ops import upfirdn2d  # noqa: E402
from torch_utils.ops.conv3x3 import conv3x3  # noqa: E402

COMPILER = "inductor"
SIZES = {"32": (4, 64, 32), "64": (8, 256, 64), "128": (4, 512, 32)}  # batch, channels, pixels
# The transforms of minimal filtering (Lavin and Gray 2016): outputs, then B^T, G, A^T.
TILES = {
    2: ([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]],
        [[1, 0, 0], [.5, .5, .5], [.5, -.5, .5], [0, 0, 1]],
        [[1, 1, 1, 0], [0, 1, -1, -1]]),
    4: ([[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0], [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0],
         [0, 4, 0, -5, 0, 1]],
        [[1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6], [1 / 24, 1 / 12, 1 / 6],
         [1 / 24, -1 / 12, 1 / 6], [0, 0, 1]],
        [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]),
}


def minimal(x: torch.Tensor, w: torch.Tensor, m: int) -> torch.Tensor:
    """A 3x3 convolution with padding 1 by tiles of m x m outputs."""
    b, g, a = (torch.tensor(t, dtype=x.dtype) for t in TILES[m])
    n, c, h, _ = x.shape
    tiles = F.pad(x, [1, 1, 1, 1]).unfold(2, m + 2, m).unfold(3, m + 2, m)  # n c i j u v
    v = torch.einsum("pu,ncijuv,qv->pqcnij", b, tiles, b).reshape((m + 2) ** 2, c, -1)
    u = torch.einsum("pu,ocuv,qv->pqoc", g, w, g).reshape((m + 2) ** 2, -1, c)
    y = (u @ v).reshape(m + 2, m + 2, -1, n, h // m, h // m)
    return torch.einsum("up,pqonij,vq->noiujv", a, y, a).reshape(n, -1, h, h)


def rms_error(m: int, channels: int) -> float:
    rng = torch.Generator().manual_seed(0)
    x, w = torch.randn(1, channels, 16, 16, generator=rng), torch.randn(channels, channels, 3, 3, generator=rng)
    exact = F.conv2d(x.double(), w.double(), padding=1)
    return float((minimal(x, w, m) - exact).norm() / exact.norm())


def products(m: int, batch: int, channels: int, pixels: int) -> Callable:
    """The products of all tiles, without transforms."""
    points, tiles = (m + 2) ** 2, batch * (pixels // m) ** 2
    u, v = torch.randn(points, channels, channels), torch.randn(points, channels, tiles)
    return functools.partial(torch.bmm, u, v)


def one_product(dy: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    rows = F.unfold(x, 3, padding=1).transpose(0, 1).flatten(1)  # 9 C, N H W
    return (dy.transpose(0, 1).flatten(1) @ rows.t()).reshape(dy.shape[1], x.shape[1], 3, 3)


def gradients(x: torch.Tensor, w: torch.Tensor, dy: torch.Tensor, which: str) -> Callable:
    masks = dict(x=[True, False, False], w=[False, True, False])
    return lambda: torch.ops.aten.convolution_backward(dy, x, w, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1,
                                                       masks[which])


class Plain(torch.nn.Module):
    """A discriminator of PyTorch's operators: 3x3, 3x3 that halves, until 4 pixels are left."""

    def __init__(self, channels: int, pixels: int):
        super().__init__()
        self.first = torch.nn.Conv2d(3, channels, 1)
        self.layers = torch.nn.ModuleList(torch.nn.Conv2d(channels, channels, 3, stride=s, padding=1)
                                          for _ in range(pixels.bit_length() - 3) for s in (1, 2))
        self.last = torch.nn.Linear(channels * 16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.leaky_relu(self.first(x), 0.2)
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
        return self.last(x.flatten(1))


def r1_reverse(D: Plain, x: torch.Tensor) -> list[torch.Tensor]:
    x = x.detach().requires_grad_()
    g, = torch.autograd.grad(D(x).sum(), x, create_graph=True)
    return list(torch.autograd.grad(g.square().sum() / 2, [p for p in D.parameters() if p.dim() > 1]))


def r1_forward(D: Plain, x: torch.Tensor) -> list[torch.Tensor]:
    """With g held fixed, the gradient of g . dD/dx, which is half of that of |dD/dx|^2."""
    x = x.detach().requires_grad_()
    g, = torch.autograd.grad(D(x).sum(), x)
    with forward_ad.dual_level():
        slope = forward_ad.unpack_dual(D(forward_ad.make_dual(x.detach(), g))).tangent
        return list(torch.autograd.grad(slope.sum(), [p for p in D.parameters() if p.dim() > 1]))


def generation(channels: int, pixels: int) -> Callable[[int], tuple[Callable, Callable]]:
    """batch -> (its images, the same compiled by PyTorch)"""
    torch._dynamo.config.recompile_limit = 64  # every layer's size is one
    G = stylegan2.Generator(z_dim=64, c_dim=10, w_dim=64, img_resolution=pixels, img_channels=3,
                            mapping_kwargs=dict(num_layers=2),
                            synthesis_kwargs=dict(channel_base=pixels * channels, channel_max=channels))
    G.eval().requires_grad_(False)
    compiled = torch.compile(G, backend=COMPILER, dynamic=False)

    def of(batch: int) -> tuple[Callable, Callable]:
        z, c = torch.randn(batch, 64), torch.eye(10)[torch.arange(batch) % 10]
        return tuple(torch.inference_mode()(lambda net=net: net(z, c, noise_mode="const")) for net in (G, compiled))

    return of


def candidates(batch: int, channels: int, pixels: int) -> dict[str, tuple[Callable, Callable]]:
    """{what: (as it is now, the candidate)}"""
    x, dy = torch.randn(batch, channels, pixels, pixels), torch.randn(batch, channels, pixels, pixels)
    w, skip = torch.randn(channels, channels, 3, 3), torch.randn(channels, channels, 1, 1)
    last = [t.contiguous(memory_format=torch.channels_last) for t in (x, w, dy)]
    f = upfirdn2d.setup_filter([1, 3, 3, 1])
    ours = dict(forward=functools.partial(conv3x3, last[0], w))
    if build.implementation("cpu") == "native":
        ops = torch.ops.gantransfer
        ours |= {"input gradient": lambda: ops.conv3x3_input_grad(last[2], w, 1),
                 "weight gradient": lambda: ops.conv3x3_weight_grad(last[2], last[0], 1)}
    D, images = Plain(channels, min(pixels, 32)), torch.randn(batch, 3, min(pixels, 32), min(pixels, 32))
    out: dict[str, tuple[Callable, Callable]] = {}
    for layout, (a, b, c) in {"contiguous": (x, w, dy), "channels last": last}.items():
        theirs = {"forward": lambda a=a, b=b: F.conv2d(a, b, padding=1), "input gradient": gradients(a, b, c, "x"),
                  "weight gradient": gradients(a, b, c, "w")}
        out |= {f"oneDNN, {layout}: {what}": (now, theirs[what]) for what, now in ours.items()}
    if "weight gradient" in ours:
        out["one product: weight gradient"] = ours["weight gradient"], lambda: one_product(dy, x)
    out["F(2x2): products"] = products(4, batch, channels, pixels), products(2, batch, channels, pixels)
    out["skip first"] = (lambda: F.conv2d(upfirdn2d.downsample2d(last[0], f), skip),
                         lambda: upfirdn2d.downsample2d(F.conv2d(last[0], skip), f))
    out["forward over reverse: R1"] = lambda: r1_reverse(D, images), lambda: r1_forward(D, images)
    images_of = generation(channels, pixels)
    out |= {f"torch.compile: {n} image{'s' * (n > 1)}": images_of(n) for n in sorted({1, batch})}
    return out


def run(args) -> dict:
    common.prepare("cpu", 1)
    timer, rows, ratios = common.Timer("cpu"), [], []
    timer.rounds = {"cpu": args.rounds}
    for name in args.sizes.split(","):
        if name not in SIZES:
            raise UserError(f"--sizes={name}: it knows {', '.join(SIZES)}")
        shape = list(SIZES[name])
        for what, (now, other) in candidates(*shape).items():
            found = timer({"now": now, "candidate": other}, 0)
            here = dict(op=what, shape=shape, dtype="fp32", layout="auto", direction="cpu")
            rows += [common.row(None, bench="candidates", variant=k, ms=ms, **here)
                     for k, ms in found.items()]
            ratios.append(dict(here, vs="now", ratio=found["candidate"]["median"] / found["now"]["median"]))
            print(f"{name:4s}{what:34s}" + "".join(f"{m['median']:10.2f} ms" for m in found.values())
                  + f"{ratios[-1]['ratio']:8.2f}", flush=True)
    errors = {m: rms_error(m, 256) for m in TILES}
    print("error of a layer of 256 channels: " + ", ".join(f"F({m}x{m}) {e:.1e}" for m, e in errors.items()))
    rows += [common.row(None, bench="candidates", op=f"F({m}x{m}), error", variant="candidate", direction="cpu",
                        shape=[1, 256, 16], dtype="fp32", layout="auto", max_err=e) for m, e in errors.items()]
    return dict(common.facts("cpu", 1), rows=rows, ratios=ratios, bars=[])


def parser():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--sizes", default=",".join(SIZES), help="of the list above, by the network's pixels")
    p.add_argument("--rounds", type=int, default=10)
    return p


if __name__ == "__main__":
    common.main(parser(), run)
