# SPDX-License-Identifier: Apache-2.0
"""BigGAN: generator and projection discriminator with spectral norm (Brock et al. 2019, appendix B).

Constructor arguments and state-dict keys are those of the published PyTorch checkpoints, so that these load strictly;
`img_channels`, `bn_sn` and the 16-pixel tables are ours. Labels are float rows [N, n_classes]: one-hot, or a mixture of
classes. Networks of one class also take labels of width 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from torch_utils import whole_batch
from torch_utils.ops.cond_batch_norm import cond_batch_norm
from torch_utils.ops.convolution import conv2d

# resolution: (input widths, output widths, resolution after each block); widths are multiplied by G_ch.
G_TABLES: dict[int, tuple[list[int], list[int], list[int]]] = {
    16: ([4, 4], [4, 4], [8, 16]),
    32: ([4, 4, 4], [4, 4, 4], [8, 16, 32]),
    64: ([16, 16, 8, 4], [16, 8, 4, 2], [8, 16, 32, 64]),
    128: ([16, 16, 8, 4, 2], [16, 8, 4, 2, 1], [8, 16, 32, 64, 128]),
    256: ([16, 16, 8, 8, 4, 2], [16, 8, 8, 4, 2, 1], [8, 16, 32, 64, 128, 256]),
    512: ([16, 16, 8, 8, 4, 2, 1], [16, 8, 8, 4, 2, 1, 1], [8, 16, 32, 64, 128, 256, 512]),
}
# resolution: (output widths, number of halving blocks, listed resolutions). The list says where attention goes; at 32
# pixels the published one names 16 four times, so that attention at 16 follows every block.
D_TABLES: dict[int, tuple[list[int], int, list[int]]] = {
    16: ([4, 4, 4], 2, [8, 4, 4]),
    32: ([4, 4, 4, 4], 2, [16, 16, 16, 16]),
    64: ([1, 2, 4, 8, 16], 4, [32, 16, 8, 4, 4]),
    128: ([1, 2, 4, 8, 16, 16], 5, [64, 32, 16, 8, 4, 4]),
    256: ([1, 2, 4, 8, 8, 16, 16], 6, [128, 64, 32, 16, 8, 4, 4]),
}
INITS = ("ortho", "N02", "xavier")


class SN(NamedTuple):
    """Spectral norm: singular values tracked, sweeps per forward, epsilon of the vectors' lengths."""

    num_svs: int = 1
    num_itrs: int = 1
    eps: float = 1e-12


class Normed(nn.Module):
    """A weight divided by its largest singular value, estimated by power iteration (Miyato et al. 2018).

    Training forwards advance the stored vectors `u<i>`, also without gradients; evaluation refines them once without
    storing, and so does training while `frozen`.
    """

    weight: nn.Parameter
    frozen = False

    def _track(self, sn: SN | None) -> None:
        self.sn = sn
        for i in range(sn.num_svs if sn else 0):
            self.register_buffer(f"u{i}", torch.randn(1, self.weight.shape[0]))
            self.register_buffer(f"sv{i}", torch.ones(1))

    def effective_weight(self) -> torch.Tensor:
        """The weight that acts: weight / sigma. The gradient flows through the weight, not the vectors."""
        if self.sn is None:
            return self.weight
        m = self.weight.flatten(1)
        write = self.training and not self.frozen
        with torch.no_grad():
            stored = [getattr(self, f"u{i}") for i in range(self.sn.num_svs)]
            for _ in range(self.sn.num_itrs):
                us, vs = [], []
                for u in stored:
                    v = _unit(_orthogonal(u @ m, vs), self.sn.eps)
                    vs.append(v)
                    us.append(_unit(_orthogonal(v @ m.t(), us), self.sn.eps))
                stored = us if write else stored
            if write:
                for i, (u, v) in enumerate(zip(us, vs)):
                    getattr(self, f"u{i}").copy_(u)
                    getattr(self, f"sv{i}").copy_((v @ m.t() @ u.t()).reshape(1))
        sigma = (vs[0] @ m.t() @ us[0].t()).squeeze()
        return self.weight / sigma


def _unit(x: torch.Tensor, eps: float) -> torch.Tensor:
    return x / x.norm().clamp(min=eps)


def _orthogonal(x: torch.Tensor, others: list[torch.Tensor]) -> torch.Tensor:
    for y in others:
        x = x - (x * y).sum() / (y * y).sum() * y
    return x


