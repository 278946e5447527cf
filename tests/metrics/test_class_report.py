# SPDX-License-Identifier: Apache-2.0
"""The table by classes."""

import numpy as np
import pytest
import torch

from dnnlib.util import UserError
from gantransfer.data.dataset import ImageDataset
from gantransfer.detectors import features
from gantransfer.metrics import fid, intra
from gantransfer.metrics import table as metrics
from tests.conftest import write_image_zip
from tests.metrics.conftest import NoisyMeans


def test_report_columns(make_context, reference, digits, tmp_path):
    """Every column against a computation of its own."""
    images, labels = digits
    half = np.arange(40) % 10 < 5
    train = ImageDataset(write_image_zip(tmp_path / "t.zip", images[half], labels[half].tolist()), use_labels=True)
    ctx = make_context(training=train)
    line = metrics.compute("report_digits32_30", ctx)
    values = {k.removeprefix("report_digits32_30_"): v for k, v in line["results"].items()}
    net, pix = features.load("digits32"), features.load("pix64")
    plan = ctx.plan_per_class(range(4), 30)
    fakes, reals = ctx.images(plan, 0, 120), torch.from_numpy(reference.images_uint8(np.arange(40)))
    f, r, ids, real_ids = net(fakes).features, net(reals).features, plan.ids, reference.class_ids
    per_class = intra.intra_fid(r, f, real_ids, ids, range(4)).values
    assert values["class_fd"] == pytest.approx(per_class.mean(), rel=1e-5)
    assert values["class_fd_few"] == pytest.approx(per_class[2:].mean(), rel=1e-5)
    assert values["fd"] == pytest.approx(fid.frechet_distance(r, f, 1), rel=1e-5)
    few = [intra.rows_of(x, [2, 3]) for x in (real_ids, ids)]
    assert values["fd_few"] == pytest.approx(fid.frechet_distance(r[few[0]], f[few[1]], 1), rel=1e-5)
    scale = 100 / fid.total_variance(pix(reals).features)
    expected = fid.frechet_distance(pix(reals).features[few[0]], pix(fakes).features[few[1]], 1) * scale
    assert values["fd_pix64_few"] == pytest.approx(expected, rel=1e-5)
    right = net(fakes).logits.argmax(1).numpy() == ids
    assert values["accuracy"] == pytest.approx(right.mean())
    assert values["accuracy_few"] == pytest.approx(right[ids >= 2].mean())
    assert {"diversity", "diversity_many", "diversity_few", "nearest", "nearest_few", "fd_medium"} <= set(values)
    table = line["per_class"]
    assert table["ids"] == [0, 1, 2, 3] and table["n_train"] == [5] * 4 and table["n_gen"] == [30] * 4
    text = metrics.format_report(line, ("zero", "one"))
    assert "label accuracy" in text and "0 zero" in text and len(text.splitlines()) == 2 + 6 + 1 + 4


def test_report_translates_the_judges_classes(tmp_path, digits):
    """The network numbers its classes by rank; the judge knows digits. The label spec's map joins them."""
    images, labels = digits
    path = write_image_zip(tmp_path / "d.zip", images, labels.tolist())
    turned = {0: 3, 1: 2, 2: 1, 3: 0}
    reference = ImageDataset(path, use_labels=True, class_map=turned)
    ctx = metrics.MetricContext(sampler=NoisyMeans(reference, noise=5), reference=reference, cache_dir=tmp_path / "c")
    result = metrics.compute("report_digits32_10", ctx)
    assert result["results"]["report_digits32_10_accuracy"] == 1
    part = ImageDataset(path, use_labels=True, class_map={2: 0, 3: 1})
    ctx = metrics.MetricContext(sampler=NoisyMeans(part, noise=5), reference=part, cache_dir=tmp_path / "c")
    result = metrics.compute("report_digits32_10", ctx)
    assert result["per_class"]["ids"] == [0, 1] and result["results"]["report_digits32_10_accuracy"] == 1


def test_report_without_a_training_set_says_so(make_context):
    result = metrics.compute("report_digits32_10", make_context())
    assert not any("nearest" in k for k in result["results"])
    assert any("no nearest-training ratio" in n for n in metrics.warnings_of(result))


def test_chosen_classes(make_context):
    result = metrics.compute("report_digits32_10", make_context(classes=[1, 3]))
    assert result["per_class"]["ids"] == [1, 3] and "report_digits32_10_class_fd_medium" in result["results"]
    with pytest.raises(UserError, match="class 7 has no image in the reference"):
        metrics.compute("report_digits32_10", make_context(classes=[1, 7]))
