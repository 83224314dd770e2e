"""One HTTP request from bytes to answer. Plain ASGI: FastAPI's machinery would cost more than all the rest."""

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import parse_qs

import msgspec
from prometheus_client import Counter

from schemas.errors import Invalid, Transient
from services.collector import metrics
from services.collector.envelope import Envelope
from services.collector.gateway import Gateway
from services.collector.intake import Arrival, Intake, Reader, take
from services.collector.limits import Limits
from services.collector.privacy import Privacy
from services.collector.times import lenient_ms, plausible_ms
from shared import bodies, keys
from shared.settings import Keys
from shared.web import error_body

Open = Callable[[bytes, Mapping[str, str], Limits], Envelope]
MakeReader = Callable[[Envelope], Reader]
Answer = Callable[[Envelope, Intake], tuple[int, Any]]

_STATUS = {"too_large": 413, "too_many_events": 413, "unsupported_encoding": 415, "unsupported_media_type": 415,
           "timeout": 408, "unauthorized": 401}
_JSON = (b"content-type", b"application/json")
# A body beyond this is taken apart in a thread, so that it delays the requests of others less.
_THREAD_ABOVE = 256 << 10
_encoder = msgspec.json.Encoder()


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How one family of clients speaks.

    Attributes:
        name: For metrics: segment, posthog or cloudevents.
        open: Takes a body apart.
        reader: Makes the reader of its events.
        answer: Builds the answer from the outcome.
        sent_header: A header that says when the request left; None when the body says it.
        sent_query: A field of the query that says so, in ms since the epoch.
    """

    name: str
    open: Open
    reader: MakeReader
    answer: Answer
    limits: Limits
    max_body_bytes: int
    sent_header: str | None = None
    sent_query: str | None = None


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What all endpoints have in common."""

    gateway: Gateway
    keys: Keys
    privacy: Privacy
    now_ms: Callable[[], int]
    new_id: Callable[[], str]


class Endpoint:
    """An ASGI application for one path and protocol."""

    def __init__(self, shared: Shared, protocol: Protocol) -> None:
        self._shared, self._protocol = shared, protocol
        self._request_s = metrics.request_s.labels(protocol.name)
        self._requests: dict[int, Counter] = {}
        self._accepted = metrics.events.labels(protocol.name, "accepted")
        self._rejected = metrics.events.labels(protocol.name, "rejected")

    async def __call__(self, scope: Mapping[str, Any], receive: bodies.Receive, send: Any) -> None:
        """Answer one request. Whatever it holds, the answer is a JSON object."""
        began_s = time.perf_counter()
        retry_after: tuple[bytes, bytes] | None = None
        try:
            status, body = await self._handle(scope, receive)
        except Invalid as exc:
            status = _STATUS.get(exc.code, 400)
            body = error_body(exc.code, str(exc), path=exc.path)
        except Transient as exc:
            # 503 and never 429: posthog-js drops its events on 429.
            status, body = 503, error_body("unavailable", str(exc))
            retry_after = (b"retry-after", str(max(1, math.ceil(exc.retry_after_s))).encode())
        data = _encoder.encode(body)
        headers = [_JSON, (b"content-length", str(len(data)).encode())]
        if retry_after:
            headers.append(retry_after)
        if status in (408, 413, 503):
            # The body may be unread: what is left of it must not be taken for the next request.
            headers.append((b"connection", b"close"))
        if status == 401:
            headers.append((b"www-authenticate", b'Basic realm="ratchet"'))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": data})
        if status not in self._requests:
            self._requests[status] = metrics.requests.labels(self._protocol.name, str(status))
        self._requests[status].inc()
        self._request_s.observe(time.perf_counter() - began_s)

    async def _handle(self, scope: Mapping[str, Any], receive: bodies.Receive) -> tuple[int, Any]:
        protocol = self._protocol
        headers = _headers(scope)
        query = parse_qs(scope["query_string"].decode("latin-1")) if scope["query_string"] else {}
        presented = keys.from_headers(headers) or _first(query, "writeKey", "writekey", "access_token", "api_key")
        project = self._project(presented) if presented else None
        announced = headers.get("content-length", "")
        announced_bytes = min(int(announced[:12]), protocol.max_body_bytes) if announced.isdecimal() else 0
        with self._shared.gateway.admitted(announced_bytes) as reserve:
            body = await bodies.read(receive, headers, protocol.max_body_bytes, reserve=reserve)
            work = partial(self._take, body, headers, query, project, scope["path"])
            intake, answer = await asyncio.to_thread(work) if len(body) > _THREAD_ABOVE else work()
            n_events, codes = len(intake.events), [letter.code for letter in intake.dead]
            stored = self._shared.gateway.send(intake)
            # Only the encoded events, which the producer counts, are kept while Kafka is waited for.
            del body, work, intake
            await stored
        self._accepted.inc(n_events)
        if codes:
            self._rejected.inc(len(codes))
            for code in codes:
                metrics.rejected.labels(code).inc()
        return answer

    def _take(self, body: bytes, headers: Mapping[str, str], query: Mapping[str, list[str]], project: str | None,
              path: str) -> tuple[Intake, tuple[int, Any]]:
        shared, protocol = self._shared, self._protocol
        body = bodies.unpack(body, headers.get("content-encoding", ""), protocol.max_body_bytes)
        envelope = protocol.open(body, headers, protocol.limits)
        if project is None:
            project = self._project(envelope.key)
        if len(envelope.raws) > protocol.limits.max_events:
            raise Invalid(f"{len(envelope.raws)} events in one request; at most {protocol.limits.max_events} are taken",
                          code="too_many_events")
        sent_ms = envelope.sent_ms
        if sent_ms is None and protocol.sent_header:
            sent_ms = lenient_ms(headers.get(protocol.sent_header))
        if sent_ms is None and protocol.sent_query:
            sent_ms = plausible_ms(_first(query, protocol.sent_query))
        arrival = Arrival(project, path, shared.now_ms(), shared.new_id, sent_ms, envelope.look)
        intake = take(envelope.raws, arrival, protocol.reader(envelope), shared.privacy, protocol.limits,
                      prefix=envelope.prefix)
        return intake, protocol.answer(envelope, intake)

    def _project(self, presented: Any) -> str:
        project = keys.name_of(self._shared.keys, presented) if isinstance(presented, str) else None
        if project is None:
            raise Invalid("the write key is not known" if presented else "no write key was sent: name it by Basic or "
                          "Bearer authorization, X-Write-Key, ?writeKey=, or in the body", code="unauthorized")
        return project


def answer_results(envelope: Envelope, intake: Intake) -> tuple[int, Any]:
    """The answer of every protocol but PostHog's second: 200 and a verdict per event; 400 when one came alone and bad.

    Never another 2xx: RudderStack's and PostHog's SDKs send again whatever was not answered with exactly 200.
    """
    counts = {"accepted": len(intake.events), "rejected": len(intake.dead), "results": intake.verdicts}
    if envelope.alone and intake.dead:
        bad = intake.verdicts[0]
        return 400, error_body(bad.code, str(bad.message), path=bad.path) | counts
    return 200, {"success": True, "status": 1, **counts}


def _headers(scope: Mapping[str, Any]) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def _first(query: Mapping[str, Sequence[str]], *names: str) -> str | None:
    return next((query[name][0] for name in names if query.get(name)), None)
