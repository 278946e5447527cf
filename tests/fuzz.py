# SPDX-License-Identifier: Apache-2.0
"""Fuzz the readers of every kind of file: `python -m tests.fuzz --seconds=600`, the same as `tests.chaos.mutations`."""

from tests.chaos.mutations import main

if __name__ == "__main__":
    main()
