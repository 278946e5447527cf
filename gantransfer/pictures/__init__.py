# SPDX-License-Identifier: Apache-2.0
"""Sheets, grids and other pictures."""
