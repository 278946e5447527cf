# SPDX-License-Identifier: Apache-2.0
"""Train, measure and adapt class-conditional GANs: several methods, one base, one loop, one snapshot format."""

__version__ = "0.1.0"
