"""HTTP answers that every service with an API shares: JSON, errors, health."""

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

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
