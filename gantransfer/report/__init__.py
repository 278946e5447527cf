# SPDX-License-Identifier: Apache-2.0
"""Runs and studies as one page that opens anywhere: read.py, then what is drawn of them, then page.py."""
