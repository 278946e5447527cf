# SPDX-License-Identifier: Apache-2.0
"""The benchmarks and the GPU check, small and on the CPU: that they run, what they write, that they notice an error.
What needs CUDA runs against stand-ins of torch.cuda, whose names are looked up in the real one."""

import contextlib
import importlib.util
import json
import re
import sys
import types
from pathlib import Path

import pytest
import torch

from dnnlib.util import UserError
from tests.bench import (
    against_original,
    bench_candidates,
    bench_cores,
    bench_data,
    bench_growth,
    bench_metrics,
    bench_ops,
    bench_precision,
    bench_profile,
    bench_start,
    bench_step,
    common,
    compare,
    gpu_check,
    gpu_tests,
    gradients,
)
from tests.graph_emulator import EmulatedGraphs
from torch_utils import build


def ops_report(*words):
    return bench_ops.run(bench_ops.parser().parse_args(
        ["--device=cpu", "--shapes=tiny", "--seconds=0", "--layouts=nhwc", *words]))


def assert_schema(report):
    report = json.loads(json.dumps(report))
    assert tuple(report) == common.KEYS["report"] and report["schema"] == 1
    for name in ("row", "ratio", "bar"):
        for item in report[name + "s"]:
            assert tuple(item) == common.KEYS[name]
    assert set(report["host"]) == {"cpu", "flags", "threads", "ram_gb", "load"}
    assert set(report["versions"]) == {"python", "torch", "cuda", "cudnn", "onednn", "gcc", "nvcc"}
    assert set(report["build"]) == {"flags", "arch", "seconds", "sha"}
    for bar in report["bars"]:
        assert bar["status"] in ("pass", "fail", "skipped") and (bar["reason"] is None) == (bar["status"] != "skipped")
    return report


@pytest.fixture
def native():
    if build.implementation("cpu") != "native":
        pytest.skip("no compiled kernels")


def test_operators_report(native):
    report = assert_schema(ops_report("--dtypes=fp32,bf16"))
    by = {(r["op"], r["variant"]) for r in report["rows"]}
    assert {("upfirdn2d blur", "copy"), ("cond_bn", "cudnn"), ("modconv", "baseline"), ("modconv", "grouped"),
            ("conv second", "native"), ("epilogue", "reference"), ("blur_epilogue", "two kernels"),
            ("weight_sq", "reference")} <= by
    assert {r["vs"] for r in report["ratios"]} == {"reference", "cudnn", "baseline", "native", "two kernels"}
    for r in report["rows"]:
        assert r["ms"]["q1"] <= r["ms"]["median"] <= r["ms"]["q3"] and r["ms"]["n"] >= 10
    (saved,) = [r for r in report["rows"] if (r["op"], r["variant"], r["direction"], r["dtype"]) == (
        "epilogue", "ours", "fwd+bwd", "fp32")]
    assert saved["bytes"] == 5 * 2 * 8 * 8 * 8 * 4 and saved["gbs"] > 0 and saved["saved_bytes"] > 0
    assert len({b["id"] for b in report["bars"]}) == len(report["bars"])
    amx = next(b for b in report["bars"] if b["id"] == "modconv bf16 each")
    assert (amx["reason"] == "needs AMX") == ("amx_bf16" not in build.cpu_flags())


def test_a_wrong_kernel_gets_no_time(native, monkeypatch):
    right = bench_ops.bias_act
    monkeypatch.setattr(bench_ops, "bias_act", lambda x, b, impl, **kw: right(x, b, impl=impl, **kw) * (
        1.01 if impl == "auto" else 1))
    report = assert_schema(ops_report("--dtypes=fp32", "--ops=bias_act"))
    (row,) = report["rows"]
    assert row["variant"] == "ours" and row["ms"] is None and 0.005 < row["max_err"] < 0.02
    assert not report["ratios"] and all(b["status"] == "skipped" for b in report["bars"])


