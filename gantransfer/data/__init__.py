# SPDX-License-Identifier: Apache-2.0
"""Images and labels: containers, decoding, sources, the data-set format."""
