# SPDX-License-Identifier: Apache-2.0
"""Losses and gradients of every method at equal weights, on one process and on two: a program for test_split_batch.py,
with what else needs two processes and no command.

`run`, or as a rank `python -m tests.split_batch FOLDER CASE...`, writes FOLDER/WORLD.pt: for each case and step the
gradients that the loop applies, and the means of what is reported. Each step starts from the state that one process
had, which the run of one leaves in FOLDER, so that rounding cannot grow from step to step. FOLDER holds set.zip and
values.zip. The ranks also write FOLDER/ranks.pt, a list of what each found.
"""

import sys
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from dnnlib.util import run_cli
from gantransfer import model, training_loop
from gantransfer.data.dataset import ImageDataset
from gantransfer.data.schedule import Span
from gantransfer.method import Method, RunConfig, Start
from gantransfer.methods import METHODS, encoder
from torch_utils import distributed as dist
from torch_utils.stats import Collector

STYLE = dict(cfg="tiny", cbase=64, cmax=8, z_dim=8, w_dim=8, precision="fp32")
REGULAR = dict(STYLE, aug="fixed", p=0.5, augpipe="bgc", pl_weight=2.0, style_mix=0.9,
               lecam=0.01, d_reg_interval=1, g_reg_interval=1)
BIG = dict(cfg="tiny", standing=1, aug="noaug", diffaug="light", gamma=0.5)
KD = dict(arch="resnet8", flip=True)
# name: (method, stage, needs continuous labels, source, options)
CASES: dict[str, tuple[str, str | None, bool, str | None, dict[str, Any]]] = {
    "stylegan2": ("stylegan2", None, False, None, REGULAR),
    "one group": ("stylegan2", None, False, None, dict(STYLE, mbstd_group=8, r1_aug=True)),
    "utlo": ("utlo", None, False, None, dict(STYLE, res_uc=4, diffaug="light")),
    "transitional": ("transitional", None, False, None, dict(STYLE, t_start_kimg=0.0, t_end_kimg=0.012)),
    "biggan": ("biggan", None, False, None, dict(BIG, g_ch=2, d_ch=2)),
    "tail": ("stylegan2", None, False, None, dict(STYLE, aug="ada-class", ada_kimg=0.1, augpipe="bgc", target=0.0,
                                                  noisy_twins=0.1, gsr=0.5, gan_loss="rpgan", r2_gamma=0.5,
                                                  d_reg_interval=1)),
    "tail utlo": ("utlo", None, False, None, dict(STYLE, res_uc=4, noisy_twins=0.1, gsr=0.5, gan_loss="hinge",
                                                  r2_gamma=0.5, sampling="balanced", sampling_shift=Span(0, 0.05))),
    # At its ordinary rate Adam makes full steps of what pairs have in common, whose gradients are almost 0.
    "tail biggan": ("biggan", None, False, None, dict(BIG, g_ch=2, d_ch=2, gan_loss="rpgan", r2_gamma=0.5, gsr=0.5,
                                                      dlr=1e-5, sampling="balanced", sampling_shift=Span(0, 0.05))),
    "cgantransfer": ("cgantransfer", None, False, "biggan", BIG),
    "minegan": ("minegan", None, False, "biggan", BIG),
    "styletransfer": ("styletransfer", None, False, "stylegan2", dict(cfg="tiny")),
    "hypermod": ("hypermod", None, False, "plain", dict(cfg="tiny", contrastive=True, hyper_init="random",
                                                         align_kimg=0.008)),
    "alae": ("alae", None, False, None, dict(cfg="tiny", level_kimg=0.0)),
    "encoder": ("encoder", None, False, "plain", dict(cfg="tiny")),
    "mind2mind": ("mind2mind", None, False, "encoder", dict(accept_encoder=True, latent_aug="fixed", p=0.5,
                                                            moment_weight=1.0, hidden_g="16", hidden_d="16")),
    "mind_tune": ("mind_tune", None, False, "mind2mind", dict(cfg="tiny")),
    "ccgan": ("ccgan", None, True, None, dict(cfg="tiny", standing=1, embed_kimg=0.0, label_input="nli")),
    "ccgan code": ("ccgan", None, True, None, dict(cfg="tiny", standing=1, embed_kimg=0.008)),
    "teacher": ("cgan_kd", "teacher", False, None, dict(KD, dropout=0.5)),
    "head": ("cgan_kd", "head", False, "teacher", KD),
    **{f"student {kd}": ("cgan_kd", "student", False, None, dict(KD, kd=kd))
       for kd in ("blkd", "uda", "fitnet", "sp", "rkd", "pkt", "vid", "sskd")},
    "ratio features": ("density_ratio", "features", False, None, dict(features="resnet34", feature_width=8)),
    "sparse features": ("density_ratio", "features", True, None, dict(features="sae", feature_width=8)),
    "ratio": ("density_ratio", "ratio", False, "stylegan2", dict(features="teacher", width="tiny")),
}
STEPS, BATCH = 2, 8
SOURCES: dict[str, tuple[str, str | None, bool, str | None, dict[str, Any]]] = {
    **{k: CASES[k] for k in ("encoder", "teacher", "head", "mind2mind", "cgantransfer")},
    "stylegan2": ("stylegan2", None, False, None, STYLE), "plain": ("stylegan2", None, False, None, STYLE),
    "biggan": ("biggan", None, False, None, dict(BIG, g_ch=2, d_ch=2)),
}


