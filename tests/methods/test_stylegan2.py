# SPDX-License-Identifier: Apache-2.0
"""What is recorded of flags whose value is the default, and presets on more processes than their own machine had."""

import pytest

from gantransfer.data.dataset import DataSpec, LabelSpec
from gantransfer.method import RunConfig
from gantransfer.methods.stylegan2 import StyleGAN2
from torch_utils import build


def resolved(procs: int = 1, given: dict | None = None, **options):
    run, data = RunConfig(num_procs=procs), DataSpec("set", 32, 3, 100, LabelSpec())
    opts = StyleGAN2.Options(**options, **(given or {}))
    opts.given = frozenset(given or {})
    StyleGAN2.resolve(opts, run, data)
    return run, StyleGAN2.config(opts, run, data), opts


def test_no_frozen_layers_are_recorded_where_they_were_asked_for():
    assert resolved(given={"freezed": 0})[1]["D_kwargs"]["block_kwargs"] == {"freeze_layers": 0}
    assert resolved()[1]["D_kwargs"]["block_kwargs"] == {}
    assert resolved(given={"freezed": 3})[1]["D_kwargs"]["block_kwargs"] == {"freeze_layers": 3}
    assert "given" not in resolved(given={"freezed": 0})[2].to_dict()  # continuing a run compares these


@pytest.mark.parametrize("cfg, procs, batch_gpu", [("cifar", 8, 8), ("cifar", 1, 32), ("cifar", 2, 32),
                                                   ("stylegan2", 16, 2), ("stylegan2", 1, 4)])
def test_a_preset_runs_on_any_number_of_processes_that_divides_its_batch(cfg, procs, batch_gpu):
    run, _, _ = resolved(procs, cfg=cfg)
    assert run.batch_gpu == batch_gpu and run.batch % (run.batch_gpu * procs) == 0


def test_presets_for_a_cpu_have_small_networks_and_augmentation_that_acts_within_their_length(monkeypatch):
    """Without R1 and ADA at published strength, whose time scale is a hundred times as long."""
    monkeypatch.setattr(build, "cpu_flags", lambda: {"avx512_bf16"})
    (tiny, tiny_config, to), (small, config, so) = resolved(cfg="tiny"), resolved(cfg="small")
    for c in (tiny_config, config):
        assert c["G_kwargs"]["synthesis_kwargs"]["channel_max"] == 32 and c["loss_kwargs"]["pl_weight"] == 0
    assert (to.aug, to.diffaug, so.aug, so.diffaug, so.ada_kimg) == ("noaug", "light", "ada", None, 50)
    assert config["ada_kimg"] == 50 and config["ada_target"] == 0.6 and "augment_kwargs" not in tiny_config
    assert resolved(cfg="small", ada_kimg=7.0)[1]["ada_kimg"] == 7 and resolved(cfg="auto")[2].ada_kimg == 500
    assert (tiny.metrics, small.metrics) == ("smoke", "smoke")
    runtime = StyleGAN2.runtime
    assert (runtime(to, tiny)["precision"], runtime(so, small)["precision"]) == ("float32", "bfloat16")
    monkeypatch.setattr(build, "cpu_flags", set)
    assert runtime(so, small)["precision"] == "float32"
