#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""Long-tailed splits of a data set: the command `gantransfer lt_dataset`."""

from gantransfer.__main__ import run

if __name__ == "__main__":
    run("lt_dataset")
