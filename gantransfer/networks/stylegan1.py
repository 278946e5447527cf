# SPDX-License-Identifier: Apache-2.0
"""StyleGAN v1 (Karras et al., CVPR 2019) as in the published PyTorch checkpoints of style-based-gan-pytorch.

Tensor names are the published ones. Weights are stored at unit scale as `weight_orig`; the run-time factor is
sqrt(2 / fan_in). Leaky ReLUs have slope 0.2 and no gain. The functions at the top know no parameter names: other
networks of the same family (ALAE) are built from them.

A generator has one block per resolution, lowest first; `step` = index of the last block used. All blocks exist, also
those that training never reached: `img_resolution` says where images are taken from.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from gantransfer.networks.stylegan2 import plain, untruncated
from torch_utils import distributed as dist
from torch_utils import random
from torch_utils.ops.convolution import conv2d, conv_transpose2d

# ---- functions -------------------------------------------------------------------------------------------------------


def lrelu(x: torch.Tensor) -> torch.Tensor:
    return F.leaky_relu(x, 0.2)


def pixel_norm(x: torch.Tensor, eps: float = 1e-8) -> torch.Tensor:
    """x / rms over dimension 1."""
    return x * (x.square().mean(1, keepdim=True) + eps).rsqrt()


def instance_norm(x: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
    """(x - mean) / sqrt(variance + eps) per sample and channel of [N, C, H, W]; biased variance, no affine."""
    mean = x.mean((2, 3), keepdim=True)
    centred = x - mean
    return centred * (centred.square().mean((2, 3), keepdim=True) + eps).rsqrt()


def blur(x: torch.Tensor) -> torch.Tensor:
    """Depthwise [1, 2, 1] x [1, 2, 1] / 16 over [N, C, H, W], zeros outside."""
    k = x.new_tensor([0.25, 0.5, 0.25])
    c = x.shape[1]
    x = F.conv2d(x, k.reshape(1, 1, 3, 1).expand(c, 1, 3, 1), padding=(1, 0), groups=c)
    return F.conv2d(x, k.reshape(1, 1, 1, 3).expand(c, 1, 1, 3), padding=(0, 1), groups=c)


def widen(weight: torch.Tensor) -> torch.Tensor:
    """[..., k, k] -> [..., k + 1, k + 1]: the mean of the four one-pixel shifts. A convolution of stride 2 with it is
    one with `weight` next to a 2x2 average (down) or a nearest enlargement divided by four (up)."""
    w = F.pad(weight, (1, 1, 1, 1))
    return (w[..., 1:, 1:] + w[..., :-1, 1:] + w[..., 1:, :-1] + w[..., :-1, :-1]) / 4


def fused_upsample(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """[N, I, H, W] -> [N, O, 2H, 2W] with a kernel [I, O, 3, 3] at its run-time scale."""
    y = conv_transpose2d(x, widen(weight), stride=2, padding=1)
    return y if bias is None else y + bias.reshape(1, -1, 1, 1)


def fused_downsample(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """[N, I, H, W] -> [N, O, H/2, W/2] with a kernel [O, I, 3, 3] at its run-time scale."""
    return conv2d(x, widen(weight), stride=2, padding=1, bias=bias)


def upsample(x: torch.Tensor) -> torch.Tensor:
    """Nearest neighbour, twice the size."""
    return F.interpolate(x, scale_factor=2, mode="nearest")


def batch_deviation(x: torch.Tensor, whole: bool = False) -> torch.Tensor:
    """[N, C, H, W] -> [N, C + 1, H, W]: one more channel, everywhere the mean deviation over the batch.
    `whole`: over the batches of all processes."""
    y = dist.gather_rows(x) if whole else x
    s = ((y - y.mean(0)).square().mean(0) + 1e-8).sqrt().mean()
    return torch.cat([x, s.expand(len(x), 1, *x.shape[2:])], 1)


# ---- layers ----------------------------------------------------------------------------------------------------------


class Scaled(nn.Module):
    """A weight stored as N(0, 1) and used times sqrt(2 / fan_in); optionally a bias, which is not scaled."""

    def __init__(self, shape: Sequence[int], bias: int = 0, zero: bool = False):
        super().__init__()
        self.weight_orig = nn.Parameter(torch.zeros(*shape) if zero else torch.randn(*shape))
        self.scale = math.sqrt(2 / math.prod(shape[1:]))
        if bias:
            self.bias = nn.Parameter(torch.zeros(bias))

    @property
    def weight(self) -> torch.Tensor:
        return self.weight_orig * self.scale


class EqualLinear(nn.Module):
    """[N, in] -> [N, out]."""

    def __init__(self, in_features: int, out_features: int):
        super().__init__()
        self.linear = Scaled([out_features, in_features], out_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.linear.weight, self.linear.bias)


class EqualConv2d(nn.Module):
    """[N, in, H, W] -> [N, out, H', W']."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, padding: int = 0):
        super().__init__()
        self.conv = Scaled([out_channels, in_channels, kernel_size, kernel_size], out_channels)
        self.padding = padding

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return conv2d(x, self.conv.weight, padding=self.padding, bias=self.conv.bias)


