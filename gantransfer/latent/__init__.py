# SPDX-License-Identifier: Apache-2.0
"""Frozen auto-encoders, cached latents, and what is measured on them."""