def test_gpu_bars_from_rows():
    """Shares of the copy bandwidth: forward as measured, backward as the difference; small sets do not count."""
    gpu = {"l2_mb": 1, "sm": "90", "copy_gbs": 1000.0}
    x, table = (64, 64, 64, 64), []
    size = 64**4 * 2
    for direction, passes, ms in (("fwd", 2, 2 * size / 0.9e9), ("fwd+bwd", 5, 2 * size / 0.9e9 + 3 * size / 0.5e9)):
        table.append(common.row(gpu, bench="ops", op="epilogue", variant="ours", direction=direction, shape=list(x),
                                dtype="fp16", layout="nhwc", bytes=passes * size,
                                ms={"median": ms, "q1": ms, "q3": ms, "n": 9}))
    small = dict(table[0], shape=[1, 8, 8, 8], frac_copy=0.01)
    table.append(dict(table[0], op="blur_epilogue", frac_copy=0.65))
    ratio = dict(op="blur_epilogue", shape=list(x), dtype="fp16", layout="nhwc", direction="fwd", vs="two kernels")
    ratios = [dict(ratio, ratio=1.6), dict(ratio, ratio=0.1, direction="fwd+bwd"),
              dict(ratio, ratio=0.2, shape=[1, 8, 8, 8])]
    bars = {b["id"]: b for b in bench_ops.gpu_bars([*table, small], ratios, gpu)}
    assert bars["blur_epilogue forward, large, of a copy"]["status"] == "fail"
    assert bars["blur_epilogue forward against two kernels each"]["value"] == 1.6
    assert bars["epilogue forward, large, of a copy"]["value"] == pytest.approx(0.9)
    assert bars["epilogue forward, large, of a copy"]["status"] == "pass"
    assert bars["epilogue backward, large, of a copy"]["value"] == pytest.approx(0.5)
    assert bars["epilogue backward, large, of a copy"]["status"] == "fail"
    assert bars["bias_act against compile, each"]["reason"] == "run with --compile"
    kernels = [["march_pixels<gt::f16, 1, 1, 4, gt::FinishValues>", 80, 0, 0],
               ["epilogue_pixels<gt::f16, 8>", 72, 4, 8224], ["epilogue_pixels<float, 4>", 9, 0, 0],
               ["epilogue_forward<gt::f16, 8, true>", 56, 0, 0]]
    lines = gpu_check.advice({"ops": {"rows": [*table, small], "gpu": gpu, "bars": list(bars.values())},
                              "kernels": {"kernels": kernels}})
    text = "\n".join(lines)
    assert "slow: blur_epilogue fwd 64x64x64x64 fp16 nhwc: 0.65 of a copy, 67 MB" in text and len(lines) == 4
    assert "march_pixels<gt::f16, 1, 1, 4, gt::FinishValues>: 80 registers" in text and "768 threads" in text
    assert "slow: epilogue bwd" in text and "epilogue_pixels<gt::f16, 8>: 72 registers, 4 B spilled" in text
    assert bars["cond_bn forward, large, of a copy"]["status"] == "skipped"


def test_occupancy():
    """Each bound in turn: registers (given out to warps 256 at a time), shared memory, blocks, threads."""
    assert gpu_check.occupancy(90, 80, 0, 128) == (768, 0.375)
    assert gpu_check.occupancy(90, 33, 0, 256) == (1536, 0.75)
    assert gpu_check.occupancy(75, 32, 31 << 10, 256) == (512, 0.5)
    assert gpu_check.occupancy(75, 20, 0, 32) == (512, 0.5)
    assert gpu_check.occupancy(103, 16, 0, 256) == (2048, 1.0)


def test_step_of_biggan(native, monkeypatch):
    monkeypatch.setattr(common.Timer, "rounds", {"cpu": 2})
    words = ["--device=cpu", "--cfg=biggan32", "--batch=2", "--seconds=0"]
    report = assert_schema(bench_step.run(bench_step.parser().parse_args(words)))
    assert {r["op"] for r in report["ratios"]} == {"biggan32 Gmain", "biggan32 Dmain", "biggan32 lazy"}
    assert max(r["max_err"] for r in report["rows"] if r["max_err"] is not None) < 1e-3


def test_step_options_are_checked():
    for words, said in ((["--graphs"], "--device=cuda"), (["--cfg=huge"], "huge"), (["--dtypes=fp8"], "fp8")):
        with pytest.raises(UserError, match=said):
            bench_step.run(bench_step.parser().parse_args(["--device=cpu", *words]))


def test_data_report():
    pytest.importorskip("PIL")
    report = bench_data.run(bench_data.parser().parse_args(
        ["--sizes=16", "--count=40", "--batch=8", "--workers=2", "--step-ms=1", "--device=cpu"]))
    assert_schema(report)
    ops = {r["op"] for r in report["rows"]}
    assert {"16px stored decode", "16px deflated memory", "16px stored collate", "16px deflated decode, 2 threads",
            "16px stored waiting (files), share"} <= ops
    assert all(0 <= r["ms"]["median"] <= 1 for r in report["rows"] if r["op"].endswith("share"))


def test_sources_report(capsys):
    """Every source that is at hand, against what a step takes."""
    report = bench_data.run(bench_data.parser().parse_args(
        ["--sources", "--sizes=16", "--count=20", "--batch=8", "--step-ms=50", "--device=cpu"]))
    assert_schema(report)
    said, kinds = capsys.readouterr().out, {r["op"].removeprefix("source ") for r in report["rows"]}
    assert {"zip", "folder", "WebDataset"} <= kinds and all(r["shape"][0] == 20 for r in report["rows"])
    assert said.count("x what a step of 8 images in 50 ms takes") == len(kinds)


def test_metrics_report(capsys):
    """Beside torch-fidelity where that is installed, else one line."""
    args = bench_metrics.parser().parse_args(["--sizes=8", "--batch=1", "--rounds=2"])
    if importlib.util.find_spec("torch_fidelity") is None:
        with pytest.raises(UserError, match="needs torch-fidelity .* install --no-deps -r requirements-compare.txt"):
            bench_metrics.run(args)
        return
    report = assert_schema(bench_metrics.run(args))
    assert {r["variant"] for r in report["rows"]} == {"ours", "torch-fidelity"} and report["rows"][0]["max_err"] < 1e-5
    assert "8 px: 10,000 images take" in capsys.readouterr().out


