# SPDX-License-Identifier: Apache-2.0
"""Losses, their gradients and whole training steps against the original's numbers."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gantransfer.methods.stylegan2 import Draws, StyleGAN2
from gantransfer.networks import stylegan2 as networks
from gantransfer.training_loop import Stepper
from tests.conftest import write_image_zip
from tests.golden import training
from tests.golden.conftest import assert_close, golden_files, tensor, under


def make(config, batch, **options):
    k = config["loss_kwargs"] | {name: config[name] for name in ("noise_mode",) if name in config}
    return training.make(StyleGAN2, lambda: networks.Generator(**config["G_kwargs"]),
                         lambda: networks.Discriminator(**config["D_kwargs"]), k, batch=batch,
                         z_dim=config["G_kwargs"]["z_dim"], gamma=k["r1_gamma"], pl_weight=k.get("pl_weight", 2),
                         **options)


@pytest.mark.parametrize("path", golden_files("base", "loss_*.npz"))
def test_losses(config, a):
    phases = sorted({k.split("/")[0] for k in a if "/report/" in k})
    assert phases
    for phase in phases:
        m = make(config, len(a["gen_z"]))
        training.load(m, a)
        m.pl_mean = torch.tensor(float(config.get("pl_mean_before_Greg", 0)))
        name, n = phase.split("_")[0], len(a["gen_z"])
        draws = Draws(tensor(a["gen_z"]), tensor(training.labels_of(a, "gen_c", n)))
        if phase.endswith("_mix"):
            draws.mix_z, draws.cutoff = tensor(a["mix_z"]), int(a[f"{phase}/cutoff"])
        if name in ("Greg", "Gboth"):
            draws.pl_noise = tensor(a["pl_noise"])
        real_c = training.labels_of(a, "real_c", len(a["real_img"]))
        reports = training.run_phase(m, name, training.batch_of(a["real_img"], real_c), draws,
                                     config["gain"].get(name, 1))
        check_phase(m, phase, name[0], a, reports)


def check_phase(m, phase, key, a, reports):
    wanted, grads = under(a, f"{phase}/report/"), under(a, f"{phase}/grad/")
    assert wanted and grads
    for stat, value in wanted.items():
        stem, _, number = stat.partition("#")
        got = reports[stem][int(number) if number else 0]
        assert_close(got, value.reshape(-1), 1e-4, what=f"{phase} {stat}")
    params = dict(m.nets[key].named_parameters())
    for pname, value in grads.items():
        pname = pname.removeprefix(f"{key}/")
        got = params[pname].grad
        got = torch.zeros_like(params[pname]) if got is None else got
        assert_close(got, value, 2e-3, floor=1e-6, what=f"{phase} gradient of {pname}")
    if f"{phase}/pl_mean_after" in a:
        assert_close(m.pl_mean, a[f"{phase}/pl_mean_after"], what="pl_mean")
    if f"{phase}/w_avg_after" in a:
        assert_close(m.G.mapping.w_avg, a[f"{phase}/w_avg_after"], what="w_avg")


@pytest.mark.parametrize("path", golden_files("base", "train_steps*.npz"))
def test_training_steps(config, a):
    """Phase order, lazy regularisation, zero-filled gradients, Adam and EMA: final weights within 1e-5."""
    n = config["batch"]
    intervals = {key: config[f"{key}_reg_interval"] or 0 for key in "GD"}  # none: both losses in one phase
    m = make(config, n, glr=config["lr"], dlr=config["lr"], g_reg_interval=intervals["G"],
             d_reg_interval=intervals["D"], ema_kimg=config["ema_kimg"], ema_ramp=config["ema_rampup"] or 0.0)
    training.load(m, under(a, "init/"))
    m.G_ema.load_state_dict(m.G.state_dict())
    phases = m.phases()
    for phase in phases:
        r = intervals[phase.name[0]] / (intervals[phase.name[0]] + 1) or 1.0
        for group in phase.opt.param_groups:
            group.update(betas=tuple(b**r for b in config["betas"]), eps=config["eps"])
    m.phases = lambda: phases
    stepper = Stepper(m, m.run)
    order = [key + part for key in "GD" for part in (("main", "reg") if intervals[key] else ("both",))]
    for step in range(config["steps"]):
        s = under(a, f"step{step}/")

        def draw(phase, batch, s=s):
            block = slice(order.index(phase) * n, (order.index(phase) + 1) * n)
            d = Draws(tensor(s["all_gen_z"][block]), tensor(
                training.labels_of(s, "all_gen_c", len(s["all_gen_z"]))[block]))
            if phase in ("Greg", "Gboth"):
                d.pl_noise = tensor(s["pl_noise"])
            return d

        m.draw = draw
        real_c = training.labels_of(s, "real_c", n)
        stepper.step(step, step * n, lambda rep, micro, s=s, c=real_c: (tensor(s["real_img"]), tensor(c)),
                     lambda k, g: torch.zeros([k, 0]))
        m.end_step(step * n, n)
    assert_close(m.pl_mean, a["final/pl_mean"], what="pl_mean")
    for net in ("G", "D", "G_ema"):
        state = m.nets[net].state_dict()
        for key, value in under(a, f"final/{net}/").items():
            error = np.abs(state[key].detach().numpy() - value).max()
            assert error <= 1e-5, f"{net} {key}: {error:.2g}"


@pytest.mark.parametrize("path", golden_files("base", "formulas.npz"))
def test_ema_rows(config, a):
    columns = [name.split()[0] for name in config["ema_rows_columns"]]
    rows = [dict(zip(columns, row)) for row in a["ema_rows"].tolist()]
    assert rows
    for row in rows:
        m = SimpleNamespace(opts=SimpleNamespace(ema_kimg=row["ema_kimg"], ema_ramp=max(row["ema_rampup"], 0.0)),
                            G=torch.nn.Linear(1, 1, bias=False), G_ema=torch.nn.Linear(1, 1, bias=False))
        torch.nn.init.constant_(m.G.weight, 0.0)
        torch.nn.init.constant_(m.G_ema.weight, 1.0)
        StyleGAN2.update_ema(m, int(row["cur_nimg"]), int(row["batch_size"]))
        assert abs(float(m.G_ema.weight) - row["beta"]) < 1e-6, row


def golden_rows(key):
    for param in golden_files("base", "train_options.json"):
        path = param.values[0]
        if path is None:
            return [pytest.param(None, marks=param.marks)]
        return [pytest.param(row, id=f"{key}{i}") for i, row in enumerate(json.loads(path.read_text())[key])]


@pytest.fixture(scope="session")
def option_sets(tmp_path_factory):
    """data<res>.zip: four labelled images of each size that the rows name."""
    folder, made = tmp_path_factory.mktemp("options"), {}

    def get(res):
        if res not in made:
            made[res] = write_image_zip(folder / f"data{res}.zip", np.zeros([4, res, res, 3], np.uint8), [0, 1, 0, 1])
        return made[res]

    return get


def setup_of(row, option_sets):
    from gantransfer.commands import train

    flags = {p.name: p.default for p in train.main.params}
    typed = {k: v for k, v in row["flags"].items() if v is not None}
    res = typed.pop("res", 32)
    typed["data"] = str(option_sets(res))
    if isinstance(typed.get("metrics"), list):
        typed["metrics"] = ",".join(typed["metrics"]) or "none"
    argv = [f"--{k}={v}" for k, v in typed.items()]
    ctx = train.main.make_context("train.py", argv)
    given = {k: v for k, v in ctx.params.items() if k in typed}
    return train.Setup({**flags, **ctx.params}, given)


@pytest.mark.parametrize("row", golden_rows("rows"))
def test_resolved_options(row, option_sets):
    setup = setup_of(row, option_sets)
    assert setup.run_name() == row["desc"]
    ours = flat(setup.resolved())
    for key, value in flat(row["options"]).items():
        if key.endswith("class_name"):
            continue
        if key.startswith("data_loader_kwargs."):  # of a loader that we do not have
            assert not key.endswith(".num_workers") or ours["reader_threads"] == value
            continue
        got = ours.get(key, "absent")
        if key in ("training_set_kwargs.path", "resume_pkl"):
            got, value = str(got).split("/")[-1], value.split("/")[-1]
            if key == "resume_pkl" and "." not in got:
                from gantransfer.importers import RESUME_NAMES

                got = RESUME_NAMES[got].split("/")[-1]
        assert got == value or (isinstance(value, float) and got == pytest.approx(value)), (key, got, value)
    wanted = set(flat(row["options"]))
    for key in ("ada_target", "augment_p", "resume_pkl", "ada_kimg", "cudnn_benchmark", "allow_tf32"):
        assert (key in ours) == (key in wanted), key


@pytest.mark.parametrize("row", golden_rows("errors"))
def test_rejected_options(row, option_sets):
    import click

    from dnnlib.util import UserError

    with pytest.raises((UserError, click.UsageError)) as e:
        setup_of(row, option_sets)
    text = str(e.value.format_message() if isinstance(e.value, click.ClickException) else e.value)
    assert any(f.replace("_", "-") in text.replace("_", "-") for f in row["flags"]), text


def flat(tree, prefix=""):
    out = {}
    for k, v in tree.items():
        if isinstance(v, dict) and v:
            out.update(flat(v, f"{prefix}{k}."))
        else:
            out[prefix + k] = v
    return out
