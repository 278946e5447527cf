# SPDX-License-Identifier: Apache-2.0
"""Mind2Mind beyond the published numbers: the cache, what is trained, labels, baselines, bad input. With
networks/latent_encoder.py."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from dnnlib.util import UserError
from gantransfer import training_loop
from gantransfer.commands import encode
from gantransfer.data.dataset import DataSpec, ImageDataset, LabelSpec
from gantransfer.importers import load_any
from gantransfer.latent import autoencoder, reconstructions
from gantransfer.latent import cache as latents
from gantransfer.method import RunConfig
from gantransfer.methods import METHODS, encoder, mind2mind
from gantransfer.networks import mindgan
from gantransfer.snapshot import NetRecord, Snapshot
from gantransfer.snapshot import load as load_snapshot
from gantransfer.training_loop import Outputs
from tests.conftest import write_image_zip
from tests.golden.training import batch_of
from tests.made import made

TINY = dict(cfg="tiny", cbase=64, cmax=8, z_dim=8, w_dim=8)


def base_source(data, **options):
    """An untrained StyleGAN2 whose latents matter."""
    return made("stylegan2", data, dict(batch=8), **{**TINY, **options}).snapshot(0)


def with_encoder(source, data, space="w", **run):
    return made("encoder", data, dict(batch=8, kimg=0.016) | run, source, cfg="tiny", space=space)


@pytest.fixture(scope="module", autouse=True)
def small_samples():
    """Figures of few samples: here it matters that they are there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(encoder.CFGS["tiny"], "mapped", 2000)
        patch.setitem(encoder.CFGS["tiny"], "fitted", 256)
        patch.setattr(encoder.Encoder, "pairs", 32)
        patch.setattr(mind2mind.Mind2Mind, "image_samples", 32)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory, digits):
    path = tmp_path_factory.mktemp("mind")
    images, labels = digits
    write_image_zip(path / "target.zip", images, [int(y) for y in labels])
    write_image_zip(path / "values.zip", images, [[float(y) / 3] for y in labels])
    return path


@pytest.fixture(scope="module")
def target(folder):
    return ImageDataset(folder / "target.zip", use_labels=True)


@pytest.fixture(scope="module")
def source(target):
    """A snapshot of --method=encoder, its head fitted, otherwise untrained."""
    plain = DataSpec("source", 16, 1, 40)
    m = with_encoder(base_source(plain), plain)
    snap = Snapshot("encoder", {k: NetRecord.of(v) for k, v in m.nets.items()}, data=plain.to_dict())
    return snap


@pytest.fixture(scope="module")
def saved(source, folder):
    source.save(folder / "source.pkl")
    return folder / "source.pkl"


def make(source, data, run=None, **options):
    return made("mind2mind", data, {**dict(batch=8, kimg=0.064, tick=0.032, snap=1), **(run or {})}, source,
                **{**dict(hidden_g="16,16", hidden_d="16,16", z_dim=4, n_critic=2), **options})


def train(m, dataset, folder, state=None):
    out = Outputs(folder, m.run.snap, False, evaluate=lambda method, nimg, path: method.evaluate(nimg))
    training_loop.run(m, dataset, m.run, out, state)
    return load_snapshot(max(folder.glob("network-snapshot-*.pkl")))


def cached(source, folder, name="target.zip", **kw):
    ae = autoencoder.load(source)
    path = latents.default_path(folder / name)
    return path if path.exists() else latents.encode(latents.whole_set(folder / name), ae, path, **kw).path


# ---- the cache -----------------------------------------------------------------------------------------------------


