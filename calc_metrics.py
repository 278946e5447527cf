#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""Measure a snapshot: the command `gantransfer calc_metrics`."""

from gantransfer.__main__ import run

if __name__ == "__main__":
    run("calc_metrics")
