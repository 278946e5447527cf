# SPDX-License-Identifier: Apache-2.0
"""The small networks of Mind2Mind (Fregier and Gouray, GSI 2021): a generator and a critic of latent codes.

`Generator` and `Critic` are the published pair. `MindMapping` is that generator in the place of a style-based
generator's mapping network: codes are mapped back to latents by a fixed affine map, so that {mapping, synthesis} of
`MindGenerator` is an ordinary generator. `GaussianMapping` is the baseline that any of them should beat.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from gantransfer.networks import alae, stylegan2
from gantransfer.networks.stylegan2 import plain

PRIORS = ("normal", "uniform")


def mlp(sizes) -> nn.Sequential:
    """Linear layers of these widths with ReLU in between; the last one is linear. Keys: 0.weight, 2.weight, ..."""
    layers = []
    for a, b in zip(sizes[:-1], sizes[1:]):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class LabelEmbedding(nn.Module):
    """c [N, c_dim] -> [N, features]. `keep` [N, 1] of ones and zeros: rows with 0 are embedded as "no label".

    Classes: a vector each. Float-vector labels (kind 'value'): a small network.
    """

    def __init__(self, c_dim, features, kind="class"):
        super().__init__()
        if kind == "value":
            self.net = nn.Sequential(nn.Linear(c_dim + 1, features), nn.ReLU(), nn.Linear(features, features))
        else:
            self.net = nn.Linear(c_dim + 1, features, bias=False)

    def forward(self, c, keep=None):
        keep = torch.ones_like(c[:, :1]) if keep is None else keep
        return self.net(torch.cat([c * keep, 1 - keep], 1))


class Generator(nn.Module):
    """z [N, sizes[0]] -> code [N, sizes[-1]]: the published generator of latents."""

    def __init__(self, sizes):
        super().__init__()
        self.init_kwargs = plain(sizes=sizes)
        self.model = mlp(sizes)

    def forward(self, z):
        return self.model(z)


class Critic(nn.Module):
    """w [N, sizes[0]] or [N, 1, sizes[0]] -> score [N, 1].

    With labels the score is psi(phi(w)) + <v_c, phi(w)> (Miyato and Koyama, "cGANs with projection discriminator"),
    where psi is the last layer and phi the ones before it. kind: 'class' or 'value' labels.
    """

    def __init__(self, sizes, c_dim=0, kind="class"):
        super().__init__()
        self.init_kwargs = plain(sizes=sizes, c_dim=c_dim, kind=kind)
        self.c_dim = c_dim
        self.model = mlp(sizes)
        if c_dim:
            self.embed = LabelEmbedding(c_dim, sizes[-2], kind)

    def forward(self, w, c=None, keep=None):
        features = self.model[:-1](w.squeeze(1) if w.ndim == 3 else w)
        score = self.model[-1](features)
        if self.c_dim:
            score = score + (self.embed(c, keep) * features).sum(1, keepdim=True) / math.sqrt(features.shape[1])
        return score

    def input_gradient(self, w, c=None, keep=None):
        """d score / d w, [N, sizes[0]], differentiable in the weights.

        The same as `torch.autograd.grad(..., create_graph=True)` at less cost: ReLU's second derivative is zero, which
        autograd would send through the whole network as tensors of zeros.
        """
        linear = [layer for layer in self.model if isinstance(layer, nn.Linear)]
        with torch.no_grad():
            x, masks = w, []
            for layer in linear[:-1]:
                x = layer(x).relu_()
                masks.append((x > 0).to(x.dtype))
        g = linear[-1].weight.expand(len(w), -1)
        if self.c_dim:
            g = g + self.embed(c, keep) / math.sqrt(g.shape[1])
        for layer, mask in zip(reversed(linear[:-1]), reversed(masks)):
            g = (g * mask) @ layer.weight
        return g


class CodeMapping(nn.Module):
    """From codes to ws: w = code * scale + mean, or code @ basis + mean; then repeated over the layers.

    slots: latents per image, 1 (one w for all layers) or num_ws. dense: a full matrix `basis` [code_dim, slots * w_dim]
    in place of `scale`. Same attributes and signature as the StyleGAN2 mapping network; `w_avg` is the mean latent,
    [w_dim], or [num_ws, w_dim] with a latent per layer.
    """

    def __init__(self, z_dim, c_dim, w_dim, num_ws, slots=1, code_dim=None, dense=False):
        super().__init__()
        if slots not in (1, num_ws):
            raise ValueError(f"slots must be 1 or num_ws = {num_ws}, not {slots}")
        flat = slots * w_dim
        self.z_dim, self.c_dim, self.w_dim, self.num_ws, self.slots = z_dim, c_dim, w_dim, num_ws, slots
        self.code_dim, self.dense = flat if code_dim is None else code_dim, dense
        if not dense and self.code_dim != flat:
            raise ValueError(f"{self.code_dim} numbers per code and {flat} per latent need a dense map")
        self.w_avg_beta = None  # the mean does not move
        self.register_buffer("code_mean", torch.zeros(flat))
        if dense:
            self.register_buffer("code_basis", torch.zeros(self.code_dim, flat))
        else:
            self.register_buffer("code_scale", torch.ones(flat))
        self.register_buffer("w_avg", torch.zeros(w_dim) if slots == 1 else torch.zeros(num_ws, w_dim))

    def decode(self, code):
        """code [N, code_dim] -> ws [N, num_ws, w_dim]."""
        flat = code @ self.code_basis + self.code_mean if self.dense else code * self.code_scale + self.code_mean
        ws = flat.reshape(flat.shape[0], self.slots, self.w_dim)
        return ws.expand(-1, self.num_ws, -1) if self.slots == 1 else ws

    def codes(self, z, c, keep=None):
        """z [N, z_dim] in the units of the prior, c [N, c_dim] -> code [N, code_dim]."""
        raise NotImplementedError

    def to_prior(self, z):
        """Standard normal z -> z of this network's prior."""
        return z

    def forward(self, z, c, *, truncation_psi=1, truncation_cutoff=None, update_w_avg=None, w_out=None,
                unlabelled=False):
        """Standard normal z [N, z_dim], c [N, c_dim] -> ws [N, num_ws, w_dim]. `unlabelled`: leave the label out.
        `update_w_avg` and `w_out` belong to the interface; the mean latent is fixed here."""
        keep = z.new_zeros([z.shape[0], 1]) if unlabelled else None
        ws = self.decode(self.codes(self.to_prior(z), c, keep))
        if stylegan2.untruncated(truncation_psi):
            return ws
        near = torch.lerp(self.w_avg.to(ws.dtype).expand_as(ws), ws, truncation_psi)
        return near if truncation_cutoff is None else torch.cat([near[:, :truncation_cutoff],
                                                                 ws[:, truncation_cutoff:]], 1)