def test_comparison_exits_by_ratios(tmp_path, capsys, monkeypatch):
    def write(name, **ratios):
        data = {"schema": 1, "ratios": [{"op": k, "shape": [1], "dtype": "fp32", "layout": "nchw", "direction": "fwd",
                                         "vs": "reference", "ratio": v} for k, v in ratios.items()]}
        (tmp_path / name).write_text(json.dumps(data))
        return str(tmp_path / name)

    old = write("old.json", a=4.0, b=2.0, gone=1.0)
    for new, words, code in ((write("same.json", a=3.7, b=9.0), [], 0), (write("worse.json", a=3.5, b=2.0), [], 1),
                             (write("worse.json", a=3.5, b=2.0), ["--tolerance=0.2"], 0)):
        monkeypatch.setattr(sys, "argv", ["compare", old, new, *words])
        with pytest.raises(SystemExit) as e:
            compare.main()
        assert e.value.code == code
    assert "a 1 fp32 nchw fwd against reference: 4.00 -> 3.50 (0.88)" in capsys.readouterr().out
    (tmp_path / "broken.json").write_text("{")
    for new in (write("other.json", z=1.0), str(tmp_path / "broken.json"), str(tmp_path / "none.json")):
        monkeypatch.setattr(sys, "argv", ["compare", old, new])
        with pytest.raises(SystemExit) as e:
            compare.main()
        assert str(e.value.code).startswith("Error: ")


# A checkout of the original has these three modules; here, each as little as the benchmark asks for.
CHECKOUT = {
    "dnnlib/__init__.py": "name = 'theirs'\n",
    "torch_utils/__init__.py": "",
    "torch_utils/ops/__init__.py": "",
    "torch_utils/ops/bias_act.py": (
        "import dnnlib, torch\nassert dnnlib.name == 'theirs'\n"
        "def bias_act(x, b=None, dim=1, act='linear', alpha=None, gain=None, clamp=None, impl='cuda'):\n"
        "    return (torch.nn.functional.leaky_relu(x + b[:, None, None], 0.2) * 2 ** 0.5).clamp(-clamp, clamp)\n"),
    "torch_utils/ops/upfirdn2d.py": "def upsample2d(x, f):\n    raise RuntimeError('does not build')\n"
                                    "downsample2d = filter2d = upsample2d\n",
    "training/__init__.py": "",
    "training/networks.py": (
        "import torch\nfrom torch_utils.ops import bias_act\n"
        "def modulated_conv2d(x, weight, styles, padding=0, fused_modconv=True):\n"
        "    assert not fused_modconv\n"
        "    w = weight[None] * styles[:, None, :, None, None]\n"
        "    d = (w.square().sum((2, 3, 4)) + 1e-8).rsqrt()\n"
        "    y = torch.nn.functional.conv2d(x * styles[:, :, None, None], weight, padding=padding)\n"
        "    return y * d[:, :, None, None]\n"),
}


def test_columns_of_a_checkout(native, tmp_path, capsys):
    for name, text in CHECKOUT.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    before = {k: v for k, v in sys.modules.items() if k.split(".")[0] in ("dnnlib", "torch_utils")}
    report = ops_report("--dtypes=fp32", "--ops=bias_act,modconv,upfirdn2d", f"--original={tmp_path}")
    assert {k: sys.modules[k] for k in before} == before and "training" not in sys.modules
    assert str(tmp_path) not in sys.path
    assert {r["op"] for r in report["ratios"] if r["vs"] == "original"} == {"bias_act", "modconv"}
    assert "original does not run: does not build" in capsys.readouterr().err  # and the others went on


@pytest.mark.parametrize("spoil, said", [("training/networks.py", "networks.py is missing"),
                                         (None, "does not import .ZeroDivisionError")])
def test_a_wrong_checkout_is_a_clean_error(tmp_path, spoil, said):
    for name, text in CHECKOUT.items():
        if name != spoil:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text + ("1 / 0\n" if spoil is None and "bias" in name else ""))
    with pytest.raises(UserError, match=said):
        common.load_original(str(tmp_path))
    assert "theirs" not in str(getattr(sys.modules["dnnlib"], "name", ""))


# ---- GPU check ------------------------------------------------------------------------------------------------------


def test_checks_notice_a_wrong_operator(native, monkeypatch):
    right = gpu_tests.epilogue
    monkeypatch.setattr(gpu_tests, "epilogue", lambda x, *a, impl="auto", **kw: right(x, *a, impl=impl, **kw) + (
        1e-3 if impl == "auto" and x.dtype == torch.float32 else 0))
    result = gpu_tests.run("cpu", True, ["operators"])
    assert not result["passed"] and all("epilogue" in w["what"] and "float32" in w["what"] for w in result["wrong"])
    monkeypatch.setattr(gpu_tests, "epilogue", lambda *a, **kw: 1 / 0)
    result = gpu_tests.run("cpu", True, ["operators", "second_order", "determinism"])
    assert [w["check"] for w in result["wrong"]] == ["operators", "second_order", "determinism"]
    assert "ZeroDivisionError" in result["wrong"][0]["error"]


