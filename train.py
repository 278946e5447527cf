#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""Train a generator: the command `gantransfer train`."""

from gantransfer.__main__ import run

if __name__ == "__main__":
    run("train")
