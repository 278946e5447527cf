# SPDX-License-Identifier: Apache-2.0
"""Optimisers without torch's compiler: the steps and states of torch's own."""

import copy
import sys

import pytest
import torch

from torch_utils import optimizers
from torch_utils.lreq_adam import LREQAdam

KINDS = {"Adam": dict(lr=0.1, betas=(0.0, 0.99)), "AdamW": dict(lr=0.1, weight_decay=0.1, fused=True),
         "SGD": dict(lr=0.1, momentum=0.9, weight_decay=0.01)}


def steps(kind, n=3, state=None, **kw):
    """`n` steps on a quadratic; (values, state)"""
    p = torch.nn.Parameter(torch.arange(1.0, 5.0))
    opt = kind([p], **kw)
    if state is not None:
        opt.load_state_dict(copy.deepcopy(state))  # which keeps tensors, and steps change them
    schedule = torch.optim.lr_scheduler.ExponentialLR(opt, 0.5)
    for _ in range(n):
        opt.zero_grad()
        assert p.grad is None
        p.square().sum().backward()
        opt.step()
        schedule.step()
    assert p.requires_grad and torch.is_grad_enabled()
    return p.detach(), opt.state_dict()


@pytest.mark.parametrize("name", list(KINDS))
def test_steps_and_states_are_torchs(name):
    ours, theirs = getattr(optimizers, name), getattr(torch.optim, name)
    assert issubclass(ours, theirs) and ours.__name__ == name
    a, state = steps(ours, **KINDS[name])
    b, expected = steps(theirs, **KINDS[name])
    assert torch.equal(a, b) and str(state) == str(expected)
    assert torch.equal(steps(ours, state=expected, **KINDS[name])[0], steps(theirs, state=expected, **KINDS[name])[0])


def test_nothing_asks_for_the_compiler(monkeypatch):
    """Its modules are taken away: whoever imports it fails. (Whole trainings: tests/split_batch.py.)"""
    monkeypatch.setitem(sys.modules, "torch._dynamo", None)
    monkeypatch.delattr(torch, "_dynamo", raising=False)
    for name, kw in KINDS.items():
        steps(getattr(optimizers, name), **kw)
    p = torch.nn.Parameter(torch.ones(3))
    opt = LREQAdam([(p, 2.0)])
    p.sum().backward()
    opt.step()
    assert (p < 1).all()
