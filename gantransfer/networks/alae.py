# SPDX-License-Identifier: Apache-2.0
"""StyleALAE (Pidhorskyi, Adjeroh, Doretto, "Adversarial Latent Autoencoders", CVPR 2020), with published names.

Mapping F: z -> w; Generator G: w -> image; Encoder E: image -> w; LatentDiscriminator D: w -> score. GAN generator =
G o F, GAN discriminator = D o E. Weights are stored at the scale they are used at; `lr_coefficients` has the factors
of the equalised learning rate, which live in the optimiser (torch_utils.lreq_adam).

`lod` 0..L-1 is the working resolution 4 * 2^lod (None: the highest); `blend` in [0, 1] fades the newest level in.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from gantransfer.networks.stylegan1 import fused_downsample, fused_upsample, lrelu, pixel_norm, upsample
from gantransfer.networks.stylegan2 import plain, untruncated
from torch_utils import random as rnd

ROOT2 = math.sqrt(2)
FUSED_FROM = 128  # from this resolution on resampling is part of the convolution


class Linear(nn.Module):
    """x @ W^T + b with W ~ N(0, gain^2 / in); learning-rate coefficients std * lrmul and lrmul."""

    def __init__(self, in_features, out_features, gain=ROOT2, lrmul=1.0):
        super().__init__()
        std = gain / math.sqrt(in_features)
        self.weight = nn.Parameter(torch.randn(out_features, in_features) * std)
        self.bias = nn.Parameter(torch.zeros(out_features))
        self.lr_weight, self.lr_bias = std * lrmul, lrmul

    def forward(self, x):
        return F.linear(x, self.weight, self.bias)


class Conv(nn.Module):
    """Square convolution with padding that keeps the size. transposed: weights are stored [in, out, k, k]."""

    def __init__(self, in_channels, out_channels, kernel_size, gain=ROOT2, bias=False, transposed=False):
        super().__init__()
        std = gain / math.sqrt(in_channels * kernel_size**2)
        a, b = (in_channels, out_channels) if transposed else (out_channels, in_channels)
        self.weight = nn.Parameter(torch.randn(a, b, kernel_size, kernel_size) * std)
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.lr_weight, self.lr_bias = std, 1.0
        self.padding = kernel_size // 2

    def forward(self, x):
        return F.conv2d(x, self.weight, self.bias, padding=self.padding)


def lr_coefficients(net):
    """{parameter name: factor of the learning rate}; 1 for what is neither a linear layer nor a convolution."""
    out = {name: 1.0 for name, _ in net.named_parameters()}
    for name, module in net.named_modules():
        if isinstance(module, Linear | Conv):
            prefix = f"{name}." if name else ""
            out[f"{prefix}weight"] = module.lr_weight
            if module.bias is not None:
                out[f"{prefix}bias"] = module.lr_bias
    return out


class Blur(nn.Module):
    """Depthwise [1, 2, 1] x [1, 2, 1] / 16, zero padding."""

    def __init__(self, channels):
        super().__init__()
        k = torch.tensor([1.0, 2.0, 1.0])
        self.register_buffer("weight", (k[:, None] * k / 16).repeat(channels, 1, 1, 1))

    def forward(self, x):
        return F.conv2d(x, self.weight, padding=1, groups=x.shape[1])


def moments(x):
    """Mean and biased variance over height and width, both [N, C, 1, 1]."""
    m = x.mean((2, 3), keepdim=True)
    return m, (x - m).square().mean((2, 3), keepdim=True)


class DecodeBlock(nn.Module):
    """x [N, in, R/2, R/2] (block 0: the constant, R = 4) -> [N, out, R, R], modulated by two styles."""

    def __init__(self, index, in_channels, out_channels, latent_size):
        super().__init__()
        self.index, self.fused = index, 4 * 2**index >= FUSED_FROM
        if index > 0:
            self.conv_1 = Conv(in_channels, out_channels, 3, transposed=self.fused)
        self.conv_2 = Conv(out_channels, out_channels, 3)
        self.blur = Blur(out_channels)
        for k in (1, 2):
            self.register_parameter(f"noise_weight_{k}", nn.Parameter(torch.zeros(1, out_channels, 1, 1)))
            self.register_parameter(f"bias_{k}", nn.Parameter(torch.zeros(1, out_channels, 1, 1)))
            self.add_module(f"style_{k}", Linear(latent_size, 2 * out_channels, gain=1))

    def forward(self, x, s1, s2, noise):
        """noise(x, layer) -> [N or 1, 1, R, R], or None for the deterministic bump."""
        if self.index > 0:
            if self.fused:
                x = fused_upsample(x, 4 * self.conv_1.weight)
            else:
                x = self.conv_1(upsample(x))
            x = self.blur(x)
        x = self._modulate(x, 1, s1, noise)
        return self._modulate(self.conv_2(x), 2, s2, noise)

    def _modulate(self, x, k, style, noise):
        n = noise(x, 2 * self.index + k - 1)
        if n is None:
            s = math.sqrt(self.index + 1)
            x = x + 0.8 * s / math.sqrt(2 * math.pi) * torch.exp(-x.square() / (2 * s * s))
        else:
            x = x + getattr(self, f"noise_weight_{k}") * n
        x = lrelu(x + getattr(self, f"bias_{k}"))
        m, v = moments(x)
        gain, shift = getattr(self, f"style_{k}")(style)[:, :, None, None].chunk(2, 1)
        return (x - m) * torch.rsqrt(v + 1e-8) * (gain + 1) + shift


class ToRGB(nn.Module):
    def __init__(self, in_channels, img_channels):
        super().__init__()
        self.to_rgb = Conv(in_channels, img_channels, 1, gain=0.03, bias=True)

    def forward(self, x):
        return self.to_rgb(x)


class Generator(nn.Module):
    """ws [N, 2L, latent_size] -> image [N, img_channels, R, R], not clamped. channels: per block, 4x4 first.

    noise_mode: 'random' per sample (from `rng`), 'batch' one map for the batch, 'const' fixed maps, 'none' the
    published deterministic bump in place of noise. `noise`: a list of maps in the order they are used, in their place.
    """

    def __init__(self, latent_size, channels, img_channels):
        super().__init__()
        self.init_kwargs = plain(latent_size=latent_size, channels=channels, img_channels=img_channels)
        self.w_dim, self.num_ws, self.img_channels = latent_size, 2 * len(channels), img_channels
        self.img_resolution, self.layers = 4 * 2 ** (len(channels) - 1), len(channels)
        self.const = nn.Parameter(torch.ones(1, channels[0], 4, 4))
        self.decode_block = nn.ModuleList(
            DecodeBlock(i, channels[max(i - 1, 0)], c, latent_size) for i, c in enumerate(channels))
        self.to_rgb = nn.ModuleList(ToRGB(c, img_channels) for c in channels)

    def forward(self, ws, *, lod=None, blend=1, noise_mode="random", rng=None, noise=None, force_fp32=False):
        if noise_mode not in ("random", "batch", "const", "none"):
            raise ValueError(f"noise_mode must be 'random', 'batch', 'const' or 'none', not {noise_mode!r}")
        lod = self.layers - 1 if lod is None else lod
        given = None if noise is None else iter(noise)

        def draw(x, layer):
            if given is not None:
                return next(given)
            if noise_mode == "none":
                return None
            if noise_mode == "const":
                return rnd.fixed_randn((1, 1, *x.shape[2:]), layer).to(x.device)
            if noise_mode == "batch":
                return rnd.randn([1, 1, *x.shape[2:]], rng, x.device, common=True)
            return rnd.randn([len(ws), 1, *x.shape[2:]], rng, x.device)

        x = before = self.const
        for i in range(lod + 1):
            before = x
            x = self.decode_block[i](x, ws[:, 2 * i], ws[:, 2 * i + 1], draw)
        image = self.to_rgb[lod](x)
        if blend == 1:
            return image
        return torch.lerp(upsample(self.to_rgb[lod - 1](before)), image, blend)


class Synthesis(Generator):
    """The generator in the place of a StyleGAN2 synthesis network: same call, same attributes."""


class FromRGB(nn.Module):
    def __init__(self, img_channels, out_channels):
        super().__init__()
        self.from_rgb = Conv(img_channels, out_channels, 1, bias=True)

    def forward(self, x):
        return lrelu(lrelu(self.from_rgb(x)))  # twice, as published: a part of the trained weights


class EncodeBlock(nn.Module):
    """x [N, in, R, R] -> [N, out, R/2, R/2] and the styles [N, latent_size] read off the statistics removed."""

    def __init__(self, in_channels, out_channels, latent_size, fused):
        super().__init__()
        self.fused = fused
        self.conv_1 = Conv(in_channels, in_channels, 3)
        self.conv_2 = Conv(in_channels, out_channels, 3)
        self.blur = Blur(in_channels)
        self.bias_1 = nn.Parameter(torch.zeros(1, in_channels, 1, 1))
        self.bias_2 = nn.Parameter(torch.zeros(1, out_channels, 1, 1))
        self.style_1 = Linear(2 * in_channels, latent_size)
        self.style_2 = Linear(2 * out_channels, latent_size)

    def forward(self, x):
        x, s1 = self._normalise(lrelu(self.conv_1(x) + self.bias_1), self.style_1)
        x = self.blur(x)
        if self.fused:
            x = fused_downsample(x, self.conv_2.weight)
        else:
            x = F.avg_pool2d(self.conv_2(x), 2)
        x, s2 = self._normalise(lrelu(x + self.bias_2), self.style_2)
        return x, s1 + s2

    def _normalise(self, x, style):
        m, v = moments(x)
        # A constant map has no gradient of its deviation: in training the root stays away from zero.
        deviation = torch.sqrt(v.clamp(min=1e-8) if self.training else v)
        s = style(torch.cat([m, deviation], 1).flatten(1))
        return (x - m) * torch.rsqrt(v + 1e-5), s


class Encoder(nn.Module):
    """image [N, img_channels, 4 * 2^lod, 4 * 2^lod] -> w [N, 1, latent_size]. channels: R first, L + 1 numbers."""

    def __init__(self, latent_size, channels, img_channels):
        super().__init__()
        self.init_kwargs = plain(latent_size=latent_size, channels=channels, img_channels=img_channels)
        self.layers, self.w_dim, self.img_channels = len(channels) - 1, latent_size, img_channels
        self.img_resolution, self.slots = 2 ** (self.layers + 1), 1
        self.from_rgb = nn.ModuleList(FromRGB(img_channels, c) for c in channels[:-1])
        self.encode_block = nn.ModuleList(
            EncodeBlock(a, b, latent_size, fused=self.img_resolution >> j >= FUSED_FROM)
            for j, (a, b) in enumerate(zip(channels[:-1], channels[1:])))

    def forward(self, img, *, lod=None, blend=1):
        first = 0 if lod is None else self.layers - 1 - lod
        x, w = self.from_rgb[first](img), 0
        for j in range(first, self.layers):
            x, s = self.encode_block[j](x)
            if j == first and blend != 1:
                s = s * blend
                x = torch.lerp(self.from_rgb[j + 1](F.avg_pool2d(img, 2)), x, blend)
            w = w + s
        return w[:, None]


class _MapBlock(nn.Module):
    def __init__(self, latent_size):
        super().__init__()
        self.fc = Linear(latent_size, latent_size, lrmul=0.1)


class _Mean(nn.Module):
    def __init__(self, num_ws, latent_size):
        super().__init__()
        self.register_buffer("buff", torch.zeros(num_ws, latent_size))


class Mapping(nn.Module):
    """z [N, latent_size] -> ws [N, num_ws or 1, latent_size]; num_ws None: without the running mean of w."""

    def __init__(self, latent_size, num_layers, num_ws=None):
        super().__init__()
        self.init_kwargs = plain(latent_size=latent_size, num_layers=num_layers, num_ws=num_ws)
        self.z_dim = self.w_dim = latent_size
        self.c_dim, self.num_ws = 0, num_ws
        self.map_blocks = nn.ModuleList(_MapBlock(latent_size) for _ in range(num_layers))
        if num_ws is not None:
            self.dlatent_avg = _Mean(num_ws, latent_size)

    def forward(self, z, c=None, *, mix_z=None, cutoff=None, truncation_psi=1, truncation_cutoff=None):
        """Layers from `cutoff` on take their w from `mix_z`; then the first `truncation_cutoff` layers (None: all) are
        pulled towards the running mean."""
        ws = self.one(z).expand(-1, self.num_ws or 1, -1)
        if mix_z is not None:
            ws = torch.cat([ws[:, :cutoff], self.one(mix_z).expand_as(ws)[:, cutoff:]], 1)
        if untruncated(truncation_psi):
            return ws
        near = torch.lerp(self.dlatent_avg.buff.expand_as(ws), ws, truncation_psi)
        return near if truncation_cutoff is None else torch.cat([near[:, :truncation_cutoff],
                                                                 ws[:, truncation_cutoff:]], 1)

    def one(self, z):
        """w [N, 1, latent_size]."""
        x = pixel_norm(z)
        for block in self.map_blocks:
            x = lrelu(block.fc(x))
        return x[:, None]

    @torch.no_grad()
    def update_mean(self, w_mean, beta):
        """avg <- beta avg + (1 - beta) w_mean; w_mean [latent_size]."""
        self.dlatent_avg.buff.lerp_(w_mean.expand_as(self.dlatent_avg.buff), 1 - beta)


class LatentDiscriminator(nn.Module):
    """w [N, 1, latent_size] -> score [N]: linear layers without an activation, of whose last output one is used."""

    def __init__(self, latent_size, num_layers=3):
        super().__init__()
        self.init_kwargs = plain(latent_size=latent_size, num_layers=num_layers)
        self.latent_size = latent_size
        self.map_blocks = nn.ModuleList(
            Linear(latent_size, 2 * latent_size if i == num_layers - 1 else latent_size, lrmul=0.1)
            for i in range(num_layers))

    def forward(self, w):
        x = w.reshape(len(w), -1)
        for block in self.map_blocks:
            x = block(x)
        return x[:, self.latent_size]


class AutoEncoder(nn.Module):
    """F, G as {mapping, synthesis}: z [N, z_dim] -> image, for samplers and measures of the latent space."""

    def __init__(self, mapping, synthesis):
        super().__init__()
        self.mapping, self.synthesis = mapping, synthesis
        self.z_dim, self.c_dim, self.w_dim, self.num_ws = mapping.z_dim, 0, mapping.w_dim, synthesis.num_ws

    def forward(self, z, c=None, *, truncation_psi=1, truncation_cutoff=None, **synthesis_kwargs):
        ws = self.styles(z, c, truncation_psi=truncation_psi, truncation_cutoff=truncation_cutoff)
        return self.synthesis(ws, **synthesis_kwargs)

    def styles(self, z, c=None, **truncation):
        """ws [N, num_ws, w_dim]."""
        return self.mapping(z, c, **truncation).expand(-1, self.num_ws, -1)


def schedule(epoch, seen, *, epochs_per_lod, layers, size, batches):
    """(lod, batch, in transition, blend) after `seen` images of epoch `epoch` of a set of `size` images.

    epochs_per_lod 0: the highest level from the start. blend = sin^2(pi p / 2), p from 0 to 1 over the first half of
    a level's epochs.
    """
    step = epoch // epochs_per_lod if epochs_per_lod else layers - 1
    lod = min(layers - 1, step)
    half = epochs_per_lod // 2
    fading = bool(half) and lod > 0 and step == lod and epoch % epochs_per_lod < half
    p = ((epoch % epochs_per_lod) * size + seen) / (half * size) if fading else 1.0
    blend = math.sin(math.pi * p / 2) ** 2 if fading else 1.0
    return lod, batches[min(lod, len(batches) - 1)], fading, blend
