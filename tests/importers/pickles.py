# SPDX-License-Identifier: Apache-2.0
"""Networks small enough for tests, pickled as the published code does, and what an importer should make of them."""

import importlib
import pickle
import types

import numpy as np
import torch

from dnnlib.util import EasyDict

SMALL_G = dict(z_dim=8, c_dim=3, w_dim=8, img_resolution=16, img_channels=3, mapping_kwargs=dict(num_layers=2),
               synthesis_kwargs=dict(channel_base=64, channel_max=6))
SMALL_D = dict(c_dim=3, img_resolution=16, img_channels=3, channel_base=64, channel_max=6, mapping_kwargs={},
               epilogue_kwargs=dict(mbstd_group_size=2))


def persistence_module():
    """A module of the name that published pickles refer to, so that pickles of their form can be written."""
    module = types.ModuleType("torch_utils.persistence")

    def _reconstruct_persistent_obj(meta):
        raise AssertionError("the stand-in must be used, never a function of this name")

    _reconstruct_persistent_obj.__module__ = module.__name__
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    module._reconstruct_persistent_obj = _reconstruct_persistent_obj
    return module


class Persistent:
    """Pickles a module as the published code does."""

    def __init__(self, persistence, module, class_name, kwargs=None, source="", **attributes):
        state = {
            "training": False,
            "_parameters": dict(module._parameters),
            "_buffers": dict(module._buffers),
            "_non_persistent_buffers_set": set(module._non_persistent_buffers_set),
            "_modules": {k: m if m is None else Persistent(persistence, m, type(m).__name__)
                         for k, m in module._modules.items()},
            "weight_gain": np.float64(0.25),
            **attributes,
            "_init_args": (),
            "_init_kwargs": EasyDict(kwargs or {}),
        }
        self.function = persistence._reconstruct_persistent_obj
        self.meta = dict(type="class", version=6, module_src=source, class_name=class_name, state=state)

    def __reduce__(self):
        return self.function, (self.meta,)


def randomise(module, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for t in module.state_dict().values():
            t.copy_(torch.rand(t.shape, generator=generator))
    return module


def write(path, persistence, networks, protocol=4, **top):
    path.write_bytes(pickle.dumps(dict(networks, **top), protocol=protocol))
    return path


def small_networks(kind, g_kwargs=None, d_kwargs=None):
    module = importlib.import_module(f"gantransfer.networks.{kind}")
    return (randomise(module.Generator(**SMALL_G, **(g_kwargs or {})), 1),
            randomise(module.Discriminator(**SMALL_D, **(d_kwargs or {})), 2))


def drawn(net, seed=1):
    """Fresh weights, none of the constants left at zero."""
    torch.manual_seed(seed)
    for name, t in net.state_dict().items():
        if name.endswith(("bias", "noise_strength", "w_avg")):
            t.normal_(0, 0.3)
    return net


def image(G, psi=1.0):
    """[2, 3, 16, 16] of fixed latents, labels and noise."""
    z = torch.from_numpy(np.random.RandomState(4).randn(2, 8)).float()
    with torch.no_grad():
        return G(z, torch.eye(3)[[0, 2]][:, : G.c_dim], truncation_psi=psi, noise_mode="const", force_fp32=True)


def agrees(snap, G, name="G_ema"):
    for psi in (1.0, 0.6):
        torch.testing.assert_close(image(snap.build(name), psi), image(G.eval(), psi), rtol=1e-5, atol=1e-5)