class MindMapping(CodeMapping):
    """The trained mapping: code = model([z, e(c)]) (+ an offset per class).

    prior: 'normal', or 'uniform' on [-1, 1] as published; `forward` takes normal z either way and moves it to the
    prior. kind: 'class' or 'value' labels. offsets: a learned code per label is added to the shared network's output.
    """

    def __init__(self, z_dim, c_dim, w_dim, num_ws, hidden=(), slots=1, code_dim=None, dense=False, prior="normal",
                 embed_features=64, kind="class", offsets=False):
        super().__init__(z_dim, c_dim, w_dim, num_ws, slots, code_dim, dense)
        if prior not in PRIORS:
            raise ValueError(f"prior must be one of {PRIORS}, not {prior!r}")
        self.init_kwargs = plain(z_dim=z_dim, c_dim=c_dim, w_dim=w_dim, num_ws=num_ws, hidden=hidden, slots=slots,
                                 code_dim=code_dim, dense=dense, prior=prior, embed_features=embed_features, kind=kind,
                                 offsets=offsets)
        self.prior = prior
        self.model = mlp([z_dim + (embed_features if c_dim else 0), *hidden, self.code_dim])
        if c_dim:
            self.embed = LabelEmbedding(c_dim, embed_features, kind)
        if c_dim and offsets:
            self.offset = nn.Parameter(torch.zeros(c_dim, self.code_dim))

    def to_prior(self, z):
        return torch.erf(z / math.sqrt(2)) if self.prior == "uniform" else z  # 2 Phi(z) - 1 is uniform on [-1, 1]

    def codes(self, z, c=None, keep=None):
        if not self.c_dim:
            return self.model(z)
        code = self.model(torch.cat([z, self.embed(c, keep)], 1))
        if hasattr(self, "offset"):
            code = code + (c if keep is None else c * keep) @ self.offset
        return code


