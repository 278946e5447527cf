# SPDX-License-Identifier: Apache-2.0
"""`gantransfer demo`: the study `demo` of gantransfer/experiments."""

from gantransfer.experiments.demo import main

__all__ = ["main"]
