# SPDX-License-Identifier: Apache-2.0
"""train.py --graphs, by emulation on the CPU: what is recorded and replayed trains as eager steps do. With
phase_graph.py."""

import contextlib
import itertools
import json
import types

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from dnnlib.util import UserError
from gantransfer import training_loop
from gantransfer.augment import ada
from gantransfer.commands import run as command_run
from gantransfer.commands import train
from gantransfer.method import Graph
from gantransfer.methods import METHODS
from gantransfer.sampler import LabelSource
from gantransfer.training_loop import Stepper, normalised
from tests.conftest import write_image_zip
from tests.graph_emulator import EmulatedGraphs
from tests.test_step import trainer
from tests.test_training_loop import build, tensors
from torch_utils import distributed, graphs, stats
from torch_utils import random as rnd
from torch_utils.ops import convolution

MAIN = dict(style_mix=0.9, pl_weight=2.0, g_reg_interval=2, d_reg_interval=2)
CASES = {  # method, options, what is recorded
    "stylegan2": ("stylegan2", MAIN, {"Gmain", "Dmain"}),
    "utlo": ("utlo", MAIN | dict(add_uc=True, res_uc=8), {"Gmain", "Dmain"}),
    "tiny": ("stylegan2", dict(), {"Gboth", "Dmain"}),
    "no style mixing, bfloat16": ("stylegan2", MAIN | dict(style_mix=0.0, precision="bf16"), {"Gmain", "Dmain"}),
    "DiffAugment": ("utlo", MAIN | dict(diffaug="color,translation,cutout"), {"Gmain", "Dmain"}),
    "adaptive colours": ("stylegan2", MAIN | dict(aug="ada", target=0.5, ada_kimg=0.1, augpipe="color"),
                         {"Gmain", "Dmain"}),
    "fixed noise": ("stylegan2", MAIN | dict(aug="fixed", p=0.5, augpipe="noise"), {"Gmain", "Dmain"}),
    "float16, the convolutions of a GPU": ("utlo", MAIN | dict(precision="fp16"), {"Gmain", "Dmain"}),
    "LeCam": ("stylegan2", MAIN | dict(lecam=0.1), {"Gmain"}),
    "biggan": ("biggan", dict(), {"Dmain", "Gmain"}),
    "twins, pairs and gSR": ("stylegan2", MAIN | dict(noisy_twins=0.1, gsr=0.5, gan_loss="rpgan", r2_gamma=0.5),
                             {"Gmain", "Dmain"}),
    "twins with small images": ("utlo", MAIN | dict(res_uc=8, noisy_twins=0.1, gan_loss="hinge"), {"Gmain", "Dmain"}),
    "biggan's pairs and gSR": ("biggan", dict(gan_loss="rpgan", gsr=0.5), {"Dmain", "Gmain"}),
}


def make(data, method="stylegan2", **options):
    if method == "biggan":
        options = dict(cfg="tiny", z_dim=12, shared_dim=4, g_ch=2, d_ch=2) | options
        dataset = training_loop.ImageDataset(data, use_labels=True)
        kind, config = METHODS[method], training_loop.RunConfig(batch=8)
        opts = kind.Options(**options)
        kind.resolve(opts, config, dataset.spec)
        torch.manual_seed(0)
        m = kind(opts, dataset.spec, config)
    else:
        m, dataset = trainer(data, method, **options)
    if m.augmentation.ada is not None:
        m.augmentation.load_state(dict(m.augmentation.state(), augment_p=torch.ones([]), ada_p=1.0))
    m.run.batch_gpu = 4
    return m, dataset


def steps(m, dataset, recorder=None, count=3):
    """State and statistics after some steps of two micro-batches, all images different."""
    stepper, labels, collector = Stepper(m, m.run, recorder), LabelSource(dataset.spec.label), stats.Collector()
    m.report = collector.report
    for i in range(count):
        rows = [[(8 * i + 4 * micro + k) % len(dataset) for k in range(4)] for micro in range(2)]
        real = [(normalised(dataset.read(r)), torch.from_numpy(dataset.labels(r))) for r in rows]
        stepper.step(i, 8 * i, lambda rep, micro, real=real: real[micro], labels.draw)
        m.end_step(8 * i, 8)
    return {k: t.clone() for k, t in tensors(m).items()}, collector.collect(), stepper


