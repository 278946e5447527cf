# SPDX-License-Identifier: Apache-2.0
"""The server of the page: who may ask.

Everything lies below a secret path, `/TOKEN/`: who does not know it gets nothing, and no cookie goes to other servers
of this machine. `Guard` also refuses other names in `Host` (a foreign site whose name is made to lead here) and other
sites in `Origin`. Requests only read.
"""

from __future__ import annotations

import hmac
import ipaddress
import socket
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dnnlib.util import UserError, printable
from gantransfer.viewer.answers import NAMES, Answer, Answers, Shown
from gantransfer.viewer.render import Superseded

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

PAGE = Path(__file__).parent / "page"
LONGEST = 16_384  # bytes of a request
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
                               "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin", "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer", "x-content-type-options": "nosniff", "cache-control": "no-store",
}
_HEADERS = [(k.encode(), v.encode()) for k, v in HEADERS.items()]

App = Callable[[Any, Any, Any], Any]  # ASGI


class Guard:
    """An ASGI application that passes on to `app` what names this machine, comes from its own page or from no page,
    and knows the token.

    host: the address that is listened at. On the loopback the server answers to the loopback's names; on another
    address also to that, and on all addresses also to any address (a name could be made to lead here) and the
    machine's own name. The port may be any, because a tunnel has its own.
    """

    def __init__(self, app: App, token: str, host: str = "127.0.0.1"):
        self.app, self.token, self.host = app, token, host

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return await send(dict(type="websocket.close", code=1008))
        problem = self.problem(scope)
        if problem is not None:
            status, reason = problem
            headers = [*_HEADERS, (b"content-type", b"text/plain; charset=utf-8")]
            await send(dict(type="http.response.start", status=status, headers=headers))
            return await send(dict(type="http.response.body", body=f"{reason}\n".encode()))

        async def answer(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_HEADERS]
            await send(message)

        await self.app(scope, receive, answer)

    def problem(self, scope: Any) -> tuple[int, str] | None:
        """(status, reason) why a request is refused, or None."""
        given = {name: [v.decode("latin-1") for k, v in scope["headers"] if k == name] for name in (b"host", b"origin")}
        if scope["method"] not in ("GET", "HEAD"):
            return 405, "this server is only read"
        if len(given[b"host"]) != 1 or not self.knows(given[b"host"][0]):
            return 421, "this server does not go by that name: open the address that gantransfer view printed"
        own = [f"{scheme}://{given[b'host'][0]}" for scheme in ("http", "https")]
        if any(origin not in own for origin in given[b"origin"]):
            return 403, "other sites may not ask here"
        first = scope["path"].partition("/")[2].partition("/")[0]
        if not hmac.compare_digest(first.encode("utf-8", "replace"), self.token.encode()):
            return 403, "the token is missing: open the whole address that gantransfer view printed"
        if len(scope.get("query_string", b"")) > LONGEST:
            return 414, "the request is too long"
        return None

    def knows(self, host: str) -> bool:
        """Whether `host`, a name or address with or without a port, is this server."""
        name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        name = name.lower()
        if name in ("localhost", "127.0.0.1", "::1", self.host.lower()):
            return True
        if self.host not in ("0.0.0.0", "::"):
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name == socket.gethostname().lower()
        return True


async def _response(make: Callable[[Any], Any], request: Request) -> Response:
    """What goes wrong is one line for the page: 400 what was asked, 500 our defect; 204 dropped for a newer request."""
    from starlette.responses import JSONResponse, Response

    try:
        answer: Answer = await make(request.query_params)
    except UserError as e:
        return JSONResponse(dict(error=printable(e)), 400)
    except Superseded:
        return Response(status_code=204)
    except Exception as e:
        line = printable(f"{type(e).__name__}: {e}".splitlines()[0])
        print(f"gantransfer view: {request.url.path.rpartition('/')[2]} failed: {line}", file=sys.stderr)
        return JSONResponse(dict(error=f"the server failed: {line}"), 500)
    keep = {"content-disposition": f'attachment; filename="{answer.name}"'} if answer.name else {}
    return Response(answer.body, media_type=answer.kind, headers=keep)


def application(shown: Sequence[Shown], token: str, host: str = "127.0.0.1") -> Guard:
    """The page and its answers below /TOKEN/, behind the guard: an ASGI application."""
    from starlette.applications import Starlette
    from starlette.routing import Mount, Route
    from starlette.staticfiles import StaticFiles

    answers = Answers(shown)
    routes: list[Any] = [Route(f"/api/{n}", partial(_response, getattr(answers, n)), methods=["GET"]) for n in NAMES]
    routes.append(Mount("/", StaticFiles(directory=PAGE, html=True)))
    return Guard(Starlette(routes=[Mount(f"/{token}", routes=routes)]), token, host)
