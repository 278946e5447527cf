# SPDX-License-Identifier: Apache-2.0
"""The StyleGAN2 generator and discriminator (Karras et al., CVPR 2020; ADA release, NeurIPS 2020).

Constructor arguments and state-dict names are the published ones, so published weights load with strict=True. Weights
are stored at unit scale ("equalised learning rate"); run-time gains make their variance 1/fan_in.

From latent to image: MappingNetwork z, c -> ws [N, num_ws, w_dim]; SynthesisNetwork ws -> image through SynthesisBlocks
of doubling resolution. Discriminator: DiscriminatorBlocks of halving resolution, DiscriminatorEpilogue -> logit.
Images of H x W pixels (sizes.py): `img_resolution` is R for R x R and (H, W) for others; blocks are called by the
longer side of their maps. The discriminator's head is called `b4`, as published, whatever enters it.

16-bit blocks: the `num_fp16_res` highest resolutions. `fp16_dtype` says what that means: 'auto' = float16 on CUDA,
float32 elsewhere (half-precision convolutions are slow or inexact on most CPUs); 'float16' or 'bfloat16' = that,
everywhere. Images, styles, mapping and the discriminator's head are float32 always.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import torch
from torch import nn

from gantransfer.networks.sizes import ImageSize
from torch_utils import distributed as dist
from torch_utils import random
from torch_utils.ops import styled_conv, upfirdn2d
from torch_utils.ops.bias_act import activate_, activation_funcs, bias_act, folds_gain
from torch_utils.ops.conv_bias_act import conv_bias_act
from torch_utils.ops.modulated_conv2d import modulated_conv2d, modulated_conv_act

ARCHITECTURES = ("orig", "skip", "resnet")


def normalize_2nd_moment(x, eps=1e-8):
    """x / rms over dimension 1."""
    return x * (x.square().mean(1, keepdim=True) + eps).rsqrt()


def channels_at(res: int, channel_base: int, channel_max: int) -> int:
    """Feature maps at a resolution."""
    return min(channel_base // res, channel_max)


def first_fp16_resolution(levels: list[int], num_fp16_res: int) -> int:
    """Blocks of this resolution and above are 16-bit: the highest `num_fp16_res` ones, never the first map."""
    return max(2 * levels[-1] >> num_fp16_res, 2 * levels[0])


def half_dtype(fp16_dtype: str, device: torch.device) -> torch.dtype:
    """The dtype of a 16-bit block on a device; see the module's docstring."""
    if fp16_dtype == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    if fp16_dtype not in ("float16", "bfloat16"):
        raise ValueError(f"fp16_dtype must be 'auto', 'float16' or 'bfloat16', not {fp16_dtype!r}")
    return getattr(torch, fp16_dtype)


def block_layout(fp16_channels_last: bool, dtype: torch.dtype, device: torch.device) -> torch.memory_format:
    """Memory format of a block's features: what was asked for 16-bit blocks; channels_last on the CPU (measured)."""
    wanted = device.type == "cpu" or (fp16_channels_last and dtype.itemsize == 2)
    return torch.channels_last if wanted else torch.contiguous_format


def compute_in(net: nn.Module, fp16_dtype: str | None = None, channels_last: bool = False) -> None:
    """Let the 16-bit blocks of a network compute in another type, or in channels_last. Its stored arguments stay, so a
    snapshot made on one machine runs in another one's way."""
    for block in net.modules():
        if getattr(block, "use_fp16", False):
            block.fp16_dtype = fp16_dtype or block.fp16_dtype
            block.channels_last |= channels_last
            for p in block.parameters() if channels_last else ():
                if p.ndim == 4:
                    p.data = p.data.contiguous(memory_format=torch.channels_last)


def full_precision(x):
    """x in float32, or as it is in float64."""
    return x if x.dtype == torch.float64 else x.to(torch.float32)