class _Event:
    clock = 0.0

    def __init__(self, enable_timing=False):
        assert enable_timing

    def record(self):
        _Event.clock += 0.5
        self.at = _Event.clock

    def synchronize(self):
        pass

    def elapsed_time(self, other):
        return other.at - self.at


class _Graph:
    """Captures by running; a replay runs what the test gave it."""

    again = staticmethod(lambda: None)

    def replay(self):
        self.again()


@pytest.fixture
def fake_cuda(monkeypatch):
    """torch.cuda whose streams, events and graphs do nothing, so that code for a GPU runs on CPU tensors."""
    stream = types.SimpleNamespace(wait_stream=lambda other: None)
    modes = []
    fakes = dict(Event=_Event, CUDAGraph=_Graph, Stream=lambda: stream, current_stream=lambda: stream,
                 stream=lambda s: contextlib.nullcontext(), graph=lambda g: contextlib.nullcontext(),
                 synchronize=lambda: None, set_sync_debug_mode=modes.append, _sleep=lambda cycles: None,
                 empty_cache=lambda: None, reset_peak_memory_stats=lambda: None, max_memory_allocated=lambda: 1 << 30,
                 mem_get_info=lambda: (8 << 30, 16 << 30))
    for name, fake in fakes.items():
        assert hasattr(torch.cuda, name)
        monkeypatch.setattr(torch.cuda, name, fake)
    return modes


def test_code_for_a_gpu_runs(fake_cuda, monkeypatch, native):
    monkeypatch.setattr(gpu_tests, "_needs_cuda", lambda device: None)
    monkeypatch.setattr(gpu_tests, "_graphs", lambda device: EmulatedGraphs())
    # What waits for the device shows on one alone: here the heavier of the two trainings, twice, is enough.
    monkeypatch.delitem(gpu_tests.AUGMENTED, "")
    monkeypatch.setattr(gpu_tests, "ROUNDS", 1)
    for check in (gpu_tests.training_graphs, gpu_tests.other_stream, gpu_tests.no_sync, gpu_tests.no_sync_in_training):
        found = list(check("cpu"))
        assert found and all(error <= limit for _, error, limit in found)
    assert fake_cuda == 3 * ["error", "default"]
    # A graph that does nothing when replayed is found out: its second replay sees other data.
    errors = [(name, error <= limit) for name, error, limit in gpu_tests.graph("cpu")]
    assert [ok for name, ok in errors if name.startswith("graph replay")] == [True, False]
    assert bench_ops.device_time(lambda: None)["median"] == pytest.approx(0.5 / 20)
    assert bench_step.waits(lambda: None) == 0
    timer = common.Timer("cpu")
    timer.cuda, timer.flush = True, torch.empty(4)
    assert timer({"a": lambda: None}, 0)["a"] == {"median": 0.5, "q1": 0.5, "q3": 0.5, "n": 20}


@pytest.mark.parametrize("cfg", ["tiny16", "biggan32"])
def test_recorded_phases_compute_what_eager_ones_do(cfg):
    """`bench_step --graphs`: every phase, second order too."""
    step = bench_step.make(cfg, "fp32", "cpu", 2 if cfg == "biggan32" else 4)
    for phase in step.phases:
        params = step.params[phase[0]]
        graphs, buffers = EmulatedGraphs(), [*step.G.buffers(), *step.D.buffers()]
        replay = bench_step.recorded(step, phase, graphs)
        assert graphs.replays == 1 and step.tape is None
        static, before = [p.grad for p in params], [b.clone() for b in buffers]
        (loss,) = replay()
        got = [loss.clone(), *(g.clone() for g in static if g is not None)]
        for b, old in zip(buffers, before):  # power iterations: both start from the same
            b.copy_(old)
        expected = [step.run(phase), *(p.grad for p in params if p.grad is not None)]
        assert len(got) == len(expected) > 5
        for a, b in zip(got, expected):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_waits_are_counted(fake_cuda):
    def syncing():
        import warnings
        warnings.warn("called a synchronizing CUDA operation (Triggered internally ...)")
    assert bench_step.waits(syncing) == 1 and fake_cuda == ["warn", "default"]


@pytest.fixture
def check(monkeypatch, tmp_path):
    """Runs the GPU check's driver with the given caps; (exit code, report)."""

    def run(caps, *words):
        monkeypatch.setattr(gpu_check, "CAPS", caps)
        monkeypatch.setattr(sys, "argv", ["gpu_check.py", "--out", str(tmp_path / "out"), *words])
        with pytest.raises(SystemExit) as e:
            gpu_check.main()
        assert len(list((tmp_path / "out").iterdir())) <= 4
        return e.value.code, json.loads((tmp_path / "out" / "gpu_check.json").read_text())

    return run