def test_cache_holds_what_the_encoder_says(source, folder, target):
    ae = autoencoder.load(source)
    cache = latents.encode(latents.whole_set(folder / "target.zip"), ae, folder / "a.npz", flips=True, batch=7)
    n = len(target)
    assert cache.w.shape == (2 * n, 1, 8) and cache.w.dtype == np.float32
    x = torch.from_numpy(target.images_uint8([3, 5])).float() / 127.5 - 1
    with torch.no_grad():
        assert np.abs(ae.encode(x).numpy() - cache.w[[3, 5]]).max() < 1e-5
        assert np.abs(ae.encode(x.flip(3)).numpy() - cache.w[[n + 3, n + 5]]).max() < 1e-5
        error = (ae.decode(ae.encode(x)).clamp(-1, 1) - x).square().mean((1, 2, 3))
        assert np.allclose(cache.recon[[3, 5], 0], error.numpy(), rtol=1e-4)
    assert (cache.index[:n] == np.arange(n)).all() and cache.flip.sum() == n
    assert (cache.label == np.tile(target.class_ids, 2)).all()
    base = cache.w[:n, 0].astype(np.float64)
    assert np.allclose(cache.mean, base.mean(0)) and np.all(np.diff(cache.eigval) <= 0)
    again = cache.eigvec @ np.diag(cache.eigval) @ cache.eigvec.T
    assert np.allclose(again, np.cov(base, rowvar=False, ddof=0), atol=1e-8)
    assert {"format", "encoder", "decoder", "data", "resolution", "noise_mode", "dtype", "xflip", "label_names",
            "seconds"} <= set(cache.config)
    half = latents.encode(latents.whole_set(folder / "target.zip"), ae, folder / "h.npz", half=True)
    assert half.w.dtype == np.float16


@pytest.mark.parametrize("shards", [1, 3])
def test_encoding_resumes_to_the_same_bytes(source, folder, monkeypatch, shards):
    ae, whole = autoencoder.load(source), latents.whole_set(folder / "target.zip")
    monkeypatch.setattr(latents, "BLOCK", 8)
    want = latents.encode(whole, ae, folder / "straight.npz", batch=4)
    place = folder / f"parts{shards}.npz"
    if shards == 1:
        done = []

        def kill(n):
            done.append(n)
            if len(done) == 5:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            latents.encode(whole, ae, place, batch=4, progress=kill)
        assert not place.exists()
        kept = {p.name: p.read_bytes() for p in folder.glob(f".{place.name}.*/*.npz")}
        assert len(kept) == 2
        got = latents.encode(whole, ae, place, batch=4)
    else:
        parts = [latents.encode(whole, ae, place, batch=4, shard=(i, shards)) for i in range(shards)]
        assert parts[:-1] == [None] * (shards - 1)
        got = parts[-1]
    for key in ("w", "index", "flip", "label", "recon", "mean", "eigval", "eigvec"):
        assert getattr(got, key).tobytes() == getattr(want, key).tobytes(), key
    assert {k: v for k, v in got.config.items() if k != "seconds"} == {
        k: v for k, v in want.config.items() if k != "seconds"}
    assert not list(folder.glob(f".{place.name}.*"))


def run_encode(*args):
    result = CliRunner().invoke(encode.main, [str(a) for a in args], catch_exceptions=True)
    if isinstance(result.exception, UserError):
        return str(result.exception)
    assert result.exception is None, result.exception
    return result.output


def test_encode_command(saved, folder):
    place = folder / "command.npz"
    args = [f"--data={folder / 'target.zip'}", f"--network={saved}", f"--cache={place}", "--device=cpu"]
    assert "--accept" not in run_encode(*args)
    text = run_encode(*args)
    assert "there already" in text and "floor: reconstruction error" in text and "PSNR" in text
    first = place.read_bytes()
    other = load_any(saved)
    other.nets["E_ema"].state["head.bias"] += 1
    other.save(folder / "other.pkl")
    args[1] = f"--network={folder / 'other.pkl'}"
    text = run_encode(*args)
    assert "another encoder" in text and "--overwrite" in text and place.read_bytes() == first
    assert "40 latents" in run_encode(*args, "--overwrite") and place.read_bytes() != first
    assert "is not I/N" in run_encode(*args, "--shard=3/2")
    other.extra |= dict(accepted=False, acceptance=dict(latent_error=0.5))
    other.save(folder / "other.pkl")
    assert "missed its acceptance" in run_encode(*args) and "Warning" in run_encode(*args, "--accept")


def test_floor_metric_of_reconstructions(source, folder):
    cache = latents.read(cached(source, folder))
    ae, whole = autoencoder.load(source), latents.whole_set(folder / "target.zip")
    s = reconstructions.Reconstructions(cache, ae, whole, "cpu")
    c = torch.eye(4)[[2, 2]]
    members = np.flatnonzero(whole.class_ids == 2)
    with torch.no_grad():
        want = ae.decode(torch.from_numpy(cache.w[members[[0, 1]]]))
    assert torch.equal(s([0, 1], c), ((want * 127.5 + 128).clamp(0, 255)).to(torch.uint8))