class FullyConnectedLayer(nn.Module):
    """act(x @ W^T * m / sqrt(in) + b * m): x [N, in] -> [N, out]; m = lr_multiplier."""

    def __init__(self, in_features, out_features, bias=True, activation="linear", lr_multiplier=1, bias_init=0):
        super().__init__()
        self.activation = activation
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full([out_features], float(bias_init))) if bias else None
        self.weight_gain = lr_multiplier / math.sqrt(in_features)
        self.bias_gain = lr_multiplier

    def forward(self, x):
        # The gains ride on the matrix product instead of rescaling the whole weight at every call.
        spec = activation_funcs[self.activation]
        fold = folds_gain(self.activation, spec.def_alpha, spec.def_gain)
        gain = spec.def_gain if fold else 1
        w = self.weight.to(x.dtype).t()
        if self.bias is None:
            x = x @ w * (self.weight_gain * gain)
        else:
            x = torch.addmm(self.bias.to(x.dtype), x, w, beta=self.bias_gain * gain, alpha=self.weight_gain * gain)
        return activate_(x, self.activation) if fold else bias_act(x, act=self.activation)


class Conv2dLayer(nn.Module):
    """Convolution with resampling, bias and activation: x [N, in, H, W] -> [N, out, H * up / down, W * up / down]."""

    def __init__(self, in_channels, out_channels, kernel_size, bias=True, activation="linear", up=1, down=1,
                 resample_filter=(1, 3, 3, 1), conv_clamp=None, channels_last=False, trainable=True):
        super().__init__()
        self.activation, self.up, self.down, self.conv_clamp = activation, up, down, conv_clamp
        self.padding = kernel_size // 2
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)
        self.register_buffer("resample_filter", upfirdn2d.setup_filter(list(resample_filter)))
        weight = torch.randn(out_channels, in_channels, kernel_size, kernel_size)
        if channels_last:
            weight = weight.contiguous(memory_format=torch.channels_last)
        bias = torch.zeros(out_channels) if bias else None
        if trainable:
            self.weight = nn.Parameter(weight)
            self.bias = None if bias is None else nn.Parameter(bias)
        else:  # frozen: same names in the state dict, nothing to optimise
            self.register_buffer("weight", weight)
            self.register_buffer("bias", bias)

    def forward(self, x, gain=1):
        # For upsampling the stored kernel means true convolution: a convention of the published weights.
        return conv_bias_act(x, self.weight, self.bias, self.weight_gain, act=self.activation,
                             gain=activation_funcs[self.activation].def_gain * gain,
                             clamp=None if self.conv_clamp is None else self.conv_clamp * gain,
                             f=self.resample_filter, up=self.up, down=self.down, padding=self.padding,
                             flip_weight=self.up == 1)


class MappingNetwork(nn.Module):
    """z [N, z_dim], c [N, c_dim] -> w, broadcast to ws [N, num_ws, w_dim] (or [N, w_dim] if num_ws is None)."""

    def __init__(self, z_dim, c_dim, w_dim, num_ws, num_layers=8, embed_features=None, layer_features=None,
                 activation="lrelu", lr_multiplier=0.01, w_avg_beta=0.995):
        super().__init__()
        self.z_dim, self.c_dim, self.w_dim, self.num_ws = z_dim, c_dim, w_dim, num_ws
        self.num_layers, self.w_avg_beta = num_layers, w_avg_beta
        embed_features = 0 if c_dim == 0 else w_dim if embed_features is None else embed_features
        layer_features = w_dim if layer_features is None else layer_features
        sizes = self.layer_sizes(z_dim, embed_features, layer_features)
        if c_dim > 0:
            self.embed = FullyConnectedLayer(c_dim, embed_features)
        for i, (a, b) in enumerate(zip(sizes[:-1], sizes[1:])):
            self.add_module(f"fc{i}", FullyConnectedLayer(a, b, activation=activation, lr_multiplier=lr_multiplier))
        if num_ws is not None and w_avg_beta is not None:
            self.register_buffer("w_avg", torch.zeros(w_dim))

    def layer_sizes(self, z_dim, embed_features, layer_features) -> list[int]:
        """Widths in front of, between and behind the fully connected layers."""
        return [z_dim + embed_features, *[layer_features] * (self.num_layers - 1), self.w_dim]

    def forward(self, z, c, *, truncation_psi=1, truncation_cutoff=None, update_w_avg=None, w_out=None,
                label_noise=None):
        """truncation_psi pulls the first `truncation_cutoff` (None: all) ws towards the running mean `w_avg`.

        update_w_avg: move the running mean towards this batch's (None: in training mode). w_out: a list; the
        batch's w [N, w_dim], without gradient, is appended to it and the buffer left alone, for callers that average
        over micro-batches and processes before `update_w_avg(mean)`. label_noise [N, embed_features] is added to the
        label embeddings.
        """
        w = self.layers(self.inputs(z, c, label_noise))
        self.track(w, "w_avg", update_w_avg, w_out)
        if self.num_ws is None:
            return w
        ws = w.unsqueeze(1).repeat(1, self.num_ws, 1)
        return truncate(ws, getattr(self, "w_avg", None), truncation_psi, truncation_cutoff)

    def inputs(self, z, c, label_noise=None):
        """Normalised latent and normalised label embedding, side by side."""
        parts = []
        if self.z_dim > 0:
            _expect("z", z, self.z_dim)
            parts.append(normalize_2nd_moment(full_precision(z)))
        if self.c_dim > 0:
            parts.append(self.embed_label(c, label_noise))
        return torch.cat(parts, 1) if len(parts) > 1 else parts[0]

    def embed_label(self, c, noise=None):
        """c [N, c_dim] -> normalised embedding [N, embed_features]."""
        _expect("c", c, self.c_dim)
        y = self.embed(full_precision(c))
        return normalize_2nd_moment(y if noise is None else y + noise)

    def layers(self, x):
        """The fully connected layers: [N, z_dim + embed_features] -> w [N, w_dim]."""
        for i in range(self.num_layers):
            x = getattr(self, f"fc{i}")(x)
        return x

    def track(self, w, name, update=None, out=None):
        """Record w for the running mean `name`."""
        if not hasattr(self, name):
            return
        if out is not None:
            out.append(w.detach())
        elif self.training if update is None else update:
            self.update_w_avg(w.detach().mean(0), name)

    @torch.no_grad()
    def update_w_avg(self, w_mean, name="w_avg"):
        """Running mean: `w_avg <- beta * w_avg + (1 - beta) * w_mean`."""
        buffer = getattr(self, name)
        buffer.copy_(w_mean.to(buffer.dtype).lerp(buffer, self.w_avg_beta))


