"""The collector's HTTP application: which path speaks which protocol."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

from fastapi import FastAPI, Request, Response
from prometheus_client import generate_latest
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route

from services.collector import cloudevents, openapi, posthog, segment
from services.collector.endpoints import Endpoint, MakeReader, Protocol, Shared, answer_results
from services.collector.envelope import Envelope
from services.collector.intake import Intake, Reader
from services.collector.limits import Limits
from shared import web
from shared.health import Health

SEGMENT_SINGLES: Mapping[str, segment.Type] = {
    **{f"/v1/{kind}": kind for kind in segment.TYPES},
    "/v1/t": "track", "/v1/i": "identify", "/v1/p": "page", "/v1/s": "screen", "/v1/g": "group", "/v1/a": "alias",
}
SEGMENT_BATCHES = ("/v1/batch", "/v1/import", "/v1/b", "/beacon/v1/batch")
POSTHOG = ("/batch/", "/batch", "/i/v0/e/", "/i/v0/e", "/e/", "/e", "/capture/", "/capture", "/i/v0/ai/batch/")
POSTHOG_V1 = ("/i/v1/analytics/events", "/i/v1/analytics/events/")


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Largest body and largest event of each protocol, in bytes."""

    segment: tuple[int, int] = (4 << 20, 32 << 10)
    posthog: tuple[int, int] = (6 << 20, 900 << 10)
    cloudevents: tuple[int, int] = (4 << 20, 256 << 10)


def build(shared: Shared, *, sizes: Sizes | None = None, allow_origins: Sequence[str] = ("*",),
          on_stop: Callable[[], None] = lambda: None, live: Callable[[], bool] = lambda: True,
          metrics: Callable[[], bytes] = generate_latest) -> FastAPI:
    """Build the application.

    Args:
        allow_origins: Web origins whose pages may send events; ``*`` is any.
        on_stop: Called after the last request was answered.
        live: False when only a restart can help.
        metrics: Makes the page of metrics.
    """
    endpoints = _endpoints(shared, sizes or Sizes())
    # No redirects to or from a trailing slash: Segment's Node SDK takes a redirect for success and drops the events.
    app = _App(endpoints, title="Ratchet collector", redirect_slashes=False, lifespan=_lifespan(on_stop))
    app.router.routes[:0] = [Route(path, cast(Any, endpoint), methods=["POST"], include_in_schema=False)
                             for path, endpoint in endpoints.items()]
    app.router.routes.extend(web.probes(Health(lambda: _faults(shared), live, metrics=metrics)))
    app.add_api_route("/v1/projects/{key}/settings", _project_settings, methods=["GET"])
    app.add_route("/events", _allow_webhook, methods=["OPTIONS"], include_in_schema=False)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _bug)
    # Origins are mirrored and credentials allowed: browsers' beacons always send credentials, and no cookie means
    # anything here.
    origins = {"allow_origin_regex": ".*"} if "*" in allow_origins else {"allow_origins": list(allow_origins)}
    app.add_middleware(CORSMiddleware, **cast(Any, origins), allow_methods=["GET", "POST", "OPTIONS"],
                       allow_headers=["*"], allow_credentials=True, expose_headers=["Retry-After"], max_age=3600)
    app.openapi = lambda: openapi.document(app)  # type: ignore[method-assign]
    return app


class _App(FastAPI):
    """FastAPI, with a shorter way for the requests that matter: its middleware costs them as much as all the rest."""

    def __init__(self, endpoints: Mapping[str, Endpoint], **options: Any) -> None:
        super().__init__(**options)
        self._endpoints = endpoints

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        endpoint = self._endpoints.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        # What comes from a web page gets its answer's headers from the middleware.
        if endpoint is None or any(name == b"origin" for name, _ in scope["headers"]):
            await super().__call__(scope, receive, send)
            return
        try:
            await endpoint(scope, receive, send)
        except Exception as exc:
            await (await _bug(Request(scope), exc))(scope, receive, send)
            raise