# ---- bad input -----------------------------------------------------------------------------------------------------


def test_bad_caches_are_named_and_left_alone(source, folder, target, tmp_path):
    ae, whole = autoencoder.load(source), latents.whole_set(folder / "target.zip")
    cache = latents.read(cached(source, folder))
    for key, said in (("encoder", "another encoder"), ("decoder", "another decoder"), ("data", "other images")):
        broken = latents.Cache(**{**vars(cache), "config": {**cache.config, key: "0" * 64}})
        with pytest.raises(UserError, match=f"{said}.*--cache_override"):
            broken.check(ae, whole)
        assert said in broken.check(ae, whole, override=True)[0]
    broken = latents.Cache(**{**vars(cache), "config": {**cache.config, "label_dim": 7}})
    with pytest.raises(UserError, match="labels are 7 wide .class., those of .* are 4"):
        broken.check(ae, whole)
    with pytest.raises(UserError, match="--xflip=1"):
        latents.rows_for(cache, ImageDataset(folder / "target.zip", xflip=True), whole)
    arrays = dict(np.load(cached(source, folder)))
    arrays["w"][5, 0, 3] = np.nan
    np.savez(tmp_path / "nan.npz", **arrays)
    with pytest.raises(UserError, match="latent of image 5 is not finite"):
        latents.read(tmp_path / "nan.npz")
    (tmp_path / "cut.npz").write_bytes(cached(source, folder).read_bytes()[:3000])
    with pytest.raises(UserError, match="damaged"):
        latents.read(tmp_path / "cut.npz")
    with pytest.raises(UserError, match="gantransfer encode"):
        latents.read(tmp_path / "none.npz")


def test_a_training_with_the_wrong_cache_stops_and_leaves_it(source, folder, target, tmp_path):
    path = cached(source, folder)
    other = load_copy(source)
    other.nets["E_ema"].state["head.bias"] += 1
    before = path.read_bytes()
    m = make(other, target.spec)
    with pytest.raises(UserError, match="another encoder"):
        m.prepare(target)
    m = make(other, target.spec, cache_override=True)
    m.prepare(target)
    assert path.read_bytes() == before


def load_copy(snap):
    return Snapshot(snap.method, {k: NetRecord(r.cls, r.kwargs, {n: t.clone() for n, t in r.state.items()})
                                  for k, r in snap.nets.items()}, data=snap.data, extra=dict(snap.extra))


def test_unfit_sources_and_settings(source, target):
    kind = METHODS["mind2mind"]
    opts = kind.Options()

    def refuse(snap, match, data=target.spec, o=opts):
        with pytest.raises(UserError, match=match):
            kind.check_source(o, data, snap, "main")

    refuse(None, "needs --source")
    refuse(base_source(DataSpec("s", 16, 1, 40)), "no encoder; train one with train.py --method=encoder")
    refuse(source, "16x16 pixels, t has 32x32", data=DataSpec("t", 32, 1, 40))
    bad = load_copy(source)
    bad.nets["G_ema"].state["synthesis.b4.const"][0] = math.inf
    refuse(bad, "G_ema.synthesis.b4.const of the source is not finite")
    missed = load_copy(source)
    missed.extra |= dict(accepted=False, acceptance=dict(latent_error=0.4))
    refuse(missed, "missed its acceptance figure .*0.4")
    kind.check_source(kind.Options(accept_encoder=True), target.spec, missed, "main")
    with pytest.raises(UserError, match="--batch=64 is more than the 40 latents"):
        make(source, target.spec, run=dict(batch=64))
    with pytest.raises(UserError, match="--hidden_g=12,x"):
        make(source, target.spec, hidden_g="12,x")
    with pytest.raises(UserError, match="--betas=0"):
        make(source, target.spec, betas="0")
    with pytest.raises(UserError, match="--latent_aug=fixed needs --p"):
        make(source, target.spec, latent_aug="fixed")
    with pytest.raises(UserError, match="--epochs and --kimg"):
        make(source, target.spec, epochs=3.0)
    with pytest.raises(UserError, match="--gamma belongs"):
        make(source, target.spec, gamma=1.0)
    with pytest.raises(UserError, match="needs classes"):
        make(source, DataSpec("t", 16, 1, 40), moment_weight=1.0)


# ---- training ------------------------------------------------------------------------------------------------------