def untruncated(psi) -> bool:
    """Whether psi is the number 1. A tensor (the input of an exported graph) has no value yet."""
    return not isinstance(psi, torch.Tensor) and psi == 1


def truncate(ws, center, psi, cutoff=None):
    """center + psi (ws - center) for the first `cutoff` (None: all) layers of ws [N, L, w_dim]; center [w_dim] or
    [N, w_dim]."""
    if untruncated(psi):
        return ws
    if center is None:
        raise ValueError("truncation needs the running mean of w, which this network does not keep")
    center = center if center.ndim == 1 else center.unsqueeze(1)
    if cutoff is None:
        return torch.lerp(center, ws, psi)
    return torch.cat([torch.lerp(center, ws[:, :cutoff], psi), ws[:, cutoff:]], 1)


def _expect(name, x, dim):
    if x is None or x.ndim != 2 or x.shape[1] != dim:
        raise ValueError(f"{name} [N, {dim}] expected, got {None if x is None else tuple(x.shape)}")


class SynthesisLayer(nn.Module):
    """Modulated 3x3 convolution, noise, bias, leaky relu: x [N, in, H / up, W / up], w [N, w_dim] -> [N, out, H, W].
    resolution: R for R x R, or (H, W)."""

    def __init__(self, in_channels, out_channels, w_dim, resolution, kernel_size=3, up=1, use_noise=True,
                 activation="lrelu", resample_filter=(1, 3, 3, 1), conv_clamp=None, channels_last=False):
        super().__init__()
        self.size, self.up, self.use_noise, self.activation = ImageSize.of(resolution), up, use_noise, activation
        self.conv_clamp, self.padding = conv_clamp, kernel_size // 2
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1)
        weight = torch.randn(out_channels, in_channels, kernel_size, kernel_size)
        self.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last) if channels_last else weight)
        self.register_buffer("resample_filter", upfirdn2d.setup_filter(list(resample_filter)))
        if use_noise:
            self.register_buffer("noise_const", torch.randn(*self.size))
            self.noise_strength = nn.Parameter(torch.zeros([]))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.packed = None  # the weights as inference reads them, made when it first does

    def forward(self, x, w, noise_mode="random", rng=None, formulation=None, gain=1):
        if noise_mode not in ("random", "const", "none"):
            raise ValueError(f"noise_mode must be 'random', 'const' or 'none', not {noise_mode!r}")
        noise = strength = None
        if self.use_noise and noise_mode != "none":
            shape = (x.shape[0], 1, *self.size)
            noise = self.noise_const if noise_mode == "const" else random.randn(shape, rng, x.device)
            strength = self.noise_strength
        spec = activation_funcs[self.activation]
        conv = dict(up=self.up, padding=self.padding, flip_weight=self.up == 1)
        last = dict(act=self.activation, gain=spec.def_gain * gain,
                    clamp=None if self.conv_clamp is None else self.conv_clamp * gain)
        styles = self.affine(w)
        prepared = formulation is None and not self.training  # weights that are trained change at every step
        if prepared and styled_conv.usable(x, self.weight, styles, noise, strength, self.bias,
                                           self.activation, **conv):
            if self.packed is None or not self.packed.current(self.weight):
                self.packed = styled_conv.Packed(self.weight, self.up, self.size.longer)
            return styled_conv.styled_conv(x, self.packed, styles, noise, strength, self.bias, self.resample_filter,
                                           self.up, **last)
        if formulation in (None, "activations") and self.activation in ("linear", "relu", "lrelu"):
            return modulated_conv_act(x, self.weight, styles, noise, strength, self.bias, f=self.resample_filter,
                                      **conv, **last)
        noise = None if noise is None else (noise * strength).to(x.dtype)
        y = modulated_conv2d(x, self.weight, styles, noise=noise, resample_filter=self.resample_filter,
                             formulation=formulation, **conv)
        return bias_act(y, self.bias.to(x.dtype), **last)


