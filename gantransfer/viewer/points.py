# SPDX-License-Identifier: Apache-2.0
"""One image as the page asks for it, and how it is made: by the calls that `generate` and `interpolate` make, so that
their pixels are the page's."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch

from dnnlib import seeding
from dnnlib.util import FLOAT32, UserError
from gantransfer.data.labels import LabelSpec
from gantransfer.sampler import Sampler, one_hot
from torch_utils.interpolation import slerp
from torch_utils.pixels import to_uint8
from torch_utils.random import SeedStack

SPACES = ("z", "w")  # where the way from one seed to another leads: over the sphere of latents, or straight in w
NOISES = ("const", "random", "none")


@dataclass(frozen=True)
class Point:
    """A place in what a model can draw. Noise is that of `seed` all along a walk, so that nothing flickers."""

    seed: int = 0
    to_seed: int | None = None  # the latent is on the way there ...
    at: float = 0.0  # ... so far, 0 to 1
    space: str = "z"
    class_id: int | None = None
    to_class: int | None = None  # the class vector is on the way there ...
    blend: float = 0.0  # ... so far
    label: tuple[float, ...] = ()  # of a model whose labels are numbers
    label_set: str | None = None  # as Sampler.label_sets
    trunc: float = 1.0
    center: str = "global"
    noise: str = "const"
    view: str | None = None  # as Sampler.beside
    mix_seed: int | None = None  # whose styles are taken over ...
    mix_layers: tuple[int, ...] = ()  # ... in these layers


def parse(data: Any, sampler: Sampler) -> Point:
    """A point of this model from JSON. UserError, one line, for anything else."""
    if not isinstance(data, dict):
        raise UserError("a point is an object")
    unknown = sorted(map(str, set(data) - {f.name for f in fields(Point)}))
    if unknown:
        raise UserError(f"unknown: {', '.join(unknown)[:60]}")
    given = {k: v for k, v in data.items() if v is not None}
    read: dict[str, Any] = {k: _integer(given[k], k) for k in ("seed", "to_seed", "mix_seed", "class_id", "to_class")
                            if k in given}
    read |= {k: _number(given[k], k) for k in ("at", "blend", "trunc") if k in given}
    read |= {k: given[k] for k in ("space", "label_set", "center", "noise", "view") if k in given}
    read |= {k: tuple(_list(given[k], k, of)) for k, of in (("label", _number), ("mix_layers", _integer)) if k in given}
    p = Point(**read)
    for key, known in (("space", SPACES), ("noise", NOISES), ("label_set", (None, *sampler.label_sets)),
                       ("view", (None, "image", *sampler.beside))):
        if getattr(p, key) not in known:
            raise UserError(f"{key} is one of {', '.join(str(k) for k in known if k)}, not {str(getattr(p, key))[:40]}")
    for key in ("at", "blend"):
        if not 0 <= getattr(p, key) <= 1:
            raise UserError(f"{key} is between 0 and 1")
    if p.view == "image":
        p = replace(p, view=None)
    sampler.check_center(p.center)
    layers = 0 if sampler.network is None else sampler.network.num_ws
    if not layers and (p.mix_seed is not None or p.space == "w"):
        raise UserError("this model has no styles w: neither mixing nor a way through w")
    if not all(0 <= k < layers for k in p.mix_layers):
        raise UserError(f"the model has layers 0 to {layers - 1}")
    labels(sampler, p)
    return p


def labels(sampler: Sampler, p: Point) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The label [1, dim] of a point, and where its class is on the way to. UserError for what the model lacks."""
    spec: LabelSpec = sampler.label_sets[p.label_set] if p.label_set else sampler.spec.label
    dim = spec.dim if p.label_set else sampler.label_dim
    if not dim:
        return torch.zeros([1, 0]), None
    if spec.kind == "value":
        if len(p.label) != dim:
            raise UserError(f"this model needs a label of {dim} number{'s' * (dim > 1)}")
        low, high = spec.meta.get("min"), spec.meta.get("max")
        if low is not None and not low <= p.label[0] <= high:
            raise UserError(f"{p.label[0]:g} is outside the labels of this model, {low:g} to {high:g}")
        return torch.tensor([p.label], dtype=torch.float32), None
    if p.class_id is None:
        raise UserError("this model is class-conditional: choose a class")
    return one_hot([p.class_id], dim), None if p.to_class is None else one_hot([p.to_class], dim)


@torch.no_grad()
def image(sampler: Sampler, p: Point) -> np.ndarray:
    """uint8 [C, H, W]."""
    truncation = dict(truncation_psi=p.trunc, truncation_center=p.center)
    choice = {k: v for k, v in dict(view=p.view, label_set=p.label_set).items() if v}
    c, to = labels(sampler, p)
    mixed = p.mix_seed is not None and bool(p.mix_layers)
    if p.to_seed is None and to is None and not mixed:
        return sampler([p.seed], c, **truncation, noise_mode=p.noise, **choice)[0].cpu().numpy()
    v = sampler.class_vectors(c.to(sampler.device))
    if to is not None:
        v = torch.lerp(v, sampler.class_vectors(to.to(sampler.device)), p.blend)
    z, rng = _latent(sampler, p.seed), SeedStack([p.seed])
    target = None if p.to_seed is None else _latent(sampler, p.to_seed)
    if target is not None and p.space == "z":
        z = slerp(z, target, p.at)
    if p.space == "z" and not mixed:
        return _first(sampler.images_at(z, v, rng, **truncation, noise_mode=p.noise, **choice))
    ws = sampler.styles_at(z, v, **truncation, **choice)
    if target is not None and p.space == "w":
        ws = torch.lerp(ws, sampler.styles_at(target, v, **truncation, **choice), p.at)
    if mixed:
        ws = ws.clone()
        layers = list(p.mix_layers)
        ws[:, layers] = sampler.styles_at(_latent(sampler, p.mix_seed), v, **truncation, **choice)[:, layers]
    return _first(sampler.render(ws, rng=rng, noise_mode=p.noise, **choice))


def walk(p: Point, steps: int) -> list[Point]:
    """The point at each step of the way from one end to the other, of all that is on a way. UserError if nothing is."""
    if p.to_seed is None and p.to_class is None:
        raise UserError("nothing moves: choose a second seed or a second class")
    return [replace(p, at=k / (steps - 1), blend=k / (steps - 1)) for k in range(steps)]


def _latent(sampler: Sampler, seed: int) -> torch.Tensor:
    return torch.from_numpy(seeding.numpy_rng(seed).randn(1, sampler.z_dim)).float().to(sampler.device)


def _first(x: torch.Tensor) -> np.ndarray:
    return to_uint8(x)[0].cpu().numpy()


def _integer(v: Any, key: str) -> int:
    """JavaScript's numbers have 53 bits, so that seeds also come as text."""
    if isinstance(v, bool) or not (isinstance(v, int) or isinstance(v, str) and re.fullmatch(r"[+-]?\d{1,1000}", v)):
        raise UserError(f"{key} is not a whole number")
    return int(v)


def _number(v: Any, key: str) -> float:
    if isinstance(v, bool) or not isinstance(v, (int, float)) or not abs(v) <= FLOAT32:
        raise UserError(f"{key} is not a number")
    return float(v)


def integers(v: Any, key: str) -> list[int]:
    """A list of whole numbers. UserError for anything else."""
    return _list(v, key, _integer)


def _list(v: Any, key: str, of: Any) -> list[Any]:
    if not isinstance(v, list) or len(v) > 10_000:
        raise UserError(f"{key} is not a list of numbers")
    return [of(x, key) for x in v]
