"""Serving ends by a signal, or when the process cannot go on."""

import json
import os
import signal
import socket
import threading

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from schemas.errors import Permanent
from shared import serving


def listening():
    return serving.listen("127.0.0.1", 0, "PORT")


def test_a_process_that_cannot_go_on_stops_serving():
    faults = iter(["", "", "the thread has ended"])
    with pytest.raises(Permanent, match="the thread has ended"):
        serving.serve(Starlette(), listening(), doom=lambda: next(faults, "the thread has ended"), look_every_s=0.01)


def test_a_process_without_fault_serves_until_a_signal():
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM))
    # Only once it serves, and so handles the signal.
    serving.serve(Starlette(), listening(), doom=lambda: "", look_every_s=0.01, on_start=[timer.start])
    timer.join()


@pytest.fixture(scope="module")
def server():
    """Serves what it was asked, with little patience for headers."""
    async def echo(request):
        return PlainTextResponse(await request.body())

    class Impatient(serving.Connection):
        head_timeout_s = 0.3

    opened = listening()
    async def count(_):
        async def parts():
            for number in range(3):
                yield b"HTTP/1.1 %d\r\n\r\n" % number
        return StreamingResponse(parts())

    routes = [Route("/", echo, methods=["GET", "POST"]), Route("/parts", count)]
    config = uvicorn.Config(Starlette(routes=routes), log_config=None, lifespan="off", loop="uvloop", http=Impatient)
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, args=([opened],))
    thread.start()
    yield opened.getsockname()
    running.should_exit = True
    thread.join()


def exchange(address, *parts, end=False):
    """Send, and return everything that comes until the server closes."""
    with socket.create_connection(address, timeout=10) as connection:
        for part in parts:
            connection.sendall(part)
        if end:
            connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n"


def test_what_is_no_http_is_answered_with_json(server):
    answer = exchange(server, b"POST / HTTP/1.1\r\nContent-Length: minus one\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "bad_request"


def test_headers_without_end_are_cut(server):
    answer = exchange(server, b"POST / HTTP/1.1\r\nX: " + b"x" * 100_000)
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert b'"code":"headers_too_large"' in answer


@pytest.mark.parametrize(("sent", "answer"), [
    (b"", b""), (b"POST / HTTP/1.1\r\nHo", b"HTTP/1.1 408 "), (POST + b"\r\nbody" + POST, b"HTTP/1.1 200 "),
])
def test_who_does_not_ask_in_time_is_not_waited_for(server, sent, answer):
    assert exchange(server, sent).startswith(answer)


def test_a_body_may_take_longer_than_the_headers(server):
    with socket.create_connection(server, timeout=10) as connection:
        connection.sendall(POST + b"\r\nbo")
        assert exchange(server, b"") == b""  # as long as the headers may take
        connection.sendall(b"dy")
        assert connection.recv(65536).endswith(b"body")


def test_a_client_that_closed_its_half_is_answered(server):
    assert exchange(server, POST + b"\r\nbody", end=True).endswith(b"body")
    assert exchange(server, POST + b"\r\nbo", end=True) == b""


@pytest.mark.parametrize(("asked", "body"), [
    (b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n", b""), (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b""),
    (b"GET /parts HTTP/1.1\r\nHost: x\r\n\r\n", b"".join(b"e\r\nHTTP/1.1 %d\r\n\r\n\r\n" % n for n in range(2))),
    (POST + b"Expect: 100-continue\r\n\r\nbody", b"body"),
])
def test_an_answer_is_whole_with_a_body_or_without(server, asked, body):
    # Without "Connection: close": what is not written out would never come, and the next answer would be late.
    answer = exchange(server, asked, POST + b"Connection: close\r\n\r\nlast")
    assert answer.count(b"HTTP/1.1 200 OK\r\n") == 2
    assert body in answer
    assert answer.endswith(b"\r\n\r\nlast")
