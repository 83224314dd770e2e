"""The collector's application in this process, with a producer that only remembers."""

import itertools
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from schemas.dead import DeadLetter
from schemas.events import Event
from schemas.topics import Topics
from services.collector import app
from services.collector.endpoints import Shared
from services.collector.gateway import Gateway
from services.collector.privacy import Privacy
from shared.pseudonym import Pseudonymiser
from shared.settings import Keys
from tests.support.producers import FakeProducer

NOW_MS = 1_795_356_600_000  # 2026-11-22T14:10:00Z


@dataclass
class Collector:
    """A running application and what it wrote."""

    client: httpx.AsyncClient
    producer: FakeProducer
    privacy: Privacy

    @property
    def events(self) -> list[Event]:
        return [item for _, _, item in self.producer.records if isinstance(item, Event)]

    @property
    def dead(self) -> list[DeadLetter]:
        return [item for _, _, item in self.producer.records if isinstance(item, DeadLetter)]

    @property
    def written(self) -> str:
        """All that would be in Kafka, as text."""
        return b"\n".join(data for _, _, data in self.producer.parts).decode()

    async def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        """POST a body with the write key."""
        headers = {"authorization": "Bearer WK", **{key.replace("_", "-"): value for key, value in headers.items()}}
        if isinstance(body, bytes):
            return await self.client.post(path, content=body, headers=headers)
        return await self.client.post(path, json=body, headers=headers)

    async def post_parts(self, path: str, parts: AsyncIterator[bytes]) -> httpx.Response:
        """POST a body of unknown length with the write key."""
        return await self.client.post(path, content=parts, headers={"authorization": "Bearer WK"})


@pytest.fixture
def privacy() -> Privacy:
    """Pseudonyms with a fixed key."""
    return Privacy(Pseudonymiser("unit-test-key-0123456789"))


@pytest.fixture
async def collector(privacy: Privacy) -> AsyncIterator[Collector]:
    """An application that was just started."""
    async with Running(privacy) as running:
        yield running


@pytest.fixture
def collector_with(privacy: Privacy) -> Callable[..., Any]:
    """``async with collector_with(max_requests=1) as collector``."""
    return lambda **options: Running(privacy, **options)


class Running:
    """Starts and stops one application."""

    def __init__(self, privacy: Privacy, *, max_requests: int = 100, max_request_bytes: int = 1 << 30) -> None:
        topics = Topics("unit")
        self.producer = FakeProducer((topics.events, topics.dead))
        numbers = itertools.count()
        gateway = Gateway(self.producer, topics, max_requests=max_requests, max_request_bytes=max_request_bytes)
        shared = Shared(gateway=gateway, keys=Keys({"app": "WK", "other": "WK2"}), privacy=privacy,
                        now_ms=lambda: NOW_MS, new_id=lambda: f"gen_{next(numbers)}")
        self.privacy = privacy
        transport = httpx.ASGITransport(app.build(shared), raise_app_exceptions=False)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://collector")

    async def __aenter__(self) -> Collector:
        return Collector(self.client, self.producer, self.privacy)

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()
