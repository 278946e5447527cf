# SPDX-License-Identifier: Apache-2.0
"""Files of other networks are refused by their name."""

import pickle

import pytest
import torch

from dnnlib.util import UserError
from gantransfer.importers import load_any, strangers
from tests.importers.pickles import (
    SMALL_G,
    Persistent,
    small_networks,
    write,
)


def test_relatives_are_refused_by_name(tmp_path, persistence):
    G, _ = small_networks("stylegan2")
    alien = Persistent(persistence, torch.nn.Sequential(), "Generator", SMALL_G)
    alien.meta["state"]["_buffers"]["synthesis.input.freqs"] = torch.zeros(1)
    xl = Persistent(persistence, torch.nn.Sequential(), "SuperresGenerator", SMALL_G)
    kinds = {"StyleGAN3 generator": dict(G=alien), "SuperresGenerator": dict(G_ema=xl)}
    for words, nets in kinds.items():
        with pytest.raises(UserError, match=words):
            load_any(write(tmp_path / "x.pkl", persistence, nets))

    def global_of(module, name):
        return b"\x80\x02}X\x01\x00\x00\x00Gc" + f"{module}\n{name}\n".encode() + b")\x81s."

    for module, name, words in (("pg_modules.discriminator", "ProjectedDiscriminator", "StyleGAN-XL or Projected GAN"),
                                ("timm.models.efficientnet", "EfficientNet", "StyleGAN-XL or Projected GAN"),
                                ("networks.generator", "Generator", "StyleGAN-T"),
                                ("training.triplane", "TriPlaneGenerator", "EG3D")):
        (tmp_path / "x.pkl").write_bytes(global_of(module, name))
        with pytest.raises(UserError, match=f"of a {words}.*{module}.{name}.*StyleGAN2 can be read"):
            load_any(tmp_path / "x.pkl")
    torch.save({"synthesis.input.freqs": torch.zeros(2), "mapping.fc0.weight": torch.zeros(2, 2)}, tmp_path / "s.pt")
    with pytest.raises(UserError, match="StyleGAN3 generator"):
        load_any(tmp_path / "s.pt")
    assert strangers.by_pickle(pickle.dumps(dict(a=1))) is None
    for name, words in (("mapping.x_avg", "StyleGAN-T"), ("mapping.clip.model.x", "StyleGAN-T"),
                        ("synthesis.b4.input.const", "StyleGAN-T"), ("mapping.embed_proj.weight", "StyleGAN-XL"),
                        ("synthesis.superres.weight", "StyleGAN-XL"), ("synthesis.input.freqs", "StyleGAN3")):
        assert strangers.by_tensors({"mapping.fc0.weight", name}).startswith(words), name
    assert strangers.by_tensors({"mapping.fc0.weight", "mapping.w_avg", "synthesis.b4.const"}) is None
    with pytest.raises(UserError, match="ema .a EDMPrecond"):
        load_any(write(tmp_path / "x.pkl", persistence, dict(ema=Persistent(persistence, G, "EDMPrecond", {}))))


def test_looking_for_relatives_stops_at_damage():
    for data in (b"", b"\x80\x04\x95", b"\x80\x02cpg_modules", pickle.dumps("pg_modules.x")[:-3]):
        assert strangers.by_pickle(data) is None
