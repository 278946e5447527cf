# SPDX-License-Identifier: Apache-2.0
"""Feature detectors: networks, weights files, and what goes into them."""