def _endpoints(shared: Shared, sizes: Sizes) -> dict[str, Endpoint]:
    return (_segment(shared, *sizes.segment) | _posthog(shared, *sizes.posthog)
            | _cloudevents(shared, *sizes.cloudevents))


def _segment(shared: Shared, max_body_bytes: int, max_event_bytes: int) -> dict[str, Endpoint]:
    limits = Limits(max_event_bytes=max_event_bytes)
    batch = Protocol(
        name="segment", limits=limits, max_body_bytes=max_body_bytes, answer=answer_results,
        open=lambda body, _, limits: segment.open_batch(body, limits),
        reader=lambda envelope: segment.Reader(shared.privacy, limits, context=envelope.context))
    single = replace(batch, open=lambda body, _, limits: segment.open_single(body, limits))
    found = {path: Endpoint(shared, batch) for path in SEGMENT_BATCHES}
    for path, kind in SEGMENT_SINGLES.items():
        reader = _always(segment.Reader(shared.privacy, limits, kind=kind))
        found[path] = Endpoint(shared, replace(single, reader=reader))
    return found


def _posthog(shared: Shared, max_body_bytes: int, max_event_bytes: int) -> dict[str, Endpoint]:
    limits = Limits(max_event_bytes=max_event_bytes)
    first = Protocol(
        name="posthog", limits=limits, max_body_bytes=max_body_bytes, answer=answer_results,
        open=lambda body, _, limits: posthog.open_body(body, limits),
        reader=_always(posthog.Reader(shared.privacy, limits)), sent_query="_")
    second = replace(first, answer=_answer_by_uuid, sent_header="posthog-request-timestamp")
    return ({path: Endpoint(shared, first) for path in POSTHOG}
            | {path: Endpoint(shared, second) for path in POSTHOG_V1})


def _cloudevents(shared: Shared, max_body_bytes: int, max_event_bytes: int) -> dict[str, Endpoint]:
    limits = Limits(max_event_bytes=max_event_bytes)
    return {"/events": Endpoint(shared, Protocol(
        name="cloudevents", limits=limits, max_body_bytes=max_body_bytes, answer=answer_results,
        open=cloudevents.open_request, reader=_always(cloudevents.Reader(shared.privacy, limits))))}


def _always(reader: Reader) -> MakeReader:
    return lambda _: reader


def _answer_by_uuid(envelope: Envelope, intake: Intake) -> tuple[int, Any]:
    return 200, {"results": posthog.results_by_uuid(envelope.raws, intake.verdicts)}


def _faults(shared: Shared) -> dict[str, str]:
    fault = shared.gateway.fault()
    return {"kafka": fault} if fault else {}


def _lifespan(on_stop: Callable[[], None]) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        on_stop()

    return lifespan


def _project_settings(key: str) -> dict[str, Any]:
    """Settings of a source, as Segment's browser SDK asks for them before it sends anything."""
    return {"integrations": {"Segment.io": {"apiKey": key, "unbundledIntegrations": [], "addBundledMetadata": False}},
            "plan": {"track": {"__default": {"enabled": True}}}}


async def _allow_webhook(request: Request) -> Response:
    """Agree to receive CloudEvents (HTTP 1.1 web hooks for event delivery, section 4)."""
    origin = request.headers.get("webhook-request-origin")
    headers = {"Allow": "POST, OPTIONS"}
    if origin:
        headers |= {"WebHook-Allowed-Origin": origin,
                    "WebHook-Allowed-Rate": request.headers.get("webhook-request-rate", "*")}
    return web.answer(200, {"success": True}, headers)


async def _http_error(_: Request, exc: Exception) -> Response:
    status = exc.status_code if isinstance(exc, HTTPException) else 500
    code = {404: "not_found", 405: "method_not_allowed"}.get(status, "http_error")
    return web.error(status, code, str(getattr(exc, "detail", exc)), getattr(exc, "headers", None))


async def _bug(_: Request, __: Exception) -> Response:
    # Starlette raises the exception again after this answer, so that the server logs it.
    return web.error(500, "internal", "the collector failed; nothing of this request was accepted")
