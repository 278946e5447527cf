# SPDX-License-Identifier: Apache-2.0
"""The density ratio r(x, y) = p_real / p_fake in a feature space (cDR-RS, Ding et al. 2021, arXiv 2103.11166).

Stage features: what the ratio looks at, a residual classifier with a layer as wide as the image (classes), or a sparse
auto-encoder (values). Stage ratio: an MLP on features and label, trained by the penalised Softplus loss on real images
and images generated at the same labels. Afterwards `RatioModel` subsamples fakes. `DiscriminatorRatio` needs no
training: exp(a D + b), calibrated on two numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dnnlib.util import UserError, sha256
from gantransfer import method, snapshot
from gantransfer.augment import classifier
from gantransfer.data import resolution
from gantransfer.data.dataset import BatchSource, DataSpec, ImageDataset
from gantransfer.distillation import class_match
from gantransfer.distillation.rejection import Calibration, calibrate, csp_loss
from gantransfer.method import Batch, Phase, RunConfig, option
from gantransfer.methods import cgan_kd
from gantransfer.metrics.directions import UNRATED
from gantransfer.networks.density_ratio import DensityRatio
from gantransfer.networks.ratio_features import (
    FeatureExtractor,
    LabelPredictor,
    SparseDecoder,
    SparseEncoder,
    sparse_ae_loss,
)
from gantransfer.networks.students import Student
from gantransfer.snapshot import NetRecord, Snapshot
from torch_utils import distributed as dist
from torch_utils import optimizers
from torch_utils import random as rnd
from torch_utils.pixels import from_uint8
from torch_utils.step_statistics import StepStatistics

if TYPE_CHECKING:
    from gantransfer.model import Model

FEATURES = ("discriminator", "teacher", "sae", "resnet34")
CHUNK = 64  # images per pass, always as many: the ratio of an image depends on no other


@dataclass
class DensityRatioOptions(method.Options):
    network: str | None = option(None, "Conditional snapshot whose images are judged", metavar="SNAPSHOT")
    features: str = option("teacher", "What the ratio looks at: the teacher's pooled features; sae, a sparse "
                           "auto-encoder (values); resnet34, a classifier with a wide layer (classes); or the "
                           "snapshot's own discriminator, calibrated", choices=FEATURES)
    teacher: str | None = option(None, "Trained teacher, with --features=teacher", metavar="SNAPSHOT")
    extractor: str | None = option(None, "Trained feature network, instead of training one", metavar="PATH")
    feature_width: int = option(64, "Channel unit of the feature network", low=8)
    feature_lr: float | None = option(None, "Learning rate of the feature network (0.1; 0.01 for sae)", type=float,
                                      low=0)
    sparsity: float = option(1e-3, "Auto-encoder: weight of the mean feature", low=0)
    regression: float = option(1.0, "Auto-encoder: weight of the label's error", low=0)
    width: str = option("mlp5", "Hidden widths of the ratio model", choices=tuple(DensityRatio.WIDTHS))
    output: str = option("softplus", "Its output: softplus; or relu, published, which can die",
                         choices=("softplus", "relu"))
    dropout: float = option(0.5, "Its dropout", low=0, high=0.99)
    lam: float = option(1e-2, "Weight of (mean ratio of generated images - 1)^2; 1e-3 in the first release", low=0)
    lr: float = option(1e-4, "Learning rate of the ratio model (Adam)", low=0)
    wd: float = option(1e-4, "Weight decay", low=0)
    decay: str = option("0.4,0.75", "Shares of the run after which the rate falls to a tenth", metavar="LIST")
    flip: bool = option(False, "Mirror half of the images at random")


class DensityRatioTraining(method.Method):
    """Of a generator: its `start.source` is a `Model`, which makes the images."""

    name = "density_ratio"
    better = dict.fromkeys(("mean_fake", "mean_real", "largest", "dead"), UNRATED)  # calibration, not quality
    stages = ("features", "ratio")
    Options: ClassVar[type[method.Options]] = DensityRatioOptions

    @classmethod
    def resolve(cls, o: DensityRatioOptions, run: RunConfig, data: DataSpec) -> None:
        if data.label.kind == "none":
            raise UserError(f"{data.path or data.name} has no labels; the ratio is of images under their labels")
        method.resolve_schedule(run, batch=256, kimg=1000, tick=10, snap=10)
        cgan_kd.shares(o.decay)
        if o.features == "teacher" and not o.teacher:
            raise UserError("--features=teacher needs --teacher=SNAPSHOT")
        if o.features == "sae" and (data.label.kind, data.label.dim) != ("value", 1):
            raise UserError("--features=sae is for labels of one number; use --features=resnet34 or teacher")
        if o.features == "resnet34" and data.label.kind != "class":
            raise UserError("--features=resnet34 is a classifier; use --features=sae or teacher")
        method.fill(o, feature_lr=0.01 if o.features == "sae" else 0.1)
        if o.features == "sae":
            resolution.require_square(data.size, data.path or data.name, "--features=sae", (8, 16, 32, 64))
        if run.batch_gpu < 2:
            raise UserError(f"--batch-gpu={run.batch_gpu}: batch norm needs at least 2 images per process and round")

    def __init__(self, opts, data, run, start=method.FRESH, stage=None):
        super().__init__(opts, data, run, start, stage)
        o = opts
        self.nets = features_of(o, data) if self.stage == "ratio" else new_features(o, data)
        for net in self.nets.values():
            net.to(self.device)
        if self.stage == "features":
            self.statistics = [StepStatistics(net.train()) for net in self.nets.values()]
            return
        snap = start.source
        self.sampler_ = class_match.translated(snap.sampler(self.device), data.label, f"--network={o.network}")
        cgan_kd.check_labels(self.sampler_.spec, data, f"--network={o.network}")
        if "y2h" in snap.nets:
            self.nets["y2h"] = snap.build("y2h", self.device)
        self.phi = feature_function(self.nets, self.device)
        self.code = code_function(self.nets, data)
        with torch.no_grad():
            dim = self.phi(torch.zeros(2, data.channels, *data.size, device=self.device)).shape[1]
            code = self.code(torch.zeros(2, data.label.dim, device=self.device)).shape[1]
        self.R = DensityRatio(dim, code, DensityRatio.WIDTHS[o.width],
                              "class" if data.label.kind == "class" else "embedding", o.dropout, o.output)
        self.nets["R"] = self.R.to(self.device).train()
        self.statistics = []

    def prepare(self, dataset: ImageDataset) -> method.Reals:
        self.real = dataset
        return dataset

    def order(self, reals: method.Reals, repeat: int = 1) -> Any:
        if self.data.label.kind == "value":  # labels alike, however many images each has
            return BatchSource(_ByValue(reals), self.run.seed, "balanced")
        return super().order(reals)

    def phases(self) -> list[Phase]:
        o = self.opts
        if self.stage == "ratio":
            self.base, params = o.lr, list(self.R.parameters())
            self.opt: torch.optim.Optimizer = optimizers.Adam(params, lr=o.lr, betas=(0.5, 0.999), weight_decay=o.wd)
        else:
            self.base, params = o.feature_lr, [p for net in self.nets.values() for p in net.parameters()]
            self.opt = optimizers.SGD(params, lr=o.feature_lr, momentum=0.9, weight_decay=1e-4)
        return [Phase(self.stage, params, self.opt)]

    def loss(self, phase: str, batch: Batch) -> Iterator[Tensor]:
        with rnd.dropout(batch.choices, *self.nets.values()):
            yield self.ratio_loss(batch) if phase == "ratio" else self.features_loss(batch)

    def features_loss(self, batch: Batch) -> Tensor:
        o = self.opts
        x = classifier.crop_and_flip(batch.x, 4 if o.features == "resnet34" else 0, o.flip, batch.rng)
        if o.features == "resnet34":
            loss = F.cross_entropy(self.nets["F"](x).logits, batch.c.argmax(1), reduction="none")
        else:
            phi = self.nets["F"](x)
            loss = sparse_ae_loss(x, self.data.label.normalise(batch.c)[:, 0], phi, self.nets["decoder"](phi),
                                  self.nets["predictor"](phi), o.sparsity, o.regression).total()
        self.report("Loss/features", loss.detach())
        return loss

    def ratio_loss(self, batch: Batch) -> Tensor:
        seeds = rnd.randint(0, 2**31 - 1, [len(batch.x)], batch.choices).tolist()
        with torch.no_grad():
            fake = from_uint8(self.sampler_(seeds, batch.c).to(self.device))
            x = classifier.crop_and_flip(torch.cat([fake, batch.x]), 0, self.opts.flip, batch.rng)
            phi, code = self.phi(x), self.code(batch.c)
        r = self.R(phi, torch.cat([code, code]))
        r_fake, r_real = r[: len(fake)], r[len(fake) :]
        loss = csp_loss(dist.gather_rows(r_fake), dist.gather_rows(r_real), self.opts.lam)  # it squares a mean
        for name, value in (("loss", loss), ("fake", r_fake), ("real", r_real), ("dead", (r == 0).float())):
            self.report(f"Ratio/{name}", value.detach())
        return loss

    def end_step(self, cur_nimg: int, batch_size: int) -> None:
        for s in self.statistics:
            s.finish()
        rate = self.base * cgan_kd.rate_at((cur_nimg + batch_size) / (self.run.kimg * 1000), "step",
                                           cgan_kd.shares(self.opts.decay))
        for group in self.opt.param_groups:
            group["lr"] = rate

    @torch.no_grad()
    def evaluate(self, cur_nimg: int) -> dict[str, float]:
        """Mean ratio of generated images (1 if calibrated), of real ones, their largest, and the share that is 0."""
        if self.stage != "ratio":
            return {}
        n = min(len(self.real), 256)
        c = torch.from_numpy(self.real.labels(np.arange(n))).to(self.device)
        fake = torch.cat([self.sampler_(range(i, min(i + 32, n)), c[i : i + 32]).cpu() for i in range(0, n, 32)])
        self.R.eval()
        r, s = (ratios(self.R, self.phi, self.code, x, c.cpu().numpy(), self.device)
                for x in (fake.numpy(), self.real.images_uint8(np.arange(n))))
        self.R.train()
        return dict(mean_fake=float(r.mean()), mean_real=float(s.mean()), largest=float(max(r.max(), s.max())),
                    dead=float((r == 0).mean()))

    @classmethod
    def sampler_from(cls, snap: Snapshot, device: torch.device | str = "cpu") -> Any:
        raise UserError("this snapshot is a density ratio: it judges images and makes none")


class _ByValue:
    """A data set whose distinct labels count as classes."""

    def __init__(self, reals: method.Reals):
        labels = reals.labels(np.arange(len(reals)))
        values, ids = np.unique(labels, axis=0, return_inverse=True)
        self.spec, self.label_dim, self.class_ids, self.n = reals.spec, len(values), ids.reshape(-1), len(reals)

    def __len__(self) -> int:
        return self.n


# ---- features --------------------------------------------------------------------------------------------------------


def new_features(o: DensityRatioOptions, data: DataSpec) -> dict[str, nn.Module]:
    dim = data.channels * data.size.pixels
    if o.features == "resnet34":
        return {"F": FeatureExtractor(data.label.dim, dim, data.channels, width=o.feature_width)}
    E = SparseEncoder(data.resolution, data.channels, o.feature_width)
    return {"F": E, "decoder": SparseDecoder(data.resolution, data.channels, o.feature_width),
            "predictor": LabelPredictor(E.dim)}


def features_of(o: DensityRatioOptions, data: DataSpec) -> dict[str, nn.Module]:
    """The trained feature network {'F': ...}, frozen."""
    if o.features == "teacher":
        return {"F": cgan_kd.load(o.teacher, data, "--teacher")}
    if not o.extractor:
        raise UserError(f"--features={o.features} needs its network; `distill ratio` trains one, or give --extractor")
    snap = snapshot.load(o.extractor)
    if (snap.method, snap.stage) != (DensityRatioTraining.name, "features"):
        raise UserError(f"--extractor={o.extractor} is no feature network of `distill ratio`")
    cgan_kd.check_labels(DataSpec.from_dict(snap.data), data, f"--extractor={o.extractor}")
    return {"F": snap.build("F")}


def feature_function(nets: dict[str, nn.Module], device: Any) -> Callable[[Tensor], Tensor]:
    """Images in [-1, 1] -> features [N, F]."""
    net = nets["F"].to(device).eval()
    if isinstance(net, Student):
        return lambda x: net(x, features=True).features[-1]
    return (lambda x: net(x).features) if isinstance(net, FeatureExtractor) else net


def code_function(nets: dict[str, nn.Module], data: DataSpec) -> Callable[[Tensor], Tensor]:
    """Labels as data sets have them -> what the ratio model takes."""
    if data.label.kind == "class":
        return lambda c: c
    y2h = nets["y2h"].eval() if "y2h" in nets else None
    return lambda c: data.label.normalise(c) if y2h is None else y2h(data.label.normalise(c))


@torch.no_grad()
def ratios(R: nn.Module, phi: Callable, code: Callable, images: np.ndarray, c: np.ndarray, device: Any) -> np.ndarray:
    def one(x: Tensor, labels: Tensor) -> Tensor:
        return R(phi(x), code(labels))
    return _in_chunks(one, images, c, device)


@torch.no_grad()
def _in_chunks(f: Callable[[Tensor, Tensor], Tensor], images: np.ndarray, c: np.ndarray, device: Any) -> np.ndarray:
    """float64 [n] of f(images in [-1, 1], labels) in chunks of one size."""
    out = []
    for start in range(0, len(images), CHUNK):
        x, y = images[start : start + CHUNK], c[start : start + CHUNK]
        n = len(x)
        x, y = (np.concatenate([v, np.repeat(v[-1:], CHUNK - n, 0)]) for v in (x, y))
        r = f(from_uint8(torch.from_numpy(x).to(device)), torch.from_numpy(y).to(device))
        out.append(r[:n].double().cpu().numpy())
    return np.concatenate(out) if out else np.zeros(0)


# ---- using it --------------------------------------------------------------------------------------------------------


class RatioModel:
    """A trained ratio, from its snapshot alone."""

    def __init__(self, snap: Snapshot, identity: str, device: Any):
        self.identity, self.device = identity, device
        self.nets = {k: snap.build(k, device) for k in snap.nets}
        self.phi = feature_function(self.nets, device)
        self.code = code_function(self.nets, DataSpec.from_dict(snap.data))

    def ratios(self, images: np.ndarray, c: np.ndarray) -> np.ndarray:
        return ratios(self.nets["R"], self.phi, self.code, images, c, self.device)


class DiscriminatorRatio:
    """exp(a D(x, y) + b)."""

    def __init__(self, snap: Model, identity: str, device: Any):
        self.identity, self.device = identity, device
        self.logits = discriminator(snap, device)
        self.calibration = Calibration(snap.extra["scale"], snap.extra["shift"])

    def ratios(self, images: np.ndarray, c: np.ndarray) -> np.ndarray:
        return self.calibration(_in_chunks(self.logits, images, c, self.device))


def discriminator(snap: Model, device: Any) -> method.Judge:
    """`snap.judge`. UserError where the snapshot has no discriminator that judges single images."""
    if "D" not in snap.nets:
        raise UserError("the snapshot has no discriminator; use --features=teacher")
    if snap.options.get("gan_loss") == "rpgan":
        raise UserError("the snapshot's discriminator was trained with --gan_loss=rpgan: it compares images of one "
                        "class with each other, and says nothing of a single one; use --features=teacher")
    return snap.judge(device)


def calibrated(snap: Model, heldout: ImageDataset, network: str, seed: int, device: Any) -> Snapshot:
    """A ratio from the snapshot's discriminator, calibrated on held-out images and as many generated ones."""
    logits, sampler = discriminator(snap, device), snap.sampler(device)
    c = heldout.labels(np.arange(len(heldout)))
    made = np.concatenate([sampler([seed * 10**6 + k for k in range(i, min(i + 32, len(c)))],
                                   torch.from_numpy(c[i : i + 32])).cpu().numpy() for i in range(0, len(c), 32)])
    fit = calibrate(*(_in_chunks(logits, x, c, device) for x in (heldout.images_uint8(np.arange(len(c))), made)))
    nets = {k: NetRecord(r.cls, r.kwargs, r.state) for k, r in snap.nets.items() if k in ("D", "y2h")}
    return Snapshot(method=DensityRatioTraining.name, stage="discriminator", nets=nets, options={"of": snap.method},
                    data=snap.data, extra=dict(scale=fit.scale, shift=fit.shift, network=network, images=len(c)))


def of_snapshot(snap: Model, data: DataSpec, device: Any) -> RatioModel | DiscriminatorRatio:
    """What `distill ratio` wrote. UserError naming --ratio when it is something else, or of other labels."""
    path = snap.name
    if snap.method != DensityRatioTraining.name or snap.stage == "features":
        raise UserError(f"--ratio={path} is no density ratio; `gantransfer distill ratio` makes one")
    cgan_kd.check_labels(DataSpec.from_dict(snap.data), data, f"--ratio={path}")
    return (RatioModel if snap.stage == "ratio" else DiscriminatorRatio)(snap, sha256(path), device)
