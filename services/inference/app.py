"""The HTTP application: routes, health, metrics."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from fastapi import FastAPI
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from services.inference import openapi
from services.inference.access import Access
from services.inference.answers import failed, json
from services.inference.batching import Batcher
from services.inference.bodies import Bodies
from services.inference.oip_api import OipApi
from services.inference.plain_api import PlainApi
from services.inference.predictor import Predictor
from services.inference.serving import ServedLoop

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]
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

    app = FastAPI(title="Ratchet inference", version="1", lifespan=lifespan, docs_url=None, redoc_url=None)
    plain = PlainApi(predictor, access, bodies)
    oip = OipApi(predictor, access, bodies, max_batch=max_batch)
    app.add_route("/v1/loops/{loop}/predict", plain.predict, methods=["POST"])
    app.add_route("/v1/loops", plain.loops, methods=["GET"])
    app.add_route("/v1/loops/{loop}", plain.loop, methods=["GET"])
    app.add_route("/v2", oip.handle, methods=_ANY)
    app.add_route("/v2/{path:path}", oip.handle, methods=_ANY)
    app.add_api_route("/health/live", lambda: {"status": "live"}, methods=["GET"])
    app.add_route("/health/ready", _readiness(predictor.loops, log_fault), methods=["GET"])
    app.add_route("/metrics", _metrics, methods=["GET"])
    app.add_exception_handler(HTTPException, _failed)
    app.add_exception_handler(Exception, _failed)
    app.openapi = lambda: openapi.document(app)  # type: ignore[method-assign]
    return app


def _readiness(loops: Mapping[str, ServedLoop], log_fault: Callable[[], str]) -> Callable[[Request], Response]:
    def ready(request: Request) -> Response:
        """503 until every loop can answer. One that cannot follow the registry, and a log that waits for Kafka, only
        degrade it."""
        faults = {name: loop.degraded or "loading" for name, loop in loops.items() if loop.lineup is None}
        degraded = {name: loop.degraded for name, loop in loops.items() if loop.lineup is not None and loop.degraded}
        if fault := log_fault():
            degraded["prediction log"] = fault  # no loop's name has a space
        status = "not ready" if faults else "ready"
        return json({"status": status, "faults": faults, "degraded": degraded}, status=503 if faults else 200)
    return ready


def _metrics(request: Request) -> Response:
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


def _failed(request: Request, exc: Exception) -> Response:
    return failed(exc, "oip" if request.url.path.startswith("/v2") else "plain")
