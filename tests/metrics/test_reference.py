# SPDX-License-Identifier: Apache-2.0
"""Statistics of real images as files."""

import pickle

import numpy as np
import pytest
import torch

from dnnlib.util import UserError
from gantransfer.detectors import features
from gantransfer.metrics import table
from gantransfer.metrics.fid import Moments
from gantransfer.metrics.reference import read_reference, write_reference
from tests.chaos.corpus import Call

rng = np.random.RandomState(0)


def test_own_format_gives_the_value_of_the_images(make_context, reference, tmp_path):
    ctx = make_context()
    path = tmp_path / "ref.npz"
    table.write_reference(path, "fd_digits32_50", reference, ctx)
    with_images = table.compute("fd_digits32_50", ctx)
    stats = read_reference(path)
    assert stats.num == 40 and stats.dataset["sha256"] == reference.fingerprint()
    for real in (reference, None):
        got = table.compute("fd_digits32_50", make_context(reference=real, reference_stats=stats, labels="uniform"))
        if real is not None:
            got_same = table.compute("fd_digits32_50", make_context(reference=real, reference_stats=stats))
            value = with_images["results"]["fd_digits32_50"]
            assert got_same["results"]["fd_digits32_50"] == pytest.approx(value, rel=1e-6)
        assert got["num_real"] == 40 and got["reference"]["sha256"] == stats.sha256


def test_statistics_do_not_stand_for_images(make_context, reference, tmp_path):
    path = tmp_path / "ref.npz"
    table.write_reference(path, "fd_digits32_50", reference, make_context())
    ctx = make_context(reference=None, reference_stats=read_reference(path), labels="uniform")
    for name in ("kd_digits32_50", "report_digits32_5", "pr_digits32_50_k3", "fd_digits32_50_few"):
        with pytest.raises(UserError, match="needs the real images"):
            table.compute(name, ctx)
    with pytest.raises(UserError, match="--labels=reference"):
        table.compute("fd_digits32_50", make_context(reference=None, reference_stats=read_reference(path)))
    with pytest.raises(UserError, match="has statistics of digits32, not of 'pix64'"):
        table.compute("fd_pix64_50", ctx)


def test_other_weights_are_refused(reference, make_context, tmp_path):
    path = tmp_path / "ref.npz"
    table.write_reference(path, "fd_digits32_50", reference, make_context())
    net = features.load("digits32")
    net.sha256 = "ff" * 32
    with pytest.raises(UserError, match="other weights.*not comparable"):
        read_reference(path).of(net)


def test_edm_formats(tmp_path, reference, make_context):
    """mu and sigma as published: the same distance as from the features they were made of, for every divisor."""
    x = rng.rand(100, 5)
    mu, sigma = x.mean(0), np.cov(x, rowvar=False)
    np.savez(tmp_path / "edm.npz", mu=mu, sigma=sigma)
    (tmp_path / "edm2.pkl").write_bytes(pickle.dumps(dict(num_images=np.int64(100), fid=dict(mu=mu, sigma=sigma),
                                                          fd_dinov2=dict(mu=mu + 1, sigma=sigma))))
    edm, edm2 = read_reference(tmp_path / "edm.npz"), read_reference(tmp_path / "edm2.pkl")
    assert edm.num is None and edm2.num == 100 and set(edm2.moments) == {"inception", "dinov2-edm2"}
    for m in (edm.moments["inception"], edm2.moments["inception"]):
        assert np.allclose(m.mean, mu) and np.allclose(m.cov(1), sigma, rtol=1e-12)
    assert np.allclose(edm2.moments["dinov2-edm2"].mean, mu + 1)
    assert np.allclose(edm2.moments["inception"].cov(0), np.cov(x, rowvar=False, ddof=0))


def test_pickled_code_is_not_run(tmp_path):
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps({"fid": Call(open, str(tmp_path / "ran"), "w")}))
    with pytest.raises(UserError, match="it refers to"):
        read_reference(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04", pickle.dumps([1, 2]), pickle.dumps({"a": 1}),
                                     pickle.dumps({"fid": {"mu": np.zeros(3), "sigma": np.zeros((2, 2))}})])
def test_unusable_files(tmp_path, content):
    path = tmp_path / "x.npz"
    path.write_bytes(content)
    with pytest.raises(UserError, match="x.npz is not a file of reference statistics"):
        read_reference(path)


def test_writing_is_atomic(tmp_path, reference):
    net = features.load("pix64")
    write_reference(tmp_path / "r.npz", Moments.of(torch.randn(20, 64)), net, {"name": "x"})
    assert [p.name for p in tmp_path.iterdir()] == ["r.npz"]
    assert read_reference(tmp_path / "r.npz").moments["pix64"].num == 20
