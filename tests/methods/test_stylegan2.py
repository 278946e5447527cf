# SPDX-License-Identifier: Apache-2.0
"""What is recorded of flags whose value is the default, and presets on more processes than their own machine had."""

import pytest

from gantransfer.data.dataset import DataSpec, LabelSpec
from gantransfer.method import RunConfig
from gantransfer.methods.stylegan2 import StyleGAN2


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
