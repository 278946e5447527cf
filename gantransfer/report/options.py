# SPDX-License-Identifier: Apache-2.0
"""Options of a run that differ from its method's defaults, and those in which runs differ.

Defaults are what today's method resolves for the run's data, preset and batch, so that what follows from those is no
difference.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from dnnlib.util import UserError
from gantransfer.data.labels import DataSpec
from gantransfer.method import Method, Options, RunConfig
from gantransfer.methods import METHODS
from gantransfer.report.read import Run

PRESETS = ("cfg", "mind_preset")
# Keys of training_options.json that a user chooses -> the flags; the others follow from these, or say where.
SHARED = {"total_kimg": "kimg", "batch_size": "batch", "batch_gpu": "batch_gpu", "kimg_per_tick": "tick",
          "network_snapshot_ticks": "snap", "random_seed": "seed", "num_gpus": "gpus", "sampling": "sampling",
          "sampling_labels": "sampling_labels", "sampling_shift": "sampling_shift", "metrics": "metrics",
          "reference": "heldout", "resume_pkl": "resume", "resume": "resume", "best": "best",
          "stop_after": "stop_after", "keep": "keep", "cuda_graphs": "graphs", "allow_tf32": "allow_tf32"}
DATA = {"path": "data", "fname": "fname", "use_labels": "cond", "xflip": "mirror", "heldout": "heldout",
        "random_seed": "subset_seed"}
ABSENT = "not set"


def method_of(run: Run) -> type[Method] | None:
    return METHODS.get(run.options.get("method"))


def chosen(run: Run) -> dict[str, Any]:
    """Flag -> value of all that a user can choose, the method's own options last."""
    o = run.options
    out = {flag: o[k] for k, flag in SHARED.items() if o.get(k) is not None}
    training_set = run.part("training_set_kwargs")
    out |= {flag: training_set[k] for k, flag in DATA.items() if training_set.get(k) is not None}
    return {"method": o.get("method", "?"), **({"stage": o["stage"]} if o.get("stage") not in (None, "main") else {}),
            **out, **run.part("options")}


def defaults(run: Run) -> tuple[dict[str, Any], str]:
    """(flag -> default, a note where the method could not say what its presets make of this data)."""
    method, out = method_of(run), dict(seed=0, gpus=1, sampling="empirical", sampling_labels="empirical",
                                       cond=False, mirror=False, method="stylegan2")
    if method is None:
        return out, f"this version does not know the method {run.options.get('method', '?')}, nor its defaults"
    raw = {f.name: f.default for f in dataclasses.fields(method.Options)}
    if method.needs_labels:
        out["cond"] = True
    own = chosen(run)
    presets = {k: own[k] for k in PRESETS if k in raw and k in own}
    try:
        data, schedule = run.data or _spec_of_options(run), RunConfig()
        method.resolve(method.Options(**presets), schedule, data)
        run_config = RunConfig(batch=own.get("batch"), batch_gpu=own.get("batch_gpu"))
        opts: Options = method.Options(**presets)
        method.resolve(opts, run_config, data)
        out["batch_gpu"] = int(own.get("batch") or schedule.batch) // max(int(own.get("gpus") or 1), 1)
    except (UserError, LookupError, TypeError, ValueError, AttributeError) as e:
        note = f"defaults that depend on the data are not known ({e}); options without another default are left out"
        return out | {k: v if v is not None else own.get(k) for k, v in raw.items()}, note
    out |= {k: getattr(schedule, k) for k in ("kimg", "batch", "tick", "snap")}
    return out | opts.to_dict() | {k: raw[k] for k in presets}, ""


def _spec_of_options(run: Run) -> DataSpec:
    t = run.part("training_set_kwargs")
    return DataSpec("", t.get("resolution") or 32, 3, int(t.get("max_size") or 1))


def differing_from_defaults(run: Run) -> tuple[list[tuple[str, str, str]], str]:
    """([(flag, value, default)], note)."""
    known, note = defaults(run)
    found = [(k, v, known.get(k)) for k, v in chosen(run).items()
             if _plain(v) != _plain(known.get(k)) and not (k not in known and v in (None, [], ""))]
    return [(k, shown(v), shown(d) if k in known and d is not None else "") for k, v, d in found], note


def differing_between(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """[(flag, a value per run)] of the flags that are not the same in all runs."""
    all_of = [{**chosen(r), **{k: r.environment.get(k) for k in ("gantransfer", "torch", "platform")
                               if r.environment.get(k)}} for r in runs]
    keys = list(dict.fromkeys(k for o in all_of for k in o))
    rows = [(k, [shown(o[k]) if o.get(k) is not None else ABSENT for o in all_of]) for k in keys]
    return [(k, cells) for k, cells in rows if len(dict.fromkeys(cells)) > 1]


def shown(value: Any) -> str:
    """An option as a person writes it: numbers as they are, so that they can be typed again."""
    if isinstance(value, float):
        return f"{value:.10g}"
    if isinstance(value, list) and all(isinstance(v, str | int | float) for v in value):
        return ",".join(shown(v) for v in value) or "none"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:197]}..."


def _plain(value: Any) -> Any:
    """Numbers of one value are equal, as are an empty list and none."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else value or None