@pytest.mark.parametrize("name", CASES)
def test_replays_train_as_eager_steps_do(tiny_zip, name, monkeypatch):
    """The same weights, averages, running statistics and reports; the same random numbers."""
    method, options, expected = CASES[name]
    if "GPU" in name:
        monkeypatch.setattr(convolution, "_native", lambda x: False)
    count = 5 if "ada" in options.values() else 3  # after four steps the probability moves
    eager, eager_stats, _ = steps(*make(tiny_zip, method, **options), count=count)
    emulated = EmulatedGraphs()
    m, dataset = make(tiny_zip, method, **options)
    start = {k: t.clone() for k, t in tensors(m).items()}
    replayed, replayed_stats, stepper = steps(m, dataset, emulated, count)
    assert {p.name for p, g in zip(stepper.phases, stepper.graphs) if g} == expected
    runs = sum(count * 2 * p.repeat for p in stepper.phases if p.name in expected)
    assert emulated.warm_ups == 3 * len(expected) and emulated.replays == runs - emulated.warm_ups >= 3 * len(expected)
    moved = 0
    for key, t in eager.items():
        torch.testing.assert_close(replayed[key], t, rtol=1e-5, atol=1e-6, msg=lambda text, key=key: f"{key}: {text}")
        moved += not torch.equal(t, start[key])
    assert moved > 0.6 * len(eager)
    assert replayed_stats.keys() == eager_stats.keys() and len(eager_stats) >= 8
    for key, s in eager_stats.items():
        assert replayed_stats[key] == pytest.approx(s, rel=1e-5, abs=1e-6), key
    if "ada" in options.values():
        assert m.progress()["augment"] in (pytest.approx(0.68), pytest.approx(1.32))  # it moved, and was read
        assert m.augmentation.state()["augment_p"] == m.augmentation.p  # what a later start goes on with


PIPES = {  # method, options, size of the images
    "small images too": ("utlo", MAIN | dict(augpipe="bgc", add_uc=True, res_uc=8), 16),
    "everything": ("stylegan2", MAIN | dict(augpipe="bgcfnc"), 32),
    "reals and fakes at once": ("biggan", dict(augpipe="blit"), 16),
}


def padded(data, tmp_path, name, recorder=None):
    """(state at the start, what `steps` returns) of training while the augmentation's probability moves."""
    method, options, size = PIPES[name]
    if size != 16:
        colours = np.random.RandomState(0).randint(0, 256, [40, size, size, 3], np.uint8)
        data = write_image_zip(tmp_path / "colours.zip", list(colours), [k % 4 for k in range(40)])
    m, dataset = make(data, method, aug="ada", target=0.5, **options)
    strengths = iter([0.7, 0.1])
    m.augmentation.load_state(dict(m.augmentation.state(), augment_p=torch.zeros([])))
    m.augmentation.ada.update = lambda mean_sign, batch: next(strengths)
    phases = m.phases()
    for p in phases:  # by default Adam follows the sign of the smallest gradient, and so of rounding
        p.opt.param_groups[0]["eps"] = 0.1
    m.phases = lambda: phases
    start = {k: t.clone() for k, t in tensors(m).items()}
    return start, steps(m, dataset, recorder, count=11)


@pytest.mark.parametrize("name", PIPES)
def test_margins_that_follow_the_draws(tiny_zip, tmp_path, name, monkeypatch):
    """One recording per room that comes up often enough; together they train as eager steps, with margins of their
    own, do."""
    reach = ada.AugmentPipe._reach

    def wider(self, m, height, width):  # the published margins leave an error at the rim (tests/augment/test_ada.py)
        margins = reach(self, m, height, width)
        return margins and tuple(min(k + 3, width - 1) for k in margins)

    monkeypatch.setattr(ada.AugmentPipe, "_reach", wider)
    monkeypatch.setattr(graphs, "WARM_UP", 2)
    start, (eager, eager_stats, _) = padded(tiny_zip, tmp_path, name)
    _, (replayed, replayed_stats, stepper) = padded(tiny_zip, tmp_path, name, emulated := EmulatedGraphs())
    recorders = [g for g in stepper.graphs if g]
    assert {g.phase.name for g in recorders} == {"Gmain", "Dmain"}
    for g in recorders:
        rooms = {room for room, r in g.recordings.items() if r.replay}
        assert 0 in rooms and len(rooms) >= 2 and max(g.recordings) <= ada.ROOMS
        # On a GPU the first source is there, and what it draws would have to be read back.
        assert {source for (source, *_), _, out in g.tape.draws if isinstance(out, dict)} == {1}
    assert emulated.replays >= 15
    a, b, c = (torch.cat([s[k].detach().reshape(-1) for k in eager]) for s in (start, eager, replayed))
    assert (c - b).norm() < 1e-5 * (b - a).norm()
    assert sum(not torch.equal(t, start[key]) for key, t in eager.items()) > 0.6 * len(eager)
    for key, s in eager_stats.items():
        assert replayed_stats[key] == pytest.approx(s, rel=1e-4, abs=1e-4), key


