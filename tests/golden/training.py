# SPDX-License-Identifier: Apache-2.0
"""Build methods with golden weights and drive their phases with golden draws."""

import numpy as np
import torch

from gantransfer.data.dataset import DataSpec, LabelSpec
from gantransfer.method import Batch
from tests.golden.conftest import tensors
from tests.made import made, train_only


def labels_of(arrays: dict, key: str, n: int) -> np.ndarray:
    """Labels [n, c_dim]; sets without labels may leave them out."""
    return arrays[key] if key in arrays else np.zeros([n, 0], np.float32)


def make(kind, build_g, build_d, config: dict, *, batch: int, **options):
    """A method whose networks are `build_g()` and `build_d()`, without mixing or augmentation, with the noise that the
    configuration names (fixed where it names none)."""

    class Golden(kind):
        build_generator = staticmethod(lambda start: build_g())
        build_discriminator = staticmethod(lambda start: build_d())
        noise_mode = config.get("noise_mode", "const")

    for name in ("pl_decay", "pl_batch_shrink"):
        if name in config:
            setattr(Golden, name, config[name])
    g = build_g()
    label = LabelSpec("class" if g.c_dim else "none", g.c_dim, (1,) * g.c_dim, (), {}, {})
    data = DataSpec("golden", g.img_resolution, g.img_channels, 1, label)
    defaults = dict(cfg="tiny", aug="noaug", diffaug="none", fp32=True, style_mix=0.0, r1_aug=True, mbstd_group=batch)
    m = made(Golden, data, dict(batch=batch, batch_gpu=batch), **{**defaults, **options})
    m.G.train(), m.D.train()
    return m


def load(m, weights: dict[str, np.ndarray]) -> None:
    """Set G and D from keys 'G/...' and 'D/...'."""
    for name in ("G", "D"):
        state = tensors(weights, f"{name}/")
        m.nets[name].load_state_dict(state, strict=False)
        missing = set(m.nets[name].state_dict()) - set(state)
        # Ours may hold running means the original does not have; nothing else may be missing.
        assert all(k.endswith("w_avg_uc") for k in missing), missing
        extra = set(state) - set(m.nets[name].state_dict())
        assert not extra, extra


def batch_of(x: np.ndarray | torch.Tensor, c: np.ndarray | torch.Tensor | None = None) -> Batch:
    """Of images with labels c, [n, 0] without."""
    g, c = torch.Generator().manual_seed(0), np.zeros([len(x), 0], np.float32) if c is None else c
    return Batch(x=torch.as_tensor(x), c=torch.as_tensor(c), rng=g, choices=g, draw_c=lambda n: torch.zeros(n, 0),
                 cur_nimg=0)


def run_phase(m, name: str, batch: Batch, draws, gain: float) -> dict[str, list[torch.Tensor]]:
    """One accumulation of phase `name`, as the loop does it. Returns what was reported, by name, in order."""
    reports: dict[str, list[torch.Tensor]] = {}
    m.report = lambda key, value: reports.setdefault(key, []).append(value.detach().reshape(-1))
    train_only(m, m.trainable(name[0]))
    m.draw = lambda phase, b: draws
    for term in m.loss(name, batch):
        (term.mean() * gain).backward()
    m.commit()
    return reports
