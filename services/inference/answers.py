"""HTTP answers and errors: which code each kind of error gets, and the shape that each protocol's clients can read."""

import time
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from schemas.errors import Invalid, Transient
from services.inference import metrics
from services.inference.access import Forbidden, Unauthorized
from services.inference.bodies import Crowded
from services.inference.core import TooLarge
from shared.logs import Log
from shared.registry import NotFound

_log = Log("ratchet.inference")
Protocol = Literal["plain", "oip"]
_STATUS = {"too_large": 413, "timeout": 408}  # codes of shared.bodies
Handler = Callable[[Request], Awaitable[Response]]


class Unsupported(Invalid):
    """A part of the protocol that this server does not have: answered with 501."""


def json(body: object, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON response. The media type is exactly ``application/json``: the kserve client reads errors from no other."""
    return Response(msgspec.json.encode(body), status, headers, media_type="application/json")


def failed(exc: Exception, protocol: Protocol) -> Response:
    """The answer to a request that failed: ``{"error": ...}``, and for the plain API its code and place as well."""
    status, code = _status(exc)
    headers = {}
    if isinstance(exc, Transient):
        headers["Retry-After"] = str(max(1, round(exc.retry_after_s)))
    if isinstance(exc, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    if status in (408, 413) or isinstance(exc, Crowded):
        # The body may be unread: what is left of it must not be taken for the next request.
        headers["Connection"] = "close"
    message = str(exc.detail) if isinstance(exc, HTTPException) else str(exc)
    if status == 500:
        message = "an error inside the server; its log has the details"
    if protocol == "oip":
        return json({"error": message}, status=status, headers=headers)
    body: dict[str, Any] = {"error": message, "code": code, "message": message}
    if isinstance(exc, Invalid) and exc.path:
        body["path"] = exc.path
    return json(body, status=status, headers=headers)


def _status(exc: Exception) -> tuple[int, str]:
    match exc:
        case Unauthorized():
            return 401, exc.code
        case Forbidden():
            return 403, exc.code
        case NotFound():
            return 404, exc.code
        case TooLarge():
            return 413, exc.code
        case Unsupported():
            return 501, exc.code
        case Invalid():
            return _STATUS.get(exc.code, 400), exc.code
        case Transient():
            return 503, "unavailable"
        case HTTPException():
            return exc.status_code, {404: "not_found", 405: "method_not_allowed"}.get(exc.status_code, "invalid")
        case _:
            return 500, "internal"


async def answered(handle: Handler, request: Request, protocol: Protocol, loop: str | None) -> Response:
    """Run a handler; whatever it raises becomes an answer. Counted, and timed where a known loop is named."""
    started_s = time.perf_counter()
    try:
        response = await handle(request)
    except Exception as exc:  # noqa: BLE001 - the edge: the client gets an answer whatever went wrong
        response = failed(exc, protocol)
        if response.status_code == 500:
            _log.error("request_failed", exc=exc, path=request.url.path)
    metrics.requests.labels(loop or "", protocol, str(response.status_code)).inc()
    if loop is not None and request.method == "POST":
        metrics.latency_s.labels(loop).observe(time.perf_counter() - started_s)
    return response