def test_only_the_mind_is_trained(source, folder, target, tmp_path):
    cached(source, folder)
    m = make(source, target.spec, run=dict(kimg=0.016))
    before = {k: {n: t.clone() for n, t in v.state_dict().items()} for k, v in m.nets.items()}
    snap = train(m, target, tmp_path)
    assert {p.name: p.repeat for p in m.phases()} == {"critic": 2, "map": 1}
    moved = {k for k, v in m.nets.items() if any(not torch.equal(t, before[k][n]) for n, t in v.named_parameters())}
    assert moved == {"M", "K", "G_ema"}
    for name in ("E", "D"):
        assert all(torch.equal(t, source.nets["E_ema" if name == "E" else name].state[n])
                   for n, t in snap.nets[name].state.items())
    synthesis = {n: t for n, t in source.nets["G_ema"].state.items() if n.startswith("synthesis.")}
    assert all(torch.equal(snap.nets["G_ema"].state[n], t) for n, t in synthesis.items())


def test_snapshot_is_an_ordinary_generator(source, folder, target, tmp_path):
    cached(source, folder)
    snap = train(make(source, target.spec), target, tmp_path)
    s = METHODS["mind2mind"].sampler_from(snap)
    c = torch.eye(4)
    images = s(range(4), c)
    assert images.shape == (4, 1, 16, 16) and torch.equal(images[2:3], s([2], c[2:3]))
    assert not torch.equal(images, s(range(4), c, view="uc"))
    G = snap.build("G_ema")
    z = torch.randn(3, G.z_dim)
    ws = G.mapping(z, c[:3])
    assert ws.shape == (3, G.num_ws, G.w_dim) and torch.equal(ws[:, 0], ws[:, -1])
    middle = G.mapping(z, c[:3], truncation_psi=0)
    assert torch.allclose(middle, G.mapping.w_avg.expand_as(middle), atol=1e-6)
    part = G.mapping(z, c[:3], truncation_psi=0, truncation_cutoff=2)
    assert torch.equal(part[:, 2:], ws[:, 2:]) and not torch.equal(part[:, :2], ws[:, :2])
    cache = latents.read(latents.default_path(folder / "target.zip"))
    assert np.allclose(G.mapping.w_avg.numpy(), cache.w[:, 0].mean(0), atol=1e-5)
    # a further target can start from it, and it can be encoded with
    METHODS["mind2mind"].check_source(METHODS["mind2mind"].Options(), target.spec, snap, "main")
    assert autoencoder.load(snap).hashes() == autoencoder.load(source).hashes()
    assert make(snap, target.spec).M.model[0].weight.equal(snap.nets["M"].state["model.0.weight"])
    for name in ("gaussian", "class_gaussian"):
        base = mind2mind.baseline(snap, name)
        base.save(tmp_path / "base.pkl")
        loaded = load_any(tmp_path / "base.pkl")
        assert METHODS["mind2mind"].sampler_from(loaded)(range(4), c).float().std() > 0
        with pytest.raises(UserError, match="no such fit"):
            mind2mind.baseline(loaded, name)


def test_codes_map_back_to_latents(source, folder, target):
    cached(source, folder)
    for kind in mind2mind.NORMALISATIONS:
        m = make(source, target.spec, normalize=kind)
        reals = m.prepare(target)
        w = torch.from_numpy(latents.read(latents.default_path(folder / "target.zip")).w[:, 0])
        assert torch.allclose(m.M.decode(reals.codes)[:, 0], w, atol=1e-4)
        cov = torch.cov(reals.codes.t(), correction=0)
        if kind == "whiten":
            kept = cov.diagonal() > 0.5  # the floor keeps directions without variance small
            assert kept.any() and torch.allclose(cov[kept][:, kept], torch.eye(int(kept.sum())), atol=1e-3)
        elif kind == "std":
            assert (cov.diagonal() < 1 + 1e-3).all() and (cov.diagonal() > 0.5).any()
        elif kind == "scalar":
            assert float(cov.diagonal().mean()) == pytest.approx(1, rel=1e-3)
        assert torch.allclose(reals.codes, torch.from_numpy(w.numpy()), atol=1e-6) == (kind == "none")


