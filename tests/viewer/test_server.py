# SPDX-License-Identifier: Apache-2.0
"""Who may ask the viewer's server, and that a request cannot name a file."""

import asyncio
import io
import json
import socket

import numpy as np
import pytest
import torch
from PIL import Image

from gantransfer.viewer.abilities import abilities
from gantransfer.viewer.answers import NAMES, Shown
from gantransfer.viewer.server import PAGE, Guard, application

pytest.importorskip("starlette", reason="needs the extra `viewer`")
pytest.importorskip("httpx2", reason="needs httpx2, which Starlette's test client is made of")
from starlette.testclient import TestClient  # noqa: E402

TOKEN = "a-secret"
BASE = "http://127.0.0.1:8765"


@pytest.fixture(scope="module")
def client(sampler_of):
    sampler = sampler_of("classes")
    app = application([Shown(sampler, abilities(sampler, "stylegan2", "trees.pkl"))], TOKEN)
    with TestClient(app, base_url=BASE, follow_redirects=False) as c:
        yield c


def ask(client, name, **params):
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in params.items()}
    return client.get(f"/{TOKEN}/api/{name}", params=texts)


def test_the_page_and_its_parts_are_served(client):
    page = client.get(f"/{TOKEN}/")
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    for f in PAGE.iterdir():
        got = client.get(f"/{TOKEN}/{f.name}")
        assert got.status_code == 200 and got.content == f.read_bytes()
    assert client.get(f"/{TOKEN}").headers["location"].endswith(f"/{TOKEN}/")


def test_the_page_asks_for_nothing_from_outside():
    for f in PAGE.iterdir():
        text = f.read_text(encoding="utf-8")
        assert "//" not in text.replace("http://www.w3.org/2000/svg", "").replace("// ", ""), f.name


def test_answers_forbid_other_sites_to_use_them(client):
    for got in (client.get(f"/{TOKEN}/"), ask(client, "models"), client.get("/"), ask(client, "image")):
        policy = got.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
        assert got.headers["cross-origin-resource-policy"] == "same-origin"
        assert got.headers["referrer-policy"] == "no-referrer" and got.headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in got.headers


@pytest.mark.parametrize("path", ["/", "/index.html", "/api/models", "/a-secre/", "/a-secret2/api/models", "/%61", "//",
                                  "/wrong/api/image", "/é/"])
def test_without_the_token_nothing_is_given(client, path):
    got = client.get(path)
    assert got.status_code == 403 and "token" in got.text and got.text.count("\n") == 1


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "192.168.0.7:8765",
                                  "0.0.0.0", "[::2]:8765", "", "localhost.evil.example", "@127.0.0.1"])
def test_foreign_names_are_refused(client, host):
    for name in ("models", "alive"):
        got = client.get(f"/{TOKEN}/api/{name}", headers={"host": host})
        assert got.status_code == 421, host


