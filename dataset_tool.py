#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""Make, check and export data sets: the command `gantransfer dataset_tool`."""

from gantransfer.__main__ import run

if __name__ == "__main__":
    run("dataset_tool")
