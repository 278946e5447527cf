# SPDX-License-Identifier: Apache-2.0
"""The web page of `gantransfer view`, and its server."""
