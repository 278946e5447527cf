# SPDX-License-Identifier: Apache-2.0
"""CcGAN: generators and discriminators conditioned on a label code h [N, h_dim] (Ding et al., ICLR 2021, T-PAMI 2023).

Two published pairs, SNGAN and SAGAN. State-dict keys are the published ones at 64 pixels, without the duplicates and
the unused unconditional path of the original SNGAN; other sizes (16, 32, 128, 256 pixels) have fewer or more levels of
the same kind. Spectral norm divides by u^T W v with stored u, v, which `sweep` advances: a forward never changes them,
so that results do not depend on how a batch is cut.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import nn

from torch_utils import whole_batch
from torch_utils.ops.cond_batch_norm import cond_batch_norm
from torch_utils.ops.convolution import conv2d

RESOLUTIONS = (16, 32, 64, 128, 256)


def levels(resolution: int) -> int:
    """Number of doublings from 4 pixels. Raises ValueError for a size without networks."""
    if resolution not in RESOLUTIONS:
        raise ValueError(f"no CcGAN networks for {resolution} pixels; there are {', '.join(map(str, RESOLUTIONS))}")
    return int(math.log2(resolution)) - 2


def widths(resolution: int) -> list[int]:
    """Channel multiples from 4 pixels up to the image: 16, 8, 4, 2, 1 at 64 pixels; at most 16."""
    n = levels(resolution)
    return [min(2 ** (n - i), 16) for i in range(n + 1)]


def attention_size(resolution: int) -> int:
    return 32 if resolution >= 64 else resolution // 2


# ---- spectral norm -----------------------------------------------------------------------------------------------


class SpectralNorm(nn.Module):
    """A weight that acts as weight_orig / (u^T W v)."""

    weight_orig: nn.Parameter

    def _track(self) -> None:
        rows, columns = self.weight_orig.flatten(1).shape
        self.register_buffer("weight_u", F.normalize(torch.randn(rows), dim=0))
        self.register_buffer("weight_v", F.normalize(torch.randn(columns), dim=0))

    @torch.no_grad()
    def sweep(self, times: int = 1) -> None:
        """Power iteration: `times` steps of u, v towards the leading singular vectors."""
        m, u = self.weight_orig.flatten(1), self.weight_u
        for _ in range(times):
            v = F.normalize(m.t() @ u, dim=0, eps=1e-12)
            u = F.normalize(m @ v, dim=0, eps=1e-12)
            self.weight_v.copy_(v)
            self.weight_u.copy_(u)

    def effective_weight(self) -> torch.Tensor:
        sigma = self.weight_u @ self.weight_orig.flatten(1) @ self.weight_v
        return self.weight_orig / sigma


class SNConv2d(SpectralNorm):
    """k x k convolution, padding k // 2."""

    def __init__(self, in_ch: int, out_ch: int, kernel: int):
        super().__init__()
        like = nn.Conv2d(in_ch, out_ch, kernel)
        self.weight_orig, self.bias, self.padding = like.weight, like.bias, kernel // 2
        self._track()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return conv2d(x, self.effective_weight(), padding=self.padding, bias=self.bias)


class SNLinear(SpectralNorm):
    def __init__(self, in_dim: int, out_dim: int, bias: bool = True):
        super().__init__()
        like = nn.Linear(in_dim, out_dim, bias=bias)
        self.weight_orig, self.bias = like.weight, like.bias
        self._track()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.effective_weight(), self.bias)


def sweep(net: nn.Module, times: int = 1) -> None:
    """Advance the power iteration of every spectrally normalised layer."""
    for m in net.modules():
        if isinstance(m, SpectralNorm):
            m.sweep(times)


# ---- batch norm --------------------------------------------------------------------------------------------------


