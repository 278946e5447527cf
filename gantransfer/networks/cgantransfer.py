# SPDX-License-Identifier: Apache-2.0
"""BigGAN for new classes made of old ones (Shahbazi et al., "Efficient Conditional GAN Transfer with Knowledge
Propagation across Classes", CVPR 2021).

What is class-specific in a trained generator is each norm's gain and bias: tables P [C, m] of m old classes. A new
class k gets, per norm, and for gain and bias separately,

    gain[k] = 1 + P a[k] + R[k] + Z z,      bias[k] likewise without the 1,

with learned scores a [m] and residual R [C]; Z is the source's own dependence on its latent. State-dict keys are the
published ones. compat 'release' computes as the released code does (spectral norm on scores and tables, random
biases); 'exact' reproduces old class j from the scores one_hot(j), and keeps what old classes need.
"""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from gantransfer.networks import biggan
from gantransfer.networks.biggan import SN, CondNorm, Generator, OutputNorm, SNLinear, label_rows
from torch_utils.ops.cond_batch_norm import cond_batch_norm

COMPATS = ("exact", "release")
SCORES = ("free", "softmax", "fixed", "none")  # fixed: as they start; none: no scores, gain = 1 + residual + z
SHARES = ("none", "layers", "pair", "all")  # one score vector per norm and part; for all norms; for both parts; for all


class New(NamedTuple):
    """What a norm needs for new classes."""

    t: torch.Tensor  # [N, n] labels
    z: torch.Tensor | None  # [N, chunk]
    sets: torch.Tensor | None  # [N, kept + 1]: which statistics each image uses; None = the current ones


class Old(NamedTuple):
    """What a norm needs for the source's classes."""

    code: torch.Tensor  # as in the source network


class Scores(nn.Module):
    """Labels [N, n] to weights over the old classes [N, m]; keys `weight` [m, n] and `bias` [m]."""

    def __init__(self, n: int, m: int, softmax: bool):
        super().__init__()
        self.weight = nn.Parameter(torch.full([m, n], 0.0 if softmax else 1 / m))
        self.bias = nn.Parameter(torch.zeros(m))
        self.softmax = softmax

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        a = t @ self.weight.t() + self.bias
        return a.softmax(1) if self.softmax else a


class KeepsStatistics:
    """Statistics of earlier label sets (0: the source's), beside the current ones."""

    def keep(self, sets: int) -> None:
        n = self.home.stored_mean.shape[0]
        self.register_buffer("kept_mean", torch.zeros(sets, n))
        self.register_buffer("kept_var", torch.ones(sets, n))

    def select(self, x, gain, bias, code, up: int = 1):
        if self.training or isinstance(code, New) and code.sets is None:
            return self.normalise(x, gain, bias, up=up)
        if isinstance(code, Old):
            return cond_batch_norm(x, gain, bias, self.kept_mean[0], self.kept_var[0], training=False, eps=self.eps,
                                   act="relu", up=up)
        mean, var = (code.sets @ torch.cat([kept, now[None]]) for kept, now in zip(
            (self.kept_mean, self.kept_var), self.statistics()))
        r = (var + self.eps).rsqrt()
        y = (x - mean[:, :, None, None]) * r[:, :, None, None] * gain[:, :, None, None] + bias[:, :, None, None]
        y = y.relu()
        return y if up == 1 else y.repeat_interleave(2, 2).repeat_interleave(2, 3)


