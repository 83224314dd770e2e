"""One run: play the stream, let the last feedback be learned, ask the test messages, read the accounts."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Any

import aiohttp

from schemas.errors import Transient
from schemas.loops import Training
from services.demo import accounts, report
from services.demo.frozen import NeverUpdated
from services.demo.live import LivePage
from services.demo.messages import Message
from services.demo.metrics import NO_VERSION, Answer
from services.demo.product import Client, ProductApp
from services.demo.screen import Screen
from services.demo.stack import Stack
from services.demo.tally import Tally

_DRAIN_S = 90.0  # for the last feedback to be stored and learned; about 2 s is usual
_QUIET_S = 3.0  # a version that learns nothing for this long will learn no more: the rest is held out
_POLL_S = 0.2
_TEST_BATCH = 32


@dataclass(frozen=True)
class Plan:
    """What to play and where to show it.

    Attributes:
        announce: Called with the live page's address once it is there.
        live_port: Where to serve the live page.
    """

    data: str
    loop: str
    messages: Sequence[Message]
    test: Sequence[Message]
    rate: float
    seed: int
    live_port: int
    announce: Callable[[str], None]
    end: str


async def conduct(plan: Plan, stack: Stack, screen: Screen, memory: Callable[[], dict[str, int]]) -> dict[str, Any]:
    """Play a plan and return its report.

    Raises:
        Transient: The stack did not answer for longer than every retry lasts.
    """
    start_s, since_ms = time.monotonic(), int(time.time() * 1000)
    tally = Tally(len(plan.messages), lambda: time.monotonic() - start_s, held_out_share=Training().holdout,
                  started_with=stack.champions.get(plan.loop))
    async with AsyncExitStack() as closing:
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30)
        http = await closing.enter_async_context(aiohttp.ClientSession(connector=connector))
        run = _Run(plan, stack, tally, Client(http, stack.at, tally.failed))
        live = LivePage(tally)
        plan.announce(await live.start(plan.live_port))
        closing.push_async_callback(live.stop, plan.end)
        screen.start()
        closing.callback(screen.stop)
        showing = asyncio.create_task(_show(screen, tally))
        closing.callback(showing.cancel)
        return await run.all(since_ms, memory)


async def _show(screen: Screen, tally: Tally) -> None:
    while True:
        screen.show(tally.snapshot())
        await asyncio.sleep(0.5)


class _Run:
    """The parts of a run, in order."""

    def __init__(self, plan: Plan, stack: Stack, tally: Tally, client: Client) -> None:
        self._plan, self._stack, self._tally, self._client = plan, stack, tally, client
        self._frozen = NeverUpdated(plan.loop, stack.stores, plan.messages, tally)
        self._probes: list[Answer] = []

    async def all(self, since_ms: int, memory: Callable[[], dict[str, int]]) -> dict[str, Any]:
        """Play everything; returns the report."""
        plan, tally = self._plan, self._tally
        tally.phase = "learning live"
        begun_s = tally.now()
        await ProductApp(self._client, plan.loop, tally, self._saw).play(plan.messages, plan.rate)
        stream_s = tally.now() - begun_s
        tally.phase = "letting the last feedback be learned"
        drain_begun_s = tally.now()
        drained = await self._drain()
        drain_s = tally.now() - drain_begun_s
        rss_bytes = await asyncio.to_thread(memory)
        tally.phase = "asking the test messages"
        test_flags, test_versions = await self._test()
        tally.phase = f"asking {tally.static_version}, never updated, about the rest"
        await self._frozen.ask()
        tally.phase = "reading the accounts"
        stores = self._stack.stores
        found = await asyncio.to_thread(
            accounts.read, stores.postgres_url, stores.redis_url, stores.artifacts_dir, loop=plan.loop,
            since_ms=since_ms, event_ids=tally.event_ids, prediction_ids=list(tally.accepted_s))
        tally.generations = {m.version: m.generation for m in found.manifests}
        told = report.build(tally, report.Played(
            data=plan.data, rate=plan.rate, seed=plan.seed, n_users=len({m.user_id for m in plan.messages}),
            frozen_place=tally.frozen_place, frozen_fault=self._frozen.fault, test_flags=test_flags,
            test_versions=test_versions, probes=self._probes, drained=drained, drain_s=drain_s, stream_s=stream_s,
            started_with=self._stack.champions.get(plan.loop), rss_bytes=rss_bytes), found)
        tally.final = report.final(told)
        tally.phase = "done"
        return told

    async def _saw(self, answer: Answer, is_new: bool) -> None:
        self._frozen.saw(answer)
        if is_new and answer.version != NO_VERSION:
            with suppress(Transient):  # only the estimate on the screen needs it
                await self._look()

    async def _look(self) -> tuple[int, int]:
        """Look at the serving version: how many examples it learned, and the newest of them."""
        told = await self._client.describe(self._plan.loop)
        version, n_examples = told.get("version") or NO_VERSION, int(told.get("n_examples") or 0)
        self._tally.published = max(self._tally.published, int(version.lstrip("v") or 0))
        self._tally.generations[version] = int(told.get("generation") or 0)
        self._tally.learned(version, n_examples)
        return n_examples, max((int(_last(span)) for span in told.get("examples") or ()), default=0)

    async def _drain(self) -> bool:
        """Wait until all that was accepted is stored and learned, and go on asking meanwhile, without feedback."""
        deadline_s = self._tally.now() + _DRAIN_S
        predictions, url = list(self._tally.accepted_s), self._stack.stores.postgres_url
        n_before, changed_s, place = -1, self._tally.now(), 0
        while self._tally.now() < deadline_s:
            await self._probe(place)
            place += 1
            n_events, _, n_examples = await asyncio.to_thread(accounts.stored, url, self._tally.event_ids, predictions)
            n_learned, newest = await self._look()
            if n_learned != n_before:
                n_before, changed_s = n_learned, self._tally.now()
            if min(n_events, n_examples) >= len(predictions):
                if newest >= await asyncio.to_thread(accounts.last_seq, url, self._plan.loop):
                    await self._probe(place)
                    return True
                if self._tally.now() - changed_s > _QUIET_S:
                    return True
            await asyncio.sleep(_POLL_S)
        return False

    async def _probe(self, place: int) -> None:
        message = self._plan.messages[place % len(self._plan.messages)]
        found = await self._client.predict(self._plan.loop, [{"text": message.text, "user_id": message.user_id}])
        self._probes.append(Answer(place, self._tally.now(), found[0]["prediction_id"], found[0]["version"],
                                   found[0]["label"], message.label))

    async def _test(self) -> tuple[list[bool], list[str]]:
        flags: list[bool] = []
        versions: list[str] = []
        for start in range(0, len(self._plan.test), _TEST_BATCH):
            batch = self._plan.test[start:start + _TEST_BATCH]
            found = await self._client.predict(self._plan.loop, [{"text": message.text} for message in batch])
            flags += [answer["label"] == message.label for answer, message in zip(found, batch, strict=True)]
            versions += [answer["version"] for answer in found]
        return flags, versions


def _last(span: Any) -> int:
    """The last sequence number of a range, written as an object or as a pair."""
    return int(span["last"] if isinstance(span, dict) else span[1])