class BatchStatistics(nn.Module):
    """Running mean and variance, and the statistics of the training forwards since the last `update_running`.

    Training uses the batch's own statistics, those of all processes, and only notes them; `update_running` averages
    what was noted, so that micro-batches have one set of running statistics.
    """

    gather: Callable[[torch.Tensor], torch.Tensor] | None = None  # stacks over processes; None = each for itself

    def __init__(self, channels: int, momentum: float, affine: bool = False):
        super().__init__()
        self.momentum, self.eps = momentum, 1e-5
        if affine:
            self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self._noted: list[torch.Tensor] = []

    def normalise(self, x: torch.Tensor, gain: torch.Tensor, bias: torch.Tensor, up: int = 1) -> torch.Tensor:
        """relu(gain * normalised x + bias), enlarged `up` times. gain, bias: [N, C]."""
        mean, var = self.running_mean, self.running_var
        if not self.training:
            return cond_batch_norm(x, gain, bias, mean, var, training=False, eps=self.eps, act="relu", up=up)
        mean, var = torch.zeros_like(mean), torch.zeros_like(var)
        # With momentum 1 the buffers receive the batch's own statistics.
        out = cond_batch_norm(x, gain, bias, mean, var, momentum=1.0, eps=self.eps, act="relu", up=up,
                              gather=self.gather)
        self._noted.append(torch.stack([mean, var]))
        return out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """relu of the affine batch norm."""
        n = x.shape[0]
        return self.normalise(x, self.weight.expand(n, -1), self.bias.expand(n, -1))

    def take_noted(self) -> torch.Tensor | None:
        """Mean over what was noted [2, C], which is then forgotten; None without a training forward."""
        noted, self._noted = self._noted, []
        return torch.stack(noted).mean(0) if noted else None


class CondBatchNorm(nn.Module):
    """y = x^ (1 + gamma(h)) + beta(h), then ReLU and nearest enlargement; gamma, beta linear without bias."""

    def __init__(self, channels: int, h_dim: int, momentum: float):
        super().__init__()
        self.bn = BatchStatistics(channels, momentum)
        self.embed_gamma = nn.Linear(h_dim, channels, bias=False)
        self.embed_beta = nn.Linear(h_dim, channels, bias=False)

    def forward(self, x: torch.Tensor, h: torch.Tensor, up: int = 1) -> torch.Tensor:
        return self.bn.normalise(x, 1 + self.embed_gamma(h), self.embed_beta(h), up)


def norms(net: nn.Module) -> list[BatchStatistics]:
    return [m for m in net.modules() if isinstance(m, BatchStatistics)]


@torch.no_grad()
def update_running(net: nn.Module, reduce=lambda t: t) -> None:
    """Move running statistics towards the mean of those noted. `reduce` averages a tensor over processes."""
    found = [(m, m.take_noted()) for m in norms(net)]
    found = [(m, t) for m, t in found if t is not None]
    if not found:
        return
    flat = reduce(torch.cat([t.flatten() for _, t in found]))
    for (m, t), new in zip(found, flat.split([t.numel() for _, t in found])):
        mean, var = new.reshape_as(t)
        m.running_mean.lerp_(mean, m.momentum)
        m.running_var.lerp_(var, m.momentum)


