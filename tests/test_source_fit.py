# SPDX-License-Identifier: Apache-2.0
"""Sources that do not fit a run: one line in the user's words, with the flag that mends it, and nothing written."""

import copy

import numpy as np
import pytest

from dnnlib.util import UserError
from gantransfer.data.dataset import DataSpec, LabelSpec
from gantransfer.method import RunConfig
from gantransfer.methods import METHODS
from gantransfer.snapshot import NetRecord, Snapshot
from tests.conftest import write_image_zip
from tests.made import made

SIZES = {
    "stylegan2": dict(cfg="tiny", z_dim=8, w_dim=8, map_depth=2, d_map_depth=2, cbase=64, cmax=8),
    "utlo": dict(cfg="tiny", z_dim=8, w_dim=8, map_depth=2, d_map_depth=2, cbase=64, cmax=8),
    "transitional": dict(cfg="tiny", z_dim=8, w_dim=8, map_depth=2, d_map_depth=2, cbase=64, cmax=8),
    "biggan": dict(cfg="tiny", z_dim=16, g_ch=8, d_ch=8, shared_dim=8),
    "alae": dict(cfg="tiny", z_dim=8, map_depth=2, cbase=64, cmax=8),
    "ccgan": dict(cfg="tiny", z_dim=8, ch=8, h_dim=16),
}


def spec(method, size=None, channels=1, label=None):
    size = size or (64 if method == "ccgan" else 32 if method == "biggan" else 16)
    kinds = dict(alae=LabelSpec(), ccgan=LabelSpec("value", 1, meta=dict(kind="regression", min=0, max=1, offset=0,
                                                                        scale=1)))
    return DataSpec("x", size, channels, 30, label or kinds.get(method, LabelSpec("class", 2, (15, 15))))


def resolved(method, data, **options):
    kind = METHODS[method]
    o = kind.Options(**options)
    kind.resolve(o, RunConfig(resume="source.pkl"), data)
    return o


def source_of(method, data=None, **options):
    data = data or spec(method)
    m = made(method, data, **{**SIZES[method], **options})
    return Snapshot(method, {k: NetRecord.of(net) for k, net in m.nets.items()}, m.opts.to_dict(), data.to_dict())


@pytest.fixture(scope="module")
def sources():
    return {m: source_of(m) for m in SIZES}


def flags_in(line):
    """The remedy of a line, as options."""
    words = [w.strip(",;") for w in line.split() if w.startswith("--") and "=" in w]
    return dict(w[2:].split("=", 1) for w in words)


@pytest.mark.parametrize("method", SIZES)
def test_a_source_of_the_same_sizes_is_taken(method, sources):
    METHODS[method].check_source(resolved(method, spec(method), **SIZES[method]), spec(method), sources[method], "main")


CASES = [(m, changed, words) for m, rows in {
    "stylegan2": [(dict(map_depth=3), "mapping network has 2 layers (here 3)"),
                  (dict(z_dim=16), "latent z has 8 numbers (here 16)"), (dict(w_dim=16), "latent w has 8"),
                  (dict(cbase=128), "channels from the first map"), (dict(cmax=4), "channels from the first map"),
                  (dict(map_lr=0.01), "its mapping learns at 0.1"),
                  (dict(d_map_depth=3), "label mapping has 2 layers"), (dict(d_arch="orig"), "architecture is resnet"),
                  (dict(z_dim=4, map_depth=1, cmax=2), "mapping network has 2 layers")],
    "utlo": [(dict(map_depth=3), "mapping network has 2 layers"), (dict(res_uc=0, add_uc=False), "label-free layers")],
    "transitional": [(dict(w_dim=16), "latent w has 8")],
    "biggan": [(dict(g_ch=16), "channel unit is 8 (here 16)"), (dict(z_dim=32), "latent z has 16"),
               (dict(shared_dim=16), "shared class embedding has 8"), (dict(d_ch=16), "discriminator's channel unit"),
               (dict(g_attn="16"), "attention at 0 (here 16)")],
    "alae": [(dict(map_depth=3), "mapping network has 2 layers"), (dict(z_dim=16), "latent has 8"),
             (dict(cbase=128), "channels from the first map up")],
    "ccgan": [(dict(z_dim=16), "latent z has 8"), (dict(ch=16), "channel unit is 8"), (dict(h_dim=32), "code has 16"),
              (dict(arch="sagan"), "architecture is sngan")],
}.items() for changed, words in rows]


@pytest.mark.parametrize("method, changed, words", CASES, ids=lambda v: "-".join(v) if isinstance(v, dict) else None)
def test_every_difference_is_named_and_the_flags_of_the_line_mend_it(method, changed, words, sources):
    data, kind = spec(method), METHODS[method]
    o = resolved(method, data, **{**SIZES[method], **changed})
    with pytest.raises(UserError) as e:
        kind.check_source(o, data, sources[method], "main")
    line = str(e.value)
    assert words in line and "\n" not in line
    assert not any(w in line for w in (".weight", ".bias", "mapping.fc", "synthesis."))
    given = {k: type(getattr(o, k))(v) for k, v in flags_in(line).items()}
    assert given, line
    mended = {**SIZES[method], **changed, **given}
    if "add_uc" in changed:
        mended.pop("add_uc")
    kind.check_source(resolved(method, data, **mended), data, sources[method], "main")


@pytest.mark.parametrize("method", SIZES)
def test_sizes_and_channels_of_images(method, sources):
    for data, words in ((spec(method, channels=3), "--channels=1"),
                        (spec(method, size=128), "--resolution={0}x{0}".format(spec(method).resolution))):
        o = copy.copy(resolved(method, spec(method), **SIZES[method]))
        with pytest.raises(UserError, match=words) as e:
            METHODS[method].check_source(o, data, sources[method], "main")
        assert "dataset_tool.py" in str(e.value)


@pytest.mark.parametrize("method, other", [("stylegan2", "biggan"), ("biggan", "stylegan2"), ("stylegan2", "utlo"),
                                           ("utlo", "transitional"), ("alae", "stylegan2"), ("stylegan2", "alae")])
def test_sources_of_another_method_name_both(method, other, sources):
    data = spec(method)
    with pytest.raises(UserError, match=f"(?s)(--method={other}.*--method={method}|no network)"):
        METHODS[method].check_source(resolved(method, data, **SIZES[method]), data, sources[other], "main")


def test_an_ordinary_generator_still_starts_its_relatives(sources):
    for method in ("utlo", "transitional"):
        data = spec(method)
        METHODS[method].check_source(resolved(method, data, **SIZES[method]), data, sources["stylegan2"], "main")
        made(method, data, start=sources["stylegan2"], **SIZES[method])


def test_train_says_it_before_anything_is_written(tmp_path, call, sources):
    sources["stylegan2"].save(tmp_path / "source.pkl")
    write_image_zip(tmp_path / "set.zip", [np.full([16, 16], i, np.uint8) for i in range(8)])
    for more, words in ((["--map_depth=4"], "--map_depth=2"), (["--cbase=1024"], "--cbase=64 --cmax=8")):
        err = call("train", f"--outdir={tmp_path / 'out'}", f"--data={tmp_path / 'set.zip'}", "--cfg=tiny", "--z_dim=8",
                   "--w_dim=8", "--cbase=64", "--cmax=8", "--map_depth=2", "--metrics=none",
                   f"--resume={tmp_path / 'source.pkl'}", *more, check=2).stderr
        assert words in err and len(err.strip().splitlines()) == 1, err
        assert not (tmp_path / "out").exists()
