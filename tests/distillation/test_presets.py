# SPDX-License-Identifier: Apache-2.0
"""Presets come to what was published."""

import json

import numpy as np
import pytest

from gantransfer.commands import distill
from gantransfer.distillation.presets import PRESETS
from gantransfer.methods.cgan_kd import CGANKDOptions
from gantransfer.methods.density_ratio import DensityRatioOptions
from tests.commands.test_distill import run
from tests.conftest import write_image_zip


@pytest.mark.parametrize("preset", list(PRESETS))
def test_presets_are_dry_run_with_their_quirks(preset, digits, tmp_path, capsys):
    images, y = digits
    values = preset.split("-")[0] in ("rc49", "utkface", "steering")
    big = [np.kron(x, np.ones((2, 2), np.uint8)) for x in images]
    data = write_image_zip(tmp_path / "d.zip", big, [[float(k)] for k in y] if values else [int(k) for k in y])
    for stage in ("teacher", "student"):
        run(stage, f"--preset={preset}", f"--data={data}", f"--outdir={tmp_path}/o", "--dry-run")
        out = capsys.readouterr().out
        shown = json.loads(out[out.index("{") : out.rindex("}") + 1])
        assert shown["options"]["arch"] == PRESETS[preset][stage]["arch"]
        assert all(q in out for q in PRESETS[preset]["quirks"])
        epochs = PRESETS[preset][stage].get("epochs")
        if epochs:
            assert shown["total_kimg"] == pytest.approx(
                epochs * (36 if stage == "teacher" else 40) / 1000, abs=0.3)  # a teacher holds a tenth out
    run("fakes", f"--preset={preset}", "--network=x", f"--data={data}", "--teacher=t", f"--dest={tmp_path}/f.zip",
        "--dry-run")
    shown = json.loads(capsys.readouterr().out)
    recipe = PRESETS[preset]["fakes"]
    assert shown["rho"] == recipe["rho"] and shown["num_per_label"] == recipe["num_per_label"]
    assert not (tmp_path / "o").exists() and not list(tmp_path.glob("f.zip*"))


def test_presets_name_flags_that_exist():
    fields = {"teacher": CGANKDOptions, "student": CGANKDOptions, "ratio": DensityRatioOptions}
    for name, preset in PRESETS.items():
        for stage, options in fields.items():
            command = distill.main.commands[stage]
            assert set(preset[stage]) <= {p.name for p in command.params}, (name, stage)
            options(**{k: v for k, v in preset[stage].items() if k in options.__dataclass_fields__})
        assert set(preset["fakes"]) <= {p.name for p in distill.main.commands["fakes"].params}, name
