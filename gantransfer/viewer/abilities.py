# SPDX-License-Identifier: Apache-2.0
"""What a model can show, as data: the page draws the controls that this asks for, and knows no method's name."""

from __future__ import annotations

from typing import Any

from dnnlib.util import printable
from gantransfer.data.labels import LabelSpec, trained_classes
from gantransfer.sampler import Sampler


def abilities(sampler: Sampler, method: str, file: str) -> dict[str, Any]:
    """JSON-able.

    label: see `_label`; sets: other labels, by name. truncation: 'w' (towards a mean) or 'z' (scales the latent);
    centers: what it may pull towards. noise: whether there are noise inputs. layers: styles to mix. spaces: where
    latents are interpolated. beside: other pictures of the same latent, and what they show. scores: whether new classes
    are made of old ones.
    """
    has_w = sampler.network is not None
    own_center = sampler.means is not None and sampler.label_dim > 0
    return dict(
        method=method, file=printable(file), width=sampler.spec.size.width, height=sampler.spec.size.height,
        channels=sampler.spec.channels,
        data=printable(sampler.spec.name), images=sampler.spec.num_images,
        label=_label(sampler.spec.label, sampler.label_dim),
        sets={name: _label(spec, spec.dim) for name, spec in sampler.label_sets.items()},
        truncation="w" if has_w else "z", centers=["global", "class"] if own_center else ["global"], noise=has_w,
        layers=sampler.network.num_ws if has_w else 0, spaces=["z", "w"] if has_w else ["z"],
        beside=sampler.beside, scores=sampler.scores is not None)


def _label(spec: LabelSpec, dim: int) -> dict[str, Any]:
    """kind 'none', 'class' (each with id, name, training images if known, group, and whether it had any) or 'value'
    (how many numbers; of one: its unit and range)."""
    if not dim:
        return dict(kind="none", dim=0)
    if spec.kind == "value":
        return dict(kind="value", dim=dim, **{k: spec.meta[k] for k in ("unit", "min", "max") if k in spec.meta})
    trained = set(trained_classes(spec))
    group = {k: name for name, ids in spec.shots.items() for k in ids}
    return dict(kind="class", dim=dim, classes=[
        dict(id=k, name=printable(spec.names[k]) if k < len(spec.names) else "",
             count=spec.counts[k] if k < len(spec.counts) else None, group=group.get(k, ""), trained=k in trained)
        for k in range(dim)])
