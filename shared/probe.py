"""A small HTTP server in a thread, for services whose own work is not HTTP: health and metrics."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

Readiness = Callable[[], dict[str, str]]


class Probe:
    """Answers ``/health/live``, ``/health/ready`` and ``/metrics`` on 127.0.0.1 or another host.

    Args:
        readiness: Returns what is not ready, by part, with the reason; empty means ready. Called from the
            probe's threads, so it must only look at values, never wait.
    """

    def __init__(self, host: str, port: int, readiness: Readiness) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/health/live":
                    self._answer(200, {"status": "live"})
                elif self.path == "/health/ready":
                    faults = readiness()
                    self._answer(503 if faults else 200, {"status": "not ready" if faults else "ready",
                                                          "faults": faults})
                elif self.path == "/metrics":
                    self._send(200, generate_latest(), CONTENT_TYPE_LATEST)
                else:
                    self._answer(404, {"code": "not_found", "message": f"no such path: {self.path}"})

            def _answer(self, status: int, body: dict[str, object]) -> None:
                self._send(status, json.dumps(body).encode(), "application/json")

            def _send(self, status: int, body: bytes, kind: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing: probes come every second."""

        self._server = ThreadingHTTPServer((host, port), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="probe", daemon=True)

    @property
    def port(self) -> int:
        """The port it listens on; the one it was given, or a free one for 0."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Start answering; returns at once."""
        self._thread.start()

    def stop(self) -> None:
        """Stop answering and close the port."""
        self._server.shutdown()
        self._server.server_close()