def test_resume_is_exact_with_graphs(tiny_zip, tmp_path):
    def train(folder, kimg, state=None):
        m, dataset, config = build(tiny_zip, "utlo", run=dict(batch_gpu=4), **MAIN, res_uc=4)
        config.kimg = kimg
        out = training_loop.Outputs(tmp_path / folder, images=False, network_ticks=1)
        training_loop.run(m, dataset, config, out, state, graphs := EmulatedGraphs())
        assert graphs.replays > 4
        return tensors(m)

    whole = train("whole", 0.08)
    train("parts", 0.04)
    torch.manual_seed(123)
    resumed = train("parts", 0.08, training_loop.find_states(tmp_path / "parts")[0])
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)


class Spoiled:
    """A method whose generator loss does something that a recording cannot hold, or freezes."""

    def __init__(self, what):
        self.what, self.count = what, 0

    def of(self, m):
        honest = m.generator_loss

        def loss(batch, d):
            out = honest(batch, d)
            self.count += 1
            return out + self.what(m, batch, out, self.count)

        m.generator_loss = loss
        return m


REFUSED = {
    "a value read back": (lambda m, b, out, i: out.mean().item() * 0, "reads a value back"),
    "a branch": (lambda m, b, out, i: 0 if out.sum() > 0 else 1, "reads a value back"),
    "a draw from torch's generator": (lambda m, b, out, i: torch.randn(4, 1), "draws random numbers"),
    "a draw from a generator of its own": (
        lambda m, b, out, i: rnd.randn([4, 1], torch.Generator().manual_seed(i)), "draws random numbers"),
    "a size that follows values": (lambda m, b, out, i: out[out > 0].sum(), "selects by a mask"),
    "indices of values": (lambda m, b, out, i: len((out > 0).nonzero()), "makes a size depend on values"),
    "a number as a tensor": (lambda m, b, out, i: torch.tensor([float(i)]), "makes a tensor of Python's numbers"),
    "another device": (lambda m, b, out, i: 0 * len(out.detach().to("meta")), "copies between devices"),
    "a number reported": (lambda m, b, out, i: m.report("x", 0.5) or 0, "makes a tensor of Python's numbers"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_recorded_is_refused(tiny_zip, case):
    """In the second run, so before any recording, in one line that says where."""
    what, said = REFUSED[case]
    m, dataset = make(tiny_zip, **MAIN)
    emulated = EmulatedGraphs()
    message = rf"^--graphs cannot record Gmain: line \d+ of \w+\.py {said}.* \(aten\S+\); train without --graphs$"
    with pytest.raises(UserError, match=message):
        steps(Spoiled(what).of(m), dataset, emulated)
    assert emulated.warm_ups == 2 and not emulated.recorded
    steps(Spoiled(what).of(make(tiny_zip, **MAIN)[0]), dataset, count=1)  # without graphs it is anyone's right


def test_reading_without_an_operator_is_refused_while_recording(tiny_zip):
    m, dataset = make(tiny_zip, **MAIN)
    with pytest.raises(UserError, match="reads a tensor back"):
        steps(Spoiled(lambda m, b, out, i: out.tolist()[0][0] * 0).of(m), dataset, EmulatedGraphs())


def test_the_emulation_freezes_what_python_decides(tiny_zip):
    """Otherwise it would show nothing: such a loss must not train as its eager steps do."""
    def what(m, b, out, i):
        return out * m.steps  # a number of the method's

    (m, dataset), (again, _) = make(tiny_zip, **MAIN), make(tiny_zip, **MAIN)
    eager = steps(Spoiled(what).of(m), dataset)[0]
    replayed = steps(Spoiled(what).of(again), dataset, EmulatedGraphs())[0]
    assert any((replayed[k] - t).abs().max() > 1e-4 for k, t in eager.items() if k.startswith("G."))
    x, memory = torch.randn(3), torch.zeros(3)
    for what in (lambda i: x * i, lambda i: x * (2 if i % 2 else 1), lambda i: x * torch.full([], float(i)),
                 lambda i: memory.fill_(i).add_(x) * 1):  # numbers and decisions of Python's; memory that starts anew
        calls = itertools.count(1)
        replay, (out,) = EmulatedGraphs().record(lambda what=what, calls=calls: [what(next(calls))])
        for _ in range(2):
            replay()
            assert torch.equal(out, what(1))


def test_the_emulation_records_without_computing():
    """In-place changes are undone, results are rubbish until replayed, and a replay spoils what others left."""
    memory, x = torch.zeros(3), torch.ones(3)
    emulated = EmulatedGraphs()

    def run():
        memory.add_(x)
        return [memory * 2]

    replay, (out,) = emulated.record(run)
    assert torch.equal(memory, torch.zeros(3)) and out.isnan().all()
    x.fill_(5)
    replay()
    replay()
    assert memory.tolist() == [10] * 3 and out.tolist() == [20] * 3
    emulated.record(lambda: [x + 1])[0]()
    assert out.isnan().all()


def test_a_tape_gives_the_numbers_of_its_sources():
    def draws(a, b, labels):
        return [rnd.randn([2, 3], a), labels(2), rnd.randint(0, 9, [4], b), rnd.rand([], b, "cpu", torch.float64)]

    def sources(seed):
        a, b = (torch.Generator().manual_seed(seed + k) for k in range(2))
        return a, b, lambda n: torch.rand(n, generator=b)

    tape, places = rnd.Tape(), None
    taped = rnd.Taped(tape, 0), rnd.Taped(tape, 1)

    def labels(n):
        return tape.take(2, (n,), lambda f, out: f(n) if out is None else out.copy_(f(n)))

    for seed in (1, 2, 3):
        tape.rewind(*sources(seed))
        if seed < 3:  # the third time nothing asks: a replay
            got = draws(*taped, labels)
            tape.end()
            places = places or [t.data_ptr() for t in got]
        assert [t.data_ptr() for t in got] == places
        assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(got, draws(*sources(seed))))
    tape.rewind(*sources(4))
    with pytest.raises(RuntimeError, match="draw 1 .* was not before"):
        rnd.rand([2, 2], taped[0])
    tape.rewind(*sources(4))
    rnd.randn([2, 3], taped[0])
    with pytest.raises(RuntimeError, match="made 1 draws, and 4 before"):
        tape.end()


def test_a_tape_tells_how_much_room_its_draws_need():
    tape = rnd.Tape()

    def draw(tape, source):
        def make(rng, out):
            x = rnd.rand([], rng)
            tape.need(int(10 * x))
            return x if out is None else out.copy_(x)

        return rnd.Taped(tape, source).take((), make)

    def sources(seed):
        return [torch.Generator().manual_seed(seed + k) for k in range(2)]

    rooms = []
    for seed in range(6):
        tape.rewind(*sources(seed))
        if seed < 2:
            draw(tape, 0), draw(tape, 1)
            tape.end()
        rooms.append(tape.room)
        assert tape.room == int(10 * max(float(rnd.rand([], g)) for g in sources(seed)))
    assert len(set(rooms)) > 2


def test_moments_stand_for_their_values():
    a, b = stats.Collector(), stats.Collector()
    for x in (torch.randn(5, 2), torch.randn(3)):
        a.report("x", x)
        b.report("x", stats.Moments.of(x))
    assert a.collect() == b.collect()


def test_which_phases_are_left_out(tiny_zip):
    def said(**options):
        return Stepper(make(tiny_zip, **MAIN | options)[0], training_loop.RunConfig(batch=8, batch_gpu=8),
                       EmulatedGraphs()).recorded()

    assert said() == "Gmain, Dmain; not Greg (second order), Dreg (second order)"
    assert "Dmain (LeCam's first step is unlike the others)" in said(lecam=0.1)
    assert said(pl_weight=0.0, gamma=0.0) == "Gmain, Dmain"
    assert said(aug="ada", target=0.5, augpipe="bgc") == said()
    with pytest.raises(UserError, match=r"--graphs: no phase .*Gboth \(second order\), Dboth \(second order\);"):
        said(g_reg_interval=0, d_reg_interval=0)
    with pytest.raises(UserError, match=r"transitional is not prepared.*omit --graphs"):
        said(method="transitional")


def test_a_class_says_itself_that_it_can_be_recorded(tiny_zip, monkeypatch):
    """A method built on a recordable one has code of its own."""
    for name in ("stylegan2", "utlo", "biggan"):
        assert all(p.graph is not None for p in make(tiny_zip, name)[0].phases()), name
        monkeypatch.setitem(METHODS, name, type("Another", (METHODS[name],), {}))
        assert all(p.graph is None for p in make(tiny_zip, name)[0].phases()), name


def test_batch_norm_over_processes_is_not_recorded(tiny_zip, monkeypatch):
    m, _ = make(tiny_zip, "biggan")
    assert {p.graph for p in m.phases()} == {Graph()}
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    assert {p.graph for p in m.phases()} == {Graph(("batch norm gathers over processes",))}


def test_the_real_recorder(monkeypatch):
    """Against stand-ins for torch.cuda: streams wait for each other, all graphs share the pool and the stream."""
    log = []

    class Stream:
        def __init__(self, name):
            self.name = name

        def wait_stream(self, other):
            log.append(f"{self.name} waits for {other.name}")

    @contextlib.contextmanager
    def graph(g, pool, stream, capture_error_mode):
        log.append(f"record {pool} {stream.name} {capture_error_mode}")
        yield
        if failing:
            raise RuntimeError("left badly")

    failing, main = [], Stream("main")
    for name, fake in dict(Stream=lambda device: Stream("side"), graph_pool_handle=lambda: "pool", graph=graph,
                           current_stream=lambda device: main, stream=lambda s: contextlib.nullcontext(),
                           CUDAGraph=lambda: types.SimpleNamespace(replay=lambda: log.append("replay"))).items():
        assert hasattr(torch.cuda, name)
        monkeypatch.setattr(torch.cuda, name, fake)
    backend = graphs.CudaGraphs(torch.device("cuda", 0))
    recording = graphs.Recording("Gmain", lambda: log.append("run") or [torch.zeros(1)], backend)
    assert [len(recording()) for _ in range(5)] == [1] * 5
    warm = ["side waits for main", "run", "main waits for side"]
    assert log == [*3 * warm, "record pool side thread_local", "run", "replay", "replay"]

    def run():
        raise RuntimeError("not permitted\nlong story")

    for broken, said in ((run, "not permitted"), (lambda: failing.append(1) or [], "left badly")):
        recording = graphs.Recording("Dmain", broken, backend)
        recording.calls = graphs.WARM_UP
        with pytest.raises(UserError, match=f"cannot record Dmain: {said}; train without --graphs"):
            recording()


@pytest.fixture
def cli(monkeypatch, tmp_path, tiny_zip):
    """train.py in this process; `gpu`: as if a GPU were there."""

    def run(*words, gpu=True):
        if gpu:
            launch = train.Setup.launch
            monkeypatch.setattr(train.Setup, "launch", lambda self, kind: launch(self, "cpu"))
            monkeypatch.setattr(distributed, "resolve_device", lambda kind: "cuda" if kind == "auto" else kind)
            monkeypatch.setattr(command_run, "CudaGraphs", lambda device: EmulatedGraphs())
        result = CliRunner().invoke(train.main, [
            f"--outdir={tmp_path}", f"--data={tiny_zip}", "--cond=True", "--cfg=tiny", "--cbase=64", "--cmax=8",
            "--batch=8", "--tick=0.04", "--snap=1", "--metrics=none", "--threads=1", *words])
        monkeypatch.undo()
        return result

    return run


def test_the_flag(cli, tmp_path):
    """One line says what is recorded; a run may go on without."""
    augmented = "--aug=ada", "--target=0.5"
    result = cli("--graphs", "--kimg=0.08", *augmented)
    assert "CUDA graphs:  Gboth, Dmain; not Dreg (second order)" in result.output, result.output
    (run,) = tmp_path.iterdir()
    assert json.loads((run / "training_options.json").read_text())["cuda_graphs"] is True
    result = cli(f"--resume={run}", "--kimg=0.12", *augmented, gpu=False)
    assert "Continuing at 0.1 kimg" in result.output and "CUDA graphs" not in result.output, result.output
    assert len(list(run.glob("network-snapshot-*.pkl"))) >= 1 and result.exit_code == 0


def test_what_the_user_can_do_wrong(cli, tmp_path):
    result = cli("--graphs", "--device=cpu", gpu=False)
    assert isinstance(result.exception, UserError) and "this run is on the CPU" in str(result.exception)
    result = cli("--graphs", "--pl_weight=2", "--d_reg_interval=0")
    assert isinstance(result.exception, UserError) and "no phase of this run can be recorded" in str(result.exception)
    assert not list(tmp_path.iterdir())  # nothing was trained, nothing is left
