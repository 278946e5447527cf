# SPDX-License-Identifier: Apache-2.0
"""BigGAN's transfer as it is run: two real processes with half batches, kills, bad input; each stage."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from dnnlib.util import run_cli
from gantransfer.commands import train
from gantransfer.networks.biggan import CondNorm
from gantransfer.snapshot import load
from tests.conftest import ROOT, write_image_zip
from tests.methods.test_cgantransfer import make, spec, step
from torch_utils import distributed as dist

# One process with the whole batch, or (second argument 2) two with a half each. Batch statistics are the same only if
# the norms share them. Draws are given, because each micro-batch has its own; R1 and both phases are in.
SCRIPT = """
import sys
import torch
import torch.nn.functional as F
from dnnlib.util import run_cli
from gantransfer.data.dataset import DataSpec, LabelSpec
from gantransfer.method import RunConfig, Start
from gantransfer.methods import METHODS
from gantransfer.methods.biggan import Draws
from gantransfer.snapshot import load
from gantransfer.training_loop import Stepper
from torch_utils import distributed as dist

BATCH, OLD, NEW = 8, 4, 3
torch.set_num_threads(1)

def spec(n):
    return DataSpec("x", 16, 1, 4 * n, LabelSpec("class", n, (4,) * n))

def train(name, stage, n, source, world, rank, steps, **options):
    kind, data = METHODS[name], spec(n)
    opts = kind.Options(cfg="tiny", diffaug="none", standing=1, gamma=0.5, **options)
    run = RunConfig(num_procs=world, batch=BATCH)
    kind.resolve(opts, run, data)
    torch.manual_seed(0)
    m = kind(opts, data, run, Start(source), stage)
    g = torch.Generator().manual_seed(5)
    z, x = torch.randn(BATCH, m.G.z_dim, generator=g), torch.rand(BATCH, 1, 16, 16, generator=g) * 2 - 1
    c = F.one_hot(torch.arange(BATCH) % n, n).float()
    rows = slice(rank * BATCH // world, (rank + 1) * BATCH // world)
    m.draw = lambda phase, batch: Draws(z[rows], c[rows])
    stepper = Stepper(m, m.run)
    for i in range(steps):
        stepper.step(i, i * BATCH, lambda rep, k: (x[rows], c[rows]), lambda k, gen: None)
        m.end_step(i * BATCH, BATCH)
    return m

def body(world, rank, out):
    # Steps are proportional to gradients here: Adam's own, near zero gradients, would enlarge rounding to full steps.
    smooth = dict(adam_eps=1.0, glr=0.05, dlr=0.05)
    if world == 1:
        train("biggan", None, OLD, None, 1, 0, 2, g_ch=2, d_ch=2, z_dim=12, shared_dim=6).snapshot(0).save("source.pkl")
    source = load("source.pkl")
    first, saved = None, {}
    for name, stage in (("cgantransfer", "BN"), ("cgantransfer", "FT"), ("minegan", "mine"), ("minegan", "tune")):
        before = source if stage in ("BN", "mine") else first
        m = train(name, stage, NEW, before, world, rank, 3, **smooth)
        first = m.snapshot(0)
        saved[name, stage] = {f"{k}.{n}": t for k, v in m.nets.items() for n, t in v.state_dict().items()}
        dist.assert_replicas_equal(saved[name, stage])
    if rank == 0:
        torch.save({"/".join(k): v for k, v in saved.items()}, out)

def main():
    world = int(sys.argv[2])
    if world > 1 and not dist.launched():
        sys.exit(dist.launch(world, kind="cpu"))
    if world > 1:
        dist.init("cpu")
    body(world, dist.rank(), sys.argv[1])
    if world > 1:
        dist.shutdown()

run_cli(main)
"""


@pytest.mark.skipif(dist.cpu_cores() < 2, reason="two processes need two CPU cores")
def test_two_processes_with_half_batches_equal_one(tmp_path):
    (tmp_path / "job.py").write_text(SCRIPT)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GANTRANSFER_DIST_TIMEOUT": "60"}
    for world in (1, 2):
        p = subprocess.run([sys.executable, "job.py", f"{world}.pt", str(world)], cwd=tmp_path, env=env, text=True,
                           capture_output=True, timeout=120)
        assert p.returncode == 0, p.stdout + p.stderr
    one, two = (torch.load(tmp_path / f"{w}.pt", weights_only=True) for w in (1, 2))
    for stage, tensors in one.items():
        moved = 0
        for name, t in tensors.items():
            scale = t.abs().max().clamp(min=1e-2)
            assert (t - two[stage][name]).abs().max() <= 1e-5 * scale, (stage, name)
            moved += "G_ema" not in name and "stored_mean" in name and float(t.abs().max()) > 1e-3
        assert moved, stage


@pytest.fixture
def call(capsys):
    """train.py within this process: (stdout, stderr)."""

    def run(*argv):
        with pytest.raises(SystemExit) as e:
            run_cli(lambda: train.main([str(a) for a in argv], prog_name="train.py"))
        out, err = capsys.readouterr()
        assert (e.value.code or 0) == 0, out[-2000:] + err[-2000:]
        return out, err

    return run


def last_snapshot(outdir):
    return max(outdir.glob("0*/network-snapshot-*.pkl"), key=lambda p: p.name)


@pytest.mark.parametrize("method, stages", [("cgantransfer", ("BN", "FT")), ("minegan", ("mine",))])
def test_killed_and_continued(call, tiny_zip, tmp_path, method, stages):
    """kill -9 in each stage; the continued run ends bit for bit as the undisturbed one does."""
    flags = [f"--data={tiny_zip}", "--cond=True", "--cfg=tiny", "--batch=8", "--tick=0.04", "--snap=1", "--threads=1",
             "--metrics=none", "--kimg=0.16", "--standing=1", "--diffaug=none", "--aug=ada", "--augpipe=blit",
             "--ada-kimg=0.1"]
    call(*flags, "--method=biggan", "--g_ch=2", "--d_ch=2", f"--outdir={tmp_path / 'source'}")
    source = last_snapshot(tmp_path / "source")
    for stage in stages:
        own = [*flags, f"--method={method}", f"--stage={stage}", f"--source={source}"]
        whole, parts = tmp_path / f"{stage}-whole", tmp_path / f"{stage}-parts"
        call(*own, f"--outdir={whole}")
        p = subprocess.Popen([sys.executable, str(ROOT / "train.py"), *own, f"--outdir={parts}"], text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for line in p.stdout:
            if line.startswith("tick 2"):
                p.send_signal(signal.SIGKILL)
                break
        p.stdout.close()
        assert p.wait() == -signal.SIGKILL
        out, _ = call(*own, f"--outdir={parts}", "--resume=latest")
        assert "Continuing at" in out
        one, two = load(last_snapshot(whole)), load(last_snapshot(parts))
        assert one.cur_nimg == two.cur_nimg == 160 and one.nets.keys() == two.nets.keys()
        for key, record in one.nets.items():
            for name, t in record.state.items():
                assert torch.equal(t, two.nets[key].state[name]), (stage, key, name)
        source = last_snapshot(whole)


@pytest.fixture(scope="module")
def snapshots(tmp_path_factory):
    """A BigGAN of five classes of 16 x 16 grey images, stage BN for four from it, and spoilt ones."""
    folder = tmp_path_factory.mktemp("snapshots")
    source = step(make("biggan", spec(5), g_ch=2, d_ch=2, z_dim=12, shared_dim=6), 1).snapshot(8)
    source.save(folder / "source.pkl")
    step(make("cgantransfer", spec(4), source), 1).snapshot(8).save(folder / "bn.pkl")
    step(make("cgantransfer", spec(3), source), 1).snapshot(8).save(folder / "bn3.pkl")
    source.nets["G_ema"].state["blocks.0.0.conv1.weight"][0, 0, 0, 0] = float("nan")
    source.save(folder / "nan.pkl")
    spoilt = load(folder / "source.pkl")
    del spoilt.nets["D"]
    spoilt.save(folder / "headless.pkl")
    other = load(folder / "source.pkl")
    other.method = "stylegan2"
    other.save(folder / "stylegan2.pkl")
    rng = np.random.RandomState(0)

    def images(n, side, *channels):
        return list(rng.randint(0, 255, (n, side, side, *channels)).astype("uint8"))

    write_image_zip(folder / "large.zip", images(8, 32), [0, 0, 1, 1, 2, 2, 3, 3])
    write_image_zip(folder / "colour.zip", images(8, 16, 3), [0, 0, 1, 1, 2, 2, 3, 3])
    write_image_zip(folder / "single.zip", images(7, 16), [0, 0, 1, 1, 2, 2, 3], class_names=["a", "b", "c", "d"])
    return folder


@pytest.mark.parametrize("data, source, stage, says", [
    ("DIGITS", "stylegan2.pkl", "BN", "blocks.*.bn1.gain"),  # without the needed structure
    ("DIGITS", "headless.pkl", "BN", "no network D"),
    ("DIGITS", "bn3.pkl", "FT", "learned 3 classes"),  # class counts that do not fit
    ("DIGITS", "source.pkl", "FT", "--stage=BN"),  # FT without BN
    ("DIGITS", None, "FT", "--source"),
    ("DIGITS", None, "BN", "--source"),
    ("large.zip", "source.pkl", "BN", "16 pixels"),  # images of another size
    ("large.zip", "bn.pkl", "FT", "16 pixels"),
    ("colour.zip", "source.pkl", "BN", "--channels=1"),
    ("single.zip", "source.pkl", "BN", "class d"),  # a class with one image
    ("DIGITS", "nan.pkl", "BN", "G_ema.blocks.0.0.conv1.weight"),  # NaN in the source
    ("DIGITS", "missing.pkl", "BN", "missing.pkl"),
], ids=lambda v: str(v).replace("/", ""))
def test_bad_input_is_one_line_and_writes_nothing(capsys, tiny_zip, snapshots, tmp_path, data, source, stage, says):
    argv = ["--method=cgantransfer", f"--stage={stage}", "--cfg=tiny", "--cond=True", "--metrics=none", "--threads=1",
            f"--data={tiny_zip if data == 'DIGITS' else snapshots / data}", f"--outdir={tmp_path / 'out'}",
            *([f"--source={snapshots / source}"] if source else [])]
    with pytest.raises(SystemExit) as e:
        run_cli(lambda: train.main(argv, prog_name="train.py"))
    _, err = capsys.readouterr()
    assert e.value.code == 2 and says in err and len(err.strip().splitlines()) == 1, err
    assert not (tmp_path / "out").exists()


def test_one_value_per_channel_is_refused():
    """A single 1 x 1 image has no batch statistics."""
    norm = CondNorm(4, 3, 1e-5, mybn=False, shared=False, sn=None).train()
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        norm(torch.randn(1, 4, 1, 1), torch.eye(3)[:1])
    assert norm(torch.randn(2, 4, 1, 1), torch.eye(3)[:2]).shape == (2, 4, 1, 1)