class TransferNorm(KeepsStatistics, CondNorm):
    """A source norm with tables, scores and residuals for new classes."""

    def __init__(self, channels: int, code_dim: int, eps: float, mybn: bool, shared: bool, sn: SN | None,
                 owner: TransferGenerator):
        super().__init__(channels, code_dim, eps, mybn, shared, sn)
        n, m, release, chunk = owner.n_new, owner.n_old, owner.compat == "release", owner.chunk
        self.release = release
        plain = SN() if release and shared else None
        prior = owner.sn if release and shared else None
        if release and shared:
            self.pretrain_embedding_w = owner.shared.weight  # the published extra key, an alias
        for part in "gb":
            if owner.scores != "none":
                self.add_module(f"comb_layer_{part}", SNLinear(n, m, sn=plain) if release else
                                Scores(n, m, owner.scores == "softmax"))
        for part in "gb":
            if owner.scores != "none":
                self.add_module(f"prev_knowledge_{part}", SNLinear(m, channels, bias=release and not shared, sn=prior))
        for part in "gb":
            if chunk:
                self.add_module(f"z_layer_{part}", SNLinear(chunk, channels, bias=release, sn=plain))
        for part in "gb":
            if owner.residual:
                self.add_module(f"res_{part}", SNLinear(n, channels, bias=False))
        if not release:
            self.keep(owner.sets)

    def part(self, which: str, code: New) -> torch.Tensor:
        """[N, C]: combination + z term + residual of 'g' or 'b'."""
        y: Any = code.t.new_zeros([code.t.shape[0], self.home.stored_mean.shape[0]])
        if hasattr(self, f"comb_layer_{which}"):
            y = y + getattr(self, f"prev_knowledge_{which}")(getattr(self, f"comb_layer_{which}")(code.t))
        if code.z is not None and hasattr(self, f"z_layer_{which}"):
            y = y + getattr(self, f"z_layer_{which}")(code.z)
        if hasattr(self, f"res_{which}"):
            y = y + getattr(self, f"res_{which}")(code.t)
        return y

    def affine(self, code: New | Old) -> tuple[torch.Tensor, torch.Tensor]:
        if isinstance(code, Old):
            return 1 + self.gain(code.code), self.bias(code.code)
        return 1 + self.part("g", code), self.part("b", code)

    def forward(self, x: torch.Tensor, code: New | Old, up: int = 1) -> torch.Tensor:
        return self.select(x, *self.affine(code), code, up=up)

    @torch.no_grad()
    def extract(self, embedding: torch.Tensor | None) -> None:
        """Fill tables and z layers from the pretrained gain and bias. embedding [m, e]: the shared one, or None."""
        for which, source in (("g", self.gain), ("b", self.bias)):
            w = source.weight if self.release else source.effective_weight()
            if embedding is None:
                table, z = w.t(), None
            else:
                e = embedding.shape[1]
                table, z = w[:, :e] @ embedding.t(), w[:, e:]
            if hasattr(self, f"prev_knowledge_{which}"):
                getattr(self, f"prev_knowledge_{which}").weight.copy_(table)
            if hasattr(self, f"z_layer_{which}"):
                getattr(self, f"z_layer_{which}").weight.copy_(z)


class TransferOutputNorm(KeepsStatistics, OutputNorm):
    def __init__(self, channels: int, mybn: bool, sets: int):
        super().__init__(channels, mybn)
        self.keep(sets)

    def forward(self, x: torch.Tensor, code: New | Old) -> torch.Tensor:
        return self.select(x, *self.affine(x.shape[0]), code)


