# SPDX-License-Identifier: Apache-2.0
"""torch_utils.distributed with one process, and with two gloo processes started by `launch`."""

import dataclasses
import os
import signal
import sys
import time

import pytest
import torch

from dnnlib.util import UserError
from tests.torch_utils.jobs import wait_for
from torch_utils import distributed as dist

pytestmark = pytest.mark.skipif(dist.cpu_cores() < 2, reason="two processes need two CPU cores")


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    with open(f"/proc/{pid}/stat") as f:  # a zombie is dead
        return f.read().rsplit(")", 1)[1].split()[0] != "Z"


# One process

def test_everything_is_an_identity_with_one_process(capsys):
    assert dist.init("cpu") == torch.device("cpu")
    assert (dist.rank(), dist.world_size(), dist.is_main(), dist.is_initialized()) == (0, 1, True, False)
    x = torch.arange(6.0).reshape(2, 3)
    for f in (dist.all_reduce_sum, dist.all_reduce_max, dist.broadcast_):
        assert f(x) is x and x.tolist() == [[0, 1, 2], [3, 4, 5]]
    box = object()
    assert dist.gather_object(box) == [box] and dist.broadcast_object(box) is box
    dist.barrier()
    dist.assert_replicas_equal({"x": x})
    dist.print0("hello", end="!")
    dist.shutdown()
    assert capsys.readouterr().out == "hello!"


@pytest.mark.parametrize("num", [0, -1, dist.cpu_cores() + 1])
def test_impossible_number_of_processes_is_a_user_error(num):
    with pytest.raises(UserError, match=f"--gpus={num}"):
        dist.check_world(num, "cpu")
    with pytest.raises(UserError, match=f"--gpus={num}"):
        dist.launch(num, ["-c", "raise SystemExit(9)"], kind="cpu")


def test_more_gpus_than_there_are_is_a_user_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    dist.check_world(1, "cuda")
    with pytest.raises(UserError, match="--gpus=4: this machine has 1 GPU; use --gpus=1 or fewer"):
        dist.check_world(4, "cuda")


def test_absent_cuda_is_a_user_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert dist.resolve_device("auto") == "cpu"
    with pytest.raises(UserError, match="--device=cuda"):
        dist.resolve_device("cuda")
    with pytest.raises(UserError, match="--device=tpu"):
        dist.resolve_device("tpu")


# Two processes

def test_bars_collectives_the_check_of_replicas_signals_and_the_end(job, tmp_path):
    """A thread of the group that outlives it aborted one process in some hundred at its end, with code 134 and all its
    work done; with torch's compiler loaded, as in rank 1, or without."""
    p = job.start("""
sys.stderr.write("\\r 10%")
sys.stderr.flush()
while rank == 0 and not os.path.exists("go"):
    time.sleep(0.02)
sys.stderr.write("\\r100%\\n")
t = torch.arange(6.0).reshape(2, 3) * (rank + 1)
view = torch.zeros(3, 2).t()
view.copy_(t)
p = torch.nn.Parameter(t.clone())
for x in (t.clone(), view, p):
    y = dist.all_reduce_sum(x)
    assert y is x and x.tolist() == [[0, 3, 6], [9, 12, 15]], x
for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8):
    assert dist.all_reduce_sum(torch.tensor(rank + 1).to(dtype)).item() == 3
assert dist.all_reduce_max(torch.tensor([float(rank), -float(rank)])).tolist() == [1, 0]
assert dist.broadcast_(torch.full((2, 2), float(rank)).t(), src=1).tolist() == [[1, 1], [1, 1]]
assert dist.gather_object({"x": "y" * 1000 ** rank}) == [{"x": "y"}, {"x": "y" * 1000}]
assert dist.broadcast_object(["from", rank]) == ["from", 0]
assert dist.broadcast_object(["from", rank], src=1) == ["from", 1]
assert dist.world_size() == 2 and dist.is_main() == (rank == 0)
assert sys.argv[1:] == ["--flag=1"] and "error::FutureWarning" in sys.warnoptions, "command line not in full"
start = time.monotonic()
time.sleep(0.5 * rank)
dist.barrier()
assert time.monotonic() - start > 0.4
dist.print0("only once")
if rank == 1:
    print("from the second")
# The check of replicas names the tensor and the ranks.
same = {"a": torch.ones(3), "nan": torch.tensor([float("nan")]), "empty": torch.zeros(0), "i": torch.tensor(3),
        "half": torch.ones(2, dtype=torch.bfloat16), "t": torch.arange(6.0).reshape(2, 3).t()}
dist.assert_replicas_equal(same)
dist.assert_replicas_equal(iter(same.items()))
cases = {"one bit": torch.tensor([1.0, 2.0 + rank * 2.4e-7]),  "swapped": torch.arange(4.0).roll(rank),
         "shape": torch.zeros(2 + rank), "dtype": torch.zeros(2).to([torch.float32, torch.int32][rank])}
for name, t in cases.items():
    try:
        dist.assert_replicas_equal({**same, name: t})
    except RuntimeError as e:
        assert str(e).startswith(f"replicas differ in '{name}'") and "rank 1 against rank 0" in str(e), e
    else:
        raise SystemExit(f"{name}: not seen")
try:
    dist.assert_replicas_equal(dict(list(same.items())[: 3 + rank]))
except RuntimeError as e:
    assert "rank 0: (nothing)" in str(e) and "rank 1: i int64[]" in str(e), e
else:
    raise SystemExit("missing tensor not seen")
# A signal within a collective.
seen = []
for s in (signal.SIGTERM, signal.SIGINT):
    signal.signal(s, lambda s, frame: seen.append(s))
dist.barrier()
open(f"ready{rank}", "w").close()
end = time.monotonic() + 20
while not dist.all_reduce_max(torch.tensor([len(seen) or int(time.monotonic() > end)])):
    time.sleep(0.02)
time.sleep(0.3)
print(f"saved {rank} {[int(s) for s in seen]}, alone: {os.getsid(0) == os.getpid()}")
# The end.
if rank == 1:
    __import__("torch._dynamo")
p.grad = torch.ones_like(p)
optimizers.Adam([p]).step()
dist.broadcast_(p.data)
if sys.platform == "linux":
    def gloo():
        names = [open(f"/proc/self/task/{t}/comm").read().strip() for t in os.listdir("/proc/self/task")]
        return [name for name in names if "gloo" in name]
    assert gloo()
    dist.shutdown()
    print("left:", *gloo())
""")
    # Rank 0's bar shows before its line ends.
    os.set_blocking(p.stderr.fileno(), False)
    end, seen = time.monotonic() + 30, b""
    while b"\r 10%" not in seen and time.monotonic() < end:
        try:
            seen += os.read(p.stderr.fileno(), 100)
        except BlockingIOError:
            time.sleep(0.02)
    assert b"\r 10%" in seen
    os.set_blocking(p.stderr.fileno(), True)
    (tmp_path / "go").touch()
    wait_for(tmp_path / "ready0", tmp_path / "ready1", seconds=60)
    p.send_signal(signal.SIGINT)  # not to its session, as a terminal would
    out, err = p.communicate(timeout=60)
    assert p.returncode == 0 and "100%" in err, err
    for rank in (0, 1):
        assert f"saved {rank} [{int(signal.SIGINT)}], alone: True" in out
    assert sys.platform != "linux" or out.count("left:") == out.count("left:\n") == 2, out + err
    assert out.count("only once") == 1 and "[rank1]: from the second" in out
    assert "Starting 2 CPU processes with 1 thread each" in out


