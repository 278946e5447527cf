# SPDX-License-Identifier: Apache-2.0
"""Losses and regularisers that several methods share: one idea per file."""
