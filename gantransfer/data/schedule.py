# SPDX-License-Identifier: Apache-2.0
"""What fades in over a span of the run: a share from 0 to 1, a function of the images shown alone. So a continued run
has the right one by construction."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dnnlib.util import UserError, finite_numbers


class Span(NamedTuple):
    """In thousands of images; a step at `start` where both are equal."""

    start: float
    end: float

    def share(self, nimg: float | np.ndarray) -> float | np.ndarray:
        """clip((kimg - start) / (end - start), 0, 1) of one number of images, or of an array of them."""
        kimg = np.asarray(nimg, np.float64) / 1000
        if self.end <= self.start:
            out = (kimg >= self.start).astype(np.float64)
        else:
            out = np.clip((kimg - self.start) / (self.end - self.start), 0.0, 1.0)
        return out if out.ndim else float(out)

    @classmethod
    def parse(cls, text: str, flag: str) -> Span:
        """'START-END'; UserError naming the flag."""
        try:
            span = cls(*finite_numbers(text.replace("-", ","), flag))
        except (ValueError, TypeError, UserError):
            raise UserError(f"{flag}={text} is not START-END in kimg, e.g. 2000-4000") from None
        return span.checked(flag)

    def checked(self, flag: str) -> Span:
        if self.end < self.start:
            raise UserError(f"{flag}={self.start:g}-{self.end:g} ends before it starts")
        return self
