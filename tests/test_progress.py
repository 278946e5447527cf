# SPDX-License-Identifier: Apache-2.0
"""Progress bars appear after what the first use of an operator has to say (that kernels are being compiled)."""

import io
import sys
import time

import numpy as np
import torch

from gantransfer.metrics import stats
from gantransfer.pictures import walks


class Terminal(io.StringIO):
    def isatty(self):
        return True


def slow_start(screen, calls):
    if not calls:
        print("gantransfer: compiling", file=screen)
    calls.append(1)
    time.sleep(0.15)


def test_metrics(monkeypatch):
    screen, calls = Terminal(), []
    monkeypatch.setattr(sys, "stderr", screen)

    def compute(start, stop):
        slow_start(screen, calls)
        return torch.zeros(stop - start, 2)

    stats.collect(6, 2, compute, lambda rows, start: None, what="generated features", progress=True)
    said = screen.getvalue()
    assert said.startswith("gantransfer: compiling\n") and "generated features" in said


def test_interpolation(monkeypatch):
    screen, calls = Terminal(), []
    monkeypatch.setattr(sys, "stderr", screen)

    class Walk:
        def latent(self, seed):
            return torch.zeros(1, 2)

        def vector(self, k):
            return torch.zeros(1, 2)

        def images(self, z, v, seed, batch):
            slow_start(screen, calls)
            return np.zeros([len(z), 3, 4, 4], np.uint8)

    sheet = walks.sheet(Walk(), "z_shift", [0, 1, 2], 0, 1, 3, lambda a, b, t: a)
    assert sheet.shape == (3, 3, 3, 4, 4)
    assert screen.getvalue().startswith("gantransfer: compiling\n") and "rows" in screen.getvalue()
