"""HTTP pieces that every service with an API shares: error bodies, health and metrics, and running the server."""

import asyncio
import signal
import socket
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec
import uvicorn
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from schemas.errors import Permanent
from shared.health import LIVE, METRICS, READY, Health


def error_body(code: str, message: str, **fields: Any) -> dict[str, Any]:
    """Return an error as clients want it: each of them looks for another one of these names."""
    return {"code": code, "message": message, "detail": message, "error": message, "msg": message,
            "success": False} | fields


def answer(status: int, body: Any, headers: Mapping[str, str] | None = None) -> Response:
    """Return a JSON response."""
    return Response(msgspec.json.encode(body), status, headers=headers, media_type="application/json")


def error(status: int, code: str, message: str, headers: Mapping[str, str] | None = None, **fields: Any) -> Response:
    """Return an error response."""
    return answer(status, error_body(code, message, **fields), headers)


def probes(health: Health) -> list[Route]:
    """Return the routes of a service's health and metrics."""
    async def get(request: Request) -> Response:
        page = health.page(request.url.path)
        return Response(page.body, page.status, media_type=page.content_type) if page else Response(status_code=404)

    return [Route(path, get) for path in (LIVE, READY, METRICS)]


def listen(host: str, port: int, variable: str) -> socket.socket:
    """Open the port to listen on, before anything else is built.

    Args:
        variable: The setting that names the port, for the error's message.

    Raises:
        Permanent: It cannot be opened, most often because another process has it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((host, port))
    except OSError as exc:
        opened.close()
        raise Permanent(f"cannot listen on {host}:{port}: {exc.strerror}; choose another port by {variable}") from exc
    opened.listen(2048)
    opened.setblocking(False)
    return opened


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Any:
        """Leave signals to ``serve``: uvicorn would raise them again afterwards and so end the process uncleanly."""
        yield


def serve(app: Any, opened: socket.socket, *, drain_s: float = 10.0, keep_alive_s: int = 65,
          on_start: Iterable[Callable[[], None]] = (), doom: Callable[[], str] = lambda: "",
          look_every_s: float = 0.5) -> None:
    """Answer requests until SIGTERM or SIGINT; then finish those under way and return. A second signal stops at once.

    Args:
        drain_s: How long requests under way may take after the signal.
        keep_alive_s: An idle connection is closed after this; longer than the 60 s of common load balancers, so that
            none sends a request into a connection that is being closed.
        doom: Why only a new process can help; empty while this one can go on. Must not block.
        look_every_s: How often ``doom`` is asked.

    Raises:
        Permanent: There was a doom; requests under way were answered first.
    """
    config = uvicorn.Config(app, log_config=None, access_log=False, server_header=False, lifespan="on",
                            proxy_headers=False,
                            loop="uvloop", http="httptools", ws="none", timeout_keep_alive=keep_alive_s,
                            timeout_graceful_shutdown=int(drain_s))
    server = _Server(config)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        for call in on_start:
            call()
        watching = asyncio.create_task(watch())
        await server.serve(sockets=[opened])
        watching.cancel()
        if why := doom():
            raise Permanent(why)

    async def watch() -> None:
        while not doom():  # noqa: ASYNC110 (a dead thread sets no event)
            await asyncio.sleep(look_every_s)
        server.should_exit = True

    def stop() -> None:
        server.force_exit = server.should_exit
        server.should_exit = True

    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(main())
