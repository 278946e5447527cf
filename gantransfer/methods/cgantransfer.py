# SPDX-License-Identifier: Apache-2.0
"""cGANTransfer (Shahbazi et al., CVPR 2021): new classes for a trained BigGAN, made of its old ones.

Stage BN learns, for every batch norm and new class, scores over the old classes' gains and biases, and a residual;
everything else of the generator stays. Stage FT goes on from there and trains everything but the scores.

    L_G = -D(G(z, y), y) + comb_l1_scale sum |scores| + res_l2_scale sum residuals^2

The mechanism is in networks/cgantransfer.py. compat 'exact' keeps old classes as they were; 'release' trains and
computes as the released code does.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from dnnlib.util import UserError
from gantransfer import method, sampler, snapshot
from gantransfer.data.dataset import DataSpec, LabelSpec
from gantransfer.method import Phase, RunConfig, option
from gantransfer.methods.biggan import BigGAN, TrainingOptions, check_transfer_source
from gantransfer.networks import biggan
from gantransfer.networks import cgantransfer as networks
from torch_utils import distributed as dist
from torch_utils.pixels import from_uint8

CFGS: dict[str, dict[str, Any]] = {
    "auto": dict(kimg=500, batch=64, glr=1e-4, score_lr=1, dlr=4e-4, eps=1e-6, d_steps=1, ema=44, ramp=0.05,
                 ema_start=0),
    "tiny": dict(kimg=8, batch=16, glr=1e-3, score_lr=10, dlr=2e-3, eps=1e-6, d_steps=2, ema=0.5, ramp=0.05,
                 ema_start=0),
}
SUFFIX = {"compat": "", "scores": "scores-", "share_scores": "share-"}


@dataclass
class CGANTransferOptions(TrainingOptions):
    cfg: str = option("auto", "Preset of sizes and hyper-parameters", choices=tuple(CFGS))
    compat: str = option("exact", "exact: old classes stay as they were; release: as the published code computes",
                         choices=networks.COMPATS)
    comb_l1_scale: float = option(0.01, "Weight of the scores' absolute values", low=0)
    res_l2_scale: float = option(0.1, "Weight of the squared residuals", low=0)
    reg_reduction: str = option("mean", "mean: over each tensor, as published; sum_per_class: sums, over classes",
                                choices=("mean", "sum_per_class"))
    scores: str = option("free", "Scores over old classes: free, a softmax, fixed where they start, or none",
                         choices=networks.SCORES)
    share_scores: str = option("none", "One score vector per norm for gain and bias each; the same in all layers, for "
                               "both parts (pair), or all", choices=networks.SHARES)
    residual: bool = option(True, "A residual per class beside the combination of old classes")
    score_lr: float | None = option(None, "Stage BN's learning rate in units of --glr (default 1; 10 for tiny): scores "
                                    "are few and may move faster than layers", type=float, low=0)
    train_prior: bool | None = option(None, "Stage BN also trains the old classes' tables as seen by new ones (default "
                                      "only with --compat=release)", type=bool)
    warm_start: str = option("uniform", "Scores start equal, or where the source's discriminator puts the new images",
                             choices=("uniform", "nearest"))
    source_net: str = option("G_ema", "Which generator of the source", choices=("G_ema", "G"))
    keep_source: bool = option(True, "Keep the source's generator for old classes where training changes what they use")


class CGANTransfer(BigGAN):
    name = "cgantransfer"
    stages = ("BN", "FT")
    presets = CFGS
    Options: ClassVar[type[method.Options]] = CGANTransferOptions

    # ---- options and checks ----------------------------------------------------------------------------------------

    @classmethod
    def resolve(cls, o: CGANTransferOptions, run: RunConfig, data: DataSpec) -> None:
        if not data.label.dim:
            raise UserError("--method=cgantransfer learns classes; give --cond=True and a data set with labels")
        super().resolve(o, run, data)
        method.fill(o, score_lr=float(CFGS[o.cfg]["score_lr"]))
        if o.compat == "release" and (o.scores, o.share_scores, o.residual) != ("free", "none", True):
            raise UserError("--compat=release has free scores per layer and residuals; omit --scores, --share_scores "
                            "and --residual")
        if o.scores == "none" and not o.residual:
            raise UserError("--scores=none --residual=False leaves nothing to learn; give one of them up")
        if o.scores in ("none", "fixed") and o.share_scores != "none":
            raise UserError(f"--share_scores={o.share_scores} has no meaning with --scores={o.scores}")
        if o.warm_start == "nearest" and (o.scores == "none" or o.compat == "release"):
            raise UserError("--warm_start=nearest sets scores; it needs --compat=exact and --scores other than none")
        method.fill(o, train_prior=o.compat == "release")
        if o.train_prior and o.scores == "none":
            raise UserError("--train_prior has no meaning with --scores=none")
        for k, count in enumerate(data.label.counts):
            if count < 2:
                name = data.label.names[k] if data.label.names else k
                raise UserError(f"class {name} of {data.path or data.name} has {count} image{'s' * (count != 1)}; a "
                                f"class needs at least 2: leave it out with --fname or dataset_tool.py --classes")

    @classmethod
    def resolve_networks(cls, o, cfg, data) -> None:
        """Sizes are the source's."""

    @classmethod
    def run_name(cls, o: CGANTransferOptions, given: dict[str, Any], run: RunConfig, data: DataSpec) -> str:
        name = super().run_name(o, {k: v for k, v in given.items() if k != "resume"}, run, data)
        name += f"-{given['stage']}" if given.get("stage") else "-BN"
        for key, prefix in SUFFIX.items():
            name += f"-{prefix}{given[key]}" if given.get(key) is not None else ""
        return name + ("-nores" if not o.residual else "")

    @classmethod
    def check_source(cls, o: CGANTransferOptions, data: DataSpec, source: snapshot.Snapshot | None,
                     stage: str) -> None:
        """UserError, naming what is missing, when `source` cannot start this stage on this data."""
        if source is None:
            raise UserError(f"--method=cgantransfer --stage={stage} needs --source=SNAPSHOT" + (
                ", a BigGAN with classes" if stage == "BN" else " of stage BN"))
        if stage == "FT" and (source.method, source.stage) != (cls.name, "BN"):
            raise UserError(f"--stage=FT goes on from a snapshot of --method=cgantransfer --stage=BN; the source is of "
                            f"method {source.method}, stage {source.stage}")
        if source.method not in ("biggan", cls.name):
            raise UserError(f"the source is of method {source.method}; cgantransfer needs a BigGAN, whose classes are "
                            f"gains and biases of batch norms (blocks.*.bn1.gain)")
        kwargs = check_transfer_source(source, data, o.source_net)
        if stage == "BN" and source.method == cls.name and (source.stage, kwargs["compat"]) != ("BN", "exact"):
            raise UserError(f"--stage=BN adds classes to a BigGAN, or to a snapshot of --stage=BN --compat=exact; "
                            f"the source is of stage {source.stage}, compat {kwargs['compat']}: more training changes "
                            f"what its earlier classes use")
        if stage == "FT":
            current = kwargs["n_classes"] - cls.first_of(kwargs)
            if current != data.label.dim:
                raise UserError(f"the source learned {current} classes, {data.path or data.name} has {data.label.dim}; "
                                f"stage FT needs the data of stage BN")
            if cls.first_of(kwargs):
                raise UserError("the source also has classes added earlier, which stage FT would change; fine-tune "
                                "before adding, or bake them (gantransfer convert --bake)")
            if kwargs["compat"] != o.compat:
                raise UserError(f"the source was trained with --compat={kwargs['compat']}; give that flag again")

    @staticmethod
    def first_of(kwargs: dict[str, Any]) -> int:
        sets = kwargs.get("label_sets") or []
        return next((k for k, s in enumerate(sets) if s == kwargs.get("sets", 1)), 0)

    # ---- networks --------------------------------------------------------------------------------------------------

    def __init__(self, opts, data, run, start=method.FRESH, stage=None):
        super().__init__(opts, data, run, start, stage)
        self.first = self.G.first_current
        if self.exact and self.stage == "BN":
            biggan.freeze_sn(self.G)
            biggan.freeze_sn(self.G_ema)
        if "G_source" in self.nets:
            self.nets["G_source"].eval()
        if self.first:
            for p in [*self.G.score_parameters(), *self.G.residual_parameters()]:
                if p.ndim == 2:
                    p.register_hook(self._current_columns)

    def _current_columns(self, grad: torch.Tensor) -> torch.Tensor:
        """Classes added earlier take no part: their columns get no gradient."""
        grad = grad.clone()
        grad[:, : self.first] = 0
        return grad

    @property
    def exact(self) -> bool:
        return self.opts.compat == "exact"

    def build(self, start: method.Start) -> dict[str, nn.Module]:
        o = self.opts
        self._source_D = None
        if start.continues:
            self.old_label, self.new_label = labels_of(start.networks)
            return {k: r.build().requires_grad_(True) for k, r in start.networks.nets.items()}
        source = start.source
        self.check_source(o, self.data, source, self.stage)
        own = self.data.label
        if self.stage == "FT":
            self.old_label, self.new_label = labels_of(source)
            nets = {k: source.build(k).requires_grad_(True) for k in ("G", "D", "G_ema")}
            if "G_source" in source.nets:
                nets["G_source"] = source.build("G_source")
            elif o.keep_source:
                nets["G_source"] = networks.restore(nets["G_ema"])
            return nets
        old, D = source.build(o.source_net), source.build("D")
        added = isinstance(old, networks.TransferGenerator)
        choices = {} if added else dict(compat=o.compat, scores=o.scores, share_scores=o.share_scores,
                                        residual=o.residual)
        G = networks.extend(old, own.dim, **choices)
        rows = torch.full([own.dim, D.n_classes], 1 / D.n_classes) if o.compat == "exact" else None
        nets = {"G": G, "D": networks.extend_discriminator(D, rows, own.dim)}
        if o.compat == "release":
            biggan.init_weights(nets["D"].classes, "ortho")
            if o.keep_source:
                nets["G_source"] = old
        self._source_D = None if added else D
        if o.warm_start == "nearest" and source.options.get("gan_loss") == "rpgan":
            raise UserError("--warm_start=nearest asks the source's discriminator for the class of an image; this one "
                            "was trained with --gan_loss=rpgan and compares images of one class only; omit it")
        if added and o.warm_start == "nearest":
            raise UserError("--warm_start=nearest asks the source's discriminator for old classes; this source's knows "
                            "only the classes added last")
        names = ((source.data or {}).get("label") or {}) if not added else {}
        if added:
            self.old_label, earlier = labels_of(source)
            self.new_label = LabelSpec("class", earlier.dim + own.dim, (*earlier.counts, *own.counts),
                                       (*earlier.names, *own.names) if earlier.names and own.names else ())
        else:
            self.old_label = LabelSpec.from_dict(names) if names.get("kind") == "class" else LabelSpec(
                "class", old.n_classes)
            self.new_label = own
        nets["G_ema"] = copy.deepcopy(G)
        for net in nets.values():
            net.requires_grad_(True)
        dist.print0(f"{own.dim} new classes from {G.n_old} old ones ({o.source_net} of the {source.method} source)")
        return nets

    def prepare(self, dataset: Any) -> Any:
        if self.stage == "BN" and self.opts.warm_start == "nearest" and self._source_D is not None:
            self.warm_start(dataset)
        self._source_D = None
        return dataset

    @torch.no_grad()
    def warm_start(self, dataset: Any, per_class: int = 256) -> None:
        """Scores of class k = how the source's discriminator distributes k's images over the old classes."""
        D, rows = self._source_D.to(self.device), []
        for k in range(self.data.label.dim):
            members = (dataset.class_ids == k).nonzero()[0][:per_class]
            x = from_uint8(torch.from_numpy(dataset.images_uint8(members)).to(self.device))
            rows.append(torch.cat([networks.affinities(D, part) for part in x.split(32)]).mean(0))
        a = torch.stack(rows)
        for G in (self.G, self.G_ema):
            G.set_scores(a)
        self.D.classes.weight.copy_(a @ D.classes.weight)

    # ---- phases ----------------------------------------------------------------------------------------------------

    def phases(self) -> list[Phase]:
        phases = super().phases()
        if self.stage == "BN":
            for group in phases[1].opt.param_groups:
                group["lr"] *= self.opts.score_lr
        return phases

    def trainable(self, key: str) -> list[nn.Parameter]:
        if key == "D":
            return super().trainable(key)
        G = self.G
        if self.stage == "BN":
            chosen = list(G.residual_parameters())
            if self.opts.scores in ("free", "softmax"):
                # The scores' bias belongs to all classes, so it rests where some were added earlier.
                chosen += [p for p in G.score_parameters() if p.ndim == 2 or not self.first]
            if self.opts.train_prior:
                chosen += G.prior_parameters()
            if not self.exact:
                chosen += G.z_parameters()
            return chosen
        resting = {id(p) for p in [*G.score_parameters(), *G.prior_parameters()]}
        if self.exact:
            resting |= {id(p) for p in G.source_parameters()}
        return self.without_idle([p for p in G.parameters() if id(p) not in resting])

    def penalty(self) -> torch.Tensor | float:
        o = self.opts
        scores = sum((self._reduce(p.abs()) for p in self.G.score_parameters()), torch.zeros([], device=self.device))
        residuals = sum((self._reduce(p.square()) for p in self.G.residual_parameters()),
                        torch.zeros([], device=self.device))
        self.report("Loss/G/scores_l1", scores.detach())
        self.report("Loss/G/residuals_l2", residuals.detach())
        return super().penalty() + o.comb_l1_scale * scores + o.res_l2_scale * residuals

    def _reduce(self, p: torch.Tensor) -> torch.Tensor:
        return p.mean() if self.opts.reg_reduction == "mean" else p.sum() / self.data.label.dim

    def label_rows(self, c: torch.Tensor) -> torch.Tensor:
        return F.pad(c, (self.first, 0))

    # ---- sampling --------------------------------------------------------------------------------------------------

    def snapshot(self, cur_nimg: int) -> snapshot.Snapshot:
        snap = super().snapshot(cur_nimg)
        snap.extra |= dict(old_label=self.old_label.to_dict(), new_label=self.new_label.to_dict())
        return snap

    def state(self) -> dict[str, Any]:
        return {**super().state(), "old_label": self.old_label.to_dict(), "new_label": self.new_label.to_dict()}

    def sampler(self) -> sampler.Sampler:
        nets = {"G_ema": self.averaged()} | {k: v for k, v in self.nets.items() if k == "G_source"}
        return self.sampler_with(nets, self.data, self.device, self.stage, self.old_label, self.new_label)

    @classmethod
    def sampler_from(cls, snap: snapshot.Snapshot, device: torch.device | str = "cpu") -> sampler.Sampler:
        nets = {k: snap.build(k, device) for k in ("G_ema", "G_source") if k in snap.nets}
        return cls.sampler_with(nets, DataSpec.from_dict(snap.data), device, snap.stage, *labels_of(snap))

    @classmethod
    def sampler_with(cls, nets: dict[str, nn.Module], spec: DataSpec, device: torch.device | str, stage: str,
                     old: LabelSpec, new: LabelSpec) -> sampler.Sampler:
        """Labels are those of the data; `label_set='new'` takes all new classes, `'old'` the source's."""
        G, source = nets["G_ema"], nets.get("G_source")
        sets = {"new": new}
        if source is not None or G.compat == "exact" and stage == "BN":
            sets["old"] = old

        def synthesise(z: torch.Tensor, c: torch.Tensor, rng: Any = None, truncation_psi: float = 1,
                       noise_mode: str = "const", label_set: str | None = None) -> torch.Tensor:
            z = z * truncation_psi
            if label_set == "old":
                return G.forward_old(z, c) if source is None else source(z, c)
            return G(z, c if label_set == "new" else F.pad(c, (G.first_current, 0)))

        return sampler.Sampler(synthesise, G.z_dim, spec, device, label_dim=spec.label.dim, label_sets=sets,
                               scores=lambda: scores_of(G, old, new))


