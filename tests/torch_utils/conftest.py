# SPDX-License-Identifier: Apache-2.0
"""Jobs of two processes."""

import pytest

from tests.conftest import ROOT
from tests.torch_utils.jobs import Job, signalled
from torch_utils import distributed as dist


@pytest.fixture
def job(tmp_path):
    job = Job(tmp_path)
    yield job
    for p in job.processes:
        p.kill()
        p.wait()


@pytest.fixture
def launch(job, tmp_path, monkeypatch, capfd):
    """Run a body with this process as the launcher: (exit code, stdout, stderr). `send`: a signal that the launcher
    gets once both ranks have written their file `ready`."""

    def run(body: str, timeout: int = 60, send: int | None = None) -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        monkeypatch.setenv("GANTRANSFER_DIST_TIMEOUT", str(timeout))
        with signalled(send, tmp_path):
            code = dist.launch(2, [str(job.write(body))], kind="cpu", grace=1.0)
        return code, *capfd.readouterr()

    return run