def test_hang_ends_with_the_absent_rank_named(launch):
    code, _, err = launch("""
if rank == 1:
    time.sleep(100)
dist.all_reduce_sum(torch.zeros(5))
""", timeout=3)
    last = err.splitlines()[-1]
    assert code == 1 and last.startswith("Error: rank 0 of 2: all_reduce_sum of float32[5] failed: no sign of rank 1")


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks at /proc")
def test_killing_the_launcher_leaves_no_orphans(job, tmp_path):
    p = job.start("""
with open(f"pid{rank}.part", "w") as f:
    f.write(str(os.getpid()))
os.rename(f"pid{rank}.part", f"pid{rank}")
time.sleep(100)
""")
    files = [tmp_path / "pid0", tmp_path / "pid1"]
    wait_for(*files)
    p.kill()
    p.communicate(timeout=30)
    end = time.monotonic() + 10
    while any(alive(int(f.read_text())) for f in files):
        assert time.monotonic() < end, "a rank outlived its launcher"
        time.sleep(0.05)


def test_torchrun_starts_the_same_script_and_killed_leaves_no_orphans(job, tmp_path):
    p = job.start("total = dist.all_reduce_sum(torch.ones(1)).item()\n"
                  "print(f'rank {rank} of {dist.world_size()}: {total}\\n', end='', flush=True)\n"
                  "open(f'pid{rank}.tmp', 'w').write(str(os.getpid()))\nos.rename(f'pid{rank}.tmp', f'pid{rank}')\n"
                  "time.sleep(60)", "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone")
    files = [tmp_path / f"pid{k}" for k in (0, 1)]
    wait_for(*files, seconds=60)
    p.kill()
    out, _ = p.communicate(timeout=30)
    end = time.monotonic() + 10
    while any(alive(int(f.read_text())) for f in files):
        assert time.monotonic() < end, "a rank outlived its agent"
        time.sleep(0.05)
    assert sorted(out.splitlines()) == ["rank 0 of 2: 2.0", "rank 1 of 2: 2.0"]


def test_an_earlier_attempt_of_a_job_is_told_from_another_job(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert dist.job() is None
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "100")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    mine, record = dist.job(), dataclasses.asdict(dist.job())
    assert mine == dist.job() and mine.restarts == 1
    first = dataclasses.replace(mine, restarts=0)
    joined = dataclasses.replace(first, agents=["host:1:2", *mine.agents])  # one agent has replaced another
    assert mine.same(record) and first.same(record) and joined.same(record)
    other = {**record, "agents": ["host:1:2"]}  # the same id given to two jobs; or all agents are new
    assert not first.same(other) and mine.same(other)
    assert not mine.same({**record, "run_id": "101"}) and not mine.same(None)
    assert not first.same({**record, "agents": 1}) and not first.same({"run_id": "100", "agent": mine.agents[0]})
    unnamed = dist.Job("none", ["here:3:4"], 1)
    assert not unnamed.same({"run_id": "none", "agents": ["host:1:2"]})


@pytest.mark.parametrize("text", ["0", "-3", "soon"])
def test_bad_time_out_is_a_user_error(monkeypatch, text):
    monkeypatch.setenv("GANTRANSFER_DIST_TIMEOUT", text)
    with pytest.raises(UserError, match=f"GANTRANSFER_DIST_TIMEOUT={text}"):
        dist.launch(2, ["-c", ""], kind="cpu")