def labels_of(snap: snapshot.Snapshot) -> tuple[LabelSpec, LabelSpec]:
    """(old, new) label specs that a snapshot of this method carries; imported ones know the numbers of classes only."""
    kwargs = snap.nets["G_ema" if "G_ema" in snap.nets else "G"].kwargs
    return tuple(LabelSpec.from_dict(snap.extra[key]) if key in snap.extra else LabelSpec("class", kwargs[number])
                 for key, number in (("old_label", "n_pretrain_classes"), ("new_label", "n_classes")))


@torch.no_grad()
def scores_of(G: networks.TransferGenerator, old: LabelSpec, new: LabelSpec) -> dict[str, Any]:
    """JSON-able: names, and per new class and layer the scores a_g, a_b [m] and the norms of their combination (about
    the mean of the old classes) and of the residual. `scores` is the mean over layers and both parts."""
    parts, layers = G.classes(), G.norm_names()
    out: dict[str, Any] = dict(
        old=list(old.names) or [str(j) for j in range(G.n_old)],
        new=list(new.names) or [str(k) for k in range(G.n_new)], layers=layers, classes=[])
    for k in range(G.n_new):
        rows = []
        for name, norm, p in zip(layers, G.transfer_norms(), parts):
            row: dict[str, Any] = dict(layer=name)
            for w, what in (("g", "gain"), ("b", "bias")):
                if f"a_{w}" in p:
                    prior = getattr(norm, f"prev_knowledge_{w}").effective_weight().mean(1)
                    row[f"scores_{what}"] = p[f"a_{w}"][k].tolist()
                    row[f"combination_{what}"] = float((p[f"comb_{w}"][k] - prior).norm())
                if f"res_{w}" in p:
                    row[f"residual_{what}"] = float(p[f"res_{w}"][k].norm())
            rows.append(row)
        scores = [r[key] for r in rows for key in ("scores_gain", "scores_bias") if key in r]
        out["classes"].append(dict(
            name=out["new"][k], layers=rows, scores=np.mean(scores, 0).tolist() if scores else None,
            combination_norm=_total(rows, "combination"), residual_norm=_total(rows, "residual")))
    return out


