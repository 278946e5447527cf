# SPDX-License-Identifier: Apache-2.0
"""The published recipes of cGAN-KD, by name, with what is odd about each.

v1: the first code (March 2021); v2: the journal's. A preset fills flags that are left open. Decay points are shares of
the run: 150/350 and 250/350, or 150, 180, 210 of 240 epochs.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from dnnlib.util import UserError

V1 = dict(lr=0.1, wd=1e-4, batch=128, epochs=350, decay="0.4286,0.7143", crop=4, flip=True)
V2 = dict(lr=0.05, wd=5e-4, batch=64, epochs=240, decay="0.625,0.75,0.875", crop=4, flip=True)
REGRESSION = dict(lr=0.01, batch=128, epochs=350, decay="0.4286,0.7143", crop=0)
UNEQUAL = "published students see more images with fakes than without: --budget=epochs does so, the default does not"
FINETUNED = ("published students with fakes start from the finished student without: give --init=SNAPSHOT for that; "
             "the default starts anew")
RATIO1 = dict(width="mlp5", lam=1e-3, epochs=350, batch=512, lr=1e-4, wd=1e-4, decay="0.4286,0.7143")
RATIO2 = dict(width="mlp5", lam=1e-2, epochs=200, batch=256, lr=1e-4, wd=1e-4, decay="0.4,0.75")
SMALL = dict(lr=4e-3, optimizer="adamw", wd=0.01, schedule="onecycle", batch=64)
SMALL_RATIO = dict(width="tiny", lam=1e-2, kimg=50, batch=64, lr=1e-3, wd=1e-4)
PUBLISHED_BLKD = dict(V1, arch="vgg11", nfake=100000, T=5, ce_weight=0.5, kd_weight=0.5)

PRESETS: dict[str, dict[str, Any]] = {
    "cifar10-v1": dict(
        teacher=dict(V1, arch="densenet121"), student=PUBLISHED_BLKD, ratio=RATIO1,
        fakes=dict(num_per_label=50000, rho=0.9, quantile="global", ties="strict", replace=True, rs_burn_in=50000),
        quirks=("rho .9, .6, .7 for 50K, 20K, 10K images", UNEQUAL,
                "published KL is divided by the number of classes: --kd_reduction=elementmean",
                "published results of UDA are of the best epoch on the test set; ours are of the last")),
    "tiny-v1": dict(
        teacher=dict(V1, arch="densenet121"), student=PUBLISHED_BLKD, ratio=RATIO1,
        fakes=dict(num_per_label=3000, rho=0.5, quantile="global", ties="strict", replace=True, rs_burn_in=50000),
        quirks=("labels are always replaced when filtering, without a flag", UNEQUAL,
                "published KL is divided by 200, so that BLKD hardly differs from no KD")),
    "rc49-v1": dict(
        teacher=dict(REGRESSION, arch="vgg16", wd=1e-4), student=dict(REGRESSION, arch="shufflenetv2", wd=1e-4,
                                                                      nfake=50000),
        ratio=dict(RATIO1, batch=256, decay="0.2857,0.5714"),
        fakes=dict(num_per_label=200, rho=0.5, quantile="global", ties="strict", replace=True, clip=False,
                   rs_burn_in=1000),
        quirks=("rho .5, .8, .9 for 25, 15, 5 images per angle", "published heads end in a ReLU; ours are linear",
                UNEQUAL)),
    "utkface-v1": dict(
        teacher=dict(REGRESSION, arch="vgg16", wd=1e-4, flip=True),
        student=dict(REGRESSION, arch="shufflenetv2", wd=1e-4, flip=True, nfake=80000),
        ratio=dict(RATIO1, batch=256, decay="0.2857,0.5714"),
        fakes=dict(num_per_label=5000, rho=0.7, quantile="global", ties="strict", replace=True, clip=False,
                   rs_burn_in=1000),
        quirks=("labels are always replaced when filtering", "published heads end in a ReLU; ours are linear",
                UNEQUAL)),
    "cifar100-v2": dict(
        teacher=dict(V2, arch="densenet121"), student=dict(V2, arch="vgg8", nfake=100000),
        ratio=RATIO2,
        fakes=dict(num_per_label=5000, rho=0.9, quantile="perclass", burn_in=1000, ties="strict", replace=False,
                   rs_burn_in=5000),
        quirks=("published with fakes: lr .01, batch 128", FINETUNED,
                "published filtering sees randomly cropped and mirrored images; ours sees the image as it is",
                "published scripts are mixed on replacing labels; the paper does not")),
    "imagenet100-v2": dict(
        teacher=dict(V2, arch="densenet161"), student=dict(V2, arch="vgg8", nfake=100000),
        ratio=RATIO2,
        fakes=dict(num_per_label=3000, rho=0.9, quantile="perclass", burn_in=1000, ties="strict", replace=False,
                   rs_burn_in=5000),
        quirks=("published with fakes: lr .01, batch 256", FINETUNED)),
    "steering-v2": dict(
        teacher=dict(REGRESSION, arch="vgg19", wd=5e-4, head="mlp"),
        student=dict(REGRESSION, arch="resnet20", wd=5e-4, head="mlp", nfake=50000),
        ratio=dict(RATIO2, width="mlp5-regression", decay="0.4,0.75"),
        fakes=dict(num_per_label=50, num_labels=2000, rho=0.7, quantile="global", ties="strict", replace=True,
                   rs_burn_in=200),
        quirks=("never mirror steering images", "published heads end in a ReLU; ours are linear", FINETUNED,
                "published rho = 1 still drops the worst image; ours keeps all")),
    "utkface-v2": dict(
        teacher=dict(REGRESSION, arch="vgg13", wd=5e-4, head="mlp", flip=True),
        student=dict(REGRESSION, arch="resnet20", wd=5e-4, head="mlp", flip=True, nfake=60000),
        ratio=dict(RATIO2, width="mlp5-regression", decay="0.4,0.75"),
        fakes=dict(num_per_label=2000, rho=0.7, quantile="global", ties="strict", replace=True, integers=True,
                   rs_burn_in=2000),
        quirks=("ages are truncated to integers before the error is taken, which loses all ties: --integers=False",
                "the paper says VGG13, scripts VGG11", FINETUNED)),
    "digits": dict(
        teacher=dict(SMALL, arch="pool16-32-64", crop=1, kimg=40, dropout=0.3, smoothing=0.05),
        student=dict(SMALL, arch="conv4-8", crop=1, kimg=100), ratio=SMALL_RATIO,
        fakes=dict(num_per_label=500, rho=0.7, quantile="perclass", replace=False, rs_burn_in=500),
        quirks=("ours, for 16-pixel digits on a CPU",)),
    "small": dict(
        teacher=dict(SMALL, arch="pool32-64-128", crop=2, kimg=60, dropout=0.3, smoothing=0.05),
        student=dict(SMALL, arch="pool16-32-64", crop=2, kimg=60), ratio=SMALL_RATIO,
        fakes=dict(num_per_label=400, rho=0.9, quantile="perclass", replace=True, rs_burn_in=500),
        quirks=("ours, for images of 32 and 64 pixels on a CPU",)),
}


def filled(preset: str | None, stage: str, flags: dict[str, Any], given: Collection[str]) -> dict[str, Any]:
    """`flags` with what `preset` says of a stage ('teacher', 'student', 'ratio', 'fakes') where nothing was `given`."""
    recipe = dict(PRESETS[preset][stage]) if preset else {}
    if "kimg" in given or "epochs" in given:
        if "kimg" in given and "epochs" in given:
            raise UserError("--kimg and --epochs both give the length; omit one")
        recipe.pop("kimg", None)
        recipe.pop("epochs", None)
    filled = {**flags, **{k: v for k, v in recipe.items() if k not in given}}
    # A preset's fakes settings mean nothing to a student without fakes, its weights nothing without a loss.
    unused = [] if stage != "student" else ["nfake"] * (not filled.get("fakes")) + [
        "T", "ce_weight", "kd_weight"] * (filled.get("kd") != "blkd")
    return {**filled, **{k: flags[k] if k in given else None for k in unused}}


def length(images: int, batch: int, epochs: float | None, kimg: float | None = None) -> float | None:
    """kimg of a run of `epochs` passes over `images`, or of `kimg`: whole batches, one at least, so that the last step
    is the published last one. None where neither is given."""
    if epochs:
        kimg = epochs * images / 1000
    return None if kimg is None else max(round(kimg * 1000 / batch), 1) * batch / 1000
