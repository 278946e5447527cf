# SPDX-License-Identifier: Apache-2.0
"""cGAN-KD (Ding et al. 2021, arXiv 2104.03164): classifiers and regressors taught through generated images.

Stage teacher: CE, or MSE of the normalised label. Stage student: the same on real images plus processed fakes, with or
without a distillation loss (kd_losses.py). Stage head: SSKD's projection head on a frozen teacher. Fakes are made by
fakes.py; knowledge travels through them, so that teacher and student need not match.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dnnlib import seeding
from dnnlib.util import UserError
from gantransfer import method, snapshot, source_fit
from gantransfer.augment import classifier
from gantransfer.data.container import Container
from gantransfer.data.dataset import BatchSource, DataSpec, ImageDataset, LabelSpec, reference_dataset
from gantransfer.distillation import class_match, losses
from gantransfer.distillation.selection import even_quota
from gantransfer.method import Batch, Phase, RunConfig, option
from gantransfer.metrics.directions import HIGHER, LOWER
from gantransfer.networks import students
from gantransfer.networks.students import Student
from torch_utils import distributed as dist
from torch_utils import optimizers
from torch_utils import random as rnd
from torch_utils.pixels import from_uint8
from torch_utils.step_statistics import StepStatistics

# Published weights: CE, KL, temperature, feature loss.
KD: dict[str, dict[str, float]] = {
    "none": dict(ce_weight=1, kd_weight=0, T=1, feature_weight=0),
    "blkd": dict(ce_weight=0.1, kd_weight=0.9, T=4, feature_weight=0),
    "takd": dict(ce_weight=0.5, kd_weight=0.5, T=10, feature_weight=0),
    "uda": dict(ce_weight=0.5, kd_weight=0.5, T=5, feature_weight=0),
    "sskd": dict(ce_weight=0.1, kd_weight=0.9, T=4, feature_weight=0),
    "fitnet": dict(ce_weight=1, kd_weight=1, T=4, feature_weight=100),
    "at": dict(ce_weight=1, kd_weight=1, T=4, feature_weight=1000),
    "sp": dict(ce_weight=1, kd_weight=1, T=4, feature_weight=3000),
    "vid": dict(ce_weight=1, kd_weight=1, T=4, feature_weight=1),
    "rkd": dict(ce_weight=1, kd_weight=1, T=4, feature_weight=1),
    "pkt": dict(ce_weight=1, kd_weight=1, T=4, feature_weight=30000),
}
FEATURE_LOSSES = ("fitnet", "at", "sp", "vid", "rkd", "pkt")
CHUNK = 64  # images per pass when predicting: always the same, so that results do not depend on how many there are


@dataclass
class CGANKDOptions(method.Options):
    arch: str = option("resnet20", "Architecture: resnet20, wrn_16_2, vgg8, conv4-8, ... (networks/students.py)")
    head: str = option("linear", "Last layers: linear, or the 512-512 regression head", choices=students.HEADS)
    dropout: float = option(0.0, "Dropout before the last layers", low=0, high=0.99)
    lr: float = option(0.1, "Learning rate", low=0)
    optimizer: str = option("sgd", "sgd, or adamw", choices=("sgd", "adamw"))
    momentum: float = option(0.9, "Momentum of sgd", low=0, high=1)
    nesterov: bool = option(False, "Nesterov momentum")
    wd: float = option(5e-4, "Weight decay", low=0)
    schedule: str = option("step", "Learning rate over the run: step, cosine, onecycle or constant",
                           choices=("step", "cosine", "onecycle", "constant"))
    decay: str = option("0.4286,0.7143", "With --schedule=step: shares of the run after which the rate falls to a "
                        "tenth (published: epochs 150 and 250 of 350)", metavar="LIST")
    crop: int = option(4, "Random crops of the image padded by so many pixels", low=0)
    flip: bool = option(False, "Mirror half of the images at random. Not for digits or steering angles")
    smoothing: float = option(0.0, "Label smoothing of the cross-entropy without a teacher", low=0, high=0.99)
    test: str | None = option(None, "Images to measure on at every snapshot", metavar="PATH")
    test_fname: str | None = option(None, "Label file in --test that selects the images",
                                    metavar="NAME|PATH")
    fakes: str | None = option(None, "Generated images to train on beside the real ones (fakes.zip)", metavar="PATH")
    nfake: int | None = option(None, "Use this many of the fakes, evenly over the classes", type=int, low=1)
    fake_batch_share: float | None = option(None, "Share of fakes in the stream of images (default: as many as there "
                                            "are, plain concatenation)", type=float, low=0, high=1)
    fake_weight: float = option(1.0, "Weight of a fake's loss", low=0)
    teacher: str | None = option(None, "Trained teacher", metavar="SNAPSHOT")
    kd: str = option("none", "Distillation loss", choices=tuple(KD))
    T: float | None = option(None, "Temperature of the KL (default by --kd)", type=float, low=1e-3)
    ce_weight: float | None = option(None, "Weight of the label loss (default by --kd)", type=float, low=0)
    kd_weight: float | None = option(None, "Weight of T^2 KL (default by --kd)", type=float, low=0)
    feature_weight: float | None = option(None, "Weight of the feature loss (default by --kd)", type=float, low=0)
    kd_reduction: str = option("batchmean", "KL per image, or divided by the number of classes too (first release)",
                               choices=("batchmean", "elementmean"))
    hint_layer: int = option(2, "FitNet: which stage, from 1", low=1)
    tf_weight: float = option(2.7, "SSKD: weight of the KL on rotated views", low=0)
    ss_weight: float = option(10.0, "SSKD: weight of the KL of similarities", low=0)
    tf_T: float = option(4.0, "SSKD: temperature on rotated views", low=1e-3)
    ss_T: float = option(0.5, "SSKD: temperature of similarities", low=1e-3)
    ratio_tf: float = option(1.0, "SSKD: share of misranked rotated views kept", low=0, high=1)
    ratio_ss: float = option(0.75, "SSKD: share of misranked similarities kept", low=0, high=1)


_TRAITS = [source_fit.key("its architecture is {}", "--arch", "arch"),
           source_fit.key("it judges labels of the kind {}", None, "kind"),
           source_fit.key("it knows {} labels", None, "outputs"),
           source_fit.key("its head is {}", "--head", "head")]


class CGANKD(method.Method):
    name = "cgan_kd"
    better = {r"accuracy(_\w+)?": HIGHER, "mae": LOWER, "rmse": LOWER}
    stages = ("teacher", "head", "student")
    Options: ClassVar[type[method.Options]] = CGANKDOptions

    # ---- options ---------------------------------------------------------------------------------------------------

    @classmethod
    def resolve(cls, o: CGANKDOptions, run: RunConfig, data: DataSpec) -> None:
        if data.label.kind == "none":
            raise UserError(f"{data.path or data.name} has no labels; teachers and students learn labels")
        try:
            with torch.device("meta"):
                build(o, data, [0.5] * data.channels, [0.5] * data.channels)
        except ValueError as e:
            raise UserError(f"--arch={o.arch}: {e}") from None
        method.resolve_schedule(run, batch=128, kimg=1000, tick=10, snap=10)
        weights = KD[o.kd] | (dict(kd_weight=0) if data.label.kind == "value" else {})
        method.fill(o, **{k: float(v) for k, v in weights.items()})
        shares(o.decay)
        if o.kd != "none" and not o.teacher:
            raise UserError(f"--kd={o.kd} needs --teacher=SNAPSHOT")
        if o.kd == "none" and o.teacher:
            raise UserError("--teacher has no meaning with --kd=none; choose a loss, such as --kd=blkd")
        if data.label.kind == "value" and (o.kd_weight or o.kd in ("blkd", "takd", "uda", "sskd")):
            raise UserError(f"--kd={o.kd} compares class probabilities, and {data.path or data.name} has values; "
                            f"use --kd=none, or one of {', '.join(FEATURE_LOSSES)}")
        if o.kd in ("sskd", "fitnet") and data.size.height != data.size.width:
            raise UserError(f"--kd={o.kd} takes square images; {data.path or data.name} has {data.size}")
        if o.optimizer != "sgd" and o.nesterov:
            raise UserError("--nesterov=True belongs to --optimizer=sgd")
        if not o.fakes and (o.nfake or o.fake_batch_share is not None or o.fake_weight != 1):
            raise UserError("--nfake, --fake_batch_share and --fake_weight need --fakes=fakes.zip")
        if o.test_fname and not o.test:
            raise UserError("--test_fname needs --test")
        if run.batch_gpu < 2:
            raise UserError(f"--batch-gpu={run.batch_gpu}: batch norm needs at least 2 images per process and round")

    @classmethod
    def config(cls, opts, run, data):
        return {**super().config(opts, run, data), "parameters": sum(p.numel() for p in _skeleton(opts, data))}

    @classmethod
    def check_source(cls, o: CGANKDOptions, data: DataSpec, source: snapshot.Snapshot | None, stage: str) -> None:
        if source is None or stage == "head":
            return
        net = source.nets.get("net")
        if net is None or net.kind() is not Student:
            raise UserError(f"the source is of method {source.method}, not a teacher or student")
        source_fit.images(None, net.kwargs.get("channels"), data)
        own = dict(arch=o.arch, outputs=data.label.dim, kind=data.label.kind, head=o.head)
        source_fit.same([(net.kwargs, own, _TRAITS)])

    # ---- networks --------------------------------------------------------------------------------------------------

    def __init__(self, opts, data, run, start=method.FRESH, stage=None):
        super().__init__(opts, data, run, start, stage)
        source, stage = start.weights, self.stage
        self.check_source(opts, data, source, stage)
        self.teacher = None
        if opts.teacher:
            self.teacher = load(opts.teacher, data, "--teacher").to(self.device)
        # Constants come from the real images in `prepare`; a teacher's are taken over, so that the two agree.
        self.net = build(opts, data, [0.5] * data.channels, [0.5] * data.channels,
                         projection=stage == "head" or opts.kd == "sskd")
        if stage == "head":
            self.net = _with_projection(self.teacher)
        elif source is not None:
            report = snapshot.transfer(source.nets["net"].state, self.net,
                                       may_drop=lambda n: n.startswith("projector."),
                                       may_initialise=lambda n: n.startswith("projector."))
            dist.print0(report.table("student from the source"))
        self.net.to(self.device)
        self.nets = {"net": self.net.train(stage != "head")}
        if opts.kd == "sskd" and stage == "student" and self.teacher.projector is None:
            raise UserError(f"--teacher={opts.teacher} has no projection head; `distill student --kd=sskd` trains one")
        self.extra: list[nn.Module] = []
        if opts.kd in ("fitnet", "vid"):
            self.extra = [m.to(self.device) for m in self._regressors()]
            self.nets["regressors"] = Regressors(self.extra)
        self.statistics = StepStatistics(*([self.net] if stage != "head" else []), *self.extra)
        self.tests: ImageDataset | None = None

    def _regressors(self) -> list[nn.Module]:
        x = torch.zeros(2, self.data.channels, *self.data.size, device=self.device)
        with torch.no_grad():
            s, t = (copy.deepcopy(net).eval()(x, features=True).features[:-1] for net in (self.net, self.teacher))
        try:
            if self.opts.kd == "fitnet":
                k = self.opts.hint_layer - 1
                if k >= min(len(s), len(t)):
                    raise UserError(f"--hint_layer={k + 1}: student and teacher have {len(s)} and {len(t)} stages")
                return [losses.Hint(s[k].shape[1:3], t[k].shape[1:3])]
            return [losses.VID(a.shape[1], b.shape[1]) for a, b in stage_pairs(s, t)]
        except ValueError as e:
            raise UserError(f"--kd={self.opts.kd}: {e}; choose another --hint_layer") from None

    # ---- data ------------------------------------------------------------------------------------------------------

    def prepare(self, dataset: ImageDataset) -> method.Reals:
        if self.stage != "head":
            constants = (self.teacher.init_kwargs if self.teacher is not None else None) or {}
            mean, std = (constants["mean"], constants["std"]) if constants else normalisation(dataset)
            self.net.set_normalisation(mean, std)
        self.mixed = Mixed(dataset, self._fakes(), self.opts.fake_weight)
        if self.opts.test:
            self.tests = labelled(self.opts.test, self.opts.test_fname, self.data, "--test")
        elif self.data.heldout:
            self.tests = heldout_part(self.data)
        elif self.stage == "teacher":
            self.tests = dataset
        if dist.is_main() and self.mixed.fakes is not None:
            real, fake = len(dataset), len(self.mixed.chosen)
            share = self.opts.fake_batch_share
            print(f"Training on {real} real and {fake} generated images" + (
                f", real : generated = 1 : {fake / real:.2f}" if share is None else f", share of fakes {share:g}"))
        return self.mixed

    def _fakes(self) -> tuple[ImageDataset, np.ndarray] | None:
        o = self.opts
        if not o.fakes:
            return None
        fakes = labelled(o.fakes, None, self.data, "--fakes", own_labels=False)
        n, want = len(fakes), o.nfake
        if want is None or want >= n:
            if want is not None and want > n:
                raise UserError(f"--nfake={want}, but {o.fakes} has {n} images")
            return fakes, np.arange(n)
        rng = seeding.numpy_rng(self.run.seed)
        if fakes.class_ids is None:
            return fakes, np.sort(rng.permutation(n)[:want])
        ids = fakes.class_ids
        share = even_quota(np.bincount(ids, minlength=self.data.label.dim), want)
        return fakes, np.sort(np.concatenate([rng.permutation(np.flatnonzero(ids == k))[:m]
                                              for k, m in enumerate(share)]))

    def order(self, reals: method.Reals, repeat: int = 1) -> Any:
        if self.opts.fakes and self.opts.fake_batch_share is not None:
            return SharedOrder(self.mixed, self.run, self.opts.fake_batch_share)
        return super().order(reals)

    # ---- training --------------------------------------------------------------------------------------------------

    def phases(self) -> list[Phase]:
        o = self.opts
        module = self.net.projector if self.stage == "head" else self.net
        params = [p for m in [module, *self.extra] for p in m.parameters()]
        if o.optimizer == "sgd":
            self.opt: torch.optim.Optimizer = optimizers.SGD(params, lr=o.lr, momentum=o.momentum, weight_decay=o.wd,
                                                              nesterov=o.nesterov)
        else:
            self.opt = optimizers.AdamW(params, lr=o.lr, weight_decay=o.wd)
        self._set_rate(0)
        return [Phase(self.stage, params, self.opt)]

    def _set_rate(self, nimg: int) -> None:
        rate = self.opts.lr * rate_at(nimg / (self.run.kimg * 1000), self.opts.schedule, shares(self.opts.decay))
        for group in self.opt.param_groups:
            group["lr"] = rate

    def loss(self, phase: str, batch: Batch) -> Iterator[Tensor]:
        """`batch.c` is the label and, last, the weight of the image."""
        if not self.opts.dropout or self.stage == "head":
            yield self._loss(batch)
            return
        with rnd.dropout(batch.choices, self.net):
            yield self._loss(batch)

    def _loss(self, batch: Batch) -> Tensor:
        o, weight = self.opts, batch.c[:, -1]
        if self.stage == "head":
            return self._head_loss(batch)
        if o.kd == "sskd":
            return self._sskd_loss(batch)
        x = classifier.crop_and_flip(batch.x, o.crop, o.flip, batch.rng)
        target = batch.c[:, :-1]
        if self.data.label.kind == "value" or o.kd == "none":
            out = self.net(x, features=o.kd != "none")
            loss = o.ce_weight * self.label_loss(out if o.kd == "none" else out.logits, target)
        else:
            y, T = target.argmax(1), o.T
            with torch.no_grad():
                t = self.teacher(x, features=True)
            out = self.net(x, features=True)
            if o.kd == "uda":
                strong = classifier.autoaugment(batch.x, batch.choices)
                with torch.no_grad():
                    t_strong = self.teacher(strong)
                loss = losses.uda(out.logits, self.net(strong), t.logits, t_strong, y, T, o.ce_weight, o.kd_weight,
                                  o.kd_reduction)
            else:
                loss = losses.blkd(out.logits, t.logits, y, T, o.ce_weight, o.kd_weight, o.kd_reduction)
        if o.kd in FEATURE_LOSSES:
            if self.data.label.kind == "value":
                with torch.no_grad():
                    t = self.teacher(x, features=True)
            feature = self.feature_loss(out.features, t.features)
            self.report("Loss/features", feature.detach())
            loss = loss * weight + o.feature_weight * feature
        else:
            loss = loss * weight
        self.report("Loss/student", loss.detach())
        return loss

    def label_loss(self, out: Tensor, target: Tensor) -> Tensor:
        """[N]: cross-entropy of one-hot labels, or squared error of the normalised label."""
        if self.data.label.kind == "value":
            return (out - self.data.label.normalise(target)).square().mean(1)
        return F.cross_entropy(out, target.argmax(1), reduction="none", label_smoothing=self.opts.smoothing)

    def feature_loss(self, s: list[Tensor], t: list[Tensor]) -> Tensor:
        kd, maps = self.opts.kd, stage_pairs(s[:-1], t[:-1])
        if kd == "fitnet":
            k = self.opts.hint_layer - 1
            return self.extra[0](s[k], t[k])
        if kd == "at":
            return sum(losses.attention(a, b) for a, b in maps)
        if kd == "vid":
            return sum(net(a, b) for net, (a, b) in zip(self.extra, maps))
        if kd == "sp":
            return losses.similarity(*map(of_round, maps[-1]))
        return {"rkd": losses.relations, "pkt": losses.probabilities}[kd](of_round(s[-1]), of_round(t[-1]))

    def _views(self, batch: Batch) -> Tensor:
        x = classifier.rotations(classifier.crop_and_flip(batch.x, 0, self.opts.flip, batch.rng))
        return classifier.crop_and_flip(x, self.opts.crop, self.opts.flip, batch.rng, views=4)

    def _head_loss(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            pooled = self.net(self._views(batch), features=True).features[-1]
        loss = losses.projection_loss(of_round(self.net.project(pooled), 4)).mean()
        self.report("Loss/head", loss.detach())
        return loss

    def _sskd_loss(self, batch: Batch) -> Tensor:
        o, x, y = self.opts, self._views(batch), batch.c[:, :-1].argmax(1)
        with torch.no_grad():
            t = self.teacher(x, features=True)
            t_rep = self.teacher.project(t.features[-1])
        s = self.net(x, features=True)
        rows = (of_round(v, 4) for v in (s.logits, t.logits, self.net.project(s.features[-1]), t_rep))
        out = losses.sskd(*rows, of_round(y), kd_T=o.T, tf_T=o.tf_T, ss_T=o.ss_T, ratio_tf=o.ratio_tf,
                          ratio_ss=o.ratio_ss)
        for key in ("ce", "kd", "tf", "ss"):
            self.report(f"Loss/{key}", getattr(out, key).detach())
        return o.ce_weight * out.ce + o.kd_weight * out.kd + o.tf_weight * out.tf + o.ss_weight * out.ss

    def end_step(self, cur_nimg: int, batch_size: int) -> None:
        self.statistics.finish()
        self._set_rate(cur_nimg + batch_size)

    def progress(self) -> dict[str, float]:
        return {"lr": self.opt.param_groups[0]["lr"]}

    # ---- figures ---------------------------------------------------------------------------------------------------

    def evaluate(self, cur_nimg: int) -> dict[str, float]:
        """Of --test: accuracy, mean over classes, of the groups many, medium, few; or mean absolute error in label
        units."""
        if self.tests is None or self.stage == "head":
            return {}
        self.net.eval()
        outputs = predict(self.net, self.tests, np.arange(len(self.tests)))
        self.net.train()
        return figures(outputs, self.tests, self.data.label)

    def snapshot(self, cur_nimg: int) -> snapshot.Snapshot:
        snap = super().snapshot(cur_nimg)
        snap.nets.pop("regressors", None)
        return snap

    @classmethod
    def sampler_from(cls, snap: snapshot.Snapshot, device: torch.device | str = "cpu") -> Any:
        raise UserError(f"this snapshot is a {snap.stage} of cGAN-KD: it judges images and makes none")


def of_round(x: Tensor, views: int = 1) -> Tensor:
    """Rows of this process's images, `views` each, -> those of the images of all processes: what compares images with
    each other compares those of the whole batch."""
    return dist.gather_rows(x.unflatten(0, (-1, views))).flatten(0, 1)


class Regressors(nn.ModuleList):
    """The networks that some feature losses train beside the student. Not needed to use it."""

    def __init__(self, modules: list[nn.Module] | None = None):
        super().__init__(modules)
        self.init_kwargs: dict[str, Any] = {}


# ---- data ------------------------------------------------------------------------------------------------------------


class Mixed:
    """Real images, then generated ones; the label's last number is the weight of the image in the loss."""

    def __init__(self, real: ImageDataset, fakes: tuple[ImageDataset, np.ndarray] | None, fake_weight: float):
        self.real, self.fake_weight = real, fake_weight
        self.fakes, self.chosen = fakes if fakes is not None else (None, np.zeros(0, np.int64))
        self.spec, self.label_dim = real.spec, real.label_dim
        self.in_memory = real.in_memory and (self.fakes is None or self.fakes.in_memory)
        self.class_ids = real.class_ids
        if self.class_ids is not None and self.fakes is not None:
            self.class_ids = np.concatenate([self.class_ids, self.fakes.class_ids[self.chosen]])

    def __len__(self) -> int:
        return len(self.real) + len(self.chosen)

    def _parts(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        i = np.asarray(indices, np.int64)
        fake = i >= len(self.real)
        return fake, i[~fake], self.chosen[i[fake] - len(self.real)]

    def read(self, indices: np.ndarray) -> Tensor:
        fake, a, b = self._parts(indices)
        if self.fakes is None:
            return self.real.read(a)
        out = torch.empty([len(fake), *self.real.image_shape], dtype=torch.uint8)
        out[torch.from_numpy(~fake)], out[torch.from_numpy(fake)] = self.real.read(a), self.fakes.read(b)
        return out

    def labels(self, indices: np.ndarray) -> np.ndarray:
        fake, a, b = self._parts(indices)
        out = np.ones([len(fake), self.label_dim + 1], np.float32)
        out[~fake, :-1] = self.real.labels(a)
        if self.fakes is not None:
            out[fake, :-1], out[fake, -1] = self.fakes.labels(b), self.fake_weight
        return out


class SharedOrder:
    """Real and generated images in a fixed share, evenly interleaved; each kind has an order of its own."""

    def __init__(self, mixed: Mixed, run: RunConfig, share: float):
        self.share, self.offset = Fraction(share).limit_denominator(10**6), len(mixed.real)
        self.real = BatchSource(mixed.real, run.seed, run.sampling)
        self.fake = BatchSource(_Subset(mixed), run.seed + 1, run.sampling)

    def indices(self, position: int, n: int) -> np.ndarray:
        before = [math.floor(p * self.share) for p in range(position, position + n + 1)]
        fake = np.diff(before).astype(bool)
        out = np.empty(n, np.int64)
        out[fake] = self.offset + self.fake.indices(before[0], int(fake.sum()))
        out[~fake] = self.real.indices(position - before[0], int((~fake).sum()))
        return out


class _Subset:
    """The chosen fakes, as BatchSource asks for them."""

    def __init__(self, mixed: Mixed):
        self.spec, self.label_dim, self.size = mixed.fakes.spec, mixed.label_dim, len(mixed.chosen)
        ids = mixed.fakes.class_ids
        self.class_ids = None if ids is None else ids[mixed.chosen]

    def __len__(self) -> int:
        return self.size


def heldout_part(data: DataSpec) -> ImageDataset:
    """What `data` holds out of its own set."""
    return ImageDataset(data.path, fname=data.fname, use_labels=True, seed=data.seed, heldout=data.heldout,
                        part="heldout", label_dim=data.label.dim)


def labelled(path: str, fname: str | None, data: DataSpec, flag: str, own_labels: bool = True) -> ImageDataset:
    """A set with the labels of `data`. UserError naming the flag where it differs.

    `own_labels`: its dataset.json has the original labels, which a long-tailed selection may have renumbered; else they
    are those of generated images, which say in their provenance what they were made for.
    """
    numbered = own_labels
    try:
        found = ImageDataset(path, fname=fname, use_labels=True)
        if found.spec.label.kind == data.label.kind:
            if fname is None and own_labels:
                found = reference_dataset(data, path)  # labels as in the file that the training set was made from
            elif found.spec.label.dim < data.label.dim:
                # Generated images and label files may lack classes: the training set says how many there are.
                found = ImageDataset(path, fname=fname, use_labels=True, label_dim=data.label.dim)
            theirs = None if own_labels or data.label.kind != "class" else fakes_label(path, found.spec.label)
            if theirs is not None and class_match.differs(ids := class_match.match(theirs, data.label)):
                dist.print0(class_match.say(theirs, data.label, f"{flag}={path}"))
                back = {t: k for k, t in enumerate(ids) if t is not None}
                found = ImageDataset(path, use_labels=True, label_dim=data.label.dim, class_map=back)
                found.spec = dataclasses.replace(found.spec, label=dataclasses.replace(
                    data.label, counts=found.spec.label.counts, shots={}))
    except UserError as e:
        raise UserError(f"{flag}={path}: {e}") from None
    check_labels(found.spec, data, f"{flag}={path}", numbered)
    return found


def fakes_label(path: str, label: LabelSpec) -> LabelSpec | None:
    """Labels of a zip of generated images with the class map of the data that it was made for; None where the zip does
    not say."""
    try:
        recorded = Container(path).read_json("dataset.json")["provenance"]
        return dataclasses.replace(label, class_map={int(k): int(v) for k, v in recorded["class_map"].items()})
    except (UserError, KeyError, ValueError, AttributeError, TypeError):
        return None


def check_labels(found: DataSpec, data: DataSpec, what: str, numbered: bool = True) -> None:
    """UserError unless the images and labels of `found` are of the kind of `data`, in the same numbering. `numbered`:
    it is known where the numbers of `found` come from."""
    a, b = found.label, data.label
    words = {"none": "no labels", "class": "classes", "value": "values"}
    if a.kind != b.kind:
        raise UserError(f"{what} has {words[a.kind]}, the data {words[b.kind]}; labels must be of one kind")
    if a.dim != b.dim:
        raise UserError(f"{what} knows {a.dim} {words[a.kind]}, the data {b.dim}; they must be the same")
    if a.names and b.names and tuple(a.names) != tuple(b.names):
        k = next(i for i, (p, q) in enumerate(zip(a.names, b.names)) if p != q)
        raise UserError(f"{what} calls class {k} {a.names[k]!r}, the data {b.names[k]!r}; it is for other classes")
    if numbered and class_match.comparable(a, b) and class_match.differs(ids := class_match.match(a, b)):
        k = next(k for k, t in enumerate(ids) if t is not None and t != k)
        raise UserError(f"{what} numbers its classes otherwise: {k} of the data is its {ids[k]}; make it with the same "
                        "--fname as the data")
    if (found.resolution, found.channels) != (data.resolution, data.channels):
        raise UserError(f"{what} has images of {found.size} pixels and {found.channels} channels, the data "
                        f"{data.size} and {data.channels}")


def normalisation(dataset: ImageDataset) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel of the real images in [0, 1]."""
    n, total, square = 0, 0.0, 0.0
    for start in range(0, len(dataset), 1024):
        x = dataset.images_uint8(np.arange(start, min(start + 1024, len(dataset)))).astype(np.float64) / 255
        n += x[:, 0].size
        total, square = total + x.sum((0, 2, 3)), square + np.square(x).sum((0, 2, 3))
    mean = total / n
    std = np.sqrt(np.maximum(square / n - mean**2, 1e-6))
    return [round(float(v), 6) for v in mean], [round(float(v), 6) for v in std]


# ---- networks --------------------------------------------------------------------------------------------------------


def build(o: CGANKDOptions, data: DataSpec, mean: list[float], std: list[float], projection: bool = False) -> Student:
    return Student(o.arch, data.resolution, data.channels, data.label.dim, data.label.kind, o.head, o.dropout,
                   projection, mean, std)


def _skeleton(o: CGANKDOptions, data: DataSpec) -> Iterator[nn.Parameter]:
    with torch.device("meta"):
        return build(o, data, [0.5] * data.channels, [0.5] * data.channels).parameters()


def _with_projection(teacher: Student) -> Student:
    net = Student(**{**teacher.init_kwargs, "projection": True})
    net.load_state_dict(teacher.state_dict(), strict=False)
    return net.eval()


def load(path: str, data: DataSpec, flag: str) -> Student:
    """A trained teacher or student that fits the data, frozen. UserError naming the flag otherwise."""
    snap = snapshot.load(path)
    if snap.method != CGANKD.name:
        raise UserError(f"{flag}={path} is of method {snap.method}; `gantransfer distill teacher` makes one")
    found, net = DataSpec.from_dict(snap.data), snap.build("net")
    if class_match.comparable(found.label, data.label):
        ids = class_match.known(found.label, data.label, f"{flag}={path}")
        if class_match.differs(ids) or found.label.dim != data.label.dim:
            dist.print0(class_match.say(found.label, data.label, f"{flag}={path}"))
            net.select_outputs(ids)
            found = dataclasses.replace(found, label=data.label)
    check_labels(found, data, f"{flag}={path}")
    return net


def stage_pairs(s: list[Tensor], t: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Maps of student and teacher, paired from the deepest on."""
    n = min(len(s), len(t))
    return list(zip(s[len(s) - n :], t[len(t) - n :]))


@torch.no_grad()
def predict(net: Student, dataset: ImageDataset, indices: np.ndarray) -> np.ndarray:
    """float32 [n, outputs]: logits, or values in label units' normalised form. `net` is in eval mode."""
    return np.concatenate([predict_images(net, dataset.images_uint8(part))
                           for part in np.array_split(indices, max(-(-len(indices) // CHUNK), 1))])


@torch.no_grad()
def predict_images(net: Student, images: np.ndarray) -> np.ndarray:
    """The same of uint8 images [n, C, H, W], in passes of one size: row k depends on image k only."""
    device, out = next(net.parameters()).device, []
    for start in range(0, len(images), CHUNK):
        part = images[start : start + CHUNK]
        full = np.concatenate([part, np.repeat(part[-1:], CHUNK - len(part), 0)])
        x = from_uint8(torch.from_numpy(full).to(device))
        out.append(net(x)[: len(part)].float().cpu().numpy())
    return np.concatenate(out) if out else np.zeros([0, net.outputs], np.float32)


def figures(outputs: np.ndarray, tests: ImageDataset, label: LabelSpec) -> dict[str, float]:
    """What a classifier or regressor is judged by; `label` is the training set's, whose groups count."""
    truth = tests.labels(np.arange(len(tests)))
    if label.kind == "value":
        error = np.abs(label.raw(outputs.astype(np.float64)) - truth)
        return {"mae": float(error.mean()), "rmse": float(np.sqrt(np.square(error).mean()))}
    ids = truth.argmax(1)
    right = outputs.argmax(1) == ids
    each = {k: float(right[ids == k].mean()) for k in range(label.dim) if (ids == k).any()}
    out = {"accuracy": float(right.mean()), "accuracy_mean": float(np.mean(list(each.values())))}
    for group, classes in label.shots.items():
        if have := [each[k] for k in classes if k in each]:
            out[f"accuracy_{group}"] = float(np.mean(have))
    return out


# ---- schedule --------------------------------------------------------------------------------------------------------


def shares(text: str) -> list[float]:
    """'0.4,0.7' -> [0.4, 0.7], rising, inside (0, 1). UserError otherwise."""
    try:
        out = [float(v) for v in text.split(",") if v.strip()]
    except ValueError:
        out = [-1.0]
    if any(not 0 < v < 1 for v in out) or out != sorted(out):
        raise UserError(f"--decay={text} is not a rising list of shares of the run, such as 0.43,0.71")
    return out


def rate_at(done: float, schedule: str, decay: list[float]) -> float:
    """Factor of the learning rate when the share `done` of the run is over."""
    if schedule == "step":
        return 0.1 ** sum(done >= d for d in decay)
    if schedule == "cosine":
        return (1 + math.cos(math.pi * min(done, 1))) / 2
    if schedule == "onecycle":  # a rise over the first three tenths, then a cosine
        return 0.04 + 0.96 * done / 0.3 if done < 0.3 else (1 + math.cos(math.pi * min((done - 0.3) / 0.7, 1))) / 2
    return 1.0