def test_a_latent_per_layer(folder, target, tmp_path):
    plain = DataSpec("source", 16, 1, 40)
    m = with_encoder(base_source(plain), plain, space="w+")
    assert m.E(torch.zeros(2, 1, 16, 16)).shape == (2, m.G.num_ws, 8)
    with torch.no_grad():
        m.nets["E_ema"].offsets.weight.normal_(0, 0.3)  # as training would: otherwise all layers agree
    snap = Snapshot("encoder", {k: NetRecord.of(v) for k, v in m.nets.items()}, data=plain.to_dict())
    place = tmp_path / "plus.npz"
    latents.encode(latents.whole_set(folder / "target.zip"), autoencoder.load(snap), place)
    m = make(snap, target.spec, cache=str(place), components=12)
    assert m.code_dim == 12 and m.M.dense
    out = train(m, target, tmp_path)
    assert METHODS["mind2mind"].sampler_from(out)(range(4), torch.eye(4)).shape == (4, 1, 16, 16)
    w = torch.from_numpy(latents.read(place).w)
    near = m.M.decode(m.train.codes)
    assert near.shape == w.shape
    assert float((near - w).square().sum() / (w - w.mean(0)).square().sum()) < 0.2  # leading components carry most


def test_labels_matter_and_can_be_left_out(source, folder, target):
    cached(source, folder)
    m = make(source, target.spec)
    m.prepare(target)
    z = torch.randn(4, 4)
    c, other = torch.eye(4), torch.eye(4)[[1, 2, 3, 0]]
    zero = torch.zeros(4, 1)
    assert not torch.allclose(m.M.codes(z, c), m.M.codes(z, other))
    assert torch.equal(m.M.codes(z, c, zero), m.M.codes(z, other, zero))
    assert torch.equal(m.K(torch.ones(4, 8), c, zero), m.K(torch.ones(4, 8), other, zero))
    # the codes of classes start at shrunken means: (n mean_c + kappa mean) / (n + kappa)
    ids, codes = target.class_ids, m.base.numpy()
    want = (codes[ids == 1].sum(0) + 50 * codes.mean(0)) / (10 + 50)
    assert np.allclose(m.class_means[1].numpy(), want, atol=1e-5)
    assert torch.allclose(m.M.offset[1], m.class_means[1] - m.base.mean(0), atol=1e-6)


def test_float_vector_labels(source, folder, tmp_path):
    data = ImageDataset(folder / "values.zip", use_labels=True)
    cached(source, folder, "values.zip")
    m = make(source, data.spec)
    snap = train(m, data, tmp_path)
    values = data.labels(np.arange(40))
    assert torch.allclose(m.sigma, torch.from_numpy(values.std(0, ddof=1) * (4 / 120) ** 0.2))
    s = METHODS["mind2mind"].sampler_from(snap)
    a, b = (s(range(3), torch.full([3, 1], v)) for v in (0.0, 1.0))
    assert not torch.equal(a, b)


def test_partners_share_the_class(source, folder, target):
    m = make(source, target.spec)
    c = torch.eye(4)[torch.tensor([0, 1, 0, 2, 1, 0, 3])]
    partner = m._partners(c, torch.rand(7))
    assert (c[partner] == c).all() and sorted(partner.tolist()) == list(range(7))
    assert partner[3] == 3 and partner[0] != 0  # alone in its class; one of three


def test_augmentation_moves_towards_the_target(source, digits, tmp_path):
    """p rises while the critic prefers its training latents to held-out ones, and falls otherwise."""
    images, labels = digits
    path = write_image_zip(tmp_path / "more.zip", np.tile(images, (4, 1, 1)), [int(y) for y in np.tile(labels, 4)])
    data = ImageDataset(path, use_labels=True)
    latents.encode(latents.whole_set(path), autoencoder.load(source), latents.default_path(path))
    m = make(source, data.spec)
    assert m.opts.latent_aug == "adaptive"
    reals = m.prepare(data)
    assert len(m.heldout) == 16 and len(reals) == 144
    assert not set(m.heldout_items) & set(reals.items)
    before = m.p
    with torch.no_grad():
        m._adapt(10_000)
        high = m.overfit
        assert math.isfinite(high)
        m.opts.target, m.p = high - 0.1, 0.3
        m._adapt(10_000)
        assert m.p == pytest.approx(0.5)
        m.opts.target = high + 0.1
        m._adapt(10_000)
        assert m.p == pytest.approx(0.3)
    assert before == 0