def source_of(folder: Path, name: str | None) -> model.Model | None:
    """An untrained network, made by the run of one process."""
    if name is None:
        return None
    path = folder / f"source-{name}.pkl"
    if not path.exists():
        m, dataset, _ = made(folder, SOURCES[name], 1, labels=name != "plain")
        m.prepare(dataset)
        m.snapshot(0).save(path)
    return model.load(path)


def made(folder: Path, case: tuple, world: int, labels: bool = True, state: Path | None = None,
         **run_options: Any) -> tuple[Method, ImageDataset, RunConfig]:
    """`state`: of a run that the method goes on with."""
    name, stage, values, source, options = case
    kind = METHODS[name]
    start, options = source_of(folder, source), dict(options)
    if options.get("kd", "none") != "none" or options.get("features") == "teacher":
        teacher = "head" if options.get("kd") == "sskd" else "teacher"
        source_of(folder, teacher)
        options["teacher"] = str(folder / f"source-{teacher}.pkl")
    if source in ("teacher", "head"):
        options["teacher"] = str(folder / f"source-{source}.pkl")
        options["kd"], start = "sskd", None
    if "accept_encoder" in options:
        options["cache"] = str(folder / "latents.npz")
    if options.get("features") == "teacher":
        options["network"] = str(folder / f"source-{source}.pkl")
    labels = labels and name not in ("alae", "encoder")
    dataset = ImageDataset(folder / ("values.zip" if values else "set.zip"), use_labels=labels)
    drawn = {k: options.pop(k) for k in ("sampling", "sampling_shift") if k in options}
    run = RunConfig(**dict(num_procs=world, batch=BATCH, kimg=1.0, metrics="none") | drawn | run_options)
    opts = kind.Options(**options)
    opts.given = frozenset(options)
    kind.resolve(opts, run, dataset.spec)
    torch.manual_seed(0)
    with mock.patch.dict(encoder.CFGS, tiny=encoder.CFGS["tiny"] | dict(fitted=256)):
        m = kind(opts, dataset.spec, run, Start(start, state), stage)
    m.pairs = m.image_samples = 64  # images behind the figures of encoders and of mind2mind
    return m, dataset, run


