# SPDX-License-Identifier: Apache-2.0
"""BigGAN's transfer as it is run: bad input."""

import numpy as np
import pytest
import torch

from gantransfer.networks.biggan import CondNorm
from gantransfer.snapshot import load
from tests.conftest import write_image_zip
from tests.methods.test_cgantransfer import make, spec, step


@pytest.fixture(scope="module")
def snapshots(tmp_path_factory):
    """A BigGAN of five classes of 16 x 16 grey images, stage BN for four from it, and spoilt ones."""
    folder = tmp_path_factory.mktemp("snapshots")
    source = step(make("biggan", spec(5), g_ch=2, d_ch=2, z_dim=12, shared_dim=6), 1).snapshot(8)
    source.save(folder / "source.pkl")
    step(make("cgantransfer", spec(4), source), 1).snapshot(8).save(folder / "bn.pkl")
    step(make("cgantransfer", spec(3), source), 1).snapshot(8).save(folder / "bn3.pkl")
    source.nets["G_ema"].state["blocks.0.0.conv1.weight"][0, 0, 0, 0] = float("nan")
    source.save(folder / "nan.pkl")
    spoilt = load(folder / "source.pkl")
    del spoilt.nets["D"]
    spoilt.save(folder / "headless.pkl")
    other = load(folder / "source.pkl")
    other.method = "stylegan2"
    other.save(folder / "stylegan2.pkl")
    rng = np.random.RandomState(0)

    def images(n, side, *channels):
        return list(rng.randint(0, 255, (n, side, side, *channels)).astype("uint8"))

    write_image_zip(folder / "large.zip", images(8, 32), [0, 0, 1, 1, 2, 2, 3, 3])
    write_image_zip(folder / "colour.zip", images(8, 16, 3), [0, 0, 1, 1, 2, 2, 3, 3])
    write_image_zip(folder / "single.zip", images(7, 16), [0, 0, 1, 1, 2, 2, 3], class_names=["a", "b", "c", "d"])
    return folder


@pytest.mark.parametrize("data, source, stage, says", [
    ("DIGITS", "stylegan2.pkl", "BN", "blocks.*.bn1.gain"),  # without the needed structure
    ("DIGITS", "headless.pkl", "BN", "no network D"),
    ("DIGITS", "bn3.pkl", "FT", "learned 3 classes"),  # class counts that do not fit
    ("DIGITS", "source.pkl", "FT", "--stage=BN"),  # FT without BN
    ("DIGITS", None, "FT", "--source"),
    ("DIGITS", None, "BN", "--source"),
    ("large.zip", "source.pkl", "BN", "16 pixels"),  # images of another size
    ("large.zip", "bn.pkl", "FT", "16 pixels"),
    ("colour.zip", "source.pkl", "BN", "--channels=1"),
    ("single.zip", "source.pkl", "BN", "class d"),  # a class with one image
    ("DIGITS", "nan.pkl", "BN", "G_ema.blocks.0.0.conv1.weight"),  # NaN in the source
    ("DIGITS", "missing.pkl", "BN", "missing.pkl"),
], ids=lambda v: str(v).replace("/", ""))
def test_bad_input_is_one_line_and_writes_nothing(refused, tiny_zip, snapshots, tmp_path, data, source, stage, says):
    argv = ["--method=cgantransfer", f"--stage={stage}", "--cfg=tiny", "--cond=True", "--metrics=none", "--threads=1",
            f"--data={tiny_zip if data == 'DIGITS' else snapshots / data}", f"--outdir={tmp_path / 'out'}",
            *([f"--source={snapshots / source}"] if source else [])]
    assert says in refused(*argv, command="train")
    assert not (tmp_path / "out").exists()


def test_one_value_per_channel_is_refused():
    """A single 1 x 1 image has no batch statistics."""
    norm = CondNorm(4, 3, 1e-5, mybn=False, shared=False, sn=None).train()
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        norm(torch.randn(1, 4, 1, 1), torch.eye(3)[:1])
    assert norm(torch.randn(2, 4, 1, 1), torch.eye(3)[:2]).shape == (2, 4, 1, 1)
