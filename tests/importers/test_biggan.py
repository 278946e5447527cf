# SPDX-License-Identifier: Apache-2.0
"""Folders of BigGAN's weights."""

import json

import numpy as np
import pytest
import torch

from dnnlib.util import UserError, run_cli
from gantransfer import importers
from gantransfer.commands import calc_metrics, stages, train
from gantransfer.data.dataset import ImageDataset
from gantransfer.importers import load_any
from gantransfer.networks import biggan
from tests.conftest import write_image_zip


@pytest.fixture
def biggan_folder(tmp_path):
    torch.manual_seed(0)
    folder = tmp_path / "weights"
    folder.mkdir()
    G = biggan.Generator(G_ch=4, dim_z=16, resolution=32, G_attn="0", n_classes=2, shared_dim=8, hier=True)
    torch.save(G.state_dict(), folder / "G.pth")
    torch.save(G.state_dict(), folder / "G_ema.pth")
    return folder


def test_a_biggan_folder_is_a_model_everywhere(tmp_path, biggan_folder, capsys):
    rng = np.random.RandomState(0)
    data = write_image_zip(tmp_path / "set.zip", rng.randint(0, 255, (12, 32, 32, 3)).astype(np.uint8), [0, 1] * 6)
    assert not importers.is_images(biggan_folder) and importers.is_images(data) and importers.is_images(tmp_path)
    run_cli(lambda: calc_metrics.main([f"--network={biggan_folder}", "--metrics=smoke", f"--data={data}",
                                       "--labels=uniform", "--verbose=False", f"--cache-dir={tmp_path / 'c'}"],
                                      standalone_mode=False))
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["metric"].startswith("smoke")
    source = stages.source_of(str(biggan_folder), ImageDataset(str(data), use_labels=True), "cpu", {})
    assert source.draw(np.eye(2, dtype=np.float32), [1, 2], 0).shape == (2, 3, 32, 32)
    before = source.identity
    torch.save(dict(itr=1), biggan_folder / "state_dict.pth")
    assert importers.identity(biggan_folder) != before  # another content, another model
    assert not train.is_run_folder(str(biggan_folder)) and train.is_run_folder(str(tmp_path))


def test_biggan_without_spectral_norm_is_refused_in_words(biggan_folder):
    for name in ("G.pth", "G_ema.pth"):
        state = torch.load(biggan_folder / name)
        torch.save({k: v for k, v in state.items() if not k.split(".")[-1].startswith(("u0", "sv0"))},
                   biggan_folder / name)
    with pytest.raises(UserError, match="trained without spectral norm .--G_param"):
        load_any(biggan_folder)
