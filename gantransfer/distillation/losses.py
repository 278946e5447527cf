# SPDX-License-Identifier: Apache-2.0
"""Losses of knowledge distillation: what a student's logits and features are compared with, and how it is averaged.

Teacher arguments are constants: callers pass them without gradients. Losses over whole batches (SP, RKD, PKT, SSKD)
give one number; the others can give one per image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

REDUCTIONS = ("batchmean", "elementmean", "none")


def kl(student: Tensor, teacher: Tensor, T: float = 4.0, reduction: str = "batchmean") -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)) of logits [N, K] (Hinton et al. 2015).

    reduction 'none': [N]; 'batchmean': their mean, the definition; 'elementmean': divided by N K instead of N, as the
    first code of cGAN-KD does by accident, which weakens it by the number of classes.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction {reduction!r} is none of {REDUCTIONS}")
    p = F.log_softmax(teacher / T, 1)
    each = (p.exp() * (p - F.log_softmax(student / T, 1))).sum(1) * T**2
    if reduction == "none":
        return each
    return each.mean() if reduction == "batchmean" else each.mean() / student.shape[1]


def blkd(student: Tensor, teacher: Tensor, labels: Tensor, T: float, ce_weight: float, kd_weight: float,
         reduction: str = "batchmean") -> Tensor:
    """[N]: ce_weight CE + kd_weight T^2 KL. Published: (1 - l) and l with l = .5, T = 5; or .1 and .9 with T = 4.

    `labels` are class ids [N]. With 'elementmean' the KL of each image is divided by the number of classes.
    """
    each = kl(student, teacher, T, "none")
    if reduction == "elementmean":
        each = each / student.shape[1]
    return ce_weight * F.cross_entropy(student, labels, reduction="none") + kd_weight * each


def uda(clean: Tensor, augmented: Tensor, teacher_clean: Tensor, teacher_augmented: Tensor, labels: Tensor, T: float,
        ce_weight: float, kd_weight: float, reduction: str = "batchmean") -> Tensor:
    """[N]: mean of the KD losses of the weakly and the strongly augmented view. No consistency term, as published."""
    return (blkd(clean, teacher_clean, labels, T, ce_weight, kd_weight, reduction)
            + blkd(augmented, teacher_augmented, labels, T, ce_weight, kd_weight, reduction)) / 2


# ---- features --------------------------------------------------------------------------------------------------------


def fit(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps [N, C, h, w] at the smaller one's size: the larger is average-pooled."""
    size = tuple(map(min, a.shape[2:], b.shape[2:]))
    return tuple(x if x.shape[2:] == size else F.adaptive_avg_pool2d(x, size) for x in (a, b))


def attention(student: Tensor, teacher: Tensor) -> Tensor:
    """AT (Zagoruyko & Komodakis 2017): mean squared difference of the normalised channel means of squared maps."""
    s, t = fit(student, teacher)
    a, b = (F.normalize(x.square().mean(1).flatten(1)) for x in (s, t))
    return (a - b).square().mean()


def similarity(student: Tensor, teacher: Tensor) -> Tensor:
    """SP (Tung & Mori 2019): squared difference of row-normalised Gram matrices [N, N], over N^2."""
    a, b = (F.normalize(x.flatten(1) @ x.flatten(1).t()) for x in (student, teacher))
    return (a - b).square().sum() / len(student) ** 2


def relations(student: Tensor, teacher: Tensor, distance: float = 25.0, angle: float = 50.0) -> Tensor:
    """RKD (Park et al. 2019): smooth L1 of pairwise distances (over their mean) and of angles of embeddings [N, d]."""
    terms = [F.smooth_l1_loss(f(student), f(teacher)) for f in (_distances, _angles)]
    return distance * terms[0] + angle * terms[1]


def _distances(x: Tensor) -> Tensor:
    square = x.square().sum(1)
    d = (square[:, None] + square[None] - 2 * (x @ x.t())).clamp(min=1e-12).sqrt()
    d = d * (1 - torch.eye(len(x), device=x.device, dtype=x.dtype))
    return d / d[d > 0].mean()


def _angles(x: Tensor) -> Tensor:
    edges = F.normalize(x[None] - x[:, None], dim=2)
    return edges @ edges.transpose(1, 2)


def probabilities(student: Tensor, teacher: Tensor, eps: float = 1e-7) -> Tensor:
    """PKT (Passalis & Tefas 2018): p_t log(p_t / p_s) of row-normalised (1 + cosine) / 2, mean over all pairs."""
    p, q = (_affinity(x, eps) for x in (teacher, student))
    return (p * torch.log((p + eps) / (q + eps))).mean()


def _affinity(x: Tensor, eps: float) -> Tensor:
    x = x / (x.square().sum(1, keepdim=True).sqrt() + eps)
    a = (x @ x.t() + 1) / 2
    return a / a.sum(1, keepdim=True)