def test_figures_are_reported(source, folder, target, tmp_path):
    cached(source, folder)
    m = make(source, target.spec)
    values = {}
    out = Outputs(tmp_path, 1, False,
                  evaluate=lambda method, nimg, path: values.update(method.evaluate(nimg)) or values)
    training_loop.run(m, target, m.run, out, None)
    assert {"floor_mse", "latent_fd", "latent_fd_floor", "latent_fd_gaussian", "latent_fd_class_gaussian",
            "latent_fd_neighbours", "source_fd", "source_fd_floor", "source_fd_gaussian", "bypass_residual",
            "bound_reconstruction", "bound_lipschitz", "class_mean_gap", "class_mean_gap_0", "seconds_encode",
            "seconds_train", "seconds_evaluate"} <= set(values)
    assert all(isinstance(v, float) for v in values.values())
    assert values["seconds_train"] > 0 and json.dumps(values)


# ---- the encoder ---------------------------------------------------------------------------------------------------


def test_encoder_learns_and_says_so(target, folder, tmp_path):
    plain = ImageDataset(folder / "target.zip")
    snap = base_source(plain.spec)
    m = with_encoder(snap, plain.spec)
    trunk = m.E.trunk.state_dict()
    D = snap.nets["D"].state
    assert torch.equal(trunk["b16.conv0.weight"], D["b16.conv0.weight"]) and "b4.fc.weight" not in trunk
    m = with_encoder(snap, plain.spec, kimg=0.4, snap=1, tick=0.4)
    m.prepare(plain)
    start = m.figures(-1)
    values = {}
    out = Outputs(tmp_path, 1, False, evaluate=lambda a, n, p: values.update(a.evaluate(n)))
    training_loop.run(m, plain, m.run, out, None)
    assert values["psnr"] > start["psnr"]
    assert {p.name: len(p.params) for p in m.phases()} == {"encode": len(list(m.E.parameters()))}
    out = load_snapshot(max(tmp_path.glob("network-snapshot-*.pkl")))
    assert out.extra["acceptance"] == {k: v for k, v in values.items() if k != "accepted"}
    assert out.extra["accepted"] == (values["latent_error"] < 0.1)
    for name in ("G_ema", "D"):
        assert all(torch.equal(t, snap.nets[name].state[n]) for n, t in out.nets[name].state.items())
    assert METHODS["encoder"].sampler_from(out)(range(2)).shape == (2, 1, 16, 16)


def test_encoder_for_a_conditional_source_and_one_without_discriminator(target):
    snap = base_source(target.spec)
    plain = DataSpec("source", 16, 1, 40)
    m = with_encoder(snap, plain)
    assert m.labels.spec.dim == 4 and m.E(torch.zeros(1, 1, 16, 16)).shape == (1, 1, 8)
    del snap.nets["D"]
    m = with_encoder(snap, plain)
    assert m.D is None and next(m.loss("encode", batch_of(torch.zeros(4, 1, 16, 16)))).isfinite().all()
    with pytest.raises(UserError, match="makes no images"):
        METHODS["encoder"].resolve(METHODS["encoder"].Options(), RunConfig(metrics="fid50k_full"), plain)


# ---- ALAE ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained_alae(folder, tmp_path_factory):
    plain = ImageDataset(folder / "target.zip")
    run = dict(batch=8, kimg=0.128, snap=1, tick=0.032, metrics="none")
    m = made("alae", plain.spec, run, cfg="tiny", cbase=64, cmax=8, z_dim=8, level_kimg=0.032)
    return m, train(m, plain, tmp_path_factory.mktemp("alae"))


def test_alae_grows(trained_alae):
    m, _ = trained_alae
    assert m.level == (2, 1.0) and [m.level_at(i)[0] for i in (0, 31, 32, 64, 1000)] == [0, 0, 1, 2, 2]
    assert m.level_at(36)[1] == pytest.approx(math.sin(math.pi * 0.25 / 2) ** 2)
    own = {p.name: {id(q) for q in p.params} for p in m.phases()}
    ids = {k: {id(p) for p in m.nets[k].parameters()} for k in "GEFD"}
    assert own == {"D": ids["E"] | ids["D"], "G": ids["G"] | ids["F"], "AE": ids["E"] | ids["G"] | ids["F"]}


