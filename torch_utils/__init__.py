# SPDX-License-Identifier: Apache-2.0
"""Knows torch, knows no network: operators, random numbers, processes, statistics."""
