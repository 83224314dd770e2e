"""Traffic for the loop: questions to inference and, on every answer, feedback to the collector, at a fixed rate."""

import asyncio
import itertools
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

import aiohttp

from benchmarks.loop_stack import LOOP, ROOT
from schemas.errors import Transient
from services.demo.messages import Message, default_source, play_list, read
from services.demo.product import EVENT, Client, Endpoints, refused

# Requests are at least so far apart; what falls due in between goes in one.
_TICK_S = 0.01


class Answered(NamedTuple):
    """One answer, by the clock of the wall, which every process of the machine shares, in seconds."""

    version: str
    asked_s: float
    answered_s: float


class Told(NamedTuple):
    """One feedback that the collector accepted; times as in ``Answered``."""

    event_id: str
    sent_s: float
    accepted_s: float


@dataclass
class Heard:
    """What the clients saw.

    Attributes:
        told: By prediction id.
        refusals: Requests that were not answered with 200, by what was answered instead.
        n_asked: Questions sent; ``n_refused`` of them had no answer.
        slips_s: How much later than planned each request was sent.
    """

    answers: list[Answered] = field(default_factory=list)
    told: dict[str, Told] = field(default_factory=dict)
    refusals: Counter[str] = field(default_factory=Counter)
    n_asked: int = 0
    n_refused: int = 0
    slips_s: list[float] = field(default_factory=list)
    began_s: float = 0.0
    ended_s: float = 0.0

    @property
    def n_events(self) -> int:
        """Answers and feedback."""
        return len(self.answers) + len(self.told)


def messages() -> Iterator[Message]:
    """Real messages, over and over, each time in another order."""
    source = default_source(ROOT)
    found = read(source.stream, source.text, source.label)
    return itertools.chain.from_iterable(play_list(found, seed=seed) for seed in itertools.count(7))


async def play(at: Endpoints, stream: Iterator[Message], *, per_s: float, seconds: float) -> Heard:
    """Ask and tell for a while, open loop: a question is asked when its time has come, answered the others or not.

    Args:
        per_s: Messages a second; each is one prediction and one feedback.
    """
    heard = Heard(began_s=time.time())
    each = max(1, round(per_s * _TICK_S))
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30)
    async with aiohttp.ClientSession(connector=connector) as http, asyncio.TaskGroup() as tasks:
        client = Client(http, at, lambda what: heard.refusals.update([what]))
        began_s = time.monotonic()
        for turn in range(round(per_s * seconds / each)):
            due_s = began_s + turn * each / per_s
            if (early_s := due_s - time.monotonic()) > 0:
                await asyncio.sleep(early_s)
            heard.slips_s.append(max(0.0, time.monotonic() - due_s))
            tasks.create_task(_one(client, heard, list(itertools.islice(stream, each))))
    heard.ended_s = time.time()
    return heard


async def keep_asking(at: Endpoints, stream: Iterator[Message], heard: Heard) -> None:
    """Ask ten times a second, without feedback, until cancelled."""
    async with aiohttp.ClientSession() as http:
        client = Client(http, at, lambda what: heard.refusals.update([what]))
        while True:
            await ask(client, heard, [next(stream)])
            await asyncio.sleep(0.1)


async def ask(client: Client, heard: Heard, batch: Sequence[Message]) -> list[dict[str, Any]]:
    """Ask about some messages at once; empty when they were refused."""
    heard.n_asked += len(batch)
    asked_s = time.time()
    try:
        found = await client.predict(LOOP, [{"text": m.text, "user_id": m.user_id} for m in batch], tries=1)
    except Transient:
        heard.n_refused += len(batch)
        return []
    now_s = time.time()
    heard.answers += [Answered(answer["version"], asked_s, now_s) for answer in found]
    return found


async def _one(client: Client, heard: Heard, batch: Sequence[Message]) -> None:
    found = await ask(client, heard, batch)
    if not found:
        return
    events = [feedback(answer["prediction_id"], m) for answer, m in zip(found, batch, strict=True)]
    sent_s = time.time()
    answer = await client.tell(events)
    now_s = time.time()
    bad = refused(answer)
    heard.refusals.update(f"event {code}" for code in bad.values())
    for place, event in enumerate(events):
        if place not in bad:
            heard.told[event["properties"]["prediction_id"]] = Told(event["messageId"], sent_s, now_s)


def feedback(prediction_id: str, message: Message) -> dict[str, Any]:
    """The Segment event that tells where a message belonged."""
    return {"type": "track", "event": EVENT, "userId": message.user_id, "messageId": f"bench-{uuid.uuid4()}",
            "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "properties": {"prediction_id": prediction_id, "queue": message.label}}
