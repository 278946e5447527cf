# SPDX-License-Identifier: Apache-2.0
"""The mean latent of a network whose recorded one is not a number.

The published training code prints a summary of its networks by running them on uninitialised memory, in training mode:
where that holds NaN, so does the running mean of w ever after. Images are right, truncation is not.
"""

from __future__ import annotations

import torch

from dnnlib.util import UserError
from gantransfer.snapshot import NetRecord

COUNT = 10_000  # latents
HOW = f"mean of {COUNT:,} latents of seed 0"
_NAMES = ("w_avg", "w_avg_uc", "dlatent_avg.buff")


def damaged(record: NetRecord) -> list[str]:
    """Names of the mean latents that are not finite, if the mapping network in front of them is."""
    found = [k for k, t in record.state.items() if k.endswith(_NAMES) and t.is_floating_point()
             and not bool(torch.isfinite(t).all())]
    prefix = found[0].removesuffix(next(n for n in _NAMES if found[0].endswith(n))) if found else ""
    whole = all(bool(torch.isfinite(t).all()) for k, t in record.state.items()
                if k.startswith(prefix) and k not in found and t.is_floating_point())
    return found if whole else []


@torch.no_grad()
def measure(record: NetRecord) -> list[str]:
    """Replace the damaged means by those of COUNT latents of seed 0, in equal parts of every class. Their names."""
    names = damaged(record)
    if not names:
        return []
    state = {k: torch.zeros_like(t) if k in names else t for k, t in record.state.items()}
    try:
        net = NetRecord(record.cls, record.kwargs, state).build()
    except UserError:
        return []  # not a network of this version: its tensors are data
    mapping = net.mapping if hasattr(net, "mapping") else net
    rng, total = torch.Generator().manual_seed(0), None
    c_dim = int(getattr(mapping, "c_dim", 0) or 0)
    for start in range(0, COUNT, 1000):
        z = torch.randn([1000, mapping.z_dim], generator=rng)
        c = torch.zeros([1000, c_dim])
        if c_dim:
            c[torch.arange(1000), (start + torch.arange(1000)) % c_dim] = 1
        ws = mapping(z, c).double().sum(0)  # [num_ws, w_dim], or [w_dim] of a mapping that does not repeat it
        total = ws if total is None else total + ws
    mean = torch.atleast_2d(total / COUNT)
    for name in names:
        old = record.state[name]
        value = mean[0] if name.endswith("w_avg_uc") else mean[-1] if old.ndim == 1 else mean.expand(old.shape)
        record.state[name] = value.to(old.dtype).clone()
    return names
