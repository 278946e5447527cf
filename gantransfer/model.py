# SPDX-License-Identifier: Apache-2.0
"""What `import gantransfer` offers: load a checkpoint of any known kind, build its networks, make images."""

from __future__ import annotations

import os
from dataclasses import fields

import torch

from dnnlib.util import UserError
from gantransfer.importers import load_any
from gantransfer.importers.common import not_usable
from gantransfer.method import Judge
from gantransfer.methods import TRAIN
from gantransfer.sampler import Sampler
from gantransfer.snapshot import Snapshot


class Model(Snapshot):
    """A snapshot that knows the methods, and so how to make images."""

    name: str = "this snapshot"  # where it was read from

    def check_makes_images(self) -> None:
        """UserError for a checkpoint whose method or networks this version does not have."""
        if self.method not in TRAIN:
            reasons = list(not_usable(self.nets).values())
            raise UserError(f"{self.name} is of the method {self.method}, which makes no images in this version"
                            + (f": {reasons[0]}" if reasons else "; name the snapshot of a generator"))

    @property
    def title(self) -> str:
        """'digits: utlo, 20 kimg'"""
        seen = f", {round(self.cur_nimg / 1000, 1):g} kimg" if self.cur_nimg else ""
        return f"{self.data.get('name') or 'images'}: {self.method}{seen}"

    def sampler(self, device: torch.device | str = "cpu") -> Sampler:
        """`sampler(seeds=[0, 1], c=None)` -> uint8 [N, C, H, W]; c [N, labels] for a conditional model.

        Raises UserError as `check_makes_images`.
        """
        self.check_makes_images()
        return TRAIN[self.method].sampler_from(self, device)

    def judge(self, device: torch.device | str = "cpu") -> Judge:
        """What its discriminator says of images and labels; a density ratio made of one has that of its method `of`.

        Raises UserError where it judges something else.
        """
        return TRAIN[self.options.get("of", self.method)].judge_from(self, device)


def load(path_or_url: str | os.PathLike, format: str = "auto", copy: str = "") -> Model:
    """A checkpoint, ours or foreign, from a file, folder or URL. Nothing in it is executed.

    `format` and `copy` as in `importers.load_any`. Raises UserError, one line naming the file, for anything unreadable.
    """
    snap = load_any(path_or_url, format, copy)
    model = Model(**{f.name: getattr(snap, f.name) for f in fields(Snapshot)})
    model.name = os.fspath(path_or_url)
    return model