class Hint(nn.Module):
    """FitNet (Romero et al. 2015): mean squared error after a convolution to the teacher's shape.

    A stride-2 convolution where the teacher's map is half as large, a transposed one where it is twice as large, else
    a valid convolution of the size that fits. Shapes are (channels, height).
    """

    def __init__(self, student: Sequence[int], teacher: Sequence[int]):
        super().__init__()
        self.init_kwargs = dict(student=list(student), teacher=list(teacher))
        (cs, hs), (ct, ht) = student, teacher
        if hs == 2 * ht:
            conv: nn.Module = nn.Conv2d(cs, ct, 3, stride=2, padding=1)
        elif 2 * hs == ht:
            conv = nn.ConvTranspose2d(cs, ct, 4, stride=2, padding=1)
        elif hs >= ht:
            conv = nn.Conv2d(cs, ct, 1 + hs - ht)
        else:
            raise ValueError(f"a map of {hs} pixels cannot be brought to {ht}")
        self.regressor = nn.Sequential(conv, nn.BatchNorm2d(ct), nn.ReLU())

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return F.mse_loss(self.regressor(student), teacher)


class VID(nn.Module):
    """Variational information distillation (Ahn et al. 2019): .5 ((mu - f_t)^2 / v + log v), mean over everything.

    mu = three 1x1 convolutions of the student's map; v = softplus(log_scale) + eps per channel, 5 at the start.
    """

    def __init__(self, student: int, teacher: int, eps: float = 1e-5, start: float = 5.0):
        super().__init__()
        self.init_kwargs = dict(student=student, teacher=teacher, eps=eps, start=start)
        self.eps = eps
        self.regressor = nn.Sequential(
            nn.Conv2d(student, teacher, 1, bias=False), nn.ReLU(), nn.Conv2d(teacher, teacher, 1, bias=False),
            nn.ReLU(), nn.Conv2d(teacher, teacher, 1, bias=False))
        self.log_scale = nn.Parameter(torch.full([teacher], start - eps).expm1().log())

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        s, t = fit(student, teacher)
        v = (F.softplus(self.log_scale) + self.eps)[None, :, None, None]
        return ((self.regressor(s) - t).square() / v + v.log()).mean() / 2


# ---- SSKD ------------------------------------------------------------------------------------------------------------


class SSKD(NamedTuple):
    ce: Tensor
    kd: Tensor  # on the normal views
    tf: Tensor  # on chosen rotated views
    ss: Tensor  # between similarity matrices, on chosen rotated views


def views(b: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """(rows of the normal views [b], of the rotated ones [3b]) among 4b rows: sample i has rows 4i..4i+3."""
    rows = torch.arange(4 * b, device=device)
    return rows[::4], rows[rows % 4 != 0]


def cosines(rep: Tensor) -> Tensor:
    """[3b, b]: cosine similarity of every rotated view's projection to every normal one's."""
    normal, rotated = views(len(rep) // 4, rep.device)
    return F.normalize(rep[rotated], eps=1e-8) @ F.normalize(rep[normal], eps=1e-8).t()


def chosen(scores: Tensor, target: Tensor, ratio: float) -> Tensor:
    """Rows of `scores` [m, K] whose target ranks first, and the best-ranked int(ratio * others), in order.

    Rows of equal rank are taken in their order.
    """
    of_target = scores.gather(1, target[:, None])
    rank = (scores > of_target).sum(1)
    order = torch.sort(rank, stable=True).indices
    right = int((rank == 0).sum())
    return order[: right + int(ratio * (len(rank) - right))].sort().values


def sskd(s_logits: Tensor, t_logits: Tensor, s_rep: Tensor, t_rep: Tensor, labels: Tensor, *, kd_T: float = 4.0,
         tf_T: float = 4.0, ss_T: float = 0.5, ratio_tf: float = 1.0, ratio_ss: float = 0.75) -> SSKD:
    """The four terms of SSKD (Xu et al. 2020) for 4b rows of logits [4b, K] and projections [4b, d]; labels [b].

    Published weights: .1 CE + .9 KD + 2.7 TF + 10 SS.
    """
    normal, rotated = views(len(labels), s_logits.device)
    ce = F.cross_entropy(s_logits[normal], labels)
    kd = kl(s_logits[normal], t_logits[normal], kd_T)
    rows_tf = chosen(t_logits[rotated], labels.repeat_interleave(3), ratio_tf)
    tf = kl(s_logits[rotated][rows_tf], t_logits[rotated][rows_tf], tf_T)
    s, t = cosines(s_rep), cosines(t_rep)
    own = torch.arange(len(labels), device=s.device).repeat_interleave(3)
    rows_ss = chosen(t, own, ratio_ss)
    return SSKD(ce, kd, tf, kl(s[rows_ss], t[rows_ss], ss_T))


def projection_loss(rep: Tensor) -> Tensor:
    """[3b]: what the teacher's projection head learns: each rotated view belongs to its own source image."""
    s = cosines(rep)
    return F.cross_entropy(s, torch.arange(s.shape[1], device=s.device).repeat_interleave(3), reduction="none")