class FusedUpsample(nn.Module):
    """3x3 convolution and doubling in one. weight [in, out, 3, 3]."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(in_channels, out_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.scale = math.sqrt(2 / (in_channels * 9))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return fused_upsample(x, self.weight * self.scale, self.bias)


class FusedDownsample(nn.Module):
    """3x3 convolution and halving in one. weight [out, in, 3, 3]."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.scale = math.sqrt(2 / (in_channels * 9))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return fused_downsample(x, self.weight * self.scale, self.bias)


class Blur(nn.Module):
    """`blur`, and the two constant buffers that published files have for it."""

    def __init__(self, channels: int):
        super().__init__()
        k = torch.full([channels, 1, 3, 3], 1 / 16)
        k[:, :, 1] *= 2
        k[:, :, :, 1] *= 2
        for name in ("weight", "weight_flip"):
            self.register_buffer(name, k.clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return blur(x)


class Upsample(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return upsample(x)


class PixelNorm(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return pixel_norm(x)


class ConstantInput(nn.Module):
    """The learned start [1, C, 4, 4], once per sample."""

    def __init__(self, channels: int):
        super().__init__()
        self.input = nn.Parameter(torch.randn(1, channels, 4, 4))

    def forward(self, n: int) -> torch.Tensor:
        return self.input.repeat(n, 1, 1, 1)


class AdaIN(nn.Module):
    """Instance norm of x [N, C, H, W], then scale and shift, linear in w [N, D]."""

    def __init__(self, channels: int, style_dim: int):
        super().__init__()
        self.style = EqualLinear(style_dim, 2 * channels)
        with torch.no_grad():
            self.style.linear.bias[:channels] = 1

    def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        gamma, beta = self.style(w)[:, :, None, None].chunk(2, 1)
        return torch.addcmul(beta, gamma, instance_norm(x))


def mapping_layers(dim: int, layers: int) -> nn.Sequential:
    """z [N, D] -> w [N, D]; the learned layers are number 1, 3, 5, ..."""
    parts: list[nn.Module] = [PixelNorm()]
    for _ in range(layers):
        parts += [EqualLinear(dim, dim), nn.LeakyReLU(0.2)]
    return nn.Sequential(*parts)


# ---- generator -------------------------------------------------------------------------------------------------------


class StyledBlock(nn.Module):
    """One resolution: up-sampling convolution (or the constant), convolution; after each: noise, lrelu, AdaIN."""

    def __init__(self, in_channels: int, channels: int, style_dim: int, fused: bool):
        super().__init__()
        if in_channels:
            self.conv1 = self.upsampling(in_channels, channels, fused)
        else:
            self.conv1 = self.constant(channels)
        self.noise1 = Scaled([1, channels, 1, 1], zero=True)
        self.adain1 = AdaIN(channels, style_dim)
        self.conv2 = self.convolution(channels, channels)
        self.noise2 = Scaled([1, channels, 1, 1], zero=True)
        self.adain2 = AdaIN(channels, style_dim)

    def upsampling(self, i: int, o: int, fused: bool) -> nn.Module:
        return nn.Sequential(*([FusedUpsample(i, o)] if fused else [Upsample(), self.convolution(i, o)]), Blur(o))

    def constant(self, channels: int) -> nn.Module:
        return ConstantInput(channels)

    def convolution(self, i: int, o: int) -> nn.Module:
        return EqualConv2d(i, o, 3, padding=1)

    def forward(self, x: torch.Tensor | None, w: torch.Tensor, noise: torch.Tensor | None) -> torch.Tensor:
        """x [N, in, H/2, W/2] (None in the first block), w [N, D], one noise plane [N or 1, 1, H, W] for both layers
        (as published) or None -> [N, C, H, W]."""
        x = self.conv1(w.shape[0] if x is None else x)
        return self.second(self.conv2(self.first(x, w, noise)), w, noise)

    def first(self, x: torch.Tensor, w: torch.Tensor, noise: torch.Tensor | None) -> torch.Tensor:
        return self.adain1(lrelu(x if noise is None else torch.addcmul(x, self.noise1.weight, noise)), w)

    def second(self, x: torch.Tensor, w: torch.Tensor, noise: torch.Tensor | None) -> torch.Tensor:
        return self.adain2(lrelu(x if noise is None else torch.addcmul(x, self.noise2.weight, noise)), w)


class Synthesis(nn.Module):
    """ws [N, blocks, D] -> image."""

    block_class = StyledBlock

    def __init__(self, channels: Sequence[int], style_dim: int, fused_from: int, img_channels: int, **block):
        super().__init__()
        pairs = zip([0, *channels[:-1]], channels)
        self.progression = nn.ModuleList(
            self.block_class(i, o, style_dim, fused=k >= fused_from, **block) for k, (i, o) in enumerate(pairs))
        self.to_rgb = nn.ModuleList(EqualConv2d(c, img_channels, 1) for c in channels)

    def blocks(self, ws: torch.Tensor, noise: Sequence[torch.Tensor | None], step: int,
               **block) -> Iterator[torch.Tensor]:
        """Features [N, C, R, R] after each block, 0 to `step`."""
        x = None
        for k in range(step + 1):
            x = self.progression[k](x, ws[:, k], noise[k], **block)
            yield x

    def forward(self, ws: torch.Tensor, noise: Sequence[torch.Tensor | None], step: int, alpha: float = 1,
                features: list[torch.Tensor] | None = None, **block) -> torch.Tensor:
        """alpha in [0, 1): the image of the block before, enlarged, still has the weight 1 - alpha. `features`: a list
        that receives every block's output."""
        before = x = None
        for h in self.blocks(ws, noise, step, **block):
            before, x = x, h
            if features is not None:
                features.append(h)
        image = self.to_rgb[step](x)
        if step > 0 and 0 <= alpha < 1:
            image = torch.lerp(upsample(self.to_rgb[step - 1](before)), image, float(alpha))
        return image


class Generator(nn.Module):
    """z [N, code_dim] -> image [N, img_channels, R, R] float32, nominally in [-1, 1].

    channels: per block, 4x4 first. Blocks from number `fused_from` on use the fused up-sampling. img_resolution: of
    the images (None: of the last block).
    """

    synthesis_class = Synthesis

    def __init__(self, channels, code_dim=512, n_mlp=8, fused_from=5, img_channels=3, img_resolution=None, **more):
        super().__init__()
        top = 4 * 2 ** (len(channels) - 1)
        img_resolution = top if img_resolution is None else img_resolution
        if img_resolution not in [4 * 2**k for k in range(len(channels))]:
            raise ValueError(f"{len(channels)} blocks make images of 4 to {top} pixels, not {img_resolution}")
        self.init_kwargs = plain(channels=channels, code_dim=code_dim, n_mlp=n_mlp, fused_from=fused_from,
                                 img_channels=img_channels, img_resolution=img_resolution, **more)
        self.z_dim = self.w_dim = code_dim
        self.c_dim = 0
        self.img_resolution, self.img_channels = img_resolution, img_channels
        self.style = mapping_layers(code_dim, n_mlp)
        self.generator = self.synthesis_class(channels, code_dim, fused_from, img_channels, **more)

    @property
    def step(self) -> int:
        """Index of the last block in use."""
        return self.img_resolution.bit_length() - 3

    @property
    def num_ws(self) -> int:
        """One w per block."""
        return self.step + 1

    def forward(self, z, c=None, *, truncation_psi=1, truncation_cutoff=None, **synthesis_kwargs):
        ws = self.mapping(z, c, truncation_psi=truncation_psi, truncation_cutoff=truncation_cutoff)
        return self.synthesis(ws, **synthesis_kwargs)

    def mapping(self, z, c=None, *, truncation_psi=1, truncation_cutoff=None):
        """ws [N, num_ws, D]; truncation pulls the first `truncation_cutoff` (None: all) towards the mean style."""
        ws = self.style(z)[:, None].repeat(1, self.num_ws, 1)
        if untruncated(truncation_psi):
            return ws
        pulled = torch.lerp(self.mean_style(), ws, truncation_psi)
        k = self.num_ws if truncation_cutoff is None else truncation_cutoff
        return torch.cat([pulled[:, :k], ws[:, k:]], 1)

    @torch.no_grad()
    def mean_style(self) -> torch.Tensor:
        """[1, D]: the mean over 10240 latents of a fixed generator."""
        p = self.style[1].linear.weight_orig
        z = torch.randn([10 * 1024, self.z_dim], generator=torch.Generator().manual_seed(0)).to(p.device, p.dtype)
        return self.style(z).mean(0, keepdim=True)

    def synthesis(self, ws, *, noise_mode="random", rng=None, noise=None, step=None, alpha=1, features=None,
                  force_fp32=False, **block):
        """noise: planes per block, or None: by noise_mode 'random' (from `rng`), 'const' (the same for every image)
        or 'none'. step: None = that of img_resolution. features: a list that receives every block's output. force_fp32
        asks for what is always so."""
        step = self.step if step is None else step
        if noise is None:
            noise = draw_noise(ws.shape[0], step, noise_mode, rng, ws)
        return self.generator(ws, noise, step, alpha, features, **block)


def draw_noise(n: int, step: int, mode: str, rng: random.Rng, like: torch.Tensor) -> list[torch.Tensor | None]:
    """One plane [n, 1, R, R] per block ('const': [1, 1, R, R], a function of R alone)."""
    if mode not in ("random", "const", "none"):
        raise ValueError(f"noise_mode must be 'random', 'const' or 'none', not {mode!r}")
    if mode == "none":
        return [None] * (step + 1)
    sizes = [4 * 2**k for k in range(step + 1)]
    if mode == "const":
        return [random.fixed_randn((1, 1, r, r), r).to(like) for r in sizes]
    return [random.randn((n, 1, r, r), rng, like.device).to(like.dtype) for r in sizes]


# ---- discriminator ---------------------------------------------------------------------------------------------------


class CriticBlock(nn.Module):
    """[N, in, R, R] -> [N, out, R/2, R/2]; the last one [N, in, 4, 4] -> [N, out, 1, 1]."""

    gather = None  # torch_utils/whole_batch.py

    def __init__(self, in_channels: int, out_channels: int, fused: bool, last: bool):
        super().__init__()
        self.last = last
        act = nn.LeakyReLU(0.2)
        if last:
            self.conv1 = nn.Sequential(EqualConv2d(in_channels + 1, out_channels, 3, padding=1), act)
            self.conv2 = nn.Sequential(EqualConv2d(out_channels, out_channels, 4), act)
            return
        self.conv1 = nn.Sequential(EqualConv2d(in_channels, out_channels, 3, padding=1), act)
        down = [FusedDownsample(out_channels, out_channels)] if fused else [
            EqualConv2d(out_channels, out_channels, 3, padding=1), nn.AvgPool2d(2)]
        self.conv2 = nn.Sequential(Blur(out_channels), *down, act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.last:
            x = batch_deviation(x, whole=self.training and self.gather is not None)
        return self.conv2(self.conv1(x))


class Discriminator(nn.Module):
    """image [N, img_channels, R, R] -> logits [N, 1].

    channels: lowest resolution first, as the generator's; `fused`: how many of the highest-resolution blocks use the
    fused down-sampling. Images of any block's resolution enter at that block. num_classes > 0: one head per class
    (`final` instead of `linear`), and c [N, num_classes] weighs the heads' logits.
    """

    def __init__(self, channels, fused, img_channels=3, from_rgb_activate=True, num_classes=0, img_resolution=None):
        super().__init__()
        self.img_resolution = 4 * 2 ** (len(channels) - 1) if img_resolution is None else img_resolution
        self.init_kwargs = plain(channels=channels, fused=fused, img_channels=img_channels,
                                 from_rgb_activate=from_rgb_activate, num_classes=num_classes,
                                 img_resolution=self.img_resolution)
        self.c_dim, self.img_channels = num_classes, img_channels
        down = list(channels)[::-1]
        n = len(down)
        self.progression = nn.ModuleList(CriticBlock(down[j], down[min(j + 1, n - 1)], fused=j < fused, last=j == n - 1)
                                         for j in range(n))
        rgb = [EqualConv2d(img_channels, c, 1) for c in down]
        self.from_rgb = nn.ModuleList(nn.Sequential(conv, nn.LeakyReLU(0.2)) if from_rgb_activate else conv
                                      for conv in rgb)
        if num_classes:
            self.final = EqualConv2d(down[-1], num_classes, 1)
        else:
            self.linear = EqualLinear(down[-1], 1)

    def features(self, image: torch.Tensor, alpha: float = 1) -> torch.Tensor:
        """[N, C]: what the heads see."""
        first = len(self.progression) - image.shape[2].bit_length() + 2
        if not (0 <= first < len(self.progression) and image.shape[2] == image.shape[3] == 4 << (
                len(self.progression) - 1 - first)):
            raise ValueError(f"images of 4 to {4 << (len(self.progression) - 1)} pixels, a power of two, expected, got "
                             f"{tuple(image.shape)}")
        x = self.progression[first](self.from_rgb[first](image))
        if 0 <= alpha < 1 and first + 1 < len(self.progression):
            x = torch.lerp(self.from_rgb[first + 1](F.avg_pool2d(image, 2)), x, float(alpha))
        for block in self.progression[first + 1 :]:
            x = block(x)
        return x.flatten(1)

    def forward(self, image: torch.Tensor, c: torch.Tensor | None = None, *, alpha: float = 1) -> torch.Tensor:
        return self.head(self.features(image, alpha), c)

    def head(self, features: torch.Tensor, c: torch.Tensor | None) -> torch.Tensor:
        if not self.c_dim:
            return self.linear(features)
        return (self.final(features[:, :, None, None]).flatten(1) * c).sum(1, keepdim=True)
