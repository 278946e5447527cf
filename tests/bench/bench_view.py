# SPDX-License-Identifier: Apache-2.0
"""From a moved slider to the picture in the viewer's page, in Chromium: `python -m tests.bench.bench_view`.

Without --network it is a `tiny` StyleGAN2 of 64 pixels with ten classes, untrained: time does not depend on weights.
The bar is a median of 150 ms on a machine with nothing else to do.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np

from gantransfer.data.dataset import DataSpec, LabelSpec
from tests.bench.bench_start import processor_seconds
from tests.made import made

BAR_MS = 150
MEASURE = """value => new Promise(done => {
    const slider = document.getElementById('trunc'), figure = document.querySelector('figure[data-slot=image0]');
    slider.value = value;
    const began = performance.now();
    new MutationObserver((_, watch) => {
        if (JSON.parse(figure.dataset.shown).trunc !== value) return;
        watch.disconnect();
        requestAnimationFrame(() => done(performance.now() - began));
    }).observe(figure, {attributeFilter: ['data-shown']});
    slider.dispatchEvent(new Event('input', {bubbles: true}));
})"""


def tiny(path: Path, resolution: int) -> None:
    """A snapshot of the preset, as training begins with it."""
    data = DataSpec("bench", resolution, 3, 1000, LabelSpec("class", 10, (100,) * 10))
    made("stylegan2", data, cfg="tiny").snapshot(0).save(path)


@click.command()
@click.option("--network", type=click.Path(exists=True), help="Snapshot [default: an untrained `tiny` one]")
@click.option("--resolution", type=click.IntRange(8, 1024), default=64, show_default=True, help="Of the untrained one")
@click.option("--moves", type=click.IntRange(min=5), default=60, show_default=True)
@click.option("--kernels", default="auto", show_default=True)
def main(network: str | None, resolution: int, moves: int, kernels: str) -> None:
    """Time a slider of `gantransfer view`."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder:
        path = network or Path(folder) / "tiny.pkl"
        if not network:
            tiny(path, resolution)
        words = [sys.executable, "-m", "gantransfer", "view", f"--network={path}", "--port=0", f"--kernels={kernels}"]
        server = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        try:
            url = re.search(r"http\S+", server.stdout.readline())[0]
            with sync_playwright() as p:
                browser = p.chromium.launch(executable_path=shutil.which("chromium"),
                                            args=["--no-sandbox", "--disable-background-networking"])
                page = browser.new_page(viewport=dict(width=1280, height=900))
                page.goto(url)
                page.wait_for_selector("figure[data-shown]")
                values = [round(0.05 + 0.01 * k, 2) for k in range(moves + 5)]  # new ones: nothing is kept of them
                page.locator("#trunc").evaluate("x => { x.step = 0.01; }")
                for v in values[:5]:
                    page.evaluate(MEASURE, v)
                before, wall = processor_seconds(server.pid), time.perf_counter()
                ms = np.array([page.evaluate(MEASURE, v) for v in values[5:]])
                cpu = 1000 * (processor_seconds(server.pid) - before) / moves
                wall = 1000 * (time.perf_counter() - wall) / moves
                browser.close()
        finally:
            server.terminate()
            server.wait()
    print(f"{Path(path).name}, {moves} moves: median {np.median(ms):.0f} ms from slider to picture, nine of ten within "
          f"{np.percentile(ms, 90):.0f} ms (bar {BAR_MS} ms); {cpu:.0f} ms of the server's processor time and "
          f"{wall:.0f} ms in all for each; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