@torch.no_grad()
def standing_statistics(G: nn.Module, inputs: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Set the running statistics to the mean over training-mode forwards of `inputs` (z, h); ends in eval mode.
    By this process alone."""
    whole_batch.alone(G)
    G.train()
    for z, h in inputs:
        G(z, h)
    for m in norms(G):
        mean, var = m.take_noted()
        m.running_mean.copy_(mean)
        m.running_var.copy_(var)
    G.eval()


# ---- SNGAN -------------------------------------------------------------------------------------------------------


def _up(x: torch.Tensor) -> torch.Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


class SNGANBlock(nn.Module):
    def __init__(self, in_ch: int, out_ch: int, h_dim: int, momentum: float):
        super().__init__()
        self.conv1 = nn.Conv2d(in_ch, out_ch, 3, padding=1)
        self.conv2 = nn.Conv2d(out_ch, out_ch, 3, padding=1)
        self.condbn1 = CondBatchNorm(in_ch, h_dim, momentum)
        self.condbn2 = CondBatchNorm(out_ch, h_dim, momentum)
        self.bypass_conv = nn.Conv2d(in_ch, out_ch, 1)

    def forward(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        y = self.conv2(self.condbn2(self.conv1(self.condbn1(x, h, up=2)), h))
        # A 1x1 convolution and nearest enlargement commute: the cheaper order.
        return y + _up(self.bypass_conv(x))


class SNGANGenerator(nn.Module):
    """z [N, z_dim], h [N, h_dim] -> images [N, C, R, R] in [-1, 1]."""

    def __init__(self, z_dim: int = 256, h_dim: int = 128, ch: int = 64, resolution: int = 64, img_channels: int = 3,
                 bn_momentum: float = 0.1):
        super().__init__()
        self.init_kwargs = dict(z_dim=z_dim, h_dim=h_dim, ch=ch, resolution=resolution, img_channels=img_channels,
                                bn_momentum=bn_momentum)
        self.z_dim, self.h_dim = z_dim, h_dim
        w = [ch * m for m in widths(resolution)]
        self.dense = nn.Linear(z_dim, 16 * w[0])
        self.blocks = []
        for i, (a, b) in enumerate(zip(w, w[1:])):
            block = SNGANBlock(a, b, h_dim, bn_momentum)
            setattr(self, f"genblock{i}", block)
            self.blocks.append(f"genblock{i}")
        self.final = nn.ModuleDict({"0": BatchStatistics(w[-1], 0.1, affine=True),
                                    "2": nn.Conv2d(w[-1], img_channels, 3, padding=1)})
        _xavier(self)

    def forward(self, z: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        x = self.dense(z).reshape(z.shape[0], -1, 4, 4)
        for name in self.blocks:
            x = getattr(self, name)(x, h)
        return torch.tanh(self.final["2"](self.final["0"](x)))


class SNGANDiscBlock(nn.Module):
    """`first`: no activation at the start, and the bypass halves before its convolution."""

    def __init__(self, in_ch: int, out_ch: int, down: bool, first: bool = False):
        super().__init__()
        self.down, self.first = down, first
        self.conv1, self.conv2 = SNConv2d(in_ch, out_ch, 3), SNConv2d(out_ch, out_ch, 3)
        self.bypass_conv = SNConv2d(in_ch, out_ch, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv2(F.relu(self.conv1(x if self.first else F.relu(x))))
        if not self.down:
            return y + self.bypass_conv(x)
        # Averaging and a 1x1 convolution commute: the cheaper order.
        return F.avg_pool2d(y, 2) + self.bypass_conv(F.avg_pool2d(x, 2))


class SNGANDiscriminator(nn.Module):
    """images [N, C, R, R], h [N, h_dim] -> logits [N, 1]."""

    def __init__(self, h_dim: int = 128, ch: int = 64, resolution: int = 64, img_channels: int = 3):
        super().__init__()
        self.init_kwargs = dict(h_dim=h_dim, ch=ch, resolution=resolution, img_channels=img_channels)
        w = [img_channels] + [ch * m for m in reversed(widths(resolution))]
        made = [SNGANDiscBlock(a, b, down=i < len(w) - 2, first=i == 0) for i, (a, b) in enumerate(zip(w, w[1:]))]
        self.discblock1 = nn.Sequential(*made[:-2])
        self.discblock2 = made[-2]
        self.discblock3 = nn.Sequential(made[-1])
        self.linear1 = SNLinear(16 * w[-1], 1)
        self.linear2 = SNLinear(h_dim, 16 * w[-1], bias=False)
        _xavier(self)

    def forward(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.discblock3(self.discblock2(self.discblock1(x)))).flatten(1)
        return self.linear1(x) + (x * self.linear2(h)).sum(1, keepdim=True)


# ---- SAGAN -------------------------------------------------------------------------------------------------------


class SelfAttention(nn.Module):
    """x + sigma * attention(x); keys and values at half the size, `sigma` starts at 0 (Zhang et al. 2019)."""

    def __init__(self, ch: int):
        super().__init__()
        self.sigma = nn.Parameter(torch.zeros(1))
        key, value = max(ch // 8, 1), max(ch // 2, 1)
        self.snconv1x1_theta, self.snconv1x1_phi = SNConv2d(ch, key, 1), SNConv2d(ch, key, 1)
        self.snconv1x1_g, self.snconv1x1_attn = SNConv2d(ch, value, 1), SNConv2d(value, ch, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, _, height, width = x.shape
        theta = self.snconv1x1_theta(x).flatten(2)
        phi = F.max_pool2d(self.snconv1x1_phi(x), 2).flatten(2)
        g = F.max_pool2d(self.snconv1x1_g(x), 2).flatten(2)
        weights = torch.softmax(theta.transpose(1, 2) @ phi, dim=-1)
        mixed = (g @ weights.transpose(1, 2)).reshape(n, -1, height, width)
        return x + self.sigma * self.snconv1x1_attn(mixed)


class SAGANBlock(nn.Module):
    def __init__(self, in_ch: int, out_ch: int, h_dim: int, momentum: float):
        super().__init__()
        self.cond_bn1, self.cond_bn2 = CondBatchNorm(in_ch, h_dim, momentum), CondBatchNorm(out_ch, h_dim, momentum)
        self.snconv2d1, self.snconv2d2 = SNConv2d(in_ch, out_ch, 3), SNConv2d(out_ch, out_ch, 3)
        self.snconv2d0 = SNConv2d(in_ch, out_ch, 1)

    def forward(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        y = self.snconv2d2(self.cond_bn2(self.snconv2d1(self.cond_bn1(x, h, up=2)), h))
        return y + _up(self.snconv2d0(x))


class SAGANGenerator(nn.Module):
    """z [N, z_dim], h [N, h_dim] -> images [N, C, R, R] in [-1, 1]; attention at 32 pixels (half size below 64)."""

    def __init__(self, z_dim: int = 256, h_dim: int = 128, ch: int = 64, resolution: int = 64, img_channels: int = 3,
                 bn_momentum: float = 0.001):
        super().__init__()
        self.init_kwargs = dict(z_dim=z_dim, h_dim=h_dim, ch=ch, resolution=resolution, img_channels=img_channels,
                                bn_momentum=bn_momentum)
        self.z_dim, self.h_dim = z_dim, h_dim
        w = [ch * m for m in widths(resolution)]
        self.snlinear0 = SNLinear(z_dim, 16 * w[0])
        self.blocks, size = [], 4
        for i, (a, b) in enumerate(zip(w, w[1:]), start=1):
            setattr(self, f"block{i}", SAGANBlock(a, b, h_dim, bn_momentum))
            self.blocks.append(f"block{i}")
            size *= 2
            if size == attention_size(resolution):
                self.self_attn = SelfAttention(b)
                self.blocks.append("self_attn")
        self.bn = BatchStatistics(w[-1], 0.1 * bn_momentum, affine=True)
        self.snconv2d1 = SNConv2d(w[-1], img_channels, 3)
        _xavier(self)

    def forward(self, z: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        x = self.snlinear0(z).reshape(z.shape[0], -1, 4, 4)
        for name in self.blocks:
            part = getattr(self, name)
            x = part(x) if name == "self_attn" else part(x, h)
        return torch.tanh(self.snconv2d1(self.bn(x)))


class SAGANDiscBlock(nn.Module):
    def __init__(self, in_ch: int, out_ch: int, down: bool, first: bool = False):
        super().__init__()
        self.down, self.first = down, first
        self.snconv2d1, self.snconv2d2 = SNConv2d(in_ch, out_ch, 3), SNConv2d(out_ch, out_ch, 3)
        if down or in_ch != out_ch:
            self.snconv2d0 = SNConv2d(in_ch, out_ch, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # The published activation works in place, so that the shortcut too starts from the rectified input.
        x = x if self.first else F.relu(x)
        y = self.snconv2d2(F.relu(self.snconv2d1(x)))
        if self.down:
            x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
        return y + (self.snconv2d0(x) if hasattr(self, "snconv2d0") else x)


class SAGANDiscriminator(nn.Module):
    """images [N, C, R, R], h [N, h_dim] -> logits [N, 1]; the projection is over the flattened 4x4 map."""

    def __init__(self, h_dim: int = 128, ch: int = 64, resolution: int = 64, img_channels: int = 3):
        super().__init__()
        self.init_kwargs = dict(h_dim=h_dim, ch=ch, resolution=resolution, img_channels=img_channels)
        w = [img_channels] + [ch * m for m in reversed(widths(resolution))]
        self.blocks, size = [], resolution
        for i, (a, b) in enumerate(zip(w, w[1:])):
            name, down = "opt_block1" if i == 0 else f"block{i}", i < len(w) - 2
            setattr(self, name, SAGANDiscBlock(a, b, down, first=i == 0))
            self.blocks.append(name)
            size //= 2 if down else 1
            if down and size == attention_size(resolution):
                self.self_attn = SelfAttention(b)
                self.blocks.append("self_attn")
        self.snlinear1 = SNLinear(16 * w[-1], 1)
        self.sn_embedding1 = SNLinear(h_dim, 16 * w[-1], bias=False)
        _xavier(self)

    def forward(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        for name in self.blocks:
            x = getattr(self, name)(x)
        x = F.relu(x).flatten(1)
        return self.snlinear1(x) + (x * self.sn_embedding1(h)).sum(1, keepdim=True)


ARCHS = {"sngan": (SNGANGenerator, SNGANDiscriminator), "sagan": (SAGANGenerator, SAGANDiscriminator)}


def _xavier(net: nn.Module) -> None:
    """Xavier-uniform weights, zero biases; the tables of the conditional norms keep the default of a linear layer."""
    for name, p in net.named_parameters():
        if p.ndim >= 2 and "embed_gamma" not in name and "embed_beta" not in name:
            nn.init.xavier_uniform_(p)
        elif name.endswith("bias"):
            nn.init.zeros_(p)
    if not any(p.is_meta for p in net.parameters()):
        sweep(net, 10)