class ToRGBLayer(nn.Module):
    """Modulated 1x1 convolution without demodulation: x [N, in, R, R], w [N, w_dim] -> [N, out, R, R]."""

    def __init__(self, in_channels, out_channels, w_dim, kernel_size=1, conv_clamp=None, channels_last=False):
        super().__init__()
        self.conv_clamp, self.padding = conv_clamp, kernel_size // 2
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1)
        weight = torch.randn(out_channels, in_channels, kernel_size, kernel_size)
        self.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last) if channels_last else weight)
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)

    def forward(self, x, w, formulation=None):
        styles = self.affine(w) * self.weight_gain
        y = modulated_conv2d(x, self.weight, styles, padding=self.padding, demodulate=False, formulation=formulation)
        return bias_act(y, self.bias.to(x.dtype), clamp=self.conv_clamp)


class SynthesisBlock(nn.Module):
    """One resolution: x [N, in, H/2, W/2] (None in the first block) and the image so far -> x [N, out, H, W], image.

    Further keyword arguments go to the SynthesisLayers. `num_conv` and `num_torgb` count the ws it takes, in the order
    conv0, conv1, torgb.
    """

    layer_class = SynthesisLayer

    def __init__(self, in_channels, out_channels, w_dim, resolution, img_channels, is_last, architecture="skip",
                 resample_filter=(1, 3, 3, 1), conv_clamp=None, use_fp16=False, fp16_channels_last=False,
                 fp16_dtype="auto", **layer_kwargs):
        super().__init__()
        if architecture not in ARCHITECTURES:
            raise ValueError(f"architecture must be one of {ARCHITECTURES}, not {architecture!r}")
        size = ImageSize.of(resolution)
        self.in_channels, self.architecture, self.resolution = in_channels, architecture, size.longer
        self.use_fp16, self.fp16_dtype = use_fp16, fp16_dtype
        self.channels_last = use_fp16 and fp16_channels_last
        self.register_buffer("resample_filter", upfirdn2d.setup_filter(list(resample_filter)))
        common = dict(conv_clamp=conv_clamp, channels_last=self.channels_last)
        layer = dict(w_dim=w_dim, resolution=size, **common, **layer_kwargs)
        if in_channels == 0:
            self.const = nn.Parameter(torch.randn(out_channels, *size))
        else:
            self.conv0 = self.layer_class(in_channels, out_channels, up=2, resample_filter=resample_filter, **layer)
        # It does not resample; as published its unused buffer holds the standard filter.
        self.conv1 = self.layer_class(out_channels, out_channels, **layer)
        self.num_conv = 1 if in_channels == 0 else 2
        self.num_torgb = int(is_last or architecture == "skip")
        if self.num_torgb:
            self.torgb = ToRGBLayer(out_channels, img_channels, w_dim, **common)
        if in_channels and architecture == "resnet":
            self.skip = Conv2dLayer(in_channels, out_channels, 1, bias=False, up=2, resample_filter=resample_filter,
                                    channels_last=self.channels_last)

    def forward(self, x, img, ws, force_fp32=False, formulation=None, **noise_kwargs):
        ws = full_precision(ws)
        w = iter(ws.unbind(1))
        dtype = half_dtype(self.fp16_dtype, ws.device) if self.use_fp16 and not force_fp32 else ws.dtype
        layout = block_layout(self.channels_last, dtype, ws.device)
        kw = dict(formulation=formulation, **noise_kwargs)
        if self.in_channels == 0:
            x = self.const.to(dtype).unsqueeze(0).repeat(ws.shape[0], 1, 1, 1).contiguous(memory_format=layout)
            x = self.conv1(x, next(w), **kw)
        elif self.architecture == "resnet":
            x = x.to(dtype=dtype, memory_format=layout)
            y = self.skip(x, gain=math.sqrt(0.5))
            x = self.conv0(x, next(w), **kw)
            x = self.conv1(x, next(w), gain=math.sqrt(0.5), **kw) + y
        else:
            x = x.to(dtype=dtype, memory_format=layout)
            x = self.conv1(self.conv0(x, next(w), **kw), next(w), **kw)
        if img is not None:
            img = upfirdn2d.upsample2d(img, self.resample_filter)
        if self.num_torgb:
            y = full_precision(self.torgb(x, next(w), formulation=formulation))
            y = y.contiguous() if y.stride(1) == 1 else y
            img = y if img is None else img + y
        return x, img


