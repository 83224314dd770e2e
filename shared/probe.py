"""A small HTTP server in a thread, for services whose own work is not HTTP: health and metrics."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from shared.health import Health, Page, Readiness
from shared.ports import cannot_listen


class Probe:
    """Answers the pages of ``Health``.

    Args:
        variable: The setting that names the port, for the error's message.
        readiness: See ``Health.faults``; called from the probe's threads.

    Raises:
        Permanent: The port cannot be opened.
    """

    def __init__(self, host: str, port: int, variable: str, readiness: Readiness) -> None:
        health = Health(readiness)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                page = health.page(self.path) or Page(404, "text/plain", b"no such path\n")
                self.send_response(page.status)
                self.send_header("Content-Type", page.content_type)
                self.send_header("Content-Length", str(len(page.body)))
                self.end_headers()
                self.wfile.write(page.body)

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing: probes come every second."""

        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
        except OSError as exc:
            raise cannot_listen(host, port, variable, exc) from exc
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
