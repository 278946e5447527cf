# SPDX-License-Identifier: Apache-2.0
"""A sampler without a network: class means of real images plus seeded noise."""

import dataclasses
import socket
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from gantransfer.data.dataset import ImageDataset
from gantransfer.metrics.table import MetricContext


class NoisyMeans:
    """uint8 images: the mean of the class (of all without labels) plus noise from the image's seed."""

    views, network = ("image",), None

    def __init__(self, data: ImageDataset, noise: float = 30.0, labelled: bool = True):
        self.noise, self.batches = noise, []
        images = data.images_uint8(np.arange(len(data))).astype(np.float64)
        self.spec = data.spec
        self.means = images.mean(0, keepdims=True)
        if labelled:
            self.means = np.stack([images[data.class_ids == k].mean(0) for k in range(data.label_dim)])
            shots = {"many": (0,), "medium": (1,), "few": tuple(range(2, data.label_dim))}
            self.spec = dataclasses.replace(data.spec, label=dataclasses.replace(data.spec.label, shots=shots))
        else:
            self.spec = dataclasses.replace(data.spec, label=type(data.spec.label)("none", 0))

    def __call__(self, seeds: Sequence[int], c: torch.Tensor | None = None, **kw) -> torch.Tensor:
        self.batches.append(len(seeds))
        ids = [0] * len(seeds) if c is None else c.argmax(1).tolist()
        noise = np.stack([np.random.RandomState(s % 2**32).randn(*self.means.shape[1:]) for s in seeds])
        return torch.from_numpy((self.means[ids] + self.noise * noise).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="session")
def reference(tiny_zip: Path) -> ImageDataset:
    return ImageDataset(tiny_zip, use_labels=True)


@pytest.fixture
def make_context(reference, tmp_path):
    """MetricContext around NoisyMeans with an own cache folder; keyword arguments override."""

    def make(**kw) -> MetricContext:
        sampler = kw.pop("sampler", None) or NoisyMeans(reference)
        return MetricContext(**{**dict(sampler=sampler, reference=reference, cache_dir=tmp_path / "cache"), **kw})

    return make


@pytest.fixture
def no_network(monkeypatch):
    """Every attempt to open a connection fails the test."""

    def refuse(*args, **kw):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def empty_home(monkeypatch, tmp_path):
    """No weights anywhere: home, caches and the temporary folder are empty folders. Returns the home."""
    home = tmp_path / "home"
    (home / "tmp").mkdir(parents=True)
    for name in ("GANTRANSFER_DETECTORS", "DNNLIB_CACHE_DIR", "TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GANTRANSFER_CACHE_DIR", str(home / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(home / "tmp"))
    return home
