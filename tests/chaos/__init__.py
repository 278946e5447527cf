# SPDX-License-Identifier: Apache-2.0
"""The chaos suite: whole runs that are killed, signalled, starved of disk, doubled and fed damaged files.

`python -m tests.chaos --minutes=10` runs all parts and prints their figures.
"""