@pytest.mark.parametrize("host", ["localhost:9000", "127.0.0.1", "[::1]:8765", "LOCALHOST:1"])
def test_a_tunnel_may_have_another_port(client, host):
    assert client.get(f"/{TOKEN}/api/models", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("origin, status", [
    ("http://127.0.0.1:8765", 200), ("https://127.0.0.1:8765", 200), ("http://evil.example", 403), ("null", 403),
    ("http://127.0.0.1:8766", 403), ("http://localhost:8765", 403), ("http://127.0.0.1", 403), ("", 403)])
def test_other_sites_are_refused(client, origin, status):
    assert client.get(f"/{TOKEN}/api/models", headers={"origin": origin}).status_code == status


def test_two_hosts_or_an_origin_among_two_are_refused():
    guard = Guard(None, TOKEN)

    def status(*headers):
        scope = dict(type="http", method="GET", path=f"/{TOKEN}/", headers=list(headers), query_string=b"")
        return (guard.problem(scope) or (200,))[0]

    own = (b"host", b"localhost")
    assert status(own) == 200 and status() == 421 and status(own, own) == 421 and status((b"host", b"x"), own) == 421
    assert status(own, (b"origin", b"http://localhost"), (b"origin", b"http://x")) == 403


def test_only_reading(client):
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
        assert client.request(method, f"/{TOKEN}/api/models").status_code == 405
    assert client.get(f"/{TOKEN}/api/models", params={"x": "y" * 20_000}).status_code == 414


def test_websockets_are_closed():
    sent = []

    async def send(message):
        sent.append(message["type"])

    asyncio.run(Guard(None, TOKEN)(dict(type="websocket", path=f"/{TOKEN}/"), None, send))
    assert sent == ["websocket.close"]


def test_on_all_addresses_only_addresses_and_the_own_name_are_known():
    everywhere = Guard(None, TOKEN, "0.0.0.0")
    assert everywhere.knows("192.168.0.7:8765") and everywhere.knows(socket.gethostname())
    assert not everywhere.knows("evil.example") and not everywhere.knows("192.168.0.7.evil.example")
    one = Guard(None, TOKEN, "192.168.0.7")
    assert one.knows("192.168.0.7:8765") and one.knows("localhost") and not one.knows("192.168.0.8:8765")


@pytest.mark.parametrize("path", ["../server.py", "..%2fserver.py", "%2e%2e/server.py", "page/../../server.py",
                                  "api/../../server.py", "//etc/passwd", "..%5cserver.py", "no.js", "api/none"])
def test_no_file_beside_the_page_is_given(client, path):
    got = client.get(f"/{TOKEN}/{path}")
    assert got.status_code in (403, 404) and b"SPDX" not in got.content


def test_requests_name_no_file():
    assert NAMES == ("models", "image", "sheet", "nearest", "scores", "film", "alive")


def test_an_image_is_the_sampler_s(client, sampler_of):
    got = ask(client, "image", point=dict(seed=5, class_id=1, trunc=0.7))
    assert got.headers["content-type"] == "image/png"
    want = sampler_of("classes")([5], torch.eye(4)[[1]], truncation_psi=0.7, noise_mode="const")[0, 0].numpy()
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(got.content))), want)
    assert ask(client, "models").json()[0]["label"]["classes"][0] == dict(
        id=0, name="ash", count=9, group="", trained=True)
    assert ask(client, "alive").status_code == 200


@pytest.mark.parametrize("name, params, line", [
    ("image", {}, "point is not valid JSON"), ("image", dict(point="[]"), "point holds a list"),
    ("image", dict(point="{"), "point is not valid JSON"),
    ("image", dict(point="[" * 4000), "point is not valid JSON"),
    ("image", dict(point={}), "choose a class"), ("image", dict(point={"class_id": 7}), "class 7 does not exist"),
    ("image", dict(point={"class_id": 0, "path": "x"}), "unknown: path"),
    ("image", dict(point={"class_id": 0}, model="1"), "no such model"),
    ("image", dict(point={"class_id": 0}, model="../x"), "no such model"),
    ("film", dict(point={"class_id": 0}), "nothing moves"),
    ("film", dict(point={"class_id": 0, "to_seed": 1}, frames="100000"), "has 2 to 600 frames"),
    ("sheet", dict(sheet={"seeds": list(range(900))}), "1 to 400 images"),
    ("sheet", dict(sheet={"seeds": []}), "1 to 400 images"), ("sheet", dict(sheet={}), "seeds is not a list"),
    ("nearest", dict(point={"class_id": 0}), "--data"), ("scores", {}, "no scores")])
def test_what_does_not_exist_is_one_line(client, name, params, line):
    got = ask(client, name, **params)
    assert got.status_code == 400 and line in got.json()["error"] and "\n" not in got.json()["error"]


def test_a_defect_is_one_line_and_the_server_goes_on(client, monkeypatch, capsys):
    from gantransfer.viewer import points

    monkeypatch.setattr(points, "image", lambda *a: 1 / 0)
    got = ask(client, "image", point=dict(seed=77, class_id=1))
    assert got.status_code == 500 and "ZeroDivisionError" in got.json()["error"]
    assert capsys.readouterr().err.count("\n") == 1
    monkeypatch.undo()
    assert ask(client, "image", point=dict(seed=77, class_id=1)).status_code == 200
