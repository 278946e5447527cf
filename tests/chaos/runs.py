# SPDX-License-Identifier: Apache-2.0
"""A short run of every method, by command lines alone: its data, its source, its flags."""

from __future__ import annotations

import atexit
import functools
import random
import tempfile
from pathlib import Path

import torch

from gantransfer import snapshot
from gantransfer.methods import TRAIN
from tests.chaos.server import Server
from tests.conftest import write_blobs

COMMON = ["--batch=8", "--kimg=0.2", "--tick=0.04", "--snap=1", "--metrics=none", "--threads=1", "--kernels=ref"]
STYLE = ["--cfg=tiny", "--cbase=64", "--cmax=8", "--z_dim=8", "--w_dim=8"]
BIG = ["--cfg=tiny", "--standing=1", "--diffaug=none", "--aug=ada", "--augpipe=blit", "--ada-kimg=0.1"]
# Method -> (data set, method of the source, flags)
RUNS: dict[str, tuple[str, str | None, list[str]]] = {
    "stylegan2": ("set", None, [*STYLE, "--cond=True", "--aug=ada", "--target=0.5", "--ada-kimg=0.05", "--augpipe=bgc",
                                "--style-mix=0.9", "--pl-weight=2", "--lecam=0.01"]),
    "utlo": ("set", None, [*STYLE, "--cond=True", "--res_uc=4", "--diffaug=light"]),
    "transitional": ("set", None, [*STYLE, "--cond=True", "--transition=0.05-0.12"]),
    "biggan": ("set", None, [*BIG, "--cond=True", "--g_ch=2", "--d_ch=2"]),
    "cgantransfer": ("set", "biggan", [*BIG, "--cond=True"]),
    "minegan": ("set", "biggan", [*BIG, "--cond=True"]),
    "styletransfer": ("set", "stylegan2", [*STYLE, "--cond=True"]),
    "source": ("set", None, [*STYLE, "--method=stylegan2"]),  # the source of those that want an unconditional one
    "hypermod": ("set", "source", ["--cfg=tiny", "--cond=True"]),
    "alae": ("set", None, ["--cfg=tiny"]),
    "encoder": ("set", "source", ["--cfg=tiny"]),
    "mind2mind": ("set", "encoder", ["--cond=True", "--accept_encoder=True", "--hidden_g=16,16", "--hidden_d=16,16"]),
    "mind_tune": ("set", "mind2mind", ["--cfg=tiny", "--cond=True"]),
    "ccgan": ("values", None, ["--cfg=tiny", "--embed_kimg=0.04"]),
}


def order(seconds: float, rng: random.Random) -> list[str]:
    """Methods to try. Where there is little time, those that need no source: its training would take it all."""
    names = [n for n in RUNS if n != "source" and (seconds > 120 or RUNS[n][1] is None)]
    rng.shuffle(names)
    return names


class Field:
    """Data sets, sources and uninterrupted runs in one folder, made when they are first asked for."""

    def __init__(self, folder: Path, server: Server):
        self.folder, self.server = folder, server
        self.whole: dict[str, Path] = {}  # finished run folders
        write_blobs(folder)

    def argv(self, name: str, outdir: Path, *more: str) -> list[str]:
        data, source, flags = RUNS[name]
        argv = ["train", f"--outdir={outdir}", f"--data={self.folder / data}.zip", *COMMON, *flags]
        if not any(f.startswith("--method=") for f in flags):
            argv.append(f"--method={name}")
        if source:
            argv.append(f"--source={snapshot.find_snapshots(self.finished(source))[-1]}")
        return [*argv, *more]

    def finished(self, name: str) -> Path:
        """The folder of an uninterrupted run."""
        if name not in self.whole:
            outdir = self.folder / f"whole-{name}"
            code, out = self.server.run(self.folder / f"whole-{name}.log", *self.argv(name, outdir))
            assert code == 0, f"{name} does not run: {out[-2000:]}"
            (self.whole[name],) = outdir.glob("0*-*")
        return self.whole[name]

    def compare(self, name: str, outdir: Path) -> int:
        """How many tensors of the networks differ between the run in `outdir` and the uninterrupted one."""
        runs = sorted(outdir.glob("0*-*"))
        assert len(runs) == 1, f"{name}: {[p.name for p in runs]}"
        a, b = (snapshot.load(snapshot.find_snapshots(p)[-1]) for p in (self.finished(name), runs[0]))
        assert a.cur_nimg == b.cur_nimg and a.nets.keys() == b.nets.keys(), f"{name}: another length, other networks"
        differ = 0
        for key, net in a.nets.items():
            other = b.nets[key].state
            assert net.state.keys() == other.keys()
            differ += sum(not torch.equal(t, other[n]) for n, t in net.state.items())
        return differ


@functools.cache
def the_field() -> Field:
    """The one that all parts of a process share; it goes when the process ends."""
    scratch = tempfile.TemporaryDirectory(prefix="chaos-")
    atexit.register(scratch.cleanup)
    server = Server(Path(scratch.name, "cache"))
    atexit.register(server.close)  # before the folder, as what is registered last comes first
    return Field(Path(scratch.name), server)


assert set(TRAIN) <= set(RUNS), f"a new method needs a line in RUNS: {set(TRAIN) - set(RUNS)}"