def _total(rows: list[dict[str, Any]], what: str) -> float:
    return float(np.hypot.reduce([r.get(f"{what}_{p}", 0.0) for r in rows for p in ("gain", "bias")]))


def bake(snap: snapshot.Snapshot, classes: list[int] | None = None) -> snapshot.Snapshot:
    """An ordinary BigGAN snapshot of the new classes, with the same images. UserError if there is none."""
    if snap.method != CGANTransfer.name:
        raise UserError(f"--bake turns a cgantransfer snapshot into a BigGAN; this one is of method {snap.method}")
    try:
        nets = {k: networks.bake(snap.build(k), classes) for k in ("G", "G_ema")}
    except ValueError as e:
        raise UserError(f"--bake: {e}") from None
    nets["D"] = networks.bake_discriminator(snap.build("D"))
    G = nets["G_ema"]
    data = copy.deepcopy(snap.data)
    if classes is not None:
        new = labels_of(snap)[1]
        data["label"] = LabelSpec("class", len(classes), tuple(new.counts[k] for k in classes) if new.counts else (),
                                  tuple(new.names[k] for k in classes) if new.names else ()).to_dict()
        del nets["D"]  # its rows are those of the data's classes
    options = dict(standing=0, baked_from=snap.options)
    assert G.n_classes == data["label"]["dim"]
    return snapshot.Snapshot(method="biggan", nets={k: snapshot.NetRecord.of(v) for k, v in nets.items()},
                             options=options, data=data, cur_nimg=snap.cur_nimg, extra={"baked": True})
