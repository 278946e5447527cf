# SPDX-License-Identifier: Apache-2.0
"""Files of ALAE that are refused."""

import pytest
import torch

from dnnlib.util import UserError
from gantransfer.importers import load_any
from gantransfer.networks import alae
from tests.chaos.corpus import Call


def test_an_alae_pickle_with_unexpected_classes_is_refused(tmp_path):
    import pickle
    import zipfile

    torch.save({"models": {"generator": {}, "mapping_fl": {}}}, tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "x.pth") as z:
        names = {n: z.read(n) for n in z.namelist()}
    touch = Call(open, str(tmp_path / "ran"), "w")
    evil = pickle.dumps({"models": {"generator": {}, "mapping_fl": {}}, "auxiliary": touch}, 2)
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as z:
        for n, content in names.items():
            z.writestr(n, evil if n.endswith("data.pkl") else content)
    with pytest.raises(UserError, match="x.pth"):
        load_any(tmp_path / "x.pth")
    assert not (tmp_path / "ran").exists()


def test_fully_connected_alae_is_refused_in_words(tmp_path):
    flat_net = torch.nn.ModuleDict(dict(fc_1=torch.nn.Linear(4, 8), fc_2=torch.nn.Linear(8, 8)))
    models = dict(generator=flat_net.state_dict(), discriminator=flat_net.state_dict(),
                  mapping_fl=alae.Mapping(4, 2).state_dict(), mapping_tl=alae.LatentDiscriminator(4).state_dict())
    torch.save(dict(models=models), tmp_path / "x.pth")
    with pytest.raises(UserError, match="generator is fully connected, as ALAE has them for MNIST"):
        load_any(tmp_path / "x.pth")
