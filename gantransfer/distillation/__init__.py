# SPDX-License-Identifier: Apache-2.0
"""Generated images for a student: drawn, selected, relabelled, and the losses of knowledge distillation."""
