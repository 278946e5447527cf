# SPDX-License-Identifier: Apache-2.0
"""How images come out of a model: all that metrics, generation and distillation may know of it.

One seed per image: image k depends on its seed and label only, never on the batch it is made in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from dnnlib import seeding
from dnnlib.util import UserError
from gantransfer import label_means
from gantransfer.data.dataset import DataSpec, LabelSpec, class_weights
from gantransfer.data.schedule import Span
from torch_utils import random as rnd
from torch_utils.pixels import to_uint8


class StyleNetwork(Protocol):
    """A generator in two halves, with the styles w between them: what style mixing and path lengths need."""

    z_dim: int
    num_ws: int

    def mapping(self, z: torch.Tensor, c: torch.Tensor, *, truncation_psi: float = 1) -> torch.Tensor:
        """z [N, z_dim], labels [N, label_dim] -> ws [N, num_ws, D]."""
        ...

    def synthesis(self, ws: torch.Tensor, *, noise_mode: str = "random", rng: rnd.Rng = None,
                  **kw: Any) -> torch.Tensor:
        """Float images [N, C, H, W], nominally in [-1, 1]."""
        ...


class Sampler:
    """Seeds and labels to images, by `synthesise(z, c, rng, **kw) -> float [N, C, H, W] in [-1, 1]`.

    Latents are `RandomState(seed).randn(z_dim)`, the field's habit, so that known seeds give known pictures; noise
    inputs come from one torch generator per seed. Conversion to uint8 truncates `127.5 x + 128`, as the published
    metrics do.

    truncation_psi, truncation_cutoff: as published. truncation_center: 'global' (one mean of all, as published) or
    'class', the mean w of the image's own label (label_means.py), for models that have a w: those give their `network`,
    and where synthesise takes `view` or `label_set`, also `styles(z, c, truncation_psi=...) -> ws [N, L, D]` and
    `render(ws, rng=..., **kw) -> image` that take them. `views`: what `view=` may be, the ordinary image first;
    `label_sets`: what `label_set=` may be, other labels that the model knows.

    What the method is about, for those who look at it: `beside`, what else `view=` may be, each with words for what it
    shows of the same latent; `scores`, how much each new class has of each old one (`pictures/transfer_scores.py`).
    """

    def __init__(self, synthesise: Callable[..., torch.Tensor], z_dim: int, spec: DataSpec,
                 device: torch.device | str = "cpu", views: tuple[str, ...] = ("image",), label_dim: int | None = None,
                 network: StyleNetwork | None = None, label_sets: dict[str, LabelSpec] | None = None,
                 styles: label_means.Styles | None = None, render: Callable[..., torch.Tensor] | None = None,
                 beside: dict[str, str] | None = None, scores: Callable[[], dict[str, Any]] | None = None):
        self.synthesise, self.z_dim, self.spec = synthesise, z_dim, spec
        self.network = network
        self.device, self.views = torch.device(device), views
        self.label_dim = spec.label.dim if label_dim is None else label_dim
        self.label_sets = label_sets or {}
        if network is not None:
            styles, render = styles or network.mapping, render or network.synthesis
        self.styles, self.render = styles, render
        self.beside, self.scores = beside or {}, scores
        self.means = None if styles is None else label_means.LabelMeans(styles, z_dim, self.device, network)

    @torch.no_grad()
    def __call__(self, seeds: Sequence[int], c: torch.Tensor | None = None, **kw) -> torch.Tensor:
        """uint8 [N, C, H, W] for N seeds and labels c [N, label_dim] (None if unconditional)."""
        if c is None:
            if self.label_dim:
                raise UserError("this model is class-conditional: give labels (--class=..., or --labels=...)")
            c = torch.zeros([len(seeds), 0])
        dim = self.label_sets[kw["label_set"]].dim if kw.get("label_set") else self.label_dim
        if tuple(c.shape) != (len(seeds), dim):
            raise ValueError(f"labels {tuple(c.shape)} for {len(seeds)} seeds of a model with {dim} labels")
        z = np.stack([seeding.numpy_rng(s).randn(self.z_dim) for s in seeds])
        z = torch.from_numpy(z).to(self.device, torch.float32)
        return to_uint8(self.images(z, c.to(self.device, torch.float32), rnd.SeedStack(seeds), **kw))

    def images(self, z: torch.Tensor, c: torch.Tensor, rng: rnd.Rng, *, truncation_center: str = "global",
               **kw: Any) -> torch.Tensor:
        """float [N, C, H, W] of latents and labels on the device, with truncation towards either centre."""
        self.check_center(truncation_center)
        psi = kw.get("truncation_psi", 1)
        if truncation_center == "global" or psi == 1:
            return self.synthesise(z, c, rng=rng, **kw)
        choice = {k: kw[k] for k in ("view", "label_set") if kw.get(k) is not None}
        truncation = {k: kw.pop(k) for k in ("truncation_psi", "truncation_cutoff") if k in kw}
        ws = self.styles_at(z, self.class_vectors(c), truncation_center=truncation_center, **truncation, **choice)
        return self.render(ws, rng=rng, **{**kw, **choice})

    def styles_at(self, z: torch.Tensor, v: torch.Tensor, *, truncation_center: str = "global",
                  truncation_psi: float = 1, truncation_cutoff: int | None = None, **choice: Any) -> torch.Tensor:
        """ws [N, L, D] of latents and class vectors (see `class_vectors`), truncated, as `render` takes them: what
        styles are mixed of. `choice`: a view, a set of labels. For models that have a w."""
        self.check_center(truncation_center)
        if truncation_center == "global" or truncation_psi == 1:
            cutoff = {} if truncation_cutoff is None else dict(truncation_cutoff=truncation_cutoff)
            return self.styles(z, v, truncation_psi=truncation_psi, **cutoff, **choice)
        return label_means.pull(self.styles(z, v, **choice), self.means(v, **choice), truncation_psi,
                                truncation_cutoff)

    def class_vectors(self, c: torch.Tensor) -> torch.Tensor:
        """[N, T]: what walks between classes move on, for labels c [N, label_dim]. Here the labels themselves."""
        return c

    def images_at(self, z: torch.Tensor, v: torch.Tensor, rng: rnd.Rng, **kw: Any) -> torch.Tensor:
        """As `images`, of class vectors v [N, T], which may lie between those of classes."""
        return self.images(z, v, rng, **kw)

    def check_center(self, center: str) -> None:
        """UserError for a truncation centre that does not exist, or that this model does not have."""
        if center not in label_means.CENTERS:
            raise UserError(f"truncation_center={center}: there are {' and '.join(label_means.CENTERS)}")
        if center == "class" and self.means is None:
            raise UserError("--trunc-center=class needs a model with a latent w (StyleGAN); this one has none, its "
                            "truncation scales z: omit the flag")
        if center == "class" and not self.label_dim:
            raise UserError("--trunc-center=class needs a model with labels; this one is unconditional: omit the flag")


class LabelSource:
    """Labels for generated images, by a named policy.

    policy 'data' draws classes with the training set's frequencies, 'uniform' with equal ones, and the sampling
    policies of `class_weights` ('sqrt', 'effective', 'balanced') accordingly; `classes` restricts the draw to some
    class ids. Float-vector labels are drawn uniformly from the rows `values` [n, dim] of the training set.

    With a `shift`, `draw` begins with the training set's frequencies and moves to the policy over that span; the loop
    says at which number of images it is (`nimg`).
    """

    def __init__(self, spec: LabelSpec, policy: str = "data", classes: Sequence[int] | None = None,
                 values: np.ndarray | None = None, shift: Span | None = None, nimg: int = 0):
        self.spec, self.policy, self.nimg = spec, policy, nimg
        self.values = self.cdf = None
        self.shift = None if shift is None else (shift, LabelSource(spec, values=values))
        if spec.kind == "class":
            if policy in ("uniform", "balanced"):
                w = np.ones(spec.dim)
                if classes is None and spec.counts:
                    w = (np.asarray(spec.counts) > 0).astype(np.float64)  # ids without images are not classes
            else:
                w = class_weights(spec.counts, "empirical" if policy in ("data", "empirical") else policy)
            if classes is not None:
                bad = [k for k in classes if not 0 <= k < spec.dim]
                if bad:
                    raise UserError(f"class {bad[0]} does not exist: the model knows classes 0 to {spec.dim - 1}")
                mask = np.zeros(spec.dim)
                mask[list(classes)] = 1
                w = w * mask if (w * mask).sum() > 0 else mask
            self.cdf = torch.from_numpy(np.cumsum(w / w.sum()))
        elif spec.kind == "value":
            if values is None:
                raise UserError("float-vector labels are drawn from a data set: give --data")
            self.values = torch.from_numpy(np.asarray(values, np.float32))

    def __call__(self, seeds: Sequence[int]) -> torch.Tensor:
        """float32 [N, label_dim]; label k is a function of seed k."""
        # A stream of its own: the image's generator starts from the bare seed.
        u = torch.stack([torch.rand([], generator=rnd.step_generator(int(s), 0x1ABE1), dtype=torch.float64)
                         for s in seeds]) if len(seeds) else torch.zeros([0], dtype=torch.float64)
        return self._of(u)

    def draw(self, n: int, rng: torch.Generator) -> torch.Tensor:
        """float32 [n, label_dim] from one generator on the CPU."""
        u = rnd.rand([n], rng, dtype=torch.float64)
        if self.shift is None:
            return self._of(u)
        span, before = self.shift
        arrived = rnd.rand([n], rng, dtype=torch.float64) < span.share(self.nimg)
        return torch.where(arrived[:, None], self._of(u), before._of(u))

    def _of(self, u: torch.Tensor) -> torch.Tensor:
        if self.cdf is not None:
            k = torch.searchsorted(self.cdf, u, right=True).clamp_(max=self.spec.dim - 1)
            return torch.nn.functional.one_hot(k, self.spec.dim).float()
        if self.values is not None:
            return self.values[(u * len(self.values)).long()]
        return torch.zeros([len(u), 0])


def one_hot(classes: Sequence[int], dim: int) -> torch.Tensor:
    """float32 [N, dim] for class ids in [0, dim). Raises UserError for others."""
    k = torch.as_tensor(list(classes), dtype=torch.int64)
    if len(k) and not (0 <= int(k.min()) and int(k.max()) < dim):
        raise UserError(f"class {int(k.max() if int(k.max()) >= dim else k.min())} does not exist: "
                        f"the model knows classes 0 to {dim - 1}")
    return torch.nn.functional.one_hot(k, dim).float()
