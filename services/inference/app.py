"""The HTTP application: routes, health, metrics."""

import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from services.inference import openapi
from services.inference.access import Access
from services.inference.answers import failed
from services.inference.batching import Batcher
from services.inference.bodies import Bodies
from services.inference.oip_api import OipApi
from services.inference.plain_api import PlainApi
from services.inference.predictor import Predictor
from services.inference.serving import ServedLoop
from shared import web
from shared.health import Health

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]
_PREDICT = re.compile("/v1/loops/([^/]+)/predict")
_ANY = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]


def build(predictor: Predictor, batcher: Batcher, access: Access, bodies: Bodies, *, max_batch: int,
          log_fault: Callable[[], str] = lambda: "") -> FastAPI:
    """Return the application; its batcher runs as long as it does.

    Args:
        log_fault: Why predictions cannot be logged now; empty when they can. Must not block.
    """
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        batcher.start()
        yield
        await batcher.stop()

    plain = PlainApi(predictor, access, bodies)
    oip = OipApi(predictor, access, bodies, max_batch=max_batch)
    app = _App(plain, oip, title="Ratchet inference", version="1", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_route("/v1/loops/{loop}/predict", plain.predict, methods=["POST"])
    app.add_route("/v1/loops", plain.loops, methods=["GET"])
    app.add_route("/v1/loops/{loop}", plain.loop, methods=["GET"])
    app.add_route("/v2", oip.handle, methods=_ANY)
    app.add_route("/v2/{path:path}", oip.handle, methods=_ANY)
    loops = predictor.loops
    app.router.routes.extend(web.probes(Health(lambda: _faults(loops), degraded=lambda: _degraded(loops, log_fault))))
    app.add_exception_handler(HTTPException, _failed)
    app.add_exception_handler(Exception, _failed)
    app.openapi = lambda: openapi.document(app)  # type: ignore[method-assign]
    return app


class _App(FastAPI):
    """FastAPI, with a shorter way for predictions: its routing and middleware cost them as much as all the rest."""

    def __init__(self, plain: PlainApi, oip: OipApi, **options: Any) -> None:
        super().__init__(**options)
        self._plain, self._oip = plain, oip

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            path: str = scope["path"]
            if path.startswith("/v2/models/") and path.endswith("/infer"):
                await (await self._oip.handle(Request(scope, receive)))(scope, receive, send)
                return
            if found := _PREDICT.fullmatch(path):
                scope["path_params"] = {"loop": found[1]}
                await (await self._plain.predict(Request(scope, receive)))(scope, receive, send)
                return
        await super().__call__(scope, receive, send)


def _faults(loops: Mapping[str, ServedLoop]) -> dict[str, str]:
    """Why not every loop can answer."""
    return {name: loop.degraded or "loading" for name, loop in loops.items() if loop.lineup is None}


def _degraded(loops: Mapping[str, ServedLoop], log_fault: Callable[[], str]) -> dict[str, str]:
    """What answers, but not as it should: loops that cannot follow the registry, a log that waits for Kafka."""
    degraded = {name: loop.degraded for name, loop in loops.items() if loop.lineup is not None and loop.degraded}
    if fault := log_fault():
        degraded["prediction log"] = fault  # no loop's name has a space
    return degraded


def _failed(request: Request, exc: Exception) -> Response:
    return failed(exc, "oip" if request.url.path.startswith("/v2") else "plain")