def test_driver_without_a_gpu(check, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, report = check(gpu_check.CAPS)
    assert code == 1 and not report["passed"]
    assert {s["status"] for s in report["stages"].values()} == {"skipped"}
    assert "sees no CUDA device" in report["stages"]["facts"]["reason"]
    minutes = gpu_check.parser().parse_args(["--out=x"]).minutes
    assert minutes == 5 and sum(gpu_check.CAPS.values()) <= minutes * 60 - 5
    assert gpu_check.CAPS.keys() == gpu_check.STAGES.keys()


def test_driver_keeps_what_it_has(check, monkeypatch, tmp_path):
    """A stage that fails, and one that outlasts its cap, do not stop the others; the exit code is correctness's."""
    script = tmp_path / "gpu_check.py"
    script.write_text("import json, sys, time\n"
                      "name, out = sys.argv[sys.argv.index('--stage') + 1], sys.argv[sys.argv.index('--out') + 1]\n"
                      "if name == 'build': sys.exit('the disk ate it')\n"
                      "if name == 'ops': time.sleep(60)\n"
                      "json.dump({'passed': True, 'checks': 7, 'failures': 0, 'skipped': {}, 'wrong': []} if name == "
                      "'correctness' else {'skipped': 'not here'}, open(f'{out}/{name}.part', 'w'))\n")
    monkeypatch.setattr(gpu_check, "__file__", str(script))
    code, report = check({"build": 20, "ops": 2, "correctness": 20, "sanitizer": 20}, "--device=cpu")
    stages = report["stages"]
    assert code == 0 and report["passed"]
    assert stages["build"]["status"] == "failed" and "the disk ate it" in stages["build"]["log"]
    assert stages["ops"]["reason"] == "stopped after 2 s" and stages["sanitizer"]["reason"] == "not here"
    assert any(line.startswith("correctness: 7 checks, 0 wrong") for line in report["summary"])
    code, report = check({"build": 20, "correctness": 20}, "--device=cpu", "--minutes=0.1")
    assert code == 1 and report["stages"]["correctness"]["reason"] == "0.1 minutes are over"


def test_build_stage_without_bindings(monkeypatch):
    """Where the bindings do not compile, the kernels alone are tried, and the stage counts as failed."""
    def broken(cuda=None):
        raise build.BuildError("compiling the kernels failed: no such header")

    monkeypatch.setattr(build, "build", broken)
    monkeypatch.setattr(build, "nvcc", lambda: "nvcc")
    monkeypatch.setattr(gpu_check, "harness", lambda nvcc: {"passed": True, "output": "80 checks, 0 wrong"})
    args = gpu_check.parser().parse_args(["--out=x"])
    result = gpu_check.build_kernels(args)
    assert "no such header" in result["error"] and result["harness"]["passed"]


def test_build_stage_lets_the_original_compile_its_operators(monkeypatch, tmp_path):
    texts = {**CHECKOUT, "torch_utils/ops/bias_act.py": "def bias_act(x): assert x.device.type == 'cpu'\n",
             "torch_utils/ops/upfirdn2d.py": "def setup_filter(f, device): return f\n"
                                             "def upsample2d(x, f): raise SystemExit(7)\n",
             "training/networks.py": ""}
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(build, "build", lambda cuda: ("library", {"seconds": 1, "nvcc_flags": [], "cxx_flags": []}))
    args = gpu_check.parser().parse_args(["--out=x", "--device=cpu", "--seconds=900", f"--original={tmp_path}"])
    assert gpu_check.build_kernels(args)["original_exit_code"] == 7  # it came as far as its last operator


@pytest.mark.parametrize("capability, half", [((7, 5), "fp16"), ((8, 0), "bf16")])
def test_a_gpu_is_timed_in_the_arithmetic_that_it_trains_in(monkeypatch, capability, half):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(common.Timer, "rounds", common.Timer.rounds)
    for bench in (bench_ops, bench_step):
        monkeypatch.setattr(bench, "run", lambda args: args)
    args = gpu_check.parser().parse_args(["--out=x"])
    assert (gpu_check.ops(args).dtypes, gpu_check.step(args).dtypes) == (f"{half},fp32", half)
    assert gpu_check.step(args).cfg in bench_step.CFGS and gpu_check.ops(args).shapes == "ends"
    assert bench_ops.ENDS.keys() == bench_ops.SHAPES["cuda"].keys()


BLOCK = """
import builtins, runpy, sys
before = builtins.__import__
def guarded(name, globals=None, locals=None, fromlist=(), level=0):
    if level == 0 and name.split(".")[0] in ("click", "PIL", "scipy", "tqdm", "sklearn", "pyspng", "pytest"):
        raise ModuleNotFoundError(f"{name} is not there", name=name)
    return before(name, globals, locals, fromlist, level)
builtins.__import__ = guarded
from tests.bench import common
common.Timer.rounds = {"cpu": 2}
words, stages = sys.argv[1:-1], sys.argv[-1].split(",")
for stage in stages:
    sys.argv = ["gpu_check.py", *words, "--stage", stage]
    runpy.run_path("tests/bench/gpu_check.py", run_name="__main__")
"""
STAGES = ("facts", "step", "train", "correctness", "ops")


@pytest.mark.slow
def test_stages_need_torch_alone(native, run_script, tmp_path):
    run_script("-c", BLOCK, "--device=cpu", f"--out={tmp_path}", ",".join(STAGES))
    results = {stage: json.loads((tmp_path / f"{stage}.part").read_text()) for stage in STAGES}
    for stage, result in results.items():
        assert result and result.get("passed", True), (stage, result.get("wrong"))
    assert results["correctness"]["checks"] > 500
    assert set(results["correctness"]["skipped"]) == {"other_stream", "graph", "training_graphs", "no_sync",
                                                      "no_sync_in_training"}
    trained = results["train"]
    assert trained["kimg"] > 0 and trained["runtime"]["precision"] == "bfloat16"
    assert len(trained["losses"]["Loss/D/loss"]) >= 2 and trained["nonfinite_gradients"] == 0
    assert trained["resumed"]["images"] == 32 and 0 < trained["resumed"]["moved"] < 0.1
    report = assert_schema(results["step"])
    seen = {(r["op"].split()[1], r["variant"], r["dtype"]) for r in report["rows"]}
    for phase in ("Gmain", "Dmain", "Dreg", "Greg", "lazy"):
        assert {(phase, "ours", "fp32"), (phase, "ours", "bf16"), (phase, "baseline", "fp32")} <= seen
    assert {("Adam", "ours", "fp32"), ("EMA", "ours", "fp32"), ("Dreg", "native conv", "bf16")} <= seen
    errors = [r["max_err"] for r in report["rows"] if r["max_err"] is not None]
    assert len(errors) >= 4 and max(errors) < 2e-2  # the formulations agree: else their times mean nothing


FAKE = """
import torch
from torch import nn

class Generator(nn.Module):
    def __init__(self, z_dim, w_dim, c_dim, img_resolution, img_channels, mapping_kwargs, synthesis_kwargs):
        super().__init__()
        self.z_dim, self.shape = z_dim, (img_channels, img_resolution, img_resolution)
        self.gain = nn.Parameter(torch.ones(1))
        self.mapping = self.synthesis = None

    def load_state_dict(self, state):
        assert "synthesis.b4.const" in state

    def forward(self, z, c, noise_mode):
        return self.gain * torch.ones(len(z), *self.shape)

class Discriminator(nn.Module):
    def __init__(self, c_dim, img_resolution, img_channels, epilogue_kwargs, channel_base, channel_max):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))

    def load_state_dict(self, state):
        assert "b4.out.weight" in state
"""
FAKE_LOSS = """
class StyleGAN2Loss:
    def __init__(self, device, G_mapping, G_synthesis, D, r1_gamma):
        self.D, self.G = D, None

    def accumulate_gradients(self, phase, real_img, real_c, gen_z, gen_c, sync, gain):
        (self.D.gain * real_img.mean() * gain).sum().backward() if self.D.gain.requires_grad else None
"""


@pytest.mark.slow
def test_the_original_runs_beside_ours_and_its_images_are_compared(tmp_path, monkeypatch, capsys):
    """A stand-in with the original's names; that of StyleGAN2-ADA is not in this repository."""
    for name, text in (("training/networks.py", FAKE), ("training/loss.py", FAKE_LOSS), ("training/__init__.py", ""),
                       ("torch_utils/__init__.py", ""), ("torch_utils/misc.py", "from torch import nan_to_num\n")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(against_original, "NETS", {"small": (8, 4, 4, 0, None)})
    monkeypatch.setattr(against_original, "BATCHES", (2,))
    words = [f"--original={tmp_path}", "--rounds=2", "--kernels=ref"]
    report = assert_schema(against_original.run(against_original.parser().parse_args(words)))
    medians = {(r["op"], r["variant"]): r["ms"]["median"] for r in report["rows"]}
    names = ("Gmain", "Dmain", "Greg", "Dreg", "average", "images 2", "step")
    assert set(medians) == {(f"small {n}", k) for n in names for k in ("ours", "original")}
    for k in ("ours", "original"):
        of = {n: medians[f"small {n}", k] for n in names}
        assert of["step"] == pytest.approx(of["Gmain"] + of["Dmain"] + of["Greg"] / 4 + of["Dreg"] / 16 + of["average"])
    assert medians["small step", "ours"] > medians["small step", "original"]
    found = {r["op"]: r["ratio"] for r in report["ratios"]}
    assert found["small step"] == medians["small step", "original"] / medians["small step", "ours"]
    assert re.search(r"images differ by \d\d+ of 255", capsys.readouterr().out)

    class Answers:  # at once, as a process of either side would
        def __init__(self, *command, env):
            pass

        def __call__(self, save=None, **request):
            if save is not None:
                torch.save(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), save)
            return dict(ms=1.0, peak_mib=1.0)

        __enter__, __exit__ = lambda self: self, lambda *_: None

    monkeypatch.setattr(against_original, "Side", Answers)
    more = against_original.run(against_original.parser().parse_args([*words, "--part=images"]))
    assert [r["op"] for r in more["ratios"]] == ["small images 2"] and len(more["rows"]) == 2
    with pytest.raises(UserError, match="--original-utlo=None: --cfg=utlo needs a checkout"):
        monkeypatch.setattr(against_original, "NETS", {"utlo": (8, 4, 4, 2, 4)})
        against_original.run(against_original.parser().parse_args(["--cfg=utlo"]))


def test_start_report(monkeypatch):
    monkeypatch.setattr(bench_start, "TORCH", "for _ in range(10**7): pass")  # longer than the help takes
    report = assert_schema(bench_start.run(bench_start.parser().parse_args(["--commands=help", "--rounds=1"])))
    ms = {(r["op"], r["variant"]): r["ms"]["median"] for r in report["rows"]}
    assert 0 < ms["help", "processor"] < ms[bench_start.TORCH, "processor"]
    assert report["ratios"][-1]["ratio"] == ms["help", "processor"] / ms[bench_start.TORCH, "processor"]
    assert [b["id"] for b in report["bars"]] == ["help, processor seconds"]
    with pytest.raises(UserError, match="--commands=hepl: it knows help, "):
        bench_start.run(bench_start.parser().parse_args(["--commands=hepl"]))
    monkeypatch.setattr(bench_start, "TORCH", "import json")
    # It ends with an error; with that error and not the line; without one, and without the line.
    for words in ((["inspect", "--absent"], None), (["inspect", "--absent"], "never"), (["--version"], "never")):
        monkeypatch.setitem(bench_start.COMMANDS, "help", words)
        with pytest.raises(UserError, match="ended without what was waited for: "):
            bench_start.run(bench_start.parser().parse_args(["--commands=help", "--rounds=0"]))


def test_gradients_of_networks_are_those_of_float64():
    found = gradients.errors(2, 16, 16)
    assert found.keys() == {"native", "ref"}
    for rows in found.values():  # of rounding, and of a kink at most
        assert len(rows) == 2 and all(1e-9 < middle < 1e-2 and middle < most < 0.3 for middle, most in rows)
        assert min(middle for middle, _ in rows) < 1e-5


def test_growth_report(monkeypatch):
    monkeypatch.setattr(bench_growth, "BASE", dict(size=8, channels=8, batch=4, classes=0))
    monkeypatch.setattr(bench_growth, "PARTS", dict(classes=(2, 3), images=(20, 10**9)))
    report = assert_schema(bench_growth.run(bench_growth.parser().parse_args(["--rounds=1", "--most=50"])))
    assert [(r["op"], r["direction"]) for r in report["rows"]] == [
        ("classes 2", "images"), ("classes 3", "images"), ("classes 2", "step"), ("classes 3", "step"),
        ("images 20", "open")]
    assert all(r["ms"]["median"] > 0 for r in report["rows"])
    with pytest.raises(UserError, match="--parts=size: it knows classes, images"):
        bench_growth.run(bench_growth.parser().parse_args(["--parts=size"]))


def test_profile(monkeypatch, capsys):
    monkeypatch.setattr(bench_profile, "NETS", {"small": (8, 4, 4, 0, None)})
    monkeypatch.setattr(bench_profile, "MAPPED", 1)
    report = assert_schema(bench_profile.run(bench_profile.parser().parse_args(["--cfg=small", "--rounds=2"])))
    rows = {(r["op"], *r["shape"]): r["ms"]["median"] for r in report["rows"]}
    assert {op.split(":")[0] for op, _ in rows} == {f"small {p}" for p in bench_profile.WEIGHT}
    assert any(size == 8 for _, size in rows) and rows["small average: " + bench_profile.KINDS[-2][0], 0] > 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    step = [float(cells[-4]) for cells in lines]
    assert len(lines) == len(bench_profile.KINDS) + 1
    assert sum(step) == pytest.approx(100, abs=1), "the parts are the whole"
    assert all(sum(map(float, c[-3:])) == pytest.approx(float(c[-4]), abs=0.2) for c in lines), "and so are the sizes"
    assert [bench_profile.kind(f"gantransfer::{n}") for n in ("conv3x3", "conv3x3_weight_grad", "epilogue_grad")] == [
        "3x3, forward", "3x3, weight gradient", "bias, noise, activation"]
    assert [bench_profile.size_of(s) for s in ([[4, 64, 33, 33], [64, 64, 3, 3]], [[512, 512]], [[8, 3, 3, 3]])] == [
        32, 0, 0]
    with pytest.raises(UserError, match="--cfg=32: it knows small"):
        bench_profile.run(bench_profile.parser().parse_args(["--cfg=32"]))


def test_candidates_are_other_ways_to_the_same(monkeypatch):
    monkeypatch.setattr(bench_candidates, "SIZES", {"16": (1, 16, 16)})
    monkeypatch.setattr(bench_candidates, "COMPILER", "eager")  # the other takes half a minute
    monkeypatch.setattr(bench_candidates, "rms_error", lambda m, channels: 0.5)
    report = assert_schema(bench_candidates.run(bench_candidates.parser().parse_args(["--rounds=1"])))
    assert all(r["ratio"] > 0 for r in report["ratios"]) and report["rows"][-1]["max_err"] == 0.5
    with pytest.raises(UserError, match="--sizes=8: it knows 16"):
        bench_candidates.run(bench_candidates.parser().parse_args(["--sizes=8"]))
    for what, (now, other) in bench_candidates.candidates(1, 16, 16).items():
        if not what.startswith(("F(2x2)", "one product")):  # these have random numbers of their own, or a copy
            a, b = (t if isinstance(t, list) else [next(u for u in t if u is not None) if isinstance(t, tuple) else t]
                    for t in (now(), other()))
            for u, v in zip(a, b, strict=True):
                torch.testing.assert_close(u, v, rtol=1e-3, atol=1e-4)
    x, dy, w = torch.randn(2, 8, 16, 16), torch.randn(2, 6, 16, 16), torch.randn(6, 8, 3, 3)
    torch.testing.assert_close(bench_candidates.one_product(dy, x),
                               bench_candidates.gradients(x, w, dy, "w")()[1], rtol=1e-4, atol=1e-4)
    for m in bench_candidates.TILES:
        torch.testing.assert_close(bench_candidates.minimal(x, w, m), torch.nn.functional.conv2d(x, w, padding=1),
                                   rtol=1e-4, atol=1e-4)


def test_cores(monkeypatch):
    ran = []

    def command(words, env, **_):
        ran.append((words[3:], env["OMP_NUM_THREADS"]))
        said = "sec/kimg 9.00 ... sec/kimg 4.00 left"
        return types.SimpleNamespace(returncode=int(words[3] == "bad"), stdout=said, stderr="")

    monkeypatch.setattr(bench_cores, "subprocess", types.SimpleNamespace(run=command))
    words = ["--data=set.zip", "--network=net.pkl", "--images=50", "--kimg=2", "--rounds=1"]
    report = assert_schema(bench_cores.run(bench_cores.parser().parse_args(words)))
    assert [(r["op"], r["variant"]) for r in report["rows"]] == [
        (c, w) for c in bench_cores.COMMANDS for w in bench_cores.WAYS]
    assert report["rows"][0]["ms"]["median"] == 4000 and report["ratios"][1]["ratio"] == 1
    assert [n for _, n in ran] == ["1", "2", "1"] * 3
    assert ran[2][0] == ["train", "--data=set.zip", "--cond=True", "--cfg=small", "--kimg=2.0", "--tick=0.5",
                         "--metrics=none", ran[2][0][7], "--threads=1", "--gpus=2"]
    assert "--seeds=0-49" in ran[3][0] and "--metrics=fd_pix64_50" in ran[-1][0] and ran[-1][0][-1] == "--gpus=2"
    monkeypatch.setitem(bench_cores.COMMANDS, "generate", (["bad"], None))
    with pytest.raises(UserError, match="gantransfer bad: "):
        bench_cores.run(bench_cores.parser().parse_args([*words, "--commands=generate"]))
    with pytest.raises(UserError, match="--commands=view: it knows train, "):
        bench_cores.run(bench_cores.parser().parse_args([*words, "--commands=view"]))


def test_precision(monkeypatch, tmp_path):
    """Two float32 seeds are 0.2 apart, bf16 and float32 0.1; a training that is there is not made again."""
    offset, trained = {"fp32-seed0": 0.0, "fp32-seed1": 0.2, "bf16-seed0": -0.1}, []

    def command(words, **_):
        folder = Path(next(w for w in words if w.startswith("--outdir=")).partition("=")[2])
        trained.append(folder.name)
        (folder / "00000-run").mkdir(parents=True)
        (folder / "00000-run" / "network-snapshot-000002.pkl").touch()
        shift, losses = offset[folder.name], bench_precision.LOSSES
        points = [{"Progress/kimg": {"mean": k}, **{x: {"mean": k + shift} for x in losses}} for k in (0, 1, 2)]
        (folder / "00000-run" / "stats.jsonl").write_text("".join(json.dumps(p) + "\n" for p in points))
        return types.SimpleNamespace(returncode=0)

    monkeypatch.setattr(bench_precision, "subprocess", types.SimpleNamespace(run=command))
    words = ["--data=set.zip", f"--dir={tmp_path}", f"--picture={tmp_path / 'losses.png'}"]
    for _ in range(2):
        report = assert_schema(bench_precision.run(bench_precision.parser().parse_args(words)))
    assert trained == list(offset) and (tmp_path / "losses.png").stat().st_size > 5000
    assert [r["max_err"] for r in report["rows"]] == pytest.approx([0.2, 0.1] * 2)
    assert [r["ratio"] for r in report["ratios"]] == pytest.approx([0.5] * 2)
    assert [r["shape"] for r in report["rows"]] == [[2]] * 4  # the first point is of the first step alone