def steps(folder: Path, name: str, world: int) -> list[dict[str, Any]]:
    m, dataset, run = made(folder, CASES[name], world)
    loop = training_loop._Loop(m, dataset, run, training_loop.Outputs(folder), None, None)
    found: list[torch.Tensor] = []
    plain = training_loop.FlatGradients.finish

    def finish(self: training_loop.FlatGradients) -> torch.Tensor:
        bad = plain(self)
        found.append(self.flat.clone())
        return bad

    training_loop.FlatGradients.finish = finish
    out = []
    try:
        for k in range(STEPS):
            path = folder / f"state-{name}-{k}.pt"
            if world == 1:
                torch.save(loop.state(), path)
            else:
                loop.load_state(path)
            found.clear()
            loop._step()
            means = {key: v["mean"] for key, v in loop.collector.collect().items() if v["num"]}
            trained = {f"{n}.{key}" for n, net in m.nets.items() for key, _ in net.named_parameters()}
            after = {f"{n}.{key}": t.clone() for n, net in m.nets.items() for key, t in net.state_dict().items()
                     if f"{n}.{key}" not in trained and t.is_floating_point()}
            out.append(dict(gradients=[g.clone() for g in found], means=means, buffers=after))
            if world > 1:
                dist.assert_replicas_equal({f"{n}.{key}": t for n, net in m.nets.items()
                                            for key, t in net.state_dict().items()})
    finally:
        training_loop.FlatGradients.finish = plain
        loop.close()
    return out


def run(folder: Path, world: int, names: list[str]) -> None:
    found = {name: steps(folder, name, world) for name in names}
    if dist.is_main():
        torch.save(found, folder / f"{world}.pt")


def metrics(folder: Path, world: int) -> dict[str, Any]:
    """Figures, real statistics and an error of a sampler of noisy class means."""
    from gantransfer.metrics import stats as features
    from gantransfer.metrics import table
    from tests.metrics.conftest import NoisyMeans

    data = ImageDataset(folder / "set.zip", use_labels=True)
    ctx = table.MetricContext(sampler=NoisyMeans(data), reference=data, training=data, batch=6,
                              cache_dir=folder / f"cache{world}")
    names = ["fd_pix64_50", "kd_digits32_31_shots", "report_digits32_5", "fd_digits32_20_class"]
    lines = [table.compute(n, ctx)["results"] for n in names]
    real = features.real_features(ctx, ctx.detector("pix64"), features.Selection.first(data, 39), keep_rows=True)
    scatter = features.on_main(lambda: real.moments.scatter)
    return dict(lines=lines, scatter=scatter, error=table.compute("pr_pix64_3_k3", ctx)["error"])


def reports(rank: int) -> list[dict[str, Any]]:
    """What is collected first, then, and from the state that rank 0 would write."""
    c = Collector()
    for name in ["both", "only0"] if rank == 0 else ["only1", "both"]:  # other names, other order
        c.report(name, torch.arange(3.0) + 10 * rank)
    first = c.collect()
    c.report("both", 1.0 + rank)
    restored = Collector()
    restored.load_state(dist.broadcast_object(c.state()))  # what rank 0 wrote is read by both
    return [first, c.collect(), restored.collect()]


def recorded() -> dict[str, Any]:
    """Steps that are recorded and replayed, and eager ones."""
    from tests.bench.gpu_tests import training
    from tests.graph_emulator import EmulatedGraphs

    graphs = EmulatedGraphs()
    replayed, eager = (training("cpu", g, 6, pl_weight=0.0)[0] for g in (graphs, None))
    found = [{f"{n}.{key}": t for n, net in m.nets.items() for key, t in net.state_dict().items()}
             for m in (replayed, eager)]
    dist.assert_replicas_equal(found[0])
    return dict(replays=graphs.replays, networks=found)


def main() -> None:
    torch.set_num_threads(1)
    dist.init("cpu")
    folder, world = Path(sys.argv[1]), dist.world_size()
    run(folder, world, sys.argv[2:])
    assert "torch._dynamo" not in sys.modules, "torch's compiler takes a second of every start, and holds the group"
    found = dist.gather_object(dict(metrics=metrics(folder, world), reports=reports(dist.rank()), recorded=recorded()))
    if dist.is_main():
        torch.save(found, folder / "ranks.pt")
    dist.shutdown()


if __name__ == "__main__":
    run_cli(main)
