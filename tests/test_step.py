# SPDX-License-Identifier: Apache-2.0
"""One training step: gradients in the layout of their parameters, precision, no waiting for the device."""

import pytest
import torch

from gantransfer.training_loop import FlatGradients


def test_fused_adam_pairs_channels_last_weights_with_their_gradients():
    """Gradients are views of one vector; the fused optimiser walks weight and gradient by address."""
    torch.manual_seed(0)
    start, slope = torch.randn(6, 5, 3, 3), torch.randn(6, 5, 3, 3)
    out = []
    for layout in (torch.contiguous_format, torch.channels_last):
        params = [torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(start.clone(memory_format=layout))]
        grads, opt = FlatGradients(params), torch.optim.Adam(params, lr=0.1, fused=True)
        for k in (1.0, -2.0):
            grads.attach()
            (params[0].sum() + k * (params[1] * slope).sum()).backward()
            assert grads.flat.abs().sum() > 0 and params[1].grad.stride() == params[1].stride()
            grads.finish()
            opt.step()
            grads.detach()
        out.append(params[1].detach().clone(memory_format=torch.contiguous_format))
    assert (out[0] - start).abs().max() > 0.01 and torch.equal(*out)
