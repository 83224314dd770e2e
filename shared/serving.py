"""Runs an HTTP server: opens its port, bounds its connections, ends it in order."""

import asyncio
import resource
import signal
import socket
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from typing import Any, cast

import msgspec
import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from schemas.errors import Permanent
from shared.ports import cannot_listen
from shared.web import error_body

# As nginx and Apache have it, or more. One connection that never ended its headers took 270 MB in a second.
MAX_HEAD_BYTES = 64 << 10
HEAD_TIMEOUT_S = 30.0


def bound(host: str, port: int, *, share: bool = False) -> socket.socket:
    """Return a socket with this address that does not listen yet.

    Args:
        share: Other processes of ours that say so too may listen on the same port; the kernel spreads connections.
    """
    opened = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if share:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        opened.bind((host, port))
    except OSError:
        opened.close()
        raise
    return opened


def listen(host: str, port: int, variable: str, *, share: bool = False) -> socket.socket:
    """Open the port to listen on, before anything else is built.

    Args:
        variable: The setting that names the port, for the error's message.
        share: As of ``bound``; then it listens only once it is served, so that the others get what comes before.

    Raises:
        Permanent: It cannot be opened, most often because another process has it.
    """
    try:
        opened = bound(host, port, share=share)
    except OSError as exc:
        raise cannot_listen(host, port, variable, exc) from exc
    if not share:
        opened.listen(2048)
    opened.setblocking(False)
    return opened


class _OneWrite:
    """A transport that holds an answer's headers back until its body comes: one system call, not two.

    Everything else is the transport's own.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport, self._held = transport, b""
        self.is_closing, self.pause_reading = transport.is_closing, transport.pause_reading
        self.resume_reading = transport.resume_reading

    def write(self, data: bytes) -> None:
        """Write, or hold what is all of an answer's headers (but not those of 100 Continue)."""
        if not self._held and data.endswith(b"\r\n\r\n") and data.startswith(b"HTTP/1.1 ") and data[9:10] != b"1":
            self._held = data
        elif self._held:
            self._transport.write(self._held + data)
            self._held = b""
        else:
            self._transport.write(data)

    def flush(self) -> None:
        """Write what is held: the answer has no body."""
        if self._held:
            self._transport.write(self._held)
            self._held = b""

    def close(self) -> None:
        """Close, once all is written."""
        self.flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Connection(HttpToolsProtocol):
    """One connection: its next request's line and headers come within a time and a size, or it is closed.

    What is no HTTP is answered with JSON, like every other error. A client that closes its half of the connection
    after a whole request still gets its answer.
    """

    head_timeout_s = HEAD_TIMEOUT_S
    _deadline: asyncio.TimerHandle | None = None
    _in_head = False
    _head_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the time for the first request's headers."""
        self._answers = _OneWrite(cast(asyncio.Transport, transport))
        super().connection_made(cast(asyncio.Transport, self._answers))
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the time."""
        self._unset_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(431, "headers_too_large", f"the headers have more than {MAX_HEAD_BYTES} bytes")
                return
        if self._deadline is None and self.timeout_keep_alive_task is None and self._is_idle():
            self._expect_head()

    def eof_received(self) -> Any:
        """Answer what was asked before the client closed its half."""
        if self._is_idle() or self.cycle.more_body:
            return None
        self.cycle.keep_alive = False
        return True  # the other half stays open

    def on_response_complete(self) -> None:
        """Write out an answer without a body; go on to the next request."""
        self._answers.flush()
        super().on_response_complete()

    def on_message_begin(self) -> None:
        """Start to count the headers' bytes."""
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0

    def on_headers_complete(self) -> None:
        """Hand over the request; its body has its own bounds."""
        self._in_head = False
        self._unset_deadline()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP."""
        self._refuse(400, "bad_request", msg)

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _expect_head(self) -> None:
        self._deadline = self.loop.call_later(self.head_timeout_s, self._too_slow)

    def _unset_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        if self._in_head:
            self._refuse(408, "timeout", f"the headers did not arrive within {self.head_timeout_s:g} s")
        else:
            self.transport.close()

    def _refuse(self, status: int, code: str, message: str) -> None:
        if self.transport.is_closing():
            return
        body = msgspec.json.encode(error_body(code, message))
        head = (b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body))
        self.transport.write(STATUS_LINE[status] + head + body)
        self.transport.close()


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
    _raise_open_files()
    config = uvicorn.Config(app, log_config=None, access_log=False, server_header=False, lifespan="on",
                            proxy_headers=False,
                            loop="uvloop", http=Connection, ws="none", timeout_keep_alive=keep_alive_s,
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


def _raise_open_files() -> None:
    """Let this process open as many files, and so connections, as it may; the usual limit is 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
