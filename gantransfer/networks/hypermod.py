# SPDX-License-Identifier: Apache-2.0
"""Hyper-modulation of StyleGAN2 (Laria et al., CVPR Workshops 2022, moved to StyleGAN2): labels steer the kernels of a
frozen unconditional generator.

A class network maps a label to a vector v. In each 3x3 synthesis layer with kernel W [O, I, 3, 3] and bias b,
hypernetworks map v to a scale dG and a shift dB per (out, in) pair and to a bias offset db:

    W_v = W + dG (W - mean(W)) + dB std(W)        b_v = b + db

with mean and unbiased deviation over the nine taps. This is the published `gamma * standardised(W) + beta`; zero
outputs are the base itself, whatever the label. ToRGB, styles, noise and the mapping know nothing of the label.

The base's tensors keep their published names; what is new is called `*.hyper.*` and `classes.*`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import nn

from gantransfer.networks import stylegan2
from gantransfer.networks.stylegan1 import EqualLinear, Scaled
from gantransfer.networks.stylegan2 import plain
from torch_utils import random
from torch_utils.ops import upfirdn2d
from torch_utils.ops.bias_act import activation_funcs, bias_act
from torch_utils.ops.conv2d_each import conv2d_each
from torch_utils.ops.conv2d_resample import conv2d_resample
from torch_utils.ops.modulated_conv2d import modulated_conv_act

PATHS = ("auto", "classes", "grouped", "samples")
VECTORS = ("learned", "onehot")


def modulated_kernel(weight: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """W_v: kernel [O, I, k, k], scale dG and shift dB [U, O, I] -> [U, O, I, k, k]. A kernel that is constant over its
    taps has deviation zero and stays as it is. The kernel is a constant: it gets no gradient."""
    weight = weight.detach()
    mean, std = weight.mean((2, 3), keepdim=True), weight.std((2, 3), keepdim=True)
    return weight + scale[..., None, None] * (weight - mean) + shift[..., None, None] * std


@dataclass(frozen=True)
class Classes:
    """Which class vector each sample of a batch has.

    vectors: [U, T]. index: int64 [N], a row of `vectors` per sample. path: how kernels that differ between samples are
    applied; the results differ by rounding only. 'classes': one dense convolution per vector, samples sorted by vector;
    'grouped': one grouped convolution with a kernel per sample; 'samples': one dense convolution per sample; 'auto':
    grouped where at least half the samples have vectors of their own, by classes otherwise (the fastest, measured).
    'each': matrix products, one vector per sample and no index, for graphs that are exported for every batch.
    """

    vectors: torch.Tensor
    index: torch.Tensor | None
    path: str = "auto"
    parts: tuple[tuple[int, slice], ...] = ()  # (row of vectors, samples): set by `sorted`
    order: torch.Tensor | None = None  # position after sorting -> position in the caller's batch

    def sorted(self) -> tuple[Classes, torch.Tensor | None]:
        """(the same with `parts`, inverse of its order or None)."""
        if self.path == "each":
            return self, None
        if self.path == "auto":
            path = "grouped" if 2 * len(self.vectors) >= len(self.index) > 1 else "classes"
            return replace(self, path=path).sorted()
        rows = self.index.tolist()
        if self.path == "samples":
            return replace(self, parts=tuple((u, slice(n, n + 1)) for n, u in enumerate(rows))), None
        if self.path == "grouped":
            return self, None
        counts = torch.bincount(self.index, minlength=len(self.vectors)).tolist()
        parts, at = [], 0
        for u, n in enumerate(counts):
            if n:
                parts.append((u, slice(at, at + n)))
                at += n
        if rows == sorted(rows):
            return replace(self, parts=tuple(parts)), None
        order = torch.argsort(self.index, stable=True)
        return replace(self, parts=tuple(parts), order=order), torch.argsort(order)


class ClassNetwork(nn.Module):
    """Labels c [N, num_classes], one-hot or soft, -> vectors [N, task_dim]: an embedding and fully connected layers.

    Names and scales are those of the published checkpoints; unit=True: an embedding of unit scale.
    """

    def __init__(self, num_classes, task_dim=64, n_mlp_task=4, unit=False):
        super().__init__()
        self.init_kwargs = plain(num_classes=num_classes, task_dim=task_dim, n_mlp_task=n_mlp_task, unit=unit)
        self.c_dim, self.dim, self.unit = num_classes, task_dim, unit
        layers: list[nn.Module] = [Scaled([num_classes, task_dim])]
        for _ in range(n_mlp_task):
            layers += [EqualLinear(task_dim, task_dim), nn.LeakyReLU(0.2)]
        self.task = nn.Sequential(*layers)

    def forward(self, c: torch.Tensor) -> torch.Tensor:
        if c.ndim != 2 or c.shape[1] != self.c_dim:
            raise ValueError(f"c [N, {self.c_dim}] expected, got {tuple(c.shape)}")
        x = c.to(self.task[0].weight_orig.dtype) @ (self.task[0].weight_orig if self.unit else self.task[0].weight)
        for layer in self.task[1:]:
            x = layer(x)
        return x


class OneHot(nn.Module):
    """In place of a class network: the label itself is the vector, so that every class has factors of its own."""

    def __init__(self, num_classes):
        super().__init__()
        self.c_dim = self.dim = num_classes

    def forward(self, c: torch.Tensor) -> torch.Tensor:
        return c.float()


class HyperLinear(nn.Module):
    """v [U, T] -> [U, out]: weight of unit scale times `gain`, and a bias that starts at zero."""

    def __init__(self, dim: int, out: int, gain: float, zero: bool):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(out, dim) if zero else torch.randn(out, dim))
        self.bias = nn.Parameter(torch.zeros(out))
        self.gain = gain

    def forward(self, v: torch.Tensor) -> torch.Tensor:
        return torch.addmm(self.bias, v, self.weight.t(), alpha=self.gain)


class HyperNetwork(nn.Module):
    """v [U, T] -> dG [U, O, I], dB [U, O, I], db [U, O].

    rank 0: one linear layer for all of dG and dB. rank r: dG = P Q^T / sqrt(r) with P [O, r] and Q [I, r] linear in v,
    and dB alike. exact: everything is zero at the start (P is random, Q zero); otherwise all weights are random.
    """

    def __init__(self, out_channels: int, in_channels: int, dim: int, rank: int, exact: bool, onehot: bool):
        super().__init__()
        self.out_channels, self.in_channels, self.rank = out_channels, in_channels, rank
        gain = 1.0 if onehot else 1 / math.sqrt(dim)

        def linear(out: int, zero: bool) -> HyperLinear:
            return HyperLinear(dim, out, gain, zero)

        if rank == 0:
            self.kernel = linear(2 * out_channels * in_channels, exact)
        else:
            self.scale_out, self.scale_in = linear(out_channels * rank, False), linear(in_channels * rank, exact)
            self.shift_out, self.shift_in = linear(out_channels * rank, False), linear(in_channels * rank, exact)
        self.bias = linear(out_channels, exact)

    def forward(self, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        o, i, r = self.out_channels, self.in_channels, self.rank
        if r == 0:
            scale, shift = self.kernel(v).reshape(-1, 2, o, i).unbind(1)
        else:
            scale, shift = (p(v).reshape(-1, o, r) @ q(v).reshape(-1, i, r).transpose(1, 2) / math.sqrt(r)
                            for p, q in ((self.scale_out, self.scale_in), (self.shift_out, self.shift_in)))
        return scale, shift, self.bias(v)


class HyperLayer(stylegan2.SynthesisLayer):
    """A synthesis layer whose kernel and bias follow a class vector; without `classes` the layer it was made from."""

    def __init__(self, in_channels, out_channels, w_dim, resolution, vector_dim=64, rank=4, exact=True, onehot=False,
                 **kw):
        super().__init__(in_channels, out_channels, w_dim, resolution, **kw)
        self.hyper = HyperNetwork(out_channels, in_channels, vector_dim, rank, exact, onehot)

    def kernels(self, vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """([U, O, I, k, k], [U, O]) for class vectors [U, T]."""
        scale, shift, offset = self.hyper(vectors)
        return modulated_kernel(self.weight, scale, shift), self.bias + offset

    def forward(self, x, w, noise_mode="random", rng=None, formulation=None, gain=1, classes=None):
        if classes is None:
            return super().forward(x, w, noise_mode, rng, formulation, gain)
        if noise_mode not in ("random", "const", "none"):
            raise ValueError(f"noise_mode must be 'random', 'const' or 'none', not {noise_mode!r}")
        weight, bias = self.kernels(classes.vectors)
        styles = self.affine(w)
        noise = None
        if self.use_noise and noise_mode == "const":
            noise = self.noise_const
        elif self.use_noise and noise_mode == "random":
            noise = random.randn((x.shape[0], 1, *self.size), rng, x.device)
            noise = noise if classes.order is None else noise[classes.order]
        conv = dict(f=self.resample_filter, up=self.up, padding=self.padding, flip_weight=self.up == 1)
        last = dict(act=self.activation, gain=activation_funcs[self.activation].def_gain * gain,
                    clamp=None if self.conv_clamp is None else self.conv_clamp * gain)
        if classes.path in ("grouped", "each"):
            if classes.path == "grouped":
                bias = bias[classes.index]
                y = grouped_conv2d(x, weight[classes.index], styles, **conv)
            else:
                y = conv2d_for_export(x, weight, styles, **conv)
            if noise is not None:
                y = y + (noise * self.noise_strength).to(y.dtype)
            return bias_act(y + bias.to(y.dtype)[:, :, None, None], **last)
        out = []
        for u, part in classes.parts:
            out.append(modulated_conv_act(x[part], weight[u], styles[part],
                                          noise if noise is None or noise.ndim == 2 else noise[part],
                                          None if noise is None else self.noise_strength, bias[u], **conv, **last))
        return out[0] if len(out) == 1 else torch.cat(out)


def grouped_conv2d(x: torch.Tensor, weight: torch.Tensor, styles: torch.Tensor, **kw) -> torch.Tensor:
    """Modulated and demodulated convolution with a kernel per sample, [N, O, I, k, k], as one grouped convolution."""
    n, w = x.shape[0], _modulated(x, weight, styles)
    y = conv2d_resample(x.reshape(1, -1, *x.shape[2:]), w.flatten(0, 1), groups=n, **kw)
    return y.reshape(n, -1, *y.shape[2:])


def conv2d_for_export(x: torch.Tensor, weight: torch.Tensor, styles: torch.Tensor, f=None, up=1, padding=0,
                      flip_weight=True) -> torch.Tensor:
    """The same as matrix products, which are one graph for batches of all sizes."""
    w = _modulated(x, weight, styles)
    w = w if flip_weight else w.flip(3, 4)
    if up == 1:
        return conv2d_each(x, w, padding)
    return conv2d_each(upfirdn2d.upsample2d(x, f, up=up, padding=padding), w)


def _modulated(x: torch.Tensor, weight: torch.Tensor, styles: torch.Tensor) -> torch.Tensor:
    """The kernels [N, O, I, k, k] with styles and demodulation, in x's dtype."""
    _, _, i, kh, kw = weight.shape
    if x.dtype == torch.float16:  # nothing may overflow; without effect on the demodulated result
        weight = weight * (1 / (i * kh * kw) ** 0.5 / weight.abs().amax((2, 3, 4), keepdim=True))
        styles = styles / styles.abs().amax(1, keepdim=True)
    w = weight * styles[:, None, :, None, None]
    return (w * (w.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()).to(x.dtype)


class HyperBlock(stylegan2.SynthesisBlock):
    layer_class = HyperLayer


class SynthesisNetwork(stylegan2.SynthesisNetwork):
    """ws [N, num_ws, w_dim] and `classes` -> image [N, img_channels, R, R]. classes None: the base's image."""

    block_class = HyperBlock

    def forward(self, ws, *, classes: Classes | None = None, noise_mode="random", rng=None, force_fp32=False,
                formulation=None):
        for _x, img in self.features(ws, classes, noise_mode=noise_mode, rng=rng,  # noqa: B007
                                     force_fp32=force_fp32, formulation=formulation):
            pass
        return img

    def features(self, ws, classes: Classes | None = None, **kw):
        """Yield (features, image so far) after each block, in the batch's order."""
        if classes is None:
            for _res, x, img in self.run_blocks(ws, **kw):
                yield x, img
            return
        if classes.index is not None and tuple(classes.index.shape) != (ws.shape[0],):
            raise ValueError(f"classes of {len(classes.index)} samples for {ws.shape[0]} ws")
        classes, inverse = classes.sorted()
        if inverse is not None:
            ws = ws[classes.order]
        for _res, x, img in self.run_blocks(ws, classes=classes, **kw):
            yield (x, img) if inverse is None else (x[inverse], None if img is None else img[inverse])


class PerLabel:
    """A generator whose kernels follow the label: it has `c_dim`, `path`, `classes`, `styles` and `synthesis`."""

    def classes_of(self, c: torch.Tensor) -> Classes:
        """The class vectors of labels c [N, c_dim]; equal labels share one."""
        if c.ndim != 2 or c.shape[1] != self.c_dim:
            raise ValueError(f"c [N, {self.c_dim}] expected, got {tuple(c.shape)}")
        if torch.compiler.is_exporting():
            return Classes(self.classes(c), None, "each")
        distinct, index = torch.unique(c, dim=0, return_inverse=True)
        return Classes(self.classes(distinct), index, self.path)

    def forward(self, z, c, *, truncation_psi=1, truncation_cutoff=None, **synthesis_kwargs):
        ws = self.styles(z, truncation_psi=truncation_psi, truncation_cutoff=truncation_cutoff)
        return self.synthesis(ws, classes=self.classes_of(c), **synthesis_kwargs)


class Generator(PerLabel, stylegan2.Generator):
    """z [N, z_dim], c [N, c_dim] one-hot or soft -> image [N, img_channels, R, R].

    All arguments up to synthesis_kwargs are those of the base (whose c_dim is 0). rank 0 = full. vectors 'onehot': no
    class network, every class has its own factors. exact: the untrained network is the base for every label.
    """

    synthesis_class = SynthesisNetwork

    def __init__(self, z_dim, c_dim, w_dim, img_resolution, img_channels, mapping_kwargs=None, synthesis_kwargs=None,
                 vector_dim=64, vector_layers=4, rank=4, exact=True, vectors="learned", path="auto"):
        if path not in PATHS or vectors not in VECTORS:
            raise ValueError(f"path is one of {PATHS}, vectors one of {VECTORS}, not {path!r} and {vectors!r}")
        onehot = vectors == "onehot"
        super().__init__(z_dim, 0, w_dim, img_resolution, img_channels, mapping_kwargs, dict(
            synthesis_kwargs or {}, vector_dim=c_dim if onehot else vector_dim, rank=rank, exact=exact, onehot=onehot))
        self.init_kwargs = plain(z_dim=z_dim, c_dim=c_dim, w_dim=w_dim, img_resolution=img_resolution,
                                 img_channels=img_channels, mapping_kwargs=mapping_kwargs or {},
                                 synthesis_kwargs=synthesis_kwargs or {}, vector_dim=vector_dim,
                                 vector_layers=vector_layers, rank=rank, exact=exact, vectors=vectors, path=path)
        self.c_dim, self.path = c_dim, path
        self.classes = OneHot(c_dim) if onehot else ClassNetwork(c_dim, vector_dim, vector_layers, unit=True)

    def styles(self, z, **truncation):
        """ws [N, num_ws, w_dim] of the base's mapping network; they know nothing of the label."""
        return self.mapping(z, None, update_w_avg=False, **truncation)

    def layers(self) -> list[HyperLayer]:
        return [m for m in self.synthesis.modules() if isinstance(m, HyperLayer)]

    def hyper_parameters(self) -> list[nn.Parameter]:
        """The hypernetworks' weights."""
        return [p for layer in self.layers() for p in layer.hyper.parameters()]

    def class_parameters(self) -> list[nn.Parameter]:
        """The class network's weights."""
        return list(self.classes.parameters())

    def base_parameters(self) -> list[nn.Parameter]:
        """What fine-tuning also trains of the base: constant, styles, noise strengths, biases and ToRGB; neither
        mapping nor kernels."""
        kernels = {id(layer.weight) for layer in self.layers()}
        new = {id(p) for p in self.hyper_parameters()}
        return [p for p in self.synthesis.parameters() if id(p) not in kernels | new]


class ClassInStyles(nn.Module):
    """A view of a hyper-modulated generator for tools that know `mapping(z, c) -> ws` and `synthesis(ws)` only: its ws
    [N, num_ws, w_dim + T] carry the class vector behind each w, so that both can be mixed and interpolated."""

    def __init__(self, G: nn.Module):
        super().__init__()
        self.G = G
        self.z_dim, self.c_dim, self.num_ws = G.z_dim, G.c_dim, G.num_ws

    def mapping(self, z, c, **kw):
        ws, v = self.G.styles(z, **kw), self.G.classes(c)
        return torch.cat([ws, v.to(ws.dtype)[:, None].expand(-1, ws.shape[1], -1)], 2)

    def synthesis(self, ws, **kw):
        """The class vector is that of the first layer; gradients reach w and not the class vector."""
        ws, v = ws.split([self.G.w_dim, ws.shape[2] - self.G.w_dim], 2)
        distinct, index = torch.unique(v[:, 0].detach(), dim=0, return_inverse=True)
        return self.G.synthesis(ws.contiguous(), classes=Classes(distinct, index, self.G.path), **kw)


@torch.no_grad()
def bake(G: Generator, c: torch.Tensor) -> stylegan2.Generator:
    """The unconditional StyleGAN2 generator of one label c [1, c_dim]: the same images without any hypernetwork."""
    kw = G.init_kwargs
    out = stylegan2.Generator(kw["z_dim"], 0, kw["w_dim"], kw["img_resolution"], kw["img_channels"],
                              kw["mapping_kwargs"], kw["synthesis_kwargs"])
    state = {k: v for k, v in G.state_dict().items() if ".hyper." not in k and not k.startswith("classes.")}
    vectors = G.classes(c.to(next(G.parameters()).device))
    for name, layer in G.named_modules():
        if isinstance(layer, HyperLayer):
            weight, bias = layer.kernels(vectors)
            state[f"{name}.weight"], state[f"{name}.bias"] = weight[0], bias[0]
    out.load_state_dict(state)
    return out.to(next(G.parameters()).device).eval().requires_grad_(False)


class DiscriminatorEpilogue(stylegan2.DiscriminatorEpilogue):
    """One logit per class, [N, cmap_dim], instead of a projection."""

    def forward(self, x, img, cmap=None):
        return self.out(self.features(x, img))


class Discriminator(stylegan2.Discriminator):
    """image, c [N, c_dim] -> logits [N, 1]: one head per class behind a shared body."""

    epilogue_class = DiscriminatorEpilogue

    def __init__(self, c_dim, img_resolution, img_channels, **kw):
        kw.pop("cmap_dim", None)
        kw.pop("mapping_kwargs", None)
        super().__init__(0, img_resolution, img_channels, **kw)
        self.init_kwargs |= plain(c_dim=c_dim)
        self.c_dim = c_dim
        self.b4.make_heads(self.b4.fc.weight.shape[0], c_dim)

    def features(self, img, *, force_fp32=False):
        """[N, C]: what the heads see."""
        return self.b4.features(*self.run_blocks(None, img, force_fp32))

    def head(self, features, c):
        return (self.b4.out(features) * c).sum(1, keepdim=True)

    def forward(self, img, c, *, force_fp32=False):
        return self.head(self.features(img, force_fp32=force_fp32), c)
