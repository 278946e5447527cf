# SPDX-License-Identifier: Apache-2.0
"""Snapshots as files that other programs open."""
