# SPDX-License-Identifier: Apache-2.0
"""Losses and gradients of UTLO and transitional training against the original's numbers."""

import numpy as np
import pytest
import torch

from gantransfer.data.schedule import Span
from gantransfer.methods.stylegan2 import Draws
from gantransfer.methods.transitional import Transitional
from gantransfer.methods.utlo import UTLO
from gantransfer.networks import transitional, utlo
from tests.golden import training
from tests.golden.conftest import assert_close, golden_files, tensor, under


def sizes(c):
    return dict(c_dim=c["c_dim"], img_resolution=c["res"], img_channels=c["ch"])


def widths(c):
    return dict(channel_base=c["channel_base"], channel_max=c["channel_max"], conv_clamp=c["conv_clamp"])


def make(kind, module, c, batch, own=None, **options):
    own = own or {}
    d_own = {**own, "faithful": True} if own.get("res_uc") else own
    return training.make(
        kind,
        lambda: module.Generator(z_dim=c["z_dim"], w_dim=c["w_dim"], **sizes(c), **own,
                                 mapping_kwargs={"num_layers": c["map_layers"]}, synthesis_kwargs=widths(c)),
        lambda: module.Discriminator(**sizes(c), **widths(c), **d_own, mapping_kwargs={"num_layers": c["d_map_layers"]},
                                     epilogue_kwargs={"mbstd_group_size": c["mbstd_group_size"]}),
        c, batch=batch, z_dim=c["z_dim"], gamma=c["r1_gamma"], pl_weight=c["pl_weight"], **options)


def check(m, prefix, phase, a, gain):
    draws = Draws(tensor(a["gen_z"]), tensor(training.labels_of(a, "gen_c", len(a["gen_z"]))))
    if phase in ("Greg", "Gboth"):
        draws.pl_noise = tensor(a["pl_noise_unit"])
    m.pl_mean = torch.tensor(float(a["pl_mean0"]))
    reports = training.run_phase(m, phase, training.batch_of(
        a["real_img"], training.labels_of(a, "real_c", len(a["real_img"]))), draws, gain)
    start = f"{prefix}/{phase}"
    stats = under(a, f"{start}/stat/")
    assert stats
    for name, value in stats.items():
        assert_close(torch.cat(reports[name]), value.reshape(-1), 1e-4, floor=1e-5, what=f"{start} {name}")
    params = dict(m.nets[phase[0]].named_parameters())
    norms = under(a, f"{start}/gradnorm/{phase[0]}/")
    assert norms
    for what, golden in (("gradnorm", norms), ("grad", under(a, f"{start}/grad/{phase[0]}/"))):
        for name, value in golden.items():
            p = params[name]
            got = torch.zeros_like(p) if p.grad is None else p.grad
            got = got.norm() if what == "gradnorm" else got
            assert_close(got.reshape(value.shape), value, 1e-3, floor=1e-6, what=f"{start} {what} {name}")
    for name, p in params.items():
        if name not in norms:
            assert p.grad is None or not p.grad.any(), f"{start}: {name} must have no gradient"
    if f"{start}/pl_mean_after" in a:
        assert_close(m.pl_mean, a[f"{start}/pl_mean_after"], what=f"{start} pl_mean")
    if f"{start}/w_avg_after" in a:
        assert_close(m.G.mapping.w_avg, a[f"{start}/w_avg_after"], what=f"{start} w_avg")


@pytest.mark.parametrize("path", golden_files("utlo", "loss_*.npz"))
def test_utlo_losses(config, a):
    cases = sorted({tuple(k.split("/")[:2]) for k in a if "/stat/" in k})
    assert cases
    for prefix, phase in cases:
        m = make(UTLO, utlo, config, len(a["gen_z"]), dict(res_uc=config["res_uc"]), res_uc=config["res_uc"],
                 add_uc=config["add_uc"], alpha=float(prefix.removeprefix("alpha")) if config["add_uc"] else None)
        training.load(m, a)
        check(m, prefix, phase, a, gain=1.0)  # the original applies no lazy gain


@pytest.mark.parametrize("path", golden_files("utlo", "trans_res*.npz"))
def test_transitional_losses(config, a):
    cases = sorted({tuple(k.split("/")[:2]) for k in a if "/stat/" in k})
    assert cases
    for prefix, phase in cases:
        m = make(Transitional, transitional, config, len(a["gen_z"]))
        training.load(m, a)
        m.weight = float(prefix.removeprefix("t"))
        m.G.mapping.transition.fill_(m.weight), m.D.transition.fill_(m.weight)
        check(m, prefix, phase, a, gain=float(a[f"{prefix}/{phase}/gain"]))


@pytest.mark.parametrize("path", golden_files("utlo", "trans_schedule.npz"))
def test_transition_schedule(a):
    """The closed form is never more than one batch behind the original's accumulation."""
    for i in sorted({k.split("/")[0] for k in a}):
        start, end, batch, _ = a[f"{i}/args"].tolist()
        ours = np.array([Span(start, end).share(n) for n in a[f"{i}/nimg"].tolist()])
        theirs = a[f"{i}/transition"]
        if end > start:
            assert (np.abs(theirs - ours) <= batch / 1000 / (end - start) + 1e-5).all()
        else:
            assert np.abs(theirs.argmax() - ours.argmax()) <= 1 and theirs[-1] == ours[-1] == 1