class TransferGenerator(Generator):
    """A BigGAN generator of n_pretrain_classes classes with n_classes new ones; `forward` takes labels of these.

    sets: kept statistics of earlier label sets, at least the source's. label_sets [n_classes]: which of them each new
    class uses, `sets` standing for the current ones; so classes added earlier stay as they were.
    """

    def __init__(self, n_classes: int, n_pretrain_classes: int, compat: str = "exact", scores: str = "free",
                 share_scores: str = "none", residual: bool = True, sets: int = 1,
                 label_sets: list[int] | None = None, **source: Any):
        for name, value, known in (("compat", compat, COMPATS), ("scores", scores, SCORES),
                                   ("share_scores", share_scores, SHARES)):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, not {value!r}")
        if compat == "release" and (scores != "free" or share_scores != "none" or not residual or sets != 1):
            raise ValueError("compat 'release' has free scores per norm, and residuals")
        label_sets = [sets] * n_classes if label_sets is None else list(label_sets)
        # What the norms are built from; plain attributes, so they may precede the parent's constructor.
        self.n_new, self.n_old, self.compat, self.scores = n_classes, n_pretrain_classes, compat, scores
        self.residual, self.sets, self.label_sets = residual, sets, label_sets
        super().__init__(n_classes=n_pretrain_classes, **source)
        self.init_kwargs = dict(n_classes=n_classes, n_pretrain_classes=n_pretrain_classes, compat=compat,
                                scores=scores, share_scores=share_scores, residual=residual, sets=sets,
                                label_sets=label_sets, **source)
        if compat == "exact":
            for p in self.residual_parameters():
                nn.init.zeros_(p)
            self._share(share_scores)

    def _share(self, how: str) -> None:
        norms = self.transfer_norms()
        if how == "none" or self.scores == "none":
            return
        for norm in norms:
            first = norms[0] if how in ("layers", "all") else norm
            norm.comb_layer_g = first.comb_layer_g
            norm.comb_layer_b = first.comb_layer_g if how in ("pair", "all") else first.comb_layer_b

    @property
    def c_dim(self) -> int:
        return self.n_new

    @property
    def first_current(self) -> int:
        """The first class that is being learned; those before it were added earlier."""
        return next((k for k, s in enumerate(self.label_sets) if s == self.sets), self.n_new)

    def make_norm(self, channels: int) -> nn.Module:
        return TransferNorm(channels, self.code_dim, self.eps, self.mybn, self.shared is not None,
                            self.sn if self.bn_sn else None, self)

    def make_output_norm(self, channels: int) -> nn.Module:
        if self.compat == "release":
            return super().make_output_norm(channels)
        return TransferOutputNorm(channels, self.mybn, self.sets)

    def output_norm(self, x: torch.Tensor, codes: list[Any]) -> torch.Tensor:
        if self.compat == "release":
            return super().output_norm(x, codes)
        return self.output_layer["0"](x, codes[-1])

    def forward(self, z: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        """Images of new classes: c [N, n_classes]."""
        t, sets = label_rows(c, self.n_new), None
        if self.first_current and not self.training:
            rows = F.one_hot(torch.tensor(self.label_sets, device=t.device), self.sets + 1)
            sets = t @ rows.to(t.dtype)
        first, chunks = self.split(z)
        return self.synthesise(first, [New(t, chunk, sets) for chunk in chunks])

    def forward_old(self, z: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        """Images of the source's classes, c [N, n_pretrain_classes], with the source's statistics; evaluation only."""
        if self.compat == "release" or self.training:
            raise ValueError("old classes are made in eval mode, with compat 'exact'")
        first, chunks = self.split(z)
        return self.synthesise(first, [Old(code) for code in super().codes(chunks, label_rows(c, self.n_old))])

    # ---- parts -----------------------------------------------------------------------------------------------------

    def transfer_norms(self) -> list[TransferNorm]:
        return [norm for block in self.blocks for norm in (block[0].bn1, block[0].bn2)]

    def norm_names(self) -> list[str]:
        return [f"blocks.{i}.0.{n}" for i in range(len(self.blocks)) for n in ("bn1", "bn2")]

    def _parameters_of(self, *layers: str) -> list[nn.Parameter]:
        found: dict[int, nn.Parameter] = {}
        for norm in self.transfer_norms():
            for layer in layers:
                for p in norm._modules[layer].parameters() if layer in norm._modules else ():
                    found.setdefault(id(p), p)
        return list(found.values())

    def score_parameters(self) -> list[nn.Parameter]:
        return self._parameters_of("comb_layer_g", "comb_layer_b")

    def prior_parameters(self) -> list[nn.Parameter]:
        return self._parameters_of("prev_knowledge_g", "prev_knowledge_b")

    def z_parameters(self) -> list[nn.Parameter]:
        return self._parameters_of("z_layer_g", "z_layer_b")

    def residual_parameters(self) -> list[nn.Parameter]:
        return self._parameters_of("res_g", "res_b")

    def source_parameters(self) -> list[nn.Parameter]:
        """What only old classes use: the shared embedding, the pretrained gains and biases."""
        shared = [] if self.shared is None else [self.shared.weight]
        return shared + self._parameters_of("gain", "bias")

    @torch.no_grad()
    def set_scores(self, a: torch.Tensor) -> None:
        """The same scores [n, m] in every norm, for the classes being learned."""
        k = self.first_current
        for p in self.score_parameters():
            if p.ndim == 2:
                p[:, k:] = (a[k:].clamp(min=1e-8).log() if self.scores == "softmax" else a[k:]).t().to(p)

    @torch.no_grad()
    def classes(self) -> list[dict[str, torch.Tensor]]:
        """Per norm: scores a_g, a_b [n, m], combination comb_g, comb_b [n, C] and residual res_g, res_b [n, C]; what
        the original weights amount to, in eval mode. Parts that the network lacks are absent."""
        t, was = torch.eye(self.n_new, device=self.linear.weight.device), self.training
        self.eval()
        out = []
        for norm in self.transfer_norms():
            d = {}
            for w in "gb":
                if hasattr(norm, f"comb_layer_{w}"):
                    d[f"a_{w}"] = getattr(norm, f"comb_layer_{w}")(t)
                    d[f"comb_{w}"] = getattr(norm, f"prev_knowledge_{w}")(d[f"a_{w}"])
                if hasattr(norm, f"res_{w}"):
                    d[f"res_{w}"] = getattr(norm, f"res_{w}")(t)
            out.append(d)
        self.train(was)
        return out


class TransferDiscriminator(biggan.Discriminator):
    """The source's discriminator with rows for the new classes, under the published key."""

    embed_name = "new_embed"


# ---- construction ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def extend(source: Generator, n: int, **options: Any) -> TransferGenerator:
    """A generator with `n` more classes than `source`, which stays as it is.

    From a plain BigGAN, `options` are those of TransferGenerator. From a TransferGenerator the new classes come after
    the earlier ones and share their settings; the statistics the earlier ones used are kept. New scores start at 1/m
    ('exact') or as the published initialisation has them.
    """
    if not isinstance(source, TransferGenerator):
        kwargs = {k: v for k, v in source.init_kwargs.items() if k != "n_classes"}
        out = TransferGenerator(n, source.n_classes, **options, **kwargs)
        missing, unexpected = out.load_state_dict(source.state_dict(), strict=False)
        assert not unexpected, unexpected
        source.eval()
        for norm in out.transfer_norms():
            norm.eval()
            norm.extract(None if out.shared is None else out.shared.weight)
        out.train()
    else:
        if source.compat != "exact":
            raise ValueError("classes are added to networks of compat 'exact'")
        kwargs = dict(source.init_kwargs)
        kwargs |= dict(n_classes=source.n_new + n, sets=source.sets + 1,
                       label_sets=[*source.label_sets, *[source.sets + 1] * n])
        out = TransferGenerator(**kwargs)
        state, fresh = dict(source.state_dict()), out.state_dict()
        for name, t in fresh.items():
            if state[name].shape != t.shape and not name.endswith(("kept_mean", "kept_var")):
                state[name] = torch.cat([state[name], t[:, source.n_new :]], 1)  # columns are classes
            elif state[name].shape != t.shape:
                state[name] = torch.cat([state[name], t[source.sets :]])
        out.load_state_dict(state)
    if out.compat == "exact":
        for mine, theirs in zip(out.norms(), source.norms()):
            mean, var = theirs.statistics()
            mine.kept_mean[out.sets - 1], mine.kept_var[out.sets - 1] = mean, var
    return out


@torch.no_grad()
def extend_discriminator(source: biggan.Discriminator, scores: torch.Tensor | None, n: int) -> TransferDiscriminator:
    """`source` with rows for n classes: combinations of its rows by scores [n, m], or fresh ones for None."""
    out = TransferDiscriminator(**{**source.init_kwargs, "n_classes": n})
    state = {k: v for k, v in source.state_dict().items() if not k.startswith(f"{source.embed_name}.")}
    missing, unexpected = out.load_state_dict(state, strict=False)
    assert not unexpected and all(k.startswith("new_embed.") for k in missing), (missing, unexpected)
    if scores is not None:
        out.new_embed.weight.copy_(scores @ source.classes.weight)
    return out


@torch.no_grad()
def affinities(D: biggan.Discriminator, images: torch.Tensor) -> torch.Tensor:
    """[N, m]: how the projection discriminator distributes images over its classes, softmax_j <embed_j, f(x)>."""
    D.eval()
    return (D.features(images) @ D.classes.effective_weight().t()).softmax(1)


@torch.no_grad()
def bake(G: TransferGenerator, classes: list[int] | None = None) -> Generator:
    """An ordinary BigGAN of the new classes (default: those learned last), with the same images.

    With hierarchical latents the class tables become columns for a one-hot shared embedding, otherwise tables per
    norm. Gain and bias are not spectrally normalised in it. Raises ValueError for classes of different statistics.
    """
    classes = list(range(G.first_current, G.n_new)) if classes is None else list(classes)
    kinds = {G.label_sets[k] for k in classes}
    if len(kinds) != 1:
        raise ValueError("classes added at different times have different statistics; bake each addition for itself")
    kind, n = kinds.pop(), len(classes)
    kwargs = {k: v for k, v in G.init_kwargs.items() if k in _SOURCE_KEYS}
    kwargs |= dict(n_classes=n, G_shared=bool(G.chunk), shared_dim=n if G.chunk else 0, bn_sn=False, dim_z=G.z_dim)
    out, was = Generator(**kwargs), G.training
    G.eval()
    own, state = G.state_dict(), out.state_dict()
    for name, t in state.items():
        if name in own and own[name].shape == t.shape:
            t.copy_(own[name])
    if G.chunk:
        out.shared.weight.copy_(torch.eye(n))
    t = torch.eye(G.n_new, device=G.linear.weight.device)[classes]
    for mine, theirs in zip(_cond_norms(out), G.transfer_norms()):
        none = t.new_zeros([n, G.chunk]) if G.chunk else None
        for part, layer in (("g", mine.gain), ("b", mine.bias)):
            table = theirs.part(part, New(t, none, None))
            if G.chunk:
                z = getattr(theirs, f"z_layer_{part}").effective_weight()
                layer.weight.copy_(torch.cat([table.t(), z], 1))
            else:
                layer.weight.copy_(table)
    for mine, theirs in zip(out.norms(), G.norms()):
        if kind < G.sets:
            mine.home.stored_mean.copy_(theirs.kept_mean[kind])
            mine.home.stored_var.copy_(theirs.kept_var[kind])
            if mine.mybn:
                mine.bn.accumulation_counter.fill_(1)
    G.train(was)
    return out.eval()


@torch.no_grad()
def restore(G: TransferGenerator) -> Generator:
    """The source's generator, as `extend` found it, while nothing but new classes was trained (compat 'exact')."""
    out = Generator(**{k: v for k, v in G.init_kwargs.items() if k in _SOURCE_KEYS} | {"n_classes": G.n_old})
    own = G.state_dict()
    for name, t in out.state_dict().items():
        t.copy_(own[name])
    for mine, theirs in zip(out.norms(), G.norms()):
        mine.home.stored_mean.copy_(theirs.kept_mean[0])
        mine.home.stored_var.copy_(theirs.kept_var[0])
        if mine.mybn:
            mine.bn.accumulation_counter.fill_(1)
    return out.eval()


@torch.no_grad()
def bake_discriminator(D: TransferDiscriminator) -> biggan.Discriminator:
    """The same discriminator under the ordinary key."""
    out = biggan.Discriminator(**D.init_kwargs)
    out.load_state_dict({k.replace("new_embed.", "embed."): v for k, v in D.state_dict().items()})
    return out.eval()


def _cond_norms(G: Generator) -> list[CondNorm]:
    return [norm for block in G.blocks for norm in (block[0].bn1, block[0].bn2)]


_SOURCE_KEYS = set(inspect.signature(Generator.__init__).parameters) - {"self"}
