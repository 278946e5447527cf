# SPDX-License-Identifier: Apache-2.0
"""One file per command: it asks and prints, and holds no logic."""
