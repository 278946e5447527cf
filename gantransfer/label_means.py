# SPDX-License-Identifier: Apache-2.0
"""Truncation towards the mean of a label: every class has a centre of its own.

Published truncation pulls w towards one mean, of all classes in training; at psi 0 the label is gone. Here the centre
is the mean of mapping(z, c) over many z for the image's own label, one-hot or soft. It is a function of network and
label alone: the same latents for every label, each label by itself, so that no image depends on its batch.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch

from dnnlib import seeding

CENTERS = ("global", "class")
COUNT, CHUNK = 10_000, 1000  # latents behind a mean; as many at a time
SEED = 0x3EA9  # of those latents: no image has it by default
KEPT = 4096  # means that are remembered

Styles = Callable[..., torch.Tensor]  # z [N, z_dim], c [N, label_dim] -> ws [N, L, D], without truncation


class LabelMeans:
    """c [N, label_dim] -> the mean styles of each row's label, float32 [N, L, D]. Each label is measured once."""

    def __init__(self, styles: Styles, z_dim: int, device: torch.device, network: torch.nn.Module | None = None):
        self.styles, self.z_dim, self.device, self.network = styles, z_dim, device, network
        self._known: OrderedDict[tuple, torch.Tensor] = OrderedDict()

    @torch.no_grad()
    def __call__(self, c: torch.Tensor, **choice: Any) -> torch.Tensor:
        """`choice` goes to `styles`: a view, a set of labels."""
        state = self._state()
        return torch.stack([self._of(row, choice, state) for row in c])

    def _state(self) -> tuple[int, int]:
        """Changes whenever the network's tensors do: that of a running training may."""
        tensors = [] if self.network is None else [*self.network.parameters(), *self.network.buffers()]
        return sum(t._version for t in tensors), len(tensors)

    def _of(self, row: torch.Tensor, choice: dict[str, Any], state: tuple[int, int]) -> torch.Tensor:
        key = (row.cpu().numpy().tobytes(), tuple(sorted(choice.items())), state)
        if key not in self._known:
            total, stream = 0, torch.Generator().manual_seed(seeding.number(SEED))
            for start in range(0, COUNT, CHUNK):
                n = min(CHUNK, COUNT - start)
                z = torch.randn([n, self.z_dim], generator=stream).to(self.device)
                total = total + self.styles(z, row.expand(n, -1), **choice).sum(0, dtype=torch.float64)
            self._known[key] = (total / COUNT).float()
        self._known.move_to_end(key)
        while len(self._known) > KEPT:
            self._known.popitem(last=False)
        return self._known[key]


def pull(ws: torch.Tensor, center: torch.Tensor, psi: float, cutoff: int | None = None) -> torch.Tensor:
    """center + psi (ws - center) of ws, center [N, L, D] for the first `cutoff` layers (None: all)."""
    near = torch.lerp(center.to(ws.dtype), ws, psi)
    return near if cutoff is None else torch.cat([near[:, :cutoff], ws[:, cutoff:]], 1)
