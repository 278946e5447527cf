# SPDX-License-Identifier: Apache-2.0
"""File formats under foreign checkpoints, read without running anything."""
