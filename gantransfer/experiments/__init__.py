# SPDX-License-Identifier: Apache-2.0
"""The evidence: one harness, one file per study."""
