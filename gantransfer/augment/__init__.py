# SPDX-License-Identifier: Apache-2.0
"""Everything done to images before a network sees them."""