class GaussianMapping(CodeMapping):
    """code ~ N(mean_k, factor_k factor_k^T), k the class (one k for all without). shared: one factor for all."""

    def __init__(self, c_dim, w_dim, num_ws, slots=1, code_dim=None, dense=False, classes=1, shared=False):
        super().__init__(slots * w_dim if code_dim is None else code_dim, c_dim, w_dim, num_ws, slots, code_dim, dense)
        if classes not in (1, c_dim):
            raise ValueError(f"classes must be 1 or c_dim = {c_dim}, not {classes}")
        self.init_kwargs = plain(c_dim=c_dim, w_dim=w_dim, num_ws=num_ws, slots=slots, code_dim=code_dim, dense=dense,
                                 classes=classes, shared=shared)
        self.classes = classes
        self.register_buffer("mean", torch.zeros(classes, self.code_dim))
        self.register_buffer("factor", torch.zeros(1 if shared else classes, self.code_dim, self.code_dim))

    def codes(self, z, c=None, keep=None):
        k = c.argmax(1) if self.classes > 1 else torch.zeros(z.shape[0], dtype=torch.int64, device=z.device)
        if self.factor.shape[0] == 1:
            return self.mean[k] + z @ self.factor[0].t()
        out = self.mean[k]
        if torch.compiler.is_exporting():  # a graph cannot look at which classes there are
            return out + torch.matmul(self.factor[k], z[:, :, None])[:, :, 0]
        for i in k.unique().tolist():
            out[k == i] += z[k == i] @ self.factor[i].t()
        return out


class MindGenerator(nn.Module):
    """{mapping, synthesis} as an ordinary generator: z [N, z_dim], c [N, c_dim] -> image [N, C, R, R].

    mapping: arguments of MindMapping apart from w_dim and num_ws, which are the synthesis network's; with
    {'gaussian': True, ...} those of GaussianMapping. synthesis: {'kind': 'stylegan2' or 'alae', and its arguments}.
    """

    def __init__(self, mapping, synthesis):
        super().__init__()
        self.init_kwargs = plain(mapping=mapping, synthesis=synthesis)
        self.synthesis = make_synthesis(synthesis)
        self.w_dim, self.num_ws = self.synthesis.w_dim, self.synthesis.num_ws
        self.img_resolution, self.img_channels = self.synthesis.img_resolution, self.synthesis.img_channels
        kind = GaussianMapping if mapping.get("gaussian") else MindMapping
        self.mapping = kind(w_dim=self.w_dim, num_ws=self.num_ws, **{k: v for k, v in mapping.items()
                                                                     if k != "gaussian"})
        self.z_dim, self.c_dim = self.mapping.z_dim, self.mapping.c_dim

    def forward(self, z, c, *, truncation_psi=1, truncation_cutoff=None, update_w_avg=None, w_out=None,
                unlabelled=False, **synthesis_kwargs):
        ws = self.mapping(z, c, truncation_psi=truncation_psi, truncation_cutoff=truncation_cutoff,
                          unlabelled=unlabelled)
        return self.synthesis(ws, **synthesis_kwargs)


SYNTHESIS = {"stylegan2": stylegan2.SynthesisNetwork, "alae": alae.Synthesis}


def make_synthesis(spec):
    """The decoder, ws [N, num_ws, w_dim] -> image, that `spec` describes. ValueError for an unknown kind."""
    if spec.get("kind") not in SYNTHESIS:
        raise ValueError(f"synthesis kind must be one of {', '.join(SYNTHESIS)}, not {spec.get('kind')!r}")
    return SYNTHESIS[spec["kind"]](**{k: v for k, v in spec.items() if k != "kind"})
