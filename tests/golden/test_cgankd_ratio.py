# SPDX-License-Identifier: Apache-2.0
"""Density ratio and label embedding against the published code: networks, losses, gradients, rejection. With
networks/resnet_trunk.py."""

import re

import numpy as np
import pytest
import torch

from gantransfer.distillation.rejection import Rejection, csp_loss
from gantransfer.networks.density_ratio import DensityRatio
from gantransfer.networks.label_embedding import ImageToLabel, LabelToEmbedding
from gantransfer.networks.ratio_features import (
    FeatureExtractor,
    LabelPredictor,
    SparseDecoder,
    SparseEncoder,
    sparse_ae_loss,
)
from tests.golden.conftest import assert_close, golden_files, tensor, tensors


def files(pattern):
    return pytest.mark.parametrize("path", golden_files("cgan-kd", pattern))


def load(net, arrays, prefix):
    counters = {k: v for k, v in net.state_dict().items() if k.endswith("num_batches_tracked")}
    net.load_state_dict({**counters, **tensors(arrays, prefix)}, strict=True)
    return net.eval()


def t(a, key):
    return tensor(a[key])


@files("label_embedding*.npz")
def test_label_embedding(config, a):
    y2h = load(LabelToEmbedding(config["dim_embed"]), a, "y2h/")
    x2y = load(ImageToLabel(config["dim_embed"], config["base_width"], config["blocks"], a["images"].shape[1]), a,
               "x2y/")
    with torch.no_grad():
        h = y2h(t(a, "y"))
        assert_close(h, a["h"], what="h")
        assert_close(x2y.h2y(h), a["h2y_of_h"], what="h2y")
        out = x2y(t(a, "images"))
        assert_close(out.label, a["x2y_pred"], what="label")
        assert_close(out.code, a["x2y_embed"], what="code")


@files("feature_extractor*.npz")
def test_feature_extractor(config, a):
    net = load(FeatureExtractor(config["nc"], config["feature_dim"], a["images"].shape[1], config["wb"],
                                config["blocks"], config["head_widths"]), a, "net/")
    with torch.no_grad():
        out = net(t(a, "images"))
    assert_close(out.features, a["features"], what="features")
    assert_close(out.logits, a["logits"], what="logits")


@files("sparse_ae*.npz")
def test_sparse_auto_encoder(config, a):
    _, channels, size, _ = a["images"].shape
    kw = dict(resolution=size, img_channels=channels, ch=config["ch"], dim=config["dim_bottleneck"])
    encoder, decoder = load(SparseEncoder(**kw), a, "encoder/"), load(SparseDecoder(**kw), a, "decoder/")
    predictor = load(LabelPredictor(config["dim_bottleneck"], config["predict_widths"]), a, "predict/")
    x, y = t(a, "images"), t(a, "y")
    with torch.no_grad():
        phi = encoder(x)
        recon, pred = decoder(phi), predictor(phi)
        loss = sparse_ae_loss(x, y, phi, recon, pred, config["lambda_sparsity"], config["lambda_regression"])
    for got, key in ((phi, "features"), (recon, "recon"), (pred, "pred")):
        assert_close(got, a[key], what=key)
    assert_close((loss.reconstruction + loss.sparsity).mean(), a["loss_recon_sparse"], what="loss_recon_sparse")
    assert_close(loss.regression.mean() / config["lambda_regression"], a["loss_regr"], what="loss_regr")
    assert_close(loss.total().mean(), a["loss"], what="loss")


def ratio_nets(config, a):
    one_hot = torch.nn.functional.one_hot(t(a, "labels"), config["num_classes"]).float()
    by_class = DensityRatio(config["in_dim"], config["num_classes"], config["widths_class"], "class", 0.0, "relu")
    by_code = DensityRatio(config["in_dim"], config["dim_embed"], config["widths_regr"], "embedding", 0.0, "relu")
    return load(by_class, a, "class/"), load(by_code, a, "regr/"), one_hot


@files("cdr_mlp*.npz")
def test_ratio_model(config, a):
    by_class, by_code, one_hot = ratio_nets(config, a)
    with torch.no_grad():
        assert_close(by_class(t(a, "x"), one_hot)[:, None], a["out_class"], what="class")
        assert_close(by_code(t(a, "x"), t(a, "emb"))[:, None], a["out_regr"], what="code")


@files("cdr_mlp*.npz")
def test_ratio_model_trains(config, a):
    """The set's one training case, without dropout; its text says which rows are real and which generated."""
    net, _, one_hot = ratio_nets(config, a)
    net.train()
    case = config["train_case"]
    lam = float(re.search(r"lambda ([0-9.e-]+)", case)[1])
    real, fake, labels = (slice(*map(int, re.search(what + r"\[(\d+):(\d+)\]", case).groups()))
                          for what in ("real features x", "fake features x", "labels"))
    x = t(a, "x")
    loss = csp_loss(net(x[fake], one_hot[labels]), net(x[real], one_hot[labels]), lam)
    assert_close(loss, a["train_loss"], 2e-5)
    loss.backward()
    grads = {k: p.grad for k, p in net.named_parameters()}
    compared = [k for k in a if k.startswith("train_grad/")]
    assert len(compared) >= len(config["widths_class"])
    for key in compared:
        assert_close(grads[key.removeprefix("train_grad/")], a[key], 1e-4, what=key)


@files("cdre_loss*.npz")
def test_csp_loss(config, a):
    for i, case in enumerate(config["cases"]):
        real, fake = t(a, f"dr_real_{i}").requires_grad_(), t(a, f"dr_fake_{i}").requires_grad_()
        loss = csp_loss(fake, real, case["lambda_"])
        assert_close(csp_loss(fake, real, 0.0), a[f"sp_div_{i}"], 2e-5, what=f"divergence {i}")
        assert_close(loss, a[f"loss_{i}"], 2e-5, what=f"loss {i}")
        loss.backward()
        assert_close(real.grad, a[f"grad_real_{i}"], 2e-5, what="grad_real")
        assert_close(fake.grad, a[f"grad_fake_{i}"], 2e-5, what="grad_fake")


@files("rejection*.npz")
def test_rejection_with_running_bound(config, a):
    for i, case in enumerate(config["cases"]):
        rule = Rejection("running")
        rule.burn_in(a[f"burnin_ratios_{i}"])
        ratios, uniforms = a[f"ratios_{i}"], a[f"uniforms_{i}"]
        accepted: list[int] = []
        for b, (r, u) in enumerate(zip(ratios, uniforms)):
            accepted += [b * case["batch"] + int(k) for k in np.flatnonzero(rule.accept(r, u))]
            assert_close(rule.M, a[f"M_bar_after_batch_{i}"][b], 1e-7)
        assert accepted[: case["nfake"]] == a[f"accepted_flat_index_{i}"].tolist()
