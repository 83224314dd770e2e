"""What every service tells about itself, whatever server it tells it with: live, ready, metrics."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

Readiness = Callable[[], Mapping[str, str]]
LIVE, READY, METRICS = "/health/live", "/health/ready", "/metrics"


@dataclass(frozen=True)
class Page:
    """An answer to GET."""

    status: int
    content_type: str
    body: bytes


@dataclass(frozen=True)
class Health:
    """The three pages.

    Attributes:
        faults: What is not ready, by part, with the reason; empty means ready. Called by whoever answers, so it must
            only look at values, never wait.
        live: False when only a restart can help.
        degraded: What works worse than it should and yet answers, by part; None leaves it out of the page.
        metrics: Makes the page of metrics.
    """

    faults: Readiness
    live: Callable[[], bool] = lambda: True
    degraded: Readiness | None = None
    metrics: Callable[[], bytes] = generate_latest

    def page(self, path: str) -> Page | None:
        """Return the page of a path, or None when it is none of the three."""
        if path == LIVE:
            return _json(200, {"status": "live"}) if self.live() else _json(503, {"status": "dead"})
        if path == METRICS:
            return Page(200, CONTENT_TYPE_LATEST, self.metrics())
        return self._ready() if path == READY else None

    def _ready(self) -> Page:
        faults = self.faults()
        told = {"status": "not ready" if faults else "ready", "faults": faults}
        if self.degraded is not None:
            told["degraded"] = self.degraded()
        return _json(503 if faults else 200, told)


def _json(status: int, body: Mapping[str, object]) -> Page:
    return Page(status, "application/json", msgspec.json.encode(body))
