# SPDX-License-Identifier: Apache-2.0
"""What a seed means: any integer is one, and different integers give unrelated numbers.

0 to 2**32 - 1 are themselves, so that they give the numbers that they have always given. Every other integer, negative
or of any length, stands for 63 bits of its SHA-256. All generators of the project start from here, because NumPy's and
PyTorch's own each take another range, and arithmetic modulo that range would make two seeds one without a word.
"""

from __future__ import annotations

import hashlib

import numpy as np

MAX_SEEDS = 10**7  # of one command: more images than any data set has
PLAIN = 2**32  # seeds from 0 to below this one are themselves


def number(seed: int) -> int:
    """`seed` as an integer in [0, 2**63): itself where it is below 2**32, else at least 2**32."""
    seed = int(seed)
    if 0 <= seed < PLAIN:
        return seed
    size = seed.bit_length() // 8 + 1
    digest = hashlib.sha256(seed.to_bytes(size, "little", signed=True)).digest()
    return int.from_bytes(digest[:8], "little") >> 1 | PLAIN


def numpy_rng(seed: int) -> np.random.RandomState:
    """NumPy's legacy generator, whose numbers never change between releases."""
    n = number(seed)
    return np.random.RandomState(n if n < PLAIN else [n & 0xFFFFFFFF, n >> 32])


def sequence(*keys: int) -> np.random.SeedSequence:
    """Entropy that is a function of the integers `keys` alone, hashed, so that near keys are unrelated."""
    return np.random.SeedSequence([number(k) for k in keys])


def hashed_rng(*keys: int) -> np.random.RandomState:
    """A generator of its own for each `keys`, with the numbers of RandomState."""
    return np.random.RandomState(np.random.MT19937(sequence(*keys)))


def tag(seed: int) -> str:
    """`seed` in a file name: at least four digits; a seed too long for a name by its beginning and a hash."""
    text = f"{seed:04d}"
    return text if len(text) <= 40 else f"{text[:20]}_{number(seed):x}"
