# SPDX-License-Identifier: Apache-2.0
"""Damaged caches of encoded images. Their content: tests/methods/test_mind2mind.py."""

from types import SimpleNamespace

import numpy as np
import pytest

from gantransfer.latent import cache


def test_a_damaged_block_of_latents_is_said_and_made_again(tmp_path, capsys):
    ae, path = SimpleNamespace(slots=1, w_dim=3), tmp_path / "000000.npz"
    good = dict(w=np.zeros([4, 1, 3], "f4"), recon=np.zeros([4, 2], "f4"), seconds=1.5)
    np.savez(path, **good)
    assert cache._block(path, 4, ae)["w"].shape == (4, 1, 3)
    for change in (dict(w=np.zeros([4, 1, 2], "f4")), dict(w=np.zeros([3, 1, 3], "f4")), dict(recon=np.zeros(4))):
        np.savez(path, **{**good, **change})
        assert cache._block(path, 4, ae) is None and not path.exists()
        assert capsys.readouterr().err.count("encoding these images again") == 1
    path.write_bytes(b"PK\x03\x04")
    assert cache._block(path, 4, ae) is None and not path.exists()


def test_only_a_cache_of_our_own_name_is_replaced(tmp_path):
    assert cache.made_by_us(cache.default_path(tmp_path / "set.zip"))
    assert not cache.made_by_us(tmp_path / "notes.npz")
    (tmp_path / "notes.npz").write_text("notes")
    with pytest.raises(cache.Damaged, match="--overwrite"):
        cache.read(tmp_path / "notes.npz")
