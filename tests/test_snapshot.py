# SPDX-License-Identifier: Apache-2.0
"""Snapshots hold data, not code; transfer accounts for every tensor and never broadcasts."""

import os

import pytest
import torch
from torch import nn

from dnnlib.util import UserError
from gantransfer import snapshot
from gantransfer.networks import stylegan2
from gantransfer.snapshot import NetRecord, Snapshot, load, transfer
from tests.chaos.corpus import Call


def small():
    torch.manual_seed(0)
    return stylegan2.Generator(4, 2, 4, 8, 1, mapping_kwargs={"num_layers": 2},
                               synthesis_kwargs={"channel_base": 32, "channel_max": 4})


def test_round_trip(tmp_path):
    net = small()
    s = Snapshot("stylegan2", {"G_ema": NetRecord.of(net)}, {"gamma": 1.0}, {"name": "x"}, cur_nimg=5,
                 extra={"path": tmp_path, "pair": (1, 2)})
    s.save(tmp_path / "a.pkl")
    content = torch.load(tmp_path / "a.pkl", weights_only=True)  # nothing but plain data
    assert content["extra"] == {"path": str(tmp_path), "pair": [1, 2]}
    t = load(tmp_path / "a.pkl")
    assert (t.method, t.cur_nimg, t.options) == ("stylegan2", 5, {"gamma": 1.0})
    built = t.build("G_ema")
    assert not built.training and not any(p.requires_grad for p in built.parameters())
    for k, v in net.state_dict().items():
        assert torch.equal(v, built.state_dict()[k]), k
    with pytest.raises(UserError, match="no network 'D'.*G_ema"):
        t.build("D")


class Evil(nn.Module):
    pass


@pytest.mark.parametrize("cls, says", [
    ("os.system", "not part of"), ("torch.nn.Linear", "not part of"),
    ("gantransfer.networks.stylegan2.Nothing", "has no network"),
    ("gantransfer.networks.nothing.Generator", "has no network"),
    ("gantransfer.networks.stylegan2.channels_at", "not a network"),
])
def test_only_our_networks_are_built(cls, says):
    with pytest.raises(UserError, match=says):
        NetRecord(cls, {}, {}).build()


def test_tensors_must_fit(tmp_path):
    r = NetRecord.of(small())
    r.state.pop("mapping.fc0.weight")
    with pytest.raises(UserError, match="mapping.fc0.weight"):
        r.build()


def test_foreign_content_is_refused_and_not_run(tmp_path):
    torch.save({"format": snapshot.FORMAT, "x": Call(os.mkdir, str(tmp_path / "ran"))}, tmp_path / "evil.pkl")
    (tmp_path / "text.pkl").write_text("<html>not found</html>")
    (tmp_path / "empty.pkl").write_bytes(b"")
    torch.save({"a": 1}, tmp_path / "other.pkl")
    Snapshot("stylegan2", {"G_ema": NetRecord.of(small())}).save(tmp_path / "good.pkl")
    (tmp_path / "half.pkl").write_bytes((tmp_path / "good.pkl").read_bytes()[:900])
    for name in ("evil", "text", "empty", "other", "half", "missing"):
        with pytest.raises(UserError) as e:
            load(tmp_path / f"{name}.pkl")
        assert f"{name}.pkl" in str(e.value) and "\n" not in str(e.value)
    assert not (tmp_path / "ran").exists()


def test_newer_format_is_named(tmp_path):
    torch.save({"format": snapshot.FORMAT, "version": snapshot.VERSION + 1}, tmp_path / "new.pkl")
    with pytest.raises(UserError, match="newer"):
        load(tmp_path / "new.pkl")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    s = Snapshot("stylegan2", {"G_ema": NetRecord.of(small())}, cur_nimg=1)
    s.save(tmp_path / "a.pkl")
    before = (tmp_path / "a.pkl").read_bytes()

    def full(content, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError):
        s.save(tmp_path / "a.pkl")
    assert (tmp_path / "a.pkl").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.pkl"]


def test_transfer_never_broadcasts():
    dst = nn.Linear(3, 3)
    old = dst.weight.detach().clone()
    with pytest.raises(UserError, match=r"weight is \(1, 3\) in the source but \(3, 3\) here"):
        transfer({"weight": torch.ones(1, 3), "bias": torch.ones(3)}, dst)
    assert torch.equal(dst.weight, old) and not torch.equal(dst.bias, torch.ones(3)), "nothing may change on failure"


def test_transfer_accounts_for_every_tensor():
    dst = nn.Linear(3, 2)
    with pytest.raises(UserError, match="no tensor bias"):
        transfer({"weight": torch.ones(2, 3)}, dst)
    with pytest.raises(UserError, match="extra"):
        transfer({"weight": torch.ones(2, 3), "bias": torch.ones(2), "extra": torch.ones(1)}, dst)
    r = transfer({"weight": torch.ones(2, 5), "extra": torch.ones(1)}, dst, adapt={"weight": lambda s, f: s[:, :3]},
                 may_initialise=lambda n: n == "bias", may_drop=lambda n: n == "extra")
    assert torch.equal(dst.weight, torch.ones(2, 3))
    assert (r.copied, r.initialised, r.dropped) == ([], ["bias"], ["extra"]) and len(r.adapted) == 1
    text = r.table("x")
    assert "adapted 1" in text and "initialised 1" in text and "dropped 1" in text and "(2, 5) -> (2, 3)" in text


def test_numbers_that_cannot_be_stored_are_named():
    with pytest.raises(TypeError, match="object"):
        snapshot.plain({"a": object()})


def test_what_was_written_after_some_images_is_known_by_its_name(tmp_path):
    later = ["fakes000012.png", "fakes_uc000011_500.png", "network-snapshot-000011_500.pkl",
             "network-snapshot-000012.pkl"]
    for name in [*later, "network-snapshot-000011.pkl", "network-snapshot-000011_400.pkl", "fakes_init.png",
                 "fakes000011.png", "training-state-000012.pt", "network-snapshot-000012.safetensors", "000012.pkl"]:
        (tmp_path / name).touch()
    assert [p.name for p in snapshot.written_after(tmp_path, 11_499)] == later
    assert not snapshot.written_after(tmp_path, 12_000)


def test_building_a_network_loads_no_compiler(run_script):
    """Half of the start of `generate` and `view` once went into it."""
    code = ("import sys, gantransfer; gantransfer.load('gantransfer/assets/digits16.pkl').build('G_ema'); "
            "sys.exit(' '.join(m for m in ('torch._dynamo', 'sympy') if m in sys.modules) or 0)")
    assert run_script("-c", code).returncode == 0