class SNConv2d(Normed):
    """k x k convolution, padding k // 2."""

    def __init__(self, in_ch: int, out_ch: int, kernel: int = 3, bias: bool = True, sn: SN | None = None):
        super().__init__()
        like = nn.Conv2d(in_ch, out_ch, kernel, bias=bias)
        self.weight, self.bias, self.padding = like.weight, like.bias, kernel // 2
        self._track(sn)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return conv2d(x, self.effective_weight(), padding=self.padding, bias=self.bias)


class SNLinear(Normed):
    def __init__(self, in_dim: int, out_dim: int, bias: bool = True, sn: SN | None = None):
        super().__init__()
        like = nn.Linear(in_dim, out_dim, bias=bias)
        self.weight, self.bias = like.weight, like.bias
        self._track(sn)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.effective_weight(), self.bias)


class SNEmbedding(Normed):
    """A row per class; labels are float rows [N, classes], so that one-hot labels select rows and others mix them."""

    def __init__(self, num: int, dim: int, sn: SN | None = None):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num, dim))
        self._track(sn)

    def forward(self, c: torch.Tensor) -> torch.Tensor:
        return c @ self.effective_weight()


class Attention(nn.Module):
    """Self-attention (Zhang et al. 2019) with keys and values at half the resolution; starts as the identity."""

    def __init__(self, ch: int, sn: SN | None = None):
        super().__init__()
        if ch < 8:
            raise ValueError(f"attention needs at least 8 channels, not {ch}")
        self.theta = SNConv2d(ch, ch // 8, 1, bias=False, sn=sn)
        self.phi = SNConv2d(ch, ch // 8, 1, bias=False, sn=sn)
        self.g = SNConv2d(ch, ch // 2, 1, bias=False, sn=sn)
        self.o = SNConv2d(ch // 2, ch, 1, bias=False, sn=sn)
        self.gamma = nn.Parameter(torch.zeros([]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query = self.theta(x).flatten(2)  # [N, C/8, HW]
        key = F.max_pool2d(self.phi(x), 2).flatten(2)
        value = F.max_pool2d(self.g(x), 2).flatten(2)  # [N, C/2, HW/4]
        weights = (query.transpose(1, 2) @ key).softmax(-1)  # [N, HW, HW/4]
        o = self.o((value @ weights.transpose(1, 2)).unflatten(2, x.shape[2:]))
        return self.gamma * o + x


class Norm(nn.Module):
    """Batch statistics in training, stored ones in evaluation; the affine comes with each call.

    mybn False: buffers `stored_mean`, `stored_var` (unbiased). True: `bn.stored_mean`, `bn.stored_var` (biased) and
    `bn.accumulation_counter`; while that is above 0 the others are sums over so many forwards (standing statistics).
    """

    gather: Callable[[torch.Tensor], torch.Tensor] | None = None  # stacks over processes; None = each for itself
    momentum = 0.1

    def __init__(self, channels: int, eps: float = 1e-5, mybn: bool = False):
        super().__init__()
        self.eps, self.mybn = eps, mybn
        self._sums: list[torch.Tensor] | None = None  # standing statistics being gathered
        if mybn:
            self.bn = nn.Module()
        self.home.register_buffer("stored_mean", torch.zeros(channels))
        self.home.register_buffer("stored_var", torch.ones(channels))
        if mybn:
            self.bn.register_buffer("accumulation_counter", torch.zeros(1))

    @property
    def home(self) -> nn.Module:
        return self.bn if self.mybn else self

    def statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(mean [C], variance [C]) of evaluation."""
        h = self.home
        if not self.mybn:
            return h.stored_mean, h.stored_var
        n = h.accumulation_counter.clamp(min=1)
        return h.stored_mean / n, h.stored_var / n

    def normalise(self, x: torch.Tensor, gain: torch.Tensor | None, bias: torch.Tensor | None, act: str = "relu",
                  up: int = 1) -> torch.Tensor:
        if not self.training:
            return cond_batch_norm(x, gain, bias, *self.statistics(), training=False, eps=self.eps, act=act, up=up)
        h = self.home
        mean, var = torch.zeros_like(h.stored_mean), torch.zeros_like(h.stored_var)
        # With momentum 1 the buffers receive the batch's own statistics.
        out = cond_batch_norm(x, gain, bias, mean, var, momentum=1.0, unbiased=not self.mybn, eps=self.eps, act=act,
                              up=up, gather=self.gather)
        if x.numel():
            self._record(mean, var)
        return out

    @torch.no_grad()
    def _record(self, mean: torch.Tensor, var: torch.Tensor) -> None:
        h = self.home
        if self._sums is not None:
            self._sums[0] += mean
            self._sums[1] += var
            self._sums[2] += 1
        else:
            h.stored_mean.lerp_(mean, self.momentum)
            h.stored_var.lerp_(var, self.momentum)

    def start_standing(self) -> None:
        h = self.home
        self._sums = [torch.zeros_like(h.stored_mean), torch.zeros_like(h.stored_var), h.stored_mean.new_zeros(1)]

    @torch.no_grad()
    def finish_standing(self) -> None:
        (mean, var, n), self._sums = self._sums, None
        if self.mybn:
            self.bn.accumulation_counter.copy_(n)
        else:
            mean, var = mean / n, var / n
        self.home.stored_mean.copy_(mean)
        self.home.stored_var.copy_(var)


class OutputNorm(Norm):
    """Batch norm with an ordinary affine, and ReLU."""

    def __init__(self, channels: int, mybn: bool = False):
        super().__init__(channels, mybn=mybn)
        self.gain = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def affine(self, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.gain.expand(n, -1), self.bias.expand(n, -1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.normalise(x, *self.affine(x.shape[0]))


class CondNorm(Norm):
    """Class-conditional batch norm and ReLU: gain = 1 + Wg code, bias = Wb code."""

    def __init__(self, channels: int, code_dim: int, eps: float, mybn: bool, shared: bool, sn: SN | None):
        super().__init__(channels, eps, mybn)
        make = (lambda: SNLinear(code_dim, channels, bias=False, sn=sn)) if shared else (
            lambda: SNEmbedding(code_dim, channels))
        self.gain, self.bias = make(), make()

    def affine(self, code: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return 1 + self.gain(code), self.bias(code)

    def forward(self, x: torch.Tensor, code: Any, up: int = 1) -> torch.Tensor:
        return self.normalise(x, *self.affine(code), up=up)


class GBlock(nn.Module):
    """Residual block that doubles the resolution."""

    def __init__(self, in_ch: int, out_ch: int, norm: Callable[[int], nn.Module], sn: SN | None):
        super().__init__()
        self.conv1 = SNConv2d(in_ch, out_ch, sn=sn)
        self.conv2 = SNConv2d(out_ch, out_ch, sn=sn)
        self.conv_sc = SNConv2d(in_ch, out_ch, 1, sn=sn)
        self.bn1, self.bn2 = norm(in_ch), norm(out_ch)

    def forward(self, x: torch.Tensor, code: Any) -> torch.Tensor:
        h = self.conv1(self.bn1(x, code, up=2))
        h = self.conv2(self.bn2(h, code))
        # A 1 x 1 convolution commutes with nearest-neighbour upsampling, at a quarter of the work.
        return h + self.conv_sc(x).repeat_interleave(2, 2).repeat_interleave(2, 3)


class DBlock(nn.Module):
    """Residual block, halving the resolution if `down`; the first block of a network has no activation before it."""

    def __init__(self, in_ch: int, out_ch: int, wide: bool, first: bool, down: bool, sn: SN | None):
        super().__init__()
        hidden = out_ch if wide else in_ch
        self.first, self.down = first, down
        self.conv1 = SNConv2d(in_ch, hidden, sn=sn)
        self.conv2 = SNConv2d(hidden, out_ch, sn=sn)
        self.conv_sc = SNConv2d(in_ch, out_ch, 1, sn=sn) if in_ch != out_ch or down else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv2(F.relu(self.conv1(x if self.first else F.relu(x))))
        if self.down:
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)  # averaging commutes with the 1 x 1 shortcut
        return h + (x if self.conv_sc is None else self.conv_sc(x))


def _check(resolution: int, tables: Mapping[int, Any], what: str, init: str) -> None:
    if resolution not in tables:
        raise ValueError(f"BigGAN's {what} exists for {', '.join(map(str, tables))} pixels, not {resolution}")
    if init not in INITS:
        raise ValueError(f"init must be one of {', '.join(INITS)}, not {init!r}")


def attention_at(text: str) -> set[int]:
    """'32_64' -> {32, 64}; '0' or '' -> none. Raises ValueError for anything else."""
    try:
        return {int(r) for r in str(text).split("_") if r} - {0}
    except ValueError:
        raise ValueError(f"attention resolutions are written 64 or 32_64, not {text!r}") from None


def init_weights(net: nn.Module, init: str) -> None:
    """Weights of convolutions, linears and embeddings; biases keep their uniform start."""
    for m in net.modules():
        if isinstance(m, Normed):
            if init == "ortho":
                nn.init.orthogonal_(m.weight)
            elif init == "N02":
                nn.init.normal_(m.weight, 0, 0.02)
            else:
                nn.init.xavier_uniform_(m.weight)


class Generator(nn.Module):
    """z [N, dim_z] and labels c [N, n_classes] to images [N, img_channels, R, R] in [-1, 1].

    hier: z is cut into one chunk per block and one for the first layer; dim_z is rounded down to whole chunks.
    """

    def __init__(self, G_ch: int = 64, dim_z: int = 128, bottom_width: int = 4, resolution: int = 128,
                 G_attn: str = "64", n_classes: int = 1000, num_G_SVs: int = 1, num_G_SV_itrs: int = 1,
                 G_shared: bool = True, shared_dim: int = 0, hier: bool = False, mybn: bool = False,
                 BN_eps: float = 1e-5, SN_eps: float = 1e-12, G_init: str = "ortho", img_channels: int = 3,
                 bn_sn: bool = True):
        super().__init__()
        self.init_kwargs = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        _check(resolution, G_TABLES, "generator", G_init)
        if hier and not G_shared:
            raise ValueError("hierarchical latents need the shared embedding (G_shared=True)")
        ins, outs, at = G_TABLES[resolution]
        self.img_resolution, self.img_channels, self.n_classes = resolution, img_channels, n_classes
        self.bottom_width, self.hier, self.mybn = bottom_width, hier, mybn
        self.chunk = dim_z // (len(ins) + 1) if hier else 0
        if hier and not self.chunk:
            raise ValueError(f"dim_z {dim_z} is too short for {len(ins) + 1} chunks")
        self.z_dim = self.chunk * (len(ins) + 1) if hier else dim_z
        self.shared_dim = (shared_dim or dim_z) if G_shared else 0
        self.code_dim = self.shared_dim + self.chunk if G_shared else n_classes
        self.sn = SN(num_G_SVs, num_G_SV_itrs, SN_eps)
        self.eps, self.bn_sn = BN_eps, bn_sn
        self.shared = SNEmbedding(n_classes, self.shared_dim) if G_shared else None
        self.linear = SNLinear(self.chunk or dim_z, ins[0] * G_ch * bottom_width**2, sn=self.sn)
        attention = attention_at(G_attn)
        self.blocks = nn.ModuleList()
        for i, o, r in zip(ins, outs, at):
            block = [GBlock(i * G_ch, o * G_ch, self.make_norm, self.sn)]
            if r in attention:
                block.append(Attention(o * G_ch, self.sn))
            self.blocks.append(nn.ModuleList(block))
        # The numbers are the published keys; 1 is the activation, which is part of the norm here.
        self.output_layer = nn.ModuleDict({
            "0": self.make_output_norm(outs[-1] * G_ch), "2": SNConv2d(outs[-1] * G_ch, img_channels, sn=self.sn)})
        init_weights(self, G_init)

    @property
    def c_dim(self) -> int:
        return self.n_classes

    def make_norm(self, channels: int) -> nn.Module:
        return CondNorm(channels, self.code_dim, self.eps, self.mybn, self.shared is not None,
                        self.sn if self.bn_sn else None)

    def make_output_norm(self, channels: int) -> nn.Module:
        return OutputNorm(channels, mybn=self.mybn)

    def split(self, z: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
        """z [N, dim_z] -> (input of the first layer, one chunk or None per block)."""
        if not self.hier:
            return z, [None] * len(self.blocks)
        first, *rest = z.split(self.chunk, 1)
        return first, list(rest)

    def codes(self, z_chunks: list[torch.Tensor | None], c: torch.Tensor) -> list[torch.Tensor]:
        """What each block's norms are conditioned on."""
        e = c if self.shared is None else self.shared(c)
        return [e if z is None else torch.cat([e, z], 1) for z in z_chunks]

    def labels(self, c: torch.Tensor) -> torch.Tensor:
        return label_rows(c, self.n_classes)

    def forward(self, z: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        first, chunks = self.split(z)
        return self.synthesise(first, self.codes(chunks, self.labels(c)))

    def synthesise(self, first: torch.Tensor, codes: list[Any]) -> torch.Tensor:
        w = self.bottom_width
        x = self.linear(first).unflatten(1, (-1, w, w))
        for block, code in zip(self.blocks, codes):
            x = block[0](x, code)
            for layer in block[1:]:
                x = layer(x)
        return self.output_layer["2"](self.output_norm(x, codes)).tanh()

    def output_norm(self, x: torch.Tensor, codes: list[Any]) -> torch.Tensor:
        return self.output_layer["0"](x)

    def norms(self) -> list[Norm]:
        return [m for m in self.modules() if isinstance(m, Norm)]

    def class_tables(self) -> list[torch.Tensor]:
        """What belongs to single classes: of every conditional norm the gains (without their 1) and the biases, each
        [n_classes, channels], as the class alone makes them (the latent's chunk is 0). No spectral norm moves on."""
        still = [m for m in self.modules() if isinstance(m, Normed) and not m.frozen]
        freeze_sn(self, True)
        try:
            eye = torch.eye(self.n_classes, device=self.linear.weight.device)
            code = eye if self.shared is None else F.pad(self.shared(eye), [0, self.chunk])
            return [t for m in self.modules() if isinstance(m, CondNorm) for t in (m.gain(code), m.bias(code))]
        finally:
            for m in still:
                m.frozen = False

    def idle_biases(self) -> list[nn.Parameter]:
        """Biases that only shift what a batch norm centres again. Their gradients are rounding noise, which
        Adam with beta1 = 0 turns into steps of full length."""
        found = [b[0].conv1.bias for b in self.blocks]
        for block in reversed(self.blocks):
            if len(block) > 1:
                break  # attention is not linear
            # A constant passes the shortcuts of all later blocks unchanged, up to the last norm.
            found += [block[0].conv2.bias, block[0].conv_sc.bias]
        return found


class Discriminator(nn.Module):
    """Images and labels c [N, n_classes] to logits [N, 1]: linear(f) + <embed(c), f>, f = sum of the last features."""

    embed_name = "embed"

    def __init__(self, D_ch: int = 64, D_wide: bool = True, resolution: int = 128, D_attn: str = "64",
                 n_classes: int = 1000, num_D_SVs: int = 1, num_D_SV_itrs: int = 1, SN_eps: float = 1e-12,
                 D_init: str = "ortho", img_channels: int = 3):
        super().__init__()
        self.init_kwargs = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        _check(resolution, D_TABLES, "discriminator", D_init)
        widths, halving, at = D_TABLES[resolution]
        self.img_resolution, self.img_channels, self.n_classes = resolution, img_channels, n_classes
        self.sn = SN(num_D_SVs, num_D_SV_itrs, SN_eps)
        attention, before = attention_at(D_attn), img_channels
        self.blocks = nn.ModuleList()
        for k, (w, r) in enumerate(zip(widths, at)):
            block = [DBlock(before, w * D_ch, D_wide, first=k == 0, down=k < halving, sn=self.sn)]
            if r in attention:
                block.append(Attention(w * D_ch, self.sn))
            self.blocks.append(nn.ModuleList(block))
            before = w * D_ch
        self.linear = SNLinear(before, 1, sn=self.sn)
        self.add_module(self.embed_name, SNEmbedding(n_classes, before, sn=self.sn))
        init_weights(self, D_init)

    @property
    def c_dim(self) -> int:
        return self.n_classes

    @property
    def classes(self) -> SNEmbedding:
        return getattr(self, self.embed_name)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """[N, C]: activations summed over the image."""
        for block in self.blocks:
            for layer in block:
                x = layer(x)
        return F.relu(x).sum([2, 3])

    def forward(self, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        f = self.features(x)
        return self.linear(f) + (self.classes(label_rows(c, self.n_classes)) * f).sum(1, keepdim=True)


def label_rows(c: torch.Tensor, n_classes: int) -> torch.Tensor:
    if n_classes == 1 and c.shape[1] == 0:
        return c.new_ones([c.shape[0], 1])
    if c.shape[1] != n_classes:
        raise ValueError(f"labels have {c.shape[1]} classes, the network has {n_classes}")
    return c


def freeze_sn(net: nn.Module, frozen: bool = True) -> None:
    """Stop (or let) training forwards advance the spectral-norm vectors of `net`."""
    for m in net.modules():
        if isinstance(m, Normed):
            m.frozen = frozen


@torch.no_grad()
def standing_statistics(G: Generator, inputs: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Replace the norms' statistics by their mean over training forwards of the (z, c) in `inputs`; ends in eval.
    By this process alone."""
    whole_batch.alone(G)
    norms = G.norms()
    for m in norms:
        m.start_standing()
    G.train()
    for z, c in inputs:
        G(z, c)
    for m in norms:
        m.finish_standing()
    G.eval()


def row_products(p: torch.Tensor) -> torch.Tensor:
    """|w w^T o (1 - I)|^2 with w = p as rows: the orthogonal regularisation of Brock et al., equation 3, which leaves
    the rows' lengths free."""
    gram = p.flatten(1) @ p.flatten(1).t()
    return (gram - gram.diag().diag()).square().sum()
