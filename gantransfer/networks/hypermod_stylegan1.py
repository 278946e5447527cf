# SPDX-License-Identifier: Apache-2.0
"""The published Hyper-Modulation on StyleGAN v1 (Laria et al., CVPR Workshops 2022), under its published tensor names.

Every 3x3 kernel of the synthesis network is replaced by its standardised form W (per (out, in) pair: mean 0, unbiased
deviation 1 over the taps) and two linear layers on a class vector v: one gives a scale gamma and a shift beta per pair,
interleaved, the other a bias offset. The kernel of a sample is gamma W + beta, its bias b + offset.

faithful: the published fused up-sampling layer, which adds beta behind the widening of the kernel and scales by the
number of output channels; no gamma and beta give the base's kernel there. Otherwise the 3x3 kernel is modulated first.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from gantransfer.networks import stylegan1
from gantransfer.networks.hypermod import Classes, ClassNetwork, PerLabel
from gantransfer.networks.stylegan1 import EqualLinear
from torch_utils.ops.conv2d_each import conv2d_each, conv_transpose2d_each
from torch_utils.ops.convolution import conv2d, conv_transpose2d


def standardise(weight: torch.Tensor) -> torch.Tensor:
    """[A, B, k, k]: zero mean and unit unbiased deviation over the taps; a constant kernel becomes zero."""
    std = weight.std((2, 3), keepdim=True)
    return (weight - weight.mean((2, 3), keepdim=True)) / torch.where(std > 0, std, torch.ones_like(std))


def standardise_bias(bias: torch.Tensor) -> torch.Tensor:
    """[O], over the channels; equal biases become zero."""
    std = bias.std()
    return (bias - bias.mean()) / torch.where(std > 0, std, torch.ones_like(std))


class HyperConv(nn.Module):
    """A 3x3 convolution (or fused up-sampling) whose kernel and bias follow the class vectors.

    W: [out, in, 3, 3], for the fused layer [in, out, 3, 3]. b: [out].
    """

    def __init__(self, in_channels: int, out_channels: int, task_dim: int, fused: bool, faithful: bool):
        super().__init__()
        shape = [in_channels, out_channels] if fused else [out_channels, in_channels]
        self.register_buffer("W", torch.zeros(*shape, 3, 3))
        self.register_buffer("b", torch.zeros(out_channels))
        self.task = EqualLinear(task_dim, 2 * in_channels * out_channels)
        self.task_bias_beta = EqualLinear(task_dim, out_channels)
        self.fused, self.faithful = fused, faithful and fused
        self.scale = math.sqrt(2 / (out_channels * 16 if self.faithful else in_channels * 9))

    def coefficients(self, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """gamma, beta [U, A, B, 1, 1] in W's layout, offset [U, O]."""
        a, b = self.W.shape[:2]
        gamma, beta = self.task(v).reshape(-1, a, b, 2)[..., None, None].unbind(3)
        return gamma, beta, self.task_bias_beta(v)

    def kernels(self, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(kernels at their run-time scale [U, A, B, 3, 3] or, fused, [U, in, out, 4, 4]; biases [U, O])."""
        gamma, beta, offset = self.coefficients(v)
        if self.faithful:
            kernel = gamma * stylegan1.widen(self.W) + beta
        else:
            kernel = gamma * self.W + beta
            kernel = stylegan1.widen(kernel) if self.fused else kernel
        return kernel * self.scale, self.b + offset

    def forward(self, x: torch.Tensor, classes: Classes) -> torch.Tensor:
        kernel, bias = self.kernels(classes.vectors)
        if classes.path == "each":
            y = conv_transpose2d_each(x, kernel, 2, 1) if self.fused else conv2d_each(x, kernel, 1)
            return y + bias[:, :, None, None]
        if classes.path == "grouped":
            return self._grouped(x, kernel[classes.index], bias[classes.index])
        out = [self._dense(x[part], kernel[u], bias[u]) for u, part in classes.parts]
        return out[0] if len(out) == 1 else torch.cat(out)

    def _dense(self, x: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        if self.fused:
            return conv_transpose2d(x, kernel, stride=2, padding=1) + bias[:, None, None]
        return conv2d(x, kernel, padding=1, bias=bias)

    def _grouped(self, x: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        n = x.shape[0]
        x = x.reshape(1, -1, *x.shape[2:])
        if self.fused:
            y = conv_transpose2d(x, kernel.flatten(0, 1), stride=2, padding=1, groups=n)
        else:
            y = conv2d(x, kernel.flatten(0, 1), padding=1, groups=n)
        return y.reshape(n, -1, *y.shape[2:]) + bias[:, :, None, None]

    @torch.no_grad()
    def make_exact(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        """Hypernetworks whose output is the layer with this kernel (stored scale) and bias for every class vector."""
        mean, std = weight.mean((2, 3)), weight.std((2, 3))
        self.task.linear.weight_orig.zero_()
        self.task_bias_beta.linear.weight_orig.zero_()
        self.task.linear.bias.copy_(torch.stack([std, mean], 2).flatten())
        self.task_bias_beta.linear.bias.copy_(bias - self.b)


class HyperBlock(stylegan1.StyledBlock):
    """As StyledBlock, with hyper-modulated convolutions; the constant lies one level deeper, as published."""

    def __init__(self, in_channels: int, channels: int, style_dim: int, fused: bool, task_dim: int, faithful: bool):
        self._make = lambda i, o, fused: HyperConv(i, o, task_dim, fused, faithful)
        super().__init__(in_channels, channels, style_dim, fused)
        del self._make

    def upsampling(self, i: int, o: int, fused: bool) -> nn.Module:
        first = [] if fused else [stylegan1.Upsample()]
        return nn.Sequential(*first, self._make(i, o, fused), stylegan1.Blur(o))

    def constant(self, channels: int) -> nn.Module:
        return nn.Sequential(stylegan1.ConstantInput(channels))

    def convolution(self, i: int, o: int) -> nn.Module:
        return self._make(i, o, False)

    def forward(self, x, w, noise, classes=None):
        if x is None:
            x = self.conv1[0](w.shape[0])
        else:
            for layer in self.conv1:
                x = layer(x, classes) if isinstance(layer, HyperConv) else layer(x)
        return self.second(self.conv2(self.first(x, w, noise), classes), w, noise)


class Synthesis(stylegan1.Synthesis):
    block_class = HyperBlock


class Generator(PerLabel, stylegan1.Generator):
    """z [N, code_dim], c [N, num_classes] -> image. Arguments up to img_resolution: the base's.

    num_classes 0: without the class network (published files keep it apart): class vectors are then given to
    `synthesis` as `classes`.
    """

    synthesis_class = Synthesis

    def __init__(self, channels, code_dim=512, n_mlp=8, fused_from=5, img_channels=3, img_resolution=None, task_dim=64,
                 n_mlp_task=4, num_classes=0, faithful=True, path="auto"):
        super().__init__(channels, code_dim, n_mlp, fused_from, img_channels, img_resolution, task_dim=task_dim,
                         faithful=faithful)
        self.init_kwargs |= dict(n_mlp_task=n_mlp_task, num_classes=num_classes, path=path)
        self.c_dim, self.path = num_classes, path
        if num_classes:
            self.classes = ClassNetwork(num_classes, task_dim, n_mlp_task)

    def styles(self, z, **truncation):
        """ws [N, num_ws, D], which know nothing of the label."""
        return self.mapping(z, **truncation)

    def synthesis(self, ws, *, classes, noise_mode="random", rng=None, noise=None, step=None, alpha=1, features=None,
                  force_fp32=False):
        """As the base's; classes: one vector per sample."""
        step = self.step if step is None else step
        noise = stylegan1.draw_noise(ws.shape[0], step, noise_mode, rng, ws) if noise is None else noise
        classes, inverse = classes.sorted()
        if inverse is not None:
            ws = ws[classes.order]
            noise = [n if n is None or len(n) == 1 else n[classes.order] for n in noise]
        image = super().synthesis(ws, noise=noise, step=step, alpha=alpha, features=features, classes=classes)
        if inverse is None:
            return image
        if features is not None:
            features[-step - 1 :] = [f[inverse] for f in features[-step - 1 :]]
        return image[inverse]

    def convolutions(self) -> dict[str, HyperConv]:
        return {name: m for name, m in self.named_modules() if isinstance(m, HyperConv)}

    def hyper_parameters(self) -> list[nn.Parameter]:
        """The hypernetworks' weights, of the blocks in use."""
        unused = tuple(f"generator.progression.{k}." for k in range(self.step + 1, len(self.generator.progression)))
        return [p for name, m in self.convolutions().items() if not name.startswith(unused) for p in m.parameters()]

    def class_parameters(self) -> list[nn.Parameter]:
        """The class network's weights."""
        return list(self.classes.parameters())

    def base_parameters(self) -> list[nn.Parameter]:
        """What fine-tuning also trains: constant, noise strengths, AdaIN and ToRGB; neither mapping nor kernels."""
        new = {id(p) for m in self.convolutions().values() for p in m.parameters()}
        used = [*self.generator.progression[: self.step + 1], self.generator.to_rgb[self.step]]
        return [p for m in used for p in m.parameters() if id(p) not in new]


def converted_name(name: str) -> str:
    """A base tensor's name in the hyper-modulated generator."""
    if name == "generator.progression.0.conv1.input":
        return "generator.progression.0.conv1.0.input"
    parts = name.split(".")
    if name.startswith("generator.progression.") and parts[3] in ("conv1", "conv2"):
        if parts[-2:] == ["conv", "weight_orig"]:
            return ".".join([*parts[:-2], "W"])
        if parts[-2:] == ["conv", "bias"]:
            return ".".join([*parts[:-2], "b"])
        if parts[3:5] == ["conv1", "0"] and parts[5] in ("weight", "bias"):
            return ".".join([*parts[:5], "W" if parts[5] == "weight" else "b"])
    return name


@torch.no_grad()
def convert(base: stylegan1.Generator, num_classes: int, task_dim: int = 64, n_mlp_task: int = 4, exact: bool = True,
            faithful: bool = False) -> Generator:
    """A hyper-modulated generator from a base. exact: the same images as the base for every label (which the faithful
    fused layer cannot have: ValueError); otherwise the hypernetworks are random."""
    if exact and faithful:
        raise ValueError("the faithful fused layer cannot equal the base")
    kw = {k: base.init_kwargs[k] for k in ("channels", "code_dim", "n_mlp", "fused_from", "img_channels",
                                           "img_resolution")}
    G = Generator(**kw, task_dim=task_dim, n_mlp_task=n_mlp_task, num_classes=num_classes, faithful=faithful)
    given = base.state_dict()
    state = {converted_name(k): t for k, t in given.items()}
    for name in G.convolutions():
        state[f"{name}.W"], state[f"{name}.b"] = standardise(state[f"{name}.W"]), standardise_bias(state[f"{name}.b"])
    missing, unexpected = G.load_state_dict(state, strict=False)
    assert not unexpected and all(".task" in k or k.startswith("classes.") for k in missing), (missing, unexpected)
    if exact:
        original = {converted_name(k): t for k, t in given.items()}
        for name, m in G.convolutions().items():
            m.make_exact(original[f"{name}.W"], original[f"{name}.b"])
    return G


def join(generator: Generator, task: ClassNetwork) -> Generator:
    """A published generator and its class network, which its files keep apart, as one network."""
    G = Generator(**{**generator.init_kwargs, "num_classes": task.c_dim, "n_mlp_task": task.init_kwargs["n_mlp_task"]})
    G.load_state_dict({**generator.state_dict(), **{f"classes.{k}": t for k, t in task.state_dict().items()}})
    return G


@torch.no_grad()
def with_classes(G: Generator, num_classes: int) -> Generator:
    """A generator of one class (self-aligned as published) with its embedding row repeated for all classes."""
    out = Generator(**{**G.init_kwargs, "num_classes": num_classes})
    state = G.state_dict()
    state["classes.task.0.weight_orig"] = state["classes.task.0.weight_orig"].repeat(num_classes, 1)
    out.load_state_dict(state)
    return out


def new_heads(D: stylegan1.Discriminator, num_classes: int, copy: bool) -> stylegan1.Discriminator:
    """The discriminator with one head per class; copy: each the base's, otherwise random (as published)."""
    out = stylegan1.Discriminator(**{**D.init_kwargs, "num_classes": num_classes})
    state = {k: t for k, t in D.state_dict().items() if not k.startswith("linear.")}
    with torch.no_grad():
        out.load_state_dict(state, strict=False)
        if copy:
            row = D.linear.linear.weight_orig[:, :, None, None]
            out.final.conv.weight_orig.copy_(row.expand(num_classes, -1, 1, 1))
            out.final.conv.bias.copy_(D.linear.linear.bias.expand(num_classes))
    return out


def alignment(student: list[torch.Tensor], teacher: list[torch.Tensor]) -> torch.Tensor:
    """[N]: sum over blocks of the mean absolute difference of features."""
    return sum(F.l1_loss(a, b, reduction="none").flatten(1).mean(1) for a, b in zip(student, teacher, strict=True))
