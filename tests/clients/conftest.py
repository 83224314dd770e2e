"""A collector in this process on a real Kafka, which can be told to refuse the next requests."""

import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from schemas.dead import DeadLetter
from schemas.errors import Transient
from schemas.events import Event
from schemas.topics import Topics
from services.collector import app
from services.collector.endpoints import Shared
from services.collector.gateway import Gateway
from services.collector.privacy import Privacy
from shared.kafka import FrameProducer, Part
from shared.kafka.grouping import Told
from shared.pseudonym import Pseudonymiser
from shared.settings import Keys
from tests.support.absent import skip_absent, skip_broken
from tests.support.services import ROOT, eventually
from tests.support.topics import read_items, read_records

KEY = "collect-key"


class Refusing:
    """A producer that is away for the next few requests, and then the real one."""

    def __init__(self, inner: FrameProducer) -> None:
        self.inner, self.left, self.refused = inner, 0, 0

    def send_encoded(self, parts: Sequence[Part], told: Told) -> None:
        """Refuse, or send."""
        if self.left > 0:
            self.left -= 1
            self.refused += 1
            raise Transient("Kafka is away: switched off by the test")
        self.inner.send_encoded(parts, told)

    def fault(self) -> str:
        """As the real one."""
        return self.inner.fault()


@dataclass
class Collector:
    """Where the collector answers, and what it wrote to Kafka."""

    url: str
    kafka: str
    topics: Topics
    producer: Refusing
    requests: list[dict[str, str]]

    @property
    def events(self) -> list[Event]:
        """The events by message id, as downstream sees them: what an SDK sends again may have arrived already."""
        return list({event.id: event for event in read_items(self.kafka, self.topics.events, Event)}.values())

    @property
    def dead(self) -> list[DeadLetter]:
        """The dead letters by id."""
        return list({letter.id: letter for letter in read_items(self.kafka, self.topics.dead, DeadLetter)}.values())

    def names(self, raw: str) -> bool:
        """Whether a text stands anywhere in Kafka."""
        return any(raw.encode() in value for topic in (self.topics.events, self.topics.dead)
                   for value, _, _ in read_records(self.kafka, topic))


@pytest.fixture
def collector(servers: Any, topics: Topics) -> Iterator[Collector]:
    """A collector whose key is ``collect-key``."""
    real = FrameProducer(servers.kafka, (topics.events, topics.dead), client_id="clients", ack_timeout_s=20)
    producer = Refusing(real)
    gateway = Gateway(producer, topics, max_requests=100, max_request_bytes=64 << 20)
    shared = Shared(gateway=gateway, keys=Keys({"app": KEY}),
                    privacy=Privacy(Pseudonymiser("a-test-key-of-32-characters-1234")), now_ms=_now_ms,
                    new_id=lambda: "gen")
    application = app.build(shared)
    requests: list[dict[str, str]] = []

    async def recorded(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            requests.append({"path": scope["path"]} | {
                name.decode(): value.decode("latin-1") for name, value in scope["headers"]})
        await application(scope, receive, send)

    opened = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(recorded, log_config=None, lifespan="on", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
    thread.start()
    try:
        eventually(lambda: server.started and real.healthy())
        yield Collector(f"http://127.0.0.1:{opened.getsockname()[1]}", servers.kafka, topics, producer, requests)
    finally:
        server.should_exit = True
        thread.join(20)
        real.close()
        opened.close()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """A folder with the Node SDKs of ``node/package.json``, installed once."""
    source = Path(__file__).parent / "node"
    folder = ROOT / ".cache" / "node-clients"
    if not shutil.which("npm") or not shutil.which("node"):
        skip_absent("npm and node are not installed: the Node SDKs are not tried")
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.lstrip("v").split(".")[0]) < 20:
        skip_broken(f"node {version} is older than 20, which the Node SDKs need")
    wanted = (source / "package.json").read_text()
    installed = folder / "installed.json"
    if not installed.exists() or installed.read_text() != wanted:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text(wanted)
        command = ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            skip_broken(f"npm cannot install the Node SDKs: {done.stderr.strip()[-300:]}")
        installed.write_text(wanted)
    return folder


@pytest.fixture
def run_node(node_modules: Path, collector: Collector) -> Callable[..., dict[str, Any]]:
    """``run_node("segment", "batch")``: what send.mjs printed about sending with that SDK."""
    script = node_modules / "send.mjs"
    script.write_text((Path(__file__).parent / "node" / "send.mjs").read_text())

    def run(sdk: str, scenario: str) -> dict[str, Any]:
        done = subprocess.run(["node", str(script), sdk, scenario, collector.url, KEY], capture_output=True, text=True,
                              timeout=60, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return result

    return run
