# SPDX-License-Identifier: Apache-2.0
"""gantransfer view: look at a generator, in a browser."""

from __future__ import annotations

import errno
import importlib.util
import ipaddress
import os
import secrets
import socket
import sys
from typing import Any

import click

from dnnlib.util import UserError, printable
from gantransfer.commands import CONTEXT
from gantransfer.commands.flags import KERNELS, PATH, SNAPSHOT, IntRange, option, pick_device

LOOPBACK = "127.0.0.1"


@click.command(context_settings=CONTEXT)
@click.option("--network", type=SNAPSHOT, metavar="PATH",
              help="Snapshot: ours or a published pickle; file or URL [default: newest of runs/]")
@click.option("--network2", type=SNAPSHOT, metavar="PATH", help="A second one beside it, at the same seed and class")
@click.option("--data", type=PATH, metavar="PATH",
              help="The images that --network was trained on: the nearest one is shown beside each picture")
@click.option("--fname", type=PATH, metavar="NAME", help="Label file of --data [default: as in training]")
@click.option("--host", default=LOOPBACK, show_default=True, metavar="ADDRESS", help="Address to listen at")
@click.option("--port", type=IntRange(0, 65535), default=8765, show_default=True, help="Port; 0 is any free one")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N")
@option(KERNELS)
def main(network: str | None, network2: str | None, data: str | None, fname: str | None, host: str, port: int,
         device: str) -> None:
    """Open a page that shows what a generator makes: seeds, classes, truncation, walks, mixing, sheets.

    \b
    gantransfer view --network=SNAP.pkl
    gantransfer view --network=SNAP.pkl --network2=OTHER.pkl --data=datasets/af.zip

    On another machine: start it there, and on yours `ssh -L 8765:localhost:8765 THERE`.
    """
    missing = [n for n in ("starlette", "uvicorn") if importlib.util.find_spec(n) is None]
    if missing:
        raise UserError(f"the viewer needs the package{'s' * (len(missing) > 1)} {' and '.join(missing)}: pip install "
                        f"{' '.join(missing)}")
    if fname and not data:
        raise UserError("--fname is the label file of --data: give --data, or omit --fname")
    where = pick_device(device)
    with _listen(host, port) as listener:  # before anything that takes time
        if not network:
            from gantransfer.commands.run import newest_snapshot

            network = newest_snapshot("--network is missing and runs/ has no snapshot: name one")
        shown = [_shown(path, where) for path in (network, network2) if path]
        if network2:
            _pair(*shown)
        if data:
            _training(shown[0], data, fname)
        _serve(shown, listener, host)


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens. UserError naming the flag where it cannot be had."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError):
        raise UserError(f"--host={printable(host)[:60]} is no address of this machine") from None
    listener = socket.socket(family, kind, proto)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as e:
        listener.close()
        if e.errno == errno.EADDRINUSE:
            raise UserError(f"--port={port} is in use: give another, or --port=0 for any free one") from None
        if e.errno == errno.EACCES:
            raise UserError(f"--port={port} is not yours to listen at: give one above 1023") from None
        raise UserError(f"--host={printable(host)[:60]}: {e.strerror}") from None
    return listener


def _shown(path: str, device: Any) -> Any:
    from gantransfer.model import load
    from gantransfer.viewer.abilities import abilities
    from gantransfer.viewer.answers import Shown

    model = load(path)
    sampler = model.sampler(device)
    folder, name = os.path.split(path)
    if name.startswith("network-snapshot-"):  # all runs have one of that name
        name = os.path.join(os.path.basename(folder), name)
    return Shown(sampler, {**abilities(sampler, model.method, name), "path": printable(path)})


def _pair(first: Any, second: Any) -> None:
    """Says which class of the second model each class of the first is, where both have classes; of other sets, too."""
    from gantransfer.distillation.class_match import comparable, match

    ours, theirs = first.sampler.spec.label, second.sampler.spec.label
    if comparable(theirs, ours):
        second.about["match"] = match(theirs, ours)
    sets = first.sampler.label_sets, second.sampler.label_sets
    second.about["set_matches"] = {k: match(sets[1][k], sets[0][k]) for k in sets[0]
                                   if k in sets[1] and comparable(sets[1][k], sets[0][k])}


def _training(shown: Any, data: str, fname: str | None) -> None:
    from gantransfer.data.classes import note
    from gantransfer.data.dataset import training_dataset
    from gantransfer.metrics.neighbours import TrainingImages

    spec, found = shown.sampler.spec, training_dataset(shown.sampler.spec, data, fname)
    if found.num_channels != spec.channels:
        raise UserError(f"--data={data} has images of {found.num_channels} channels, the network makes "
                        f"{spec.channels}")
    if spec.label.kind == "class" and found.class_ids is None:
        note(f"{data} has no classes: the nearest of all its images is shown, whatever the class")
    shown.training = TrainingImages(found)
    shown.about["training"] = len(shown.training.data)


def _serve(shown: list[Any], listener: socket.socket, host: str) -> None:
    import uvicorn

    from gantransfer.viewer.server import application

    token = secrets.token_urlsafe(24)
    if not _loopback(host):
        print(f"Warning: --host={host} lets other machines reach this server, without encryption; whoever has the "
              "address below sees what you see", file=sys.stderr)
    name = socket.gethostname() if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    config = uvicorn.Config(application(shown, token, host), log_level="warning", access_log=False,
                            timeout_graceful_shutdown=1, server_header=False, date_header=False)
    print(f"Open http://{name}:{listener.getsockname()[1]}/{token}/\nCtrl-C ends it.", flush=True)
    uvicorn.Server(config).run(sockets=[listener])


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