class SynthesisNetwork(nn.Module):
    """ws [N, num_ws, w_dim] -> image [N, img_channels, H, W] float32."""

    block_class = SynthesisBlock
    shared_torgb_ws = True  # a block's ToRGB uses the w of the next block's first convolution

    def __init__(self, w_dim, img_resolution, img_channels, channel_base=32768, channel_max=512, num_fp16_res=0,
                 **block_kwargs):
        super().__init__()
        self.w_dim, self.img_resolution, self.img_channels = w_dim, img_resolution, img_channels
        size = ImageSize.of(img_resolution)
        self.block_resolutions = size.levels
        fp16_from = first_fp16_resolution(size.levels, num_fp16_res)
        self.windows = {}  # resolution -> (first w, number of ws)
        start, inside = 0, 0
        for res in self.block_resolutions:
            inputs = channels_at(res // 2, channel_base, channel_max) if start else 0
            block = self.block_class(inputs, channels_at(res, channel_base, channel_max), w_dim=w_dim,
                                     resolution=size.at(res), img_channels=img_channels, is_last=res == size.longer,
                                     use_fp16=res >= fp16_from, **block_kwargs)
            self.add_module(f"b{res}", block)
            inside = block.num_conv + block.num_torgb
            self.windows[res] = start, inside
            start += block.num_conv if self.shared_torgb_ws else inside
        self.num_ws = sum(self.windows[size.longer])

    def forward(self, ws, *, noise_mode="random", rng=None, force_fp32=False, formulation=None):
        """noise_mode: 'random' (from `rng`, see torch_utils.random), 'const' (the stored maps) or 'none'.
        force_fp32: run 16-bit blocks in float32. formulation: see modulated_conv2d."""
        for _res, _x, img in self.run_blocks(ws, noise_mode=noise_mode, rng=rng, force_fp32=force_fp32,  # noqa: B007
                                             formulation=formulation):
            pass
        return img

    def run_blocks(self, ws, **kwargs) -> Iterator[tuple[int, torch.Tensor, torch.Tensor | None]]:
        """Yield (resolution, features, image so far) after each block."""
        if ws.ndim != 3 or tuple(ws.shape[1:]) != (self.num_ws, self.w_dim):
            raise ValueError(f"ws [N, {self.num_ws}, {self.w_dim}] expected, got {tuple(ws.shape)}")
        ws = ws.transpose(0, 1).contiguous().transpose(0, 1)  # one w = one piece: same rounding as alone
        x = img = None
        for res, (start, count) in self.windows.items():
            x, img = getattr(self, f"b{res}")(x, img, ws[:, start : start + count], **kwargs)
            yield res, x, img


class Generator(nn.Module):
    """z [N, z_dim], c [N, c_dim] -> image [N, img_channels, H, W] float32, nominally in [-1, 1]."""

    synthesis_class = SynthesisNetwork
    mapping_class = MappingNetwork

    def __init__(self, z_dim, c_dim, w_dim, img_resolution, img_channels, mapping_kwargs=None, synthesis_kwargs=None):
        super().__init__()
        self.init_kwargs = plain(z_dim=z_dim, c_dim=c_dim, w_dim=w_dim, img_resolution=img_resolution,
                                 img_channels=img_channels, mapping_kwargs=mapping_kwargs or {},
                                 synthesis_kwargs=synthesis_kwargs or {})
        self.z_dim, self.c_dim, self.w_dim = z_dim, c_dim, w_dim
        self.img_resolution, self.img_channels = img_resolution, img_channels
        self.synthesis = self.synthesis_class(w_dim=w_dim, img_resolution=img_resolution, img_channels=img_channels,
                                              **(synthesis_kwargs or {}))
        self.num_ws = self.synthesis.num_ws
        self.mapping = self.mapping_class(z_dim=z_dim, c_dim=c_dim, w_dim=w_dim, num_ws=self.num_ws,
                                          **(mapping_kwargs or {}))

    def class_tables(self) -> list[torch.Tensor]:
        """What belongs to single classes: the label embeddings [c_dim, embed_features], before they are normalised."""
        embed = self.mapping.embed
        return [(embed.weight * embed.weight_gain + embed.bias[:, None] * embed.bias_gain).t()]

    def forward(self, z, c, *, truncation_psi=1, truncation_cutoff=None, update_w_avg=None, w_out=None,
                **synthesis_kwargs):
        ws = self.mapping(z, c, truncation_psi=truncation_psi, truncation_cutoff=truncation_cutoff,
                          update_w_avg=update_w_avg, w_out=w_out)
        return self.synthesis(ws, **synthesis_kwargs)


class DiscriminatorBlock(nn.Module):
    """x [N, tmp, H, W] (or the image in the first block) -> x [N, out, H/2, W/2]; the image goes on in 'skip' only.

    Layers are counted over all blocks from `first_layer_idx`; those below `freeze_layers` are not trainable (Freeze-D).
    """

    def __init__(self, in_channels, tmp_channels, out_channels, resolution, img_channels, first_layer_idx,
                 architecture="resnet", activation="lrelu", resample_filter=(1, 3, 3, 1), conv_clamp=None,
                 use_fp16=False, fp16_channels_last=False, freeze_layers=0, fp16_dtype="auto"):
        super().__init__()
        if in_channels not in (0, tmp_channels):
            raise ValueError(f"in_channels must be 0 or tmp_channels, not {in_channels}")
        if architecture not in ARCHITECTURES:
            raise ValueError(f"architecture must be one of {ARCHITECTURES}, not {architecture!r}")
        self.in_channels, self.resolution, self.architecture = in_channels, resolution, architecture
        self.use_fp16, self.fp16_dtype = use_fp16, fp16_dtype
        self.channels_last = use_fp16 and fp16_channels_last
        self.num_layers = 0
        self.register_buffer("resample_filter", upfirdn2d.setup_filter(list(resample_filter)))

        def conv(*args, **kw):
            index = first_layer_idx + self.num_layers
            self.num_layers += 1
            return Conv2dLayer(*args, trainable=index >= freeze_layers, channels_last=self.channels_last, **kw)

        kw = dict(activation=activation, conv_clamp=conv_clamp)
        if in_channels == 0 or architecture == "skip":
            self.fromrgb = conv(img_channels, tmp_channels, 1, **kw)
        self.conv0 = conv(tmp_channels, tmp_channels, 3, **kw)
        self.conv1 = conv(tmp_channels, out_channels, 3, down=2, resample_filter=resample_filter, **kw)
        if architecture == "resnet":
            self.skip = conv(tmp_channels, out_channels, 1, bias=False, down=2, resample_filter=resample_filter)

    def forward(self, x, img, force_fp32=False):
        given = img if x is None else x
        dtype = full_precision(given.new_empty(0)).dtype
        if self.use_fp16 and not force_fp32:
            dtype = half_dtype(self.fp16_dtype, given.device)
        layout = block_layout(self.channels_last, dtype, given.device)
        if x is not None:
            x = x.to(dtype=dtype, memory_format=layout)
        if hasattr(self, "fromrgb") and img is not None:
            y = self.fromrgb(img.to(dtype=dtype, memory_format=layout))
            x = y if x is None else x + y
            img = upfirdn2d.downsample2d(img, self.resample_filter) if self.architecture == "skip" else None
        if self.architecture == "resnet":
            y = self.skip(x, gain=math.sqrt(0.5))
            x = self.conv1(self.conv0(x), gain=math.sqrt(0.5)) + y
        else:
            x = self.conv1(self.conv0(x))
        return x, img


class MinibatchStd(nn.Module):
    """Append `num_channels` maps with the standard deviation over groups of samples: [N, C, H, W] -> [N, C + F, H, W].
    Sample n belongs to group n mod (N / group_size).

    In training they can be those of the samples of all processes. They lie as the rows of a batch do
    (`distributed.gather_rows`): where a process has whole groups, it needs no other."""

    gather = None  # torch_utils/whole_batch.py

    def __init__(self, group_size, num_channels=1):
        super().__init__()
        self.group_size, self.num_channels = group_size, num_channels

    def forward(self, x):
        n = len(x)
        whole = n * dist.world_size() if self.training and self.gather is not None else n
        g = whole if self.group_size is None else min(self.group_size, whole)
        if g and n % g and whole % g == 0:
            return torch.cat([x, dist.own_rows(self._deviation(dist.gather_rows(x), g))], 1)
        if g and n % g:
            raise ValueError(f"minibatch standard deviation: {n} samples cannot be split into groups of {g}; choose a "
                             "batch (per step and per GPU) that mbstd_group_size divides, or change mbstd_group_size")
        return torch.cat([x, self._deviation(x, g)], 1)

    def _deviation(self, x, g):
        """[N, F, H, W] over groups of g."""
        (n, c, h, w), f = x.shape, self.num_channels
        y = x.reshape(max(g, 1), -1, f, c // f, h, w)
        y = (y - y.mean(0)).square().mean(0)
        y = (y + 1e-8).sqrt().mean((2, 3, 4))  # [N / g, F]
        return y.repeat(g, 1)[:, :, None, None].expand(n, f, h, w)


class Weave:
    """Two batches of n rows as one, in which MinibatchStd finds the same groups as in either. g: its group size, which
    divides n."""

    def __init__(self, n, g):
        self.shape, self.n = (g, n // g), n

    def __call__(self, a, b):
        """[n, ...] and [n, ...] -> [2 n, ...]."""
        return torch.cat([t.reshape(*self.shape, *t.shape[1:]) for t in (a, b)], 1).flatten(0, 1)

    def apart(self, both):
        """[2 n, ...] -> the rows of either."""
        g, m = self.shape
        return [t.reshape(self.n, *both.shape[1:]) for t in both.reshape(g, 2 * m, *both.shape[1:]).split(m, 1)]


class DiscriminatorEpilogue(nn.Module):
    """x [N, in, H, W] -> [N, 1], or the projection on a label's cmap [N, cmap_dim]. Always float32."""

    def __init__(self, in_channels, cmap_dim, resolution, img_channels, architecture="resnet", mbstd_group_size=4,
                 mbstd_num_channels=1, activation="lrelu", conv_clamp=None):
        super().__init__()
        self.cmap_dim, self.architecture = cmap_dim, architecture
        if architecture == "skip":
            self.fromrgb = Conv2dLayer(img_channels, in_channels, 1, activation=activation)
        self.mbstd = MinibatchStd(mbstd_group_size, mbstd_num_channels) if mbstd_num_channels > 0 else None
        self.conv = Conv2dLayer(in_channels + mbstd_num_channels, in_channels, 3, activation=activation,
                                conv_clamp=conv_clamp)
        self.fc = FullyConnectedLayer(in_channels * ImageSize.of(resolution).pixels, in_channels, activation=activation)
        self.make_heads(in_channels, cmap_dim)

    def make_heads(self, features, cmap_dim):
        self.out = FullyConnectedLayer(features, cmap_dim if cmap_dim > 0 else 1)

    def forward(self, x, img, cmap):
        x = self.out(self.features(x, img))
        return x if self.cmap_dim == 0 else project(x, cmap)

    def features(self, x, img=None):
        """Everything in front of the heads: [N, in, H, W] -> [N, in]."""
        x = full_precision(x).contiguous()
        if self.architecture == "skip":
            x = x + self.fromrgb(full_precision(img))
        if self.mbstd is not None:
            x = self.mbstd(x)
        return self.fc(self.conv(x).flatten(1))


def project(x, cmap):
    """Logit of a conditional discriminator: <x, cmap> / sqrt(dim), [N, 1]."""
    return (x * cmap).sum(1, keepdim=True) * (1 / math.sqrt(cmap.shape[1]))


class Discriminator(nn.Module):
    """image [N, img_channels, H, W] in [-1, 1], c [N, c_dim] -> logits [N, 1] float32."""

    epilogue_class = DiscriminatorEpilogue

    def __init__(self, c_dim, img_resolution, img_channels, architecture="resnet", channel_base=32768, channel_max=512,
                 num_fp16_res=0, conv_clamp=None, cmap_dim=None, block_kwargs=None, mapping_kwargs=None,
                 epilogue_kwargs=None):
        super().__init__()
        self.init_kwargs = plain(c_dim=c_dim, img_resolution=img_resolution, img_channels=img_channels,
                                 architecture=architecture, channel_base=channel_base, channel_max=channel_max,
                                 num_fp16_res=num_fp16_res, conv_clamp=conv_clamp, cmap_dim=cmap_dim,
                                 block_kwargs=block_kwargs or {}, mapping_kwargs=mapping_kwargs or {},
                                 epilogue_kwargs=epilogue_kwargs or {})
        self.c_dim, self.img_resolution, self.img_channels = c_dim, img_resolution, img_channels
        size = ImageSize.of(img_resolution)
        first, self.block_resolutions = size.levels[0], size.levels[:0:-1]  # 4, [R, ..., 8] of squares
        if not self.block_resolutions:
            raise ValueError("the discriminator needs images of at least 8 pixels")
        top = channels_at(first, channel_base, channel_max)
        self.cmap_dim = 0 if c_dim == 0 else top if cmap_dim is None else cmap_dim
        common = dict(img_channels=img_channels, architecture=architecture, conv_clamp=conv_clamp)
        fp16_from = first_fp16_resolution(size.levels, num_fp16_res)
        layers = 0
        for res in self.block_resolutions:
            width = channels_at(res, channel_base, channel_max)
            block = DiscriminatorBlock(width if res < size.longer else 0, width,
                                       channels_at(res // 2, channel_base, channel_max), resolution=res,
                                       first_layer_idx=layers, use_fp16=res >= fp16_from, **(block_kwargs or {}),
                                       **common)
            self.add_module(f"b{res}", block)
            layers += block.num_layers
        if c_dim > 0:
            self.mapping = MappingNetwork(z_dim=0, c_dim=c_dim, w_dim=self.cmap_dim, num_ws=None, w_avg_beta=None,
                                          **(mapping_kwargs or {}))
        self.b4 = self.epilogue_class(top, cmap_dim=self.cmap_dim, resolution=size.at(first), **(epilogue_kwargs or {}),
                                      **common)

    def forward(self, img, c, *, force_fp32=False):
        x, img = self.run_blocks(None, img, force_fp32)
        cmap = self.mapping(None, c) if self.c_dim > 0 else None
        return self.b4(x, img, cmap)

    def run_blocks(self, x, img, force_fp32=False, start=None):
        """Blocks from resolution `start` (None: all) down; returns what enters the head."""
        for res in self.block_resolutions:
            if start is None or res <= start:
                x, img = getattr(self, f"b{res}")(x, img, force_fp32=force_fp32)
        return x, img


def plain(**kwargs) -> dict:
    """Constructor arguments as plain dicts, lists, numbers and strings, to be stored with a snapshot."""
    def simple(v):
        if isinstance(v, dict):
            return {str(k): simple(a) for k, a in v.items()}
        if isinstance(v, (list, tuple)):
            return [simple(a) for a in v]
        if hasattr(v, "item") and not isinstance(v, torch.Tensor):
            return v.item()  # numpy scalars, as found in foreign snapshots
        return copy.deepcopy(v)
    return simple(kwargs)