def test_an_alae_is_a_source(trained_alae, folder, target, tmp_path):
    _, snap = trained_alae
    s = METHODS["alae"].sampler_from(snap)
    assert torch.equal(s(range(3))[1:2], s([1]))
    assert not torch.equal(s(range(3)), s(range(3), truncation_psi=0.5))
    place = tmp_path / "alae.npz"
    latents.encode(latents.whole_set(folder / "target.zip"), autoencoder.load(snap), place)
    out = train(make(snap, target.spec, cache=str(place)), target, tmp_path)
    assert out.nets["G_ema"].kwargs["synthesis"]["kind"] == "alae"
    G, ae = out.build("G_ema"), autoencoder.load(snap)
    w = torch.randn(2, 1, G.w_dim)
    assert torch.equal(G.synthesis(w.expand(-1, G.num_ws, -1), noise_mode="const"), ae.decode(w))
    assert METHODS["mind2mind"].sampler_from(out)(range(4), torch.eye(4)).shape == (4, 1, 16, 16)
    with pytest.raises(UserError, match="has no labels"):
        METHODS["alae"].resolve(METHODS["alae"].Options(), RunConfig(), DataSpec("t", 16, 1, 9, LabelSpec("class", 3)))


def test_an_imported_mindgan_becomes_a_generator(trained_alae, tmp_path):
    _, snap = trained_alae
    G, K = mindgan.Generator([5, 6, 8]), mindgan.Critic([8, 6, 1])
    torch.save({"Generator": G.state_dict(), "Critic": K.state_dict(), "Time": 1.0}, tmp_path / "mind.pth")
    snap.save(tmp_path / "alae.pkl")
    foreign = load_any(tmp_path / "mind.pth")
    with pytest.raises(UserError, match="--decoder=ALAE"):
        METHODS["mind2mind"].sampler_from(foreign)
    whole = mind2mind.with_decoder(foreign, load_any(tmp_path / "alae.pkl"), "alae.pkl")
    whole.save(tmp_path / "whole.pkl")
    again = load_any(tmp_path / "whole.pkl")
    assert METHODS["mind2mind"].sampler_from(again)(range(3)).shape == (3, 1, 16, 16)
    H = again.build("G_ema")
    z = torch.randn(4, 5)
    assert torch.allclose(H.mapping(z, None)[:, 0], G(torch.erf(z / math.sqrt(2))), atol=1e-6)
    torch.save({"Generator": mindgan.Generator([5, 9]).state_dict()}, tmp_path / "odd.pth")
    with pytest.raises(UserError, match="latents of 9 numbers"):
        mind2mind.with_decoder(load_any(tmp_path / "odd.pth"), snap, "alae.pkl")


def test_a_missing_cache_is_made(source, folder, tmp_path):
    shutil.copy(folder / "target.zip", tmp_path / "fresh.zip")
    data = ImageDataset(tmp_path / "fresh.zip", use_labels=True)
    make(source, data.spec).prepare(data)
    assert latents.default_path(tmp_path / "fresh.zip").is_file()


# ---- below the floor -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path_length", [{}, dict(pl_weight=2.0, g_reg_interval=1)])  # as with --cfg=auto
def test_tuning_trains_high_layers_only(path_length, source, folder, target, tmp_path):
    cached(source, folder)
    mind = train(make(source, target.spec), target, tmp_path / "mind")
    kind = METHODS["mind_tune"]
    run = dict(batch=8, kimg=0.032, snap=1, tick=0.016, metrics="none")
    m = made(kind, target.spec, run, mind, cfg="tiny", **path_length)
    whole = train(m, target, tmp_path / "tune")
    assert m.opts.tune_from == 8
    before = mind.nets["G_ema"].state
    moved = {k.split(".")[1] for k, t in whole.nets["G"].state.items() if not torch.equal(t, before[k])}
    assert moved == {"b8", "b16"}
    assert kind.sampler_from(whole)(range(4), torch.eye(4)).shape == (4, 1, 16, 16)
    options = kind.Options(cfg="tiny")
    with pytest.raises(UserError, match="labels 4 wide, .* has 0"):
        kind.check_source(options, DataSpec("t", 16, 1, 40), mind, "main")
    with pytest.raises(UserError, match="goes on from a snapshot of --method=mind2mind"):
        kind.check_source(options, target.spec, source, "main")
    with pytest.raises(UserError, match="--tune_from=12"):
        kind.resolve(kind.Options(cfg="tiny", tune_from=12), RunConfig(batch=8), target.spec)
