# SPDX-License-Identifier: Apache-2.0
"""The training image that is nearest to a generated one: with few images, the fear is that a model repeats them.

Nearest in pixels, of pictures reduced to at most SIDE a side, among the images of the same class where there are
classes. So it finds copies; it does not find what is alike to an eye. A distance is compared with the `usual` one: the
median distance from a training image of that class to the next one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from gantransfer.data.dataset import ImageDataset
from gantransfer.metrics.distances import Centred, centre_of, nearest, smallest
from gantransfer.networks.sizes import ImageSize

SIDE = 32
MOST = 2**26  # numbers of a class: larger classes are reduced further
SAMPLE = 1000  # images behind a median


@dataclass(frozen=True)
class Neighbour:
    index: int  # in the set
    distance: float  # root mean squared difference of pixels, in 0 to 1
    usual: float | None  # None where the class has one image
    image: np.ndarray  # uint8 [C, H, W], mirrored where the mirror image is nearer
    mirrored: bool


class TrainingImages:
    """`of(images, class)` -> their neighbours. Each class is read once, when it is asked for."""

    def __init__(self, data: ImageDataset):
        self.data = data
        self._classes: dict[int | None, tuple[np.ndarray, torch.Tensor, float | None, ImageSize]] = {}

    def of(self, images: np.ndarray, class_id: int | None) -> list[Neighbour | None]:
        """uint8 [N, C, H, W] of one class, None where there are no classes. None for a class without images."""
        ids, rows, usual, size = self._class(class_id if self.data.class_ids is not None else None)
        if not len(ids):
            return [None] * len(images)
        plain = _reduced(images, size)
        (d, i), (e, j) = nearest(plain, rows), nearest(_reduced(images[..., ::-1].copy(), size), rows)
        out = []
        for k in range(len(images)):
            mirrored = bool(self.data.xflip and e[k] < d[k])
            index = int(ids[int(j[k] if mirrored else i[k])])
            found = self.data.images_uint8([index])[0]
            distance = float(e[k] if mirrored else d[k]) / rows.shape[1] ** 0.5
            out.append(Neighbour(index, distance, usual, found[..., ::-1] if mirrored else found, mirrored))
        return out

    def _class(self, class_id: int | None) -> tuple[np.ndarray, torch.Tensor, float | None, ImageSize]:
        if class_id not in self._classes:
            n = self.data.spec.num_images  # mirrored copies are not counted
            ids = np.arange(n) if class_id is None else np.flatnonzero(self.data.class_ids[:n] == class_id)
            whole = self.data.spec.size
            size = whole.at(min(SIDE, whole.longer))
            while len(ids) * self.data.num_channels * size.pixels > MOST and size.longer > 4:
                size = size.at(size.longer // 2)
            parts = [_reduced(self.data.images_uint8(ids[k : k + 256]), size) for k in range(0, len(ids), 256)]
            rows = torch.cat(parts) if parts else torch.zeros(0, self.data.num_channels * size.pixels)
            self._classes[class_id] = ids, rows, _usual(rows), size
        return self._classes[class_id]


def _usual(rows: torch.Tensor) -> float | None:
    if len(rows) < 2:
        return None
    some = torch.from_numpy(np.random.RandomState(0).permutation(len(rows))[:SAMPLE])
    centred = Centred(rows, centre_of(rows))
    return float(smallest(centred, some, centred, 2)[0][:, 1].sqrt().median()) / rows.shape[1] ** 0.5


def _reduced(images: np.ndarray, size: ImageSize) -> torch.Tensor:
    """float32 [N, C * pixels] in 0 to 1, means of areas."""
    x = torch.from_numpy(np.ascontiguousarray(images)).float() / 255
    return F.adaptive_avg_pool2d(x, tuple(size)).flatten(1)
