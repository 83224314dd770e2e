"""A Kafka that may be killed, collectors on it, and clients that keep a ledger of what was answered."""

import http.client
import json
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from schemas.topics import Topics
from shared.kafka import create_topics
from tests.support import servers as real
from tests.support.services import ServiceProcess, start_service


@dataclass
class Broker:
    """An embedded Kafka with topics of its own for each test."""

    running: real.RestartableServers

    @property
    def bootstrap(self) -> str:
        return self.running.parts["kafka"].bootstrap

    @property
    def pid(self) -> int:
        return self.running.children["kafka"].pid

    def kill(self) -> None:
        self.running.kill("kafka")

    def start(self) -> None:
        self.running.start("kafka")


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    """A broker that tests may kill; they start it again."""
    with real.embedded(names=("kafka",)) as running:
        yield Broker(running)


@pytest.fixture
def own_topics(broker: Broker) -> Topics:
    """Topics on that broker."""
    names = Topics(prefix=f"t{uuid.uuid4().hex[:12]}")
    create_topics(broker.bootstrap, names.all, partitions=3)
    return names


@pytest.fixture
def collectors(broker: Broker, own_topics: Topics, tmp_path: Path) -> Iterator[Callable[..., ServiceProcess]]:
    """``collectors(VARIABLE="value")``: a collector on that broker, ready when returned."""
    started: list[ServiceProcess] = []

    def start(*, wait: bool = True, **env: str) -> ServiceProcess:
        settings = {"RATCHET_KAFKA_BOOTSTRAP": broker.bootstrap, "RATCHET_TOPIC_PREFIX": own_topics.prefix,
                    "RATCHET_PSEUDONYM_KEY": "a-test-key-of-32-characters-1234",
                    "RATCHET_COLLECT_KEYS": "app:collect-key"} | env
        started.append(start_service("collector", settings, tmp_path, wait=wait,
                                     label=f"collector-{len(started)}"))
        return started[-1]

    yield start
    for process in started:
        process.stop()


@dataclass
class Ledger:
    """Clients that send one event after another and note what was answered with 200.

    Attributes:
        answered: Ids of events answered with 200.
        statuses: How often each status came; 0 is a broken connection, or no answer within 10 s.
    """

    port: int
    batch: int = 1
    answered: list[str] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    retry_after: set[str | None] = field(default_factory=set)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self, n_clients: int = 4) -> "Ledger":
        """Start sending."""
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(n_clients)]
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> None:
        """Stop sending and wait for the last answers."""
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def _run(self, client: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        number = 0
        while not self._stop.is_set():
            number += 1
            ids = [f"c{client}-{number}-{part}-{uuid.uuid4().hex[:8]}" for part in range(self.batch)]
            calls = [{"type": "track", "event": "x", "userId": f"user-{client}-{part}", "messageId": id_}
                     for part, id_ in enumerate(ids)]
            try:
                connection.request("POST", "/v1/batch", json.dumps({"batch": calls, "writeKey": "collect-key"}))
                response = connection.getresponse()
                answer = json.loads(response.read())
                status = response.status
                if status == 503:
                    self.retry_after.add(response.headers.get("retry-after"))
            except (OSError, http.client.HTTPException):
                connection.close()
                status, answer = 0, {}
            if status == 200:
                self.answered += [result["id"] for result in answer["results"] if result["status"] == "accepted"]
            else:
                self._stop.wait(0.02)
            self.statuses[status] = self.statuses.get(status, 0) + 1
        connection.close()


@pytest.fixture
def ledgers() -> Iterator[Callable[..., Ledger]]:
    """``ledgers(port)``: clients that are stopped with the test."""
    made: list[Ledger] = []

    def make(port: int, **options: int) -> Ledger:
        made.append(Ledger(port, **options))
        return made[-1]

    yield make
    for ledger in made:
        ledger.stop()
