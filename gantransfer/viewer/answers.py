# SPDX-License-Identifier: Apache-2.0
"""What the page may ask for, and what it gets: text of a request to bytes of an answer. No request names a file."""

from __future__ import annotations

import asyncio
import base64
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dnnlib import json_file
from dnnlib.util import UserError, printable
from gantransfer.data.transforms import png
from gantransfer.metrics.neighbours import Neighbour, TrainingImages
from gantransfer.pictures.plan import Plan
from gantransfer.pictures.video import video_ending, write_video
from gantransfer.sampler import Sampler
from gantransfer.viewer import points, sheets
from gantransfer.viewer.render import Job, Renderer

MOST_FRAMES = 600
FILM = 2**27  # pixels of all frames together
NAMES = ("models", "image", "sheet", "nearest", "scores", "film", "alive")

Params = Mapping[str, str]


class Answer(NamedTuple):
    body: bytes
    kind: str = "application/json"  # media type
    name: str = ""  # of a file to keep


@dataclass
class Shown:
    """A model on the page."""

    sampler: Sampler
    about: dict[str, Any]  # as `abilities`; `path`, `match`, `set_matches` and `training` are added by who shows it
    training: TrainingImages | None = None


class Answers:
    """A method for each of NAMES, of a request's parameters: `model` (number), `page` and `slot` (what it is for: see
    render.py), and those named here. UserError, one line, for what does not exist; Superseded for an old request."""

    def __init__(self, shown: Sequence[Shown], renderer: Renderer | None = None):
        self.shown, self.renderer = list(shown), renderer or Renderer()

    async def alive(self, params: Params) -> Answer:
        return Answer(b"{}")

    async def models(self, params: Params) -> Answer:
        return Answer(json.dumps([m.about for m in self.shown]).encode())

    async def image(self, params: Params) -> Answer:
        """`point` as PNG."""
        n, p = self._point(params)
        sampler = self.shown[n].sampler
        return Answer(await self._made(params, ("image", n, p), lambda job: png(points.image(sampler, p))), "image/png")

    async def sheet(self, params: Params) -> Answer:
        """`sheet` (see sheets.py): `columns`, `row_labels`, `cells` and all `images` in one; with `nearest` '1' their
        `nearest` training images likewise, and what is known of each in `neighbours`."""
        n = self._model(params)
        shown, asked = self.shown[n], _json(params, "sheet")
        p, plan = sheets.parse(asked, shown.sampler)
        nearest = params.get("nearest") == "1" and shown.training is not None and p.label_set is None
        key = "sheet", n, json.dumps(asked, sort_keys=True), nearest
        return Answer(await self._made(params, key, lambda job: _sheet(job, shown, p, plan, nearest)))

    async def nearest(self, params: Params) -> Answer:
        """The training image that is nearest to that of `point`, of its class (on a walk of both);
        null where there are none."""
        n, p = self._point(params)
        shown = self.shown[n]
        if shown.training is None:
            raise UserError("no training images: start gantransfer view with --data=")
        if p.label_set is not None:
            raise UserError("the training images are of the data's own classes")

        def make(job: Job) -> bytes:
            picture = points.image(shown.sampler, p)
            job.go_on()
            ends = dict.fromkeys(k for k in (p.class_id, p.to_class) if k is not None) or [None]
            found = [f for k in ends for f in shown.training.of(picture[None], k) if f is not None]
            found = min(found, key=lambda f: f.distance, default=None)
            return json.dumps(None if found is None else {**_neighbour(found), "image": _url(found.image)}).encode()

        return Answer(await self._made(params, ("nearest", n, p), make))

    async def scores(self, params: Params) -> Answer:
        n = self._model(params)
        scores = self.shown[n].sampler.scores
        if scores is None:
            raise UserError("this model has no scores")
        return Answer(await self._made(params, ("scores", n), lambda job: json.dumps(_shown(scores())).encode()))

    async def film(self, params: Params) -> Answer:
        """The walk that `point` is on, from one end to the other in `frames` steps."""
        n, p = self._point(params)
        (steps,) = points.integers([params.get("frames", "48")], "frames")
        most = min(MOST_FRAMES, FILM // self.shown[n].sampler.spec.size.pixels)
        if not 2 <= steps <= most:
            raise UserError(f"a film of this model has 2 to {most} frames")
        sampler, ending, way = self.shown[n].sampler, video_ending(), points.walk(p, steps)

        def make(job: Job) -> bytes:
            frames = []
            for q in way:
                job.go_on()
                frames.append(points.image(sampler, q))
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / f"walk{ending}"
                write_video(path, np.stack(frames)[None], fps=12, zoom=max(1, 256 // max(frames[0].shape)))
                return path.read_bytes()

        made = await self._made(params, ("film", n, p, steps), make)
        return Answer(made, "video/mp4" if ending == ".mp4" else "image/webp", f"walk{ending}")

    # ---- parts -----------------------------------------------------------------------------------------------------

    def _model(self, params: Params) -> int:
        text = params.get("model", "0")
        if text not in map(str, range(len(self.shown))):
            raise UserError("no such model")
        return int(text)

    def _point(self, params: Params) -> tuple[int, points.Point]:
        n = self._model(params)
        return n, points.parse(_json(params, "point"), self.shown[n].sampler)

    async def _made(self, params: Params, key: Any, make: Callable[[Job], bytes]) -> bytes:
        slot = tuple(params.get(k, "")[:64] for k in ("page", "slot"))
        return await asyncio.wrap_future(self.renderer.submit(slot, key, make))


def _sheet(job: Job, shown: Shown, p: points.Point, plan: Plan, nearest: bool) -> bytes:
    made = []
    for k in range(0, len(plan.seeds), sheets.BATCH):
        job.go_on()
        made.append(sheets.images(shown.sampler, p, plan, slice(k, k + sheets.BATCH)))
    images = np.concatenate(made)
    out = dict(columns=plan.columns, row_labels=plan.row_labels, cells=sheets.cells(plan),
               images=_url(sheets.grid(images, plan.columns)))
    if nearest:
        found: list[Neighbour | None] = []
        for image, class_id in zip(images, plan.classes):
            job.go_on()
            found += shown.training.of(image[None], class_id)
        blank = np.zeros_like(images[0])
        pictures = np.stack([blank if f is None else f.image for f in found])
        out |= dict(nearest=_url(sheets.grid(pictures, plan.columns)), neighbours=[_neighbour(f) for f in found])
    return json.dumps(out).encode()


def _shown(value: Any) -> Any:
    """JSON with every text as it may be shown: names may hold anything."""
    if isinstance(value, dict):
        return {k: _shown(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_shown(v) for v in value]
    return printable(value) if isinstance(value, str) else value


def _json(params: Params, name: str) -> dict[str, Any]:
    return json_file.parse(params.get(name, ""), name)


def _neighbour(found: Neighbour | None) -> dict[str, Any] | None:
    return None if found is None else {k: v for k, v in asdict(found).items() if k != "image"}


def _url(image: np.ndarray) -> str:
    return "data:image/png;base64," + base64.b64encode(png(image)).decode()
