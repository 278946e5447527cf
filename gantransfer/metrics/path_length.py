# SPDX-License-Identifier: Apache-2.0
"""Perceptual path length and LPIPS diversity: the metrics that compare pairs of images instead of feature sets."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from dnnlib import seeding
from dnnlib.util import UserError
from gantransfer.detectors import features
from gantransfer.metrics import ppl
from gantransfer.metrics.context import MetricContext
from gantransfer.metrics.stats import collect, on_main
from gantransfer.sampler import StyleNetwork, one_hot
from torch_utils import distributed as dist
from torch_utils.random import SeedStack, step_generator


def network_of(ctx: MetricContext) -> StyleNetwork:
    """The model whose paths are measured. UserError for one without styles, and where images are truncated, of which
    path lengths are not defined."""
    if ctx.truncation:
        raise UserError("path lengths are those of images without truncation: omit --trunc, or that metric")
    if ctx.sampler is None or ctx.sampler.network is None:
        raise UserError("path length needs a style-based model (a mapping network and a synthesis network)")
    return ctx.sampler.network


def perceptual(ctx: MetricContext) -> features.Perceptual:
    """The LPIPS network, loaded once per context."""
    if "lpips" not in ctx.memo:
        ctx.memo["lpips"] = features.load_lpips(ctx.device, ctx.detectors)
    return ctx.memo["lpips"]


def path_length(ctx: MetricContext, num: int, space: str, sampling: str, crop: bool) -> float:
    """Trimmed mean of |LPIPS(g(t)) - LPIPS(g(t + eps))|^2 / eps^2 over `num` pairs, eps 1e-4.

    `space` 'w' interpolates linearly between mapped latents, 'z' spherically between latents; `sampling` 'full' draws
    t from [0, 1), 'end' takes t = 0. Noise inputs are the same for both images of a pair; float32 throughout.
    """
    if crop and ctx.sampler is not None and ctx.sampler.spec.size.height != ctx.sampler.spec.size.width:
        raise UserError(f"it looks at the middle of aligned square faces, and images are {ctx.sampler.spec.size}; use "
                        "ppl2_wend")
    net, lpips, plan = network_of(ctx), perceptual(ctx), ctx.plan(num)
    device = ctx.device

    @torch.no_grad()
    def distances(start: int, stop: int) -> torch.Tensor:
        seeds = plan.seeds[start:stop].tolist()
        draws = [step_generator(s, 0x9A7) for s in seeds]
        z = torch.stack([torch.randn(2, ctx.sampler.z_dim, generator=g) for g in draws], 1).to(device)
        t = torch.stack([torch.rand(1, generator=g) for g in draws]).to(device) * (sampling == "full")
        c = torch.zeros(len(seeds), 0, device=device) if plan.c is None else plan.c[start:stop].to(device)
        if space == "w":
            w0, w1 = net.mapping(z[0], c), net.mapping(z[1], c)
            pair = [ppl.lerp(w0, w1, t[:, :, None]), ppl.lerp(w0, w1, t[:, :, None] + ppl.EPSILON)]
        else:
            pair = [net.mapping(ppl.on_sphere(z[0], z[1], u), c) for u in (t, t + ppl.EPSILON)]
        images = [net.synthesis(w, noise_mode="random", rng=SeedStack(seeds), force_fp32=True) for w in pair]
        return _distances(lpips, *(_prepare(x, crop) for x in images)) / ppl.EPSILON**2

    with features.exact_float32():
        values = _collect_column(ctx, num, distances, "path length")
    return on_main(lambda: ppl.trimmed_mean(values))


def class_path_length(ctx: MetricContext, num: int) -> tuple[list[int], list[float], float]:
    """(class ids, trimmed mean of the paths that start in each class, of all) of |LPIPS(g(0)) - LPIPS(g(eps))|^2 /
    eps^2 from each class towards another: the styles (which carry the class) move on a straight line from those of the
    one to those of the other, with the same latent and the same noise. About `num` pairs, equally many per class."""
    net, lpips, classes = network_of(ctx), perceptual(ctx), ctx.evaluated_classes()
    if len(classes) < 2:
        raise UserError("a path between classes needs at least two classes")
    plan, device, dim = ctx.plan_per_class(classes, max(num // len(classes), 1)), ctx.device, ctx.label.dim

    @torch.no_grad()
    def distances(start: int, stop: int) -> torch.Tensor:
        seeds = plan.seeds[start:stop].tolist()
        draws = [step_generator(s, 0xC1A5) for s in seeds]
        z = torch.stack([torch.randn(ctx.sampler.z_dim, generator=g) for g in draws]).to(device)
        others = [[k for k in classes if k != own] for own in plan.ids[start:stop]]
        other = [o[int(torch.randint(len(o), [], generator=g))] for o, g in zip(others, draws)]
        w0, w1 = (net.mapping(z, one_hot(k, dim).to(device)) for k in (plan.ids[start:stop].tolist(), other))
        images = [net.synthesis(w, noise_mode="random", rng=SeedStack(seeds), force_fp32=True)
                  for w in (w0, ppl.lerp(w0, w1, torch.full([len(seeds), 1, 1], ppl.EPSILON, device=device)))]
        return _distances(lpips, *(_prepare(x, False) for x in images)) / ppl.EPSILON**2

    with features.exact_float32():
        values = _collect_column(ctx, len(plan), distances, "path length between classes")

    def summary() -> tuple[list[float], float]:
        return [ppl.trimmed_mean(values[plan.ids == c]) for c in classes], ppl.trimmed_mean(values)

    return classes, *on_main(summary)


def _prepare(images: torch.Tensor, crop: bool) -> torch.Tensor:
    """Generated floats in [-1, 1] -> what LPIPS takes: RGB in 0..255, at most 256 pixels wide."""
    x = ppl.crop_face(images.float()) if crop else images.float()
    return _rgb((ppl.box_to_256(x) + 1) * 127.5)


def _rgb(x: torch.Tensor) -> torch.Tensor:
    return x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x


def _distances(lpips: features.Perceptual, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """LPIPS of pairs [N, 1], a few at a time: the embedding of one 256 x 256 image takes 32 MB."""
    step = max(1, (1 << 18) // (a.shape[2] * a.shape[3]))
    return torch.cat([(lpips.embed(x) - lpips.embed(y)).square().sum(1, keepdim=True)
                      for x, y in zip(a.split(step), b.split(step))])


def lpips_diversity(ctx: MetricContext, pairs_per_class: int) -> tuple[list[int], np.ndarray]:
    """(class ids, mean LPIPS distance of random generated pairs within each class). One class, -1, without labels."""
    lpips = perceptual(ctx)
    labelled = ctx.label.kind == "class" and ctx.reals.class_ids is not None
    classes = ctx.evaluated_classes() if labelled else [-1]
    plan = ctx.plan_per_class(classes, 2 * pairs_per_class) if labelled else ctx.plan(2 * pairs_per_class)
    # consecutive samples of a class are pairs: independent draws of a sampler; rows of a set are shuffled first
    if ctx.generated is not None:
        order = seeding.numpy_rng(ctx.seed)
        rows = plan.seeds.reshape(len(classes), -1)
        plan = dataclasses.replace(plan, seeds=np.stack([order.permutation(r) for r in rows]).reshape(-1))

    @torch.no_grad()
    def distances(start: int, stop: int) -> torch.Tensor:
        x = _rgb(ctx.images(plan, 2 * start, 2 * stop).to(ctx.device).float())
        return _distances(lpips, x[::2], x[1::2])

    with features.exact_float32():
        values = _collect_column(ctx, len(plan) // 2, distances, "LPIPS pairs")
    return classes, on_main(lambda: values.reshape(len(classes), -1).mean(1))


def _collect_column(ctx: MetricContext, total: int, compute, what: str) -> np.ndarray:
    out: list[torch.Tensor] = []
    collect(total, ctx.batch, compute, lambda rows, start: out.append(rows) if dist.is_main() else None, what=what,
            progress=ctx.progress)
    return torch.cat(out)[:, 0].double().numpy() if out else np.zeros(0)
