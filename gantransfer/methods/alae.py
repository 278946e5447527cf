# SPDX-License-Identifier: Apache-2.0
"""ALAE (Pidhorskyi, Adjeroh, Doretto, "Adversarial Latent Autoencoders", CVPR 2020): a GAN that is an auto-encoder.

Generator G o F, discriminator D o E with R1 on every step, and reciprocity E(G(w)) = w in latent space, as three steps
on one batch; resolution grows from 4x4, each new level fading in over the first half of its time.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from dnnlib.util import UserError
from gantransfer import method, sampler, snapshot, source_fit
from gantransfer.data import resolution
from gantransfer.data.dataset import DataSpec
from gantransfer.losses.penalties import squared_gradient
from gantransfer.method import Batch, Phase, RunConfig, option
from gantransfer.metrics.directions import HIGHER, LOWER
from gantransfer.networks import alae as networks
from torch_utils import distributed as dist
from torch_utils import ema
from torch_utils import random as rnd
from torch_utils.lreq_adam import LREQAdam
from torch_utils.pixels import from_uint8

CFGS: dict[str, dict[str, Any]] = {
    "auto": dict(kimg=8000, batch=32, level_kimg=870, lr=0.0015, cbase=16384, cmax=512, z_dim=512, map_depth=8),
    "tiny": dict(kimg=40, batch=32, level_kimg=4, lr=0.003, cbase=512, cmax=32, z_dim=64, map_depth=4),
}
NETS = ("G", "E", "F", "D")


@dataclass
class ALAEOptions(method.Options):
    cfg: str = option("auto", "Preset of sizes and hyper-parameters", choices=tuple(CFGS))
    gamma: float = option(10.0, "R1 weight", low=0)
    lr: float | None = option(None, "Learning rate", type=float, low=0)
    level_kimg: float | None = option(None, "Thousands of images per resolution, from 4x4 on; the first half fades it "
                                      "in. 0 = the highest from the start", type=float, low=0)
    style_mix: float = option(0.9, "Style-mixing probability", low=0, high=1)
    ema_kimg: float = option(10.0, "Half-life of the averaged generator", low=0)
    cbase: int | None = option(None, "Channels at resolution r: min(cbase / r, cmax)", type=int, low=1)
    cmax: int | None = option(None, "Largest number of channels", type=int, low=1)
    z_dim: int | None = option(None, "Length of the input latent", type=int, low=1)
    map_depth: int | None = option(None, "Layers of the generator's mapping network", type=int, low=1)


@dataclass
class Draws:
    """The random inputs of one loss evaluation. noise: maps in the order they are used; None = drawn."""

    z: torch.Tensor  # [n, z_dim]
    mix_z: torch.Tensor | None = None
    cutoff: int | None = None
    noise: list[torch.Tensor] | None = None


def _channels(words: str) -> source_fit.Trait:
    def give(kwargs: Any) -> str:  # widths double with halved resolution until the largest
        sizes = [int(n) for n in kwargs["channels"]]
        return f"--cbase={min(sizes) * 4 * 2 ** (len(sizes) - 1 if sizes[0] > sizes[-1] else len(sizes) - 2)} " \
               f"--cmax={max(sizes)}"
    return source_fit.Trait(words, None, lambda kwargs: [int(n) for n in kwargs["channels"]], give)


_TRAITS = {
    "G": [source_fit.key("its latent has {} numbers", "--z_dim", "latent_size"),
          _channels("its generator has {} channels from the first map up")],
    "E": [_channels("its encoder has {} channels from the image down")],
    "F": [source_fit.key("its mapping network has {} layers", "--map_depth", "num_layers")],
}


class ALAE(method.Method):
    name = "alae"
    better = {"latent_error": LOWER, "psnr": HIGHER}
    Options: ClassVar[type[method.Options]] = ALAEOptions
    w_avg_beta = 0.995

    # ---- options ---------------------------------------------------------------------------------------------------

    @classmethod
    def resolve(cls, o: ALAEOptions, run: RunConfig, data: DataSpec) -> None:
        if data.label.dim:
            raise UserError("--method=alae has no labels; omit --cond (labels come in with --method=mind2mind)")
        resolution.require_square(data.size, data.path or data.name, "--method=alae")
        cfg = CFGS[o.cfg]
        method.fill(o, **{k: cfg[k] for k in ("lr", "level_kimg", "cmax", "z_dim", "map_depth")},
                    cbase=32 * data.resolution if o.cfg == "tiny" else cfg["cbase"])
        method.resolve_schedule(run, batch=cfg["batch"], kimg=cfg["kimg"], tick=1 if o.cfg == "tiny" else 4,
                                snap=10 if o.cfg == "tiny" else 50)
        method.fill(run, metrics="smoke" if o.cfg == "tiny" else "fid50k_full")

    @classmethod
    def run_name(cls, o: ALAEOptions, given: dict[str, Any], run: RunConfig, data: DataSpec) -> str:
        return f"{data.name}-alae" + ("-mirror" if data.xflip else "") + f"-{o.cfg}" + method.said(
            given, "gamma", "kimg", "batch")

    @classmethod
    def check_source(cls, o: ALAEOptions, data: DataSpec, source: snapshot.Snapshot | None, stage: str) -> None:
        if source is None:
            return
        kinds = dict(G=networks.Generator, E=networks.Encoder, F=networks.Mapping, D=networks.LatentDiscriminator)
        for name, kind in kinds.items():
            source_fit.kind(source, name if name in source.nets else f"{name}_ema", (kind,), cls.name)
        own = cls.arguments(o, data)
        G, E, F = (source.nets.get(k, source.nets.get(f"{k}_ema")).kwargs for k in "GEF")
        source_fit.images(4 * 2 ** (len(G["channels"]) - 1), G.get("img_channels", 3), data)
        source_fit.same([(G, own["G"], _TRAITS["G"]), (E, own["E"], _TRAITS["E"]), (F, own["F"], _TRAITS["F"])])

    # ---- networks --------------------------------------------------------------------------------------------------

    def __init__(self, opts, data, run, start=method.FRESH, stage=None):
        super().__init__(opts, data, run, start, stage)
        self.nets = self.build()
        for name in NETS:
            self.nets[f"{name}_ema"] = copy.deepcopy(self.nets[name]).eval()
        if (source := start.weights) is not None:
            for name, net in self.nets.items():
                have = name if name in source.nets else name.removesuffix("_ema")
                if have not in source.nets:
                    raise UserError(f"the --resume snapshot has no network {name}; it is no ALAE")
                snapshot.transfer(source.nets[have].state, net)
        for net in self.nets.values():
            net.to(self.device)
        self.G, self.E, self.F, self.D = (self.nets[k].train() for k in NETS)
        self.layers = self.G.layers
        self.level: tuple[int, float] = self.level_at(0)
        self._means: dict[str, list[torch.Tensor]] = {}
        self.dataset = None

    def build(self) -> dict[str, nn.Module]:
        kwargs = self.arguments(self.opts, self.data)
        return {"G": networks.Generator(**kwargs["G"]), "E": networks.Encoder(**kwargs["E"]),
                "F": networks.Mapping(**kwargs["F"]), "D": networks.LatentDiscriminator(self.opts.z_dim)}

    @staticmethod
    def arguments(o: ALAEOptions, data: DataSpec) -> dict[str, dict[str, Any]]:
        """Constructor arguments of G, E and F."""
        layers = int(math.log2(data.resolution)) - 1
        start = max(o.cbase // data.resolution, 1)
        up = [min(o.cmax, start * 2 ** (layers - 1 - i)) for i in range(layers)]
        down = [min(o.cmax, start * 2**j) for j in range(layers + 1)]
        return {"G": dict(latent_size=o.z_dim, channels=up, img_channels=data.channels),
                "E": dict(latent_size=o.z_dim, channels=down, img_channels=data.channels),
                "F": dict(latent_size=o.z_dim, num_layers=o.map_depth, num_ws=2 * layers)}

    def prepare(self, dataset: Any) -> Any:
        self.dataset = dataset
        return dataset

    def level_at(self, cur_nimg: int) -> tuple[int, float]:
        """(lod, blend) after so many images."""
        half = self.opts.level_kimg * 500
        if not half:
            return self.layers - 1, 1.0
        lod, _, _, blend = networks.schedule(int(cur_nimg // half), cur_nimg % half, epochs_per_lod=2,
                                             layers=self.layers, size=half, batches=[0])
        return lod, blend

    # ---- phases ----------------------------------------------------------------------------------------------------

    def phases(self) -> list[Phase]:
        # One optimiser: the reciprocity step moves what the two adversarial steps move, with the same state.
        factors = [(p, networks.lr_coefficients(self.nets[k])[name])
                   for k in NETS for name, p in self.nets[k].named_parameters()]
        self.opt = LREQAdam(factors, self.opts.lr)
        e, d, g, f = (list(self.nets[k].parameters()) for k in ("E", "D", "G", "F"))
        return [Phase("D", e + d, self.opt), Phase("G", g + f, self.opt), Phase("AE", e + g + f, self.opt)]

    def draw(self, phase: str, batch: Batch) -> Draws:
        n, lod = len(batch.x), self.level[0]
        d = Draws(rnd.randn([n, self.F.z_dim], batch.rng, self.device))
        if phase != "AE" and float(rnd.rand([], batch.choices)) < self.opts.style_mix:
            d.mix_z = rnd.randn([n, self.F.z_dim], batch.rng, self.device)
            d.cutoff = int(rnd.randint(1, 2 * (lod + 1) + 1, [], batch.choices))
        return d

    def real(self, x: torch.Tensor) -> torch.Tensor:
        """Images at the working resolution, faded as the generator's are."""
        lod, blend = self.level
        factor = self.data.resolution >> (lod + 2)
        x = F.avg_pool2d(x, factor) if factor > 1 else x
        return x if blend == 1 else torch.lerp(networks.upsample(F.avg_pool2d(x, 2)), x, blend)

    def generate(self, phase: str, d: Draws, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """(image at the working resolution, w [n, 1, z_dim]); the batch mean of w is remembered."""
        lod, blend = self.level
        w = self.F.one(d.z)
        self._means.setdefault(phase, []).append(w.detach().mean(0))
        ws = w.expand(-1, self.G.num_ws, -1)
        if d.mix_z is not None:
            ws = torch.cat([ws[:, : d.cutoff], self.F.one(d.mix_z).expand_as(ws)[:, d.cutoff:]], 1)
        return self.G(ws, lod=lod, blend=blend, rng=batch.rng, noise=d.noise), w

    def score(self, x: torch.Tensor) -> torch.Tensor:
        """[n]: D(E(x))."""
        lod, blend = self.level
        return self.D(self.E(x, lod=lod, blend=blend))

    def loss(self, phase: str, batch: Batch) -> Iterator[torch.Tensor]:
        yield getattr(self, f"loss_{phase}")(batch, self.draw(phase, batch))

    def loss_D(self, batch: Batch, d: Draws) -> torch.Tensor:
        """[n]: softplus(DE(fake)) + softplus(-DE(x)) + gamma/2 |d DE / dx|^2."""
        with torch.no_grad():
            fake, _ = self.generate("D", d, batch)
        x = self.real(batch.x).detach().requires_grad_(True)
        real, fake = self.score(x), self.score(fake)
        penalty = squared_gradient(real, x) * (self.opts.gamma / 2)
        self.report("Loss/scores/real", real)
        self.report("Loss/scores/fake", fake)
        self.report("Loss/r1", penalty)
        loss = F.softplus(fake) + F.softplus(-real) + penalty
        self.report("Loss/D", loss)
        return loss

    def loss_G(self, batch: Batch, d: Draws) -> torch.Tensor:
        """[n]: softplus(-DE(G(F(z))))."""
        loss = F.softplus(-self.score(self.generate("G", d, batch)[0]))
        self.report("Loss/G", loss)
        return loss

    def loss_AE(self, batch: Batch, d: Draws) -> torch.Tensor:
        """[n]: mean over coordinates of (E(G(w)) - w)^2, where the target w carries no gradient."""
        lod, blend = self.level
        image, w = self.generate("AE", d, batch)
        loss = (self.E(image, lod=lod, blend=blend) - w.detach()).square().mean((1, 2))
        self.report("Loss/AE", loss)
        return loss

    def end_step(self, cur_nimg: int, batch_size: int) -> None:
        for phase in ("D", "G", "AE"):
            if phase in self._means:
                mean = dist.all_reduce_sum(torch.stack(self._means.pop(phase)).mean(0)) / dist.world_size()
                self.F.update_mean(mean, self.w_avg_beta)
        for name in NETS:
            ema.step_network(self.nets[f"{name}_ema"], self.nets[name], ema.decay(batch_size, self.opts.ema_kimg))
        lod = self.level[0]
        self.level = self.level_at(cur_nimg + batch_size)
        if self.level[0] != lod:
            self.opt.state.clear()  # moments of the old resolution say nothing of the new one

    def state(self) -> dict[str, Any]:
        return dict(level=list(self.level))

    def load_state(self, s: dict[str, Any]) -> None:
        self.level = (int(s["level"][0]), float(s["level"][1]))

    def progress(self) -> dict[str, float]:
        return {"lod": self.level[0] + (self.level[1] if self.level[0] and self.level[1] < 1 else 0.0)}

    # ---- figures and sampling --------------------------------------------------------------------------------------

    @torch.no_grad()
    def evaluate(self, cur_nimg: int) -> dict[str, float]:
        """latent_error: |E(G(w)) - w|^2 / |w - mean|^2; psnr of the training set's reconstructions."""
        F_, G, E = (self.nets[f"{k}_ema"] for k in ("F", "G", "E"))
        lod, blend = self.level
        w = F_.one(rnd.randn([128, F_.z_dim], rnd.step_generator(self.run.seed, 0xA1)).to(self.device))
        again = E(G(w.expand(-1, G.num_ws, -1), lod=lod, blend=blend, noise_mode="const"), lod=lod, blend=blend)
        spread = (w - F_.dlatent_avg.buff[0]).square().sum()
        x = self.real(from_uint8(self.dataset.read(range(min(len(self.dataset), 128))).to(self.device)))
        y = G(E(x, lod=lod, blend=blend).expand(-1, G.num_ws, -1), lod=lod, blend=blend, noise_mode="const")
        mse = (x - y.clamp(-1, 1)).square().mean().clamp(min=1e-12)
        return dict(latent_error=float((again - w).square().sum() / spread.clamp(min=1e-12)),
                    psnr=float(10 * torch.log10(4 / mse)))

    def sampler(self) -> sampler.Sampler:
        return self.sampler_with(self.nets["F_ema"], self.nets["G_ema"], self.data, self.device, self.level)

    @classmethod
    def sampler_from(cls, snap: snapshot.Snapshot, device: torch.device | str = "cpu") -> sampler.Sampler:
        level = snap.extra.get("level")
        return cls.sampler_with(snap.build("F_ema", device), snap.build("G_ema", device),
                                DataSpec.from_dict(snap.data), device, tuple(level) if level else None)

    @classmethod
    def sampler_with(cls, mapping: nn.Module, synthesis: nn.Module, spec: DataSpec, device: torch.device | str,
                     level: tuple[int, float] | None) -> sampler.Sampler:
        """Images of an unfinished network are those of its working resolution, enlarged."""
        net = networks.AutoEncoder(mapping, synthesis)
        lod, blend = level or (synthesis.layers - 1, 1.0)

        def enlarged(x: torch.Tensor) -> torch.Tensor:
            return F.interpolate(x, size=[spec.resolution] * 2) if x.shape[-1] < spec.resolution else x

        def synthesise(z: torch.Tensor, c: torch.Tensor, **kw: Any) -> torch.Tensor:
            return enlarged(net(z, c, lod=lod, blend=blend, **kw))

        def render(ws: torch.Tensor, **kw: Any) -> torch.Tensor:
            return enlarged(synthesis(ws, lod=lod, blend=blend, **kw))

        return sampler.Sampler(synthesise, net.z_dim, spec, device, label_dim=0, network=net, styles=net.styles,
                               render=render)

    def snapshot(self, cur_nimg: int) -> snapshot.Snapshot:
        snap = super().snapshot(cur_nimg)
        snap.extra["level"] = list(self.level)
        return snap
