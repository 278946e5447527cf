# SPDX-License-Identifier: Apache-2.0
"""Evaluation: one file per metric (functions of feature matrices), `stats` (images to features), `metrics` (names)."""
