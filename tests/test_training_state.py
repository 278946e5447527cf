# SPDX-License-Identifier: Apache-2.0
"""Training states are whole and run nothing. With formats/zip_damage.py."""

import os

import pytest
import torch

from dnnlib.util import UserError
from gantransfer import training_state
from tests.chaos.corpus import Call


def state() -> dict:
    return dict(format=training_state.FORMAT, version=1, method="m", stage="main", cur_nimg=4, index=1, tick=2,
                elapsed=1.5, nets={"G": {"w": torch.zeros(2)}}, records={"G": ["a.C", {}]}, opts=[], method_state={},
                stats={})


@pytest.mark.parametrize("change", [
    dict(nets=3), dict(nets={"G": {"w": 1}}), dict(nets={"D": {}}), dict(records={"G": 1}), dict(cur_nimg="4"),
    dict(cur_nimg=-1), dict(index=2**62), dict(tick=True), dict(method=None), dict(opts={}), dict(stats=[])])
def test_training_states_are_checked(tmp_path, change):
    path = tmp_path / "training-state-000001.pt"
    torch.save(state(), path)
    assert training_state.read(path)["nets"]["G"]["w"].tolist() == [0, 0]
    torch.save({**state(), **change}, path)
    with pytest.raises(UserError, match="is damaged.*continues from the state before"):
        training_state.read(path)


def test_training_states_do_not_run_and_are_whole(tmp_path):
    path = tmp_path / "training-state-000001.pt"
    torch.save({**state(), "stats": Call(os.mkdir, str(tmp_path / "written"))}, path)
    with pytest.raises(UserError, match="mkdir"):
        training_state.read(path)
    torch.save(state(), path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match="cannot be read as a training state"):
        training_state.read(path)
    assert not (tmp_path / "written").exists()
    with pytest.raises(UserError, match="does not fit this run .no 'x'"), training_state.applied(path):
        {}["x"]
