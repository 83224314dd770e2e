"""The product app against stand-ins that keep to the collector's and inference's public interfaces."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from schemas.errors import Permanent, Transient
from services.demo.messages import Message
from services.demo.metrics import Answer
from services.demo.product import Client, Endpoints, ProductApp
from services.demo.tally import Tally
from shared.keys import from_headers


class Platform:
    """Remembers what it was told, and answers with it: a collector and inference in one.

    Args:
        busy: How many collector requests are answered with 503 before it takes any.
        reject: Message ids' order numbers that the collector refuses.
    """

    def __init__(self, *, busy: int = 0, reject: frozenset[int] = frozenset(), predict_status: int = 200) -> None:
        self.busy, self.reject, self.predict_status = busy, reject, predict_status
        self.texts: dict[str, str] = {}
        self.known: dict[str, str] = {}
        self.events: list[dict[str, Any]] = []
        self.batches: list[int] = []
        self.ids = itertools.count()

    async def predict(self, request: web.Request) -> web.Response:
        if self.predict_status != 200:
            return web.json_response({"code": "x", "message": "no"}, status=self.predict_status)
        assert request.headers["Authorization"] == "Bearer infer-key"
        found = []
        for item in (await request.json())["inputs"]:
            prediction_id = f"pr_{next(self.ids)}"
            self.texts[prediction_id] = item["text"]
            label = self.known.get(item["text"])
            found.append({"prediction_id": prediction_id, "label": label, "scores": {},
                          "version": f"v{len(self.known)}"})
        return web.json_response({"predictions": found})

    async def batch(self, request: web.Request) -> web.Response:
        assert from_headers({"authorization": request.headers["Authorization"]}) == "collect-key"
        if self.busy:
            self.busy -= 1
            return web.json_response({"code": "unavailable", "message": "Kafka is away"}, status=503,
                                     headers={"Retry-After": "0"})
        batch = (await request.json())["batch"]
        self.batches.append(len(batch))
        results = []
        for place, event in enumerate(batch):
            bad = len(self.events) in self.reject
            self.events.append(event)
            results.append({"index": place, "id": event["messageId"], "status": "rejected" if bad else "accepted"}
                           | ({"code": "too_large"} if bad else {}))
            told = event["properties"]
            self.known[self.texts[told["prediction_id"]]] = told["queue"]
        return web.json_response({"success": True, "status": 1, "results": results})


@asynccontextmanager
async def app(platform: Platform, messages: list[Message]) -> AsyncIterator[tuple[ProductApp, Tally, list[Answer]]]:
    """The product app, wired to a platform on a free port."""
    site = web.Application()
    site.router.add_post("/v1/loops/{loop}/predict", platform.predict)
    site.router.add_post("/v1/batch", platform.batch)
    runner = web.AppRunner(site)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    clock = asyncio.get_running_loop().time
    start_s = clock()
    tally = Tally(len(messages), lambda: clock() - start_s)
    seen: list[Answer] = []

    async def watch(answer: Answer, is_new: bool) -> None:
        if is_new:
            seen.append(answer)

    try:
        async with aiohttp.ClientSession() as http:
            client = Client(http, Endpoints(url, url, "collect-key", "infer-key"), tally.failed)
            yield ProductApp(client, "support-intents", tally, watch), tally, seen
    finally:
        await runner.cleanup()


def stream(n: int) -> list[Message]:
    return [Message(f"text {i % 10}", f"queue {i % 10}", f"customer-{i % 7}") for i in range(n)]


async def test_every_message_is_asked_once_and_its_truth_told_once():
    platform, messages = Platform(), stream(200)
    async with app(platform, messages) as (playing, tally, _):
        await playing.play(messages, 2000)
    assert len(tally.answers) == len(tally.accepted_s) == len(platform.events) == 200
    assert len({event["messageId"] for event in platform.events}) == 200
    assert tally.failures.total() == 0
    by_id = {answer.prediction_id: answer for answer in tally.answers}
    for event in platform.events:
        told = event["properties"]
        assert (event["type"], event["event"]) == ("track", "Ticket Resolved")
        assert told["queue"] == by_id[told["prediction_id"]].truth


async def test_what_was_told_is_answered_and_new_versions_are_seen_once():
    platform, messages = Platform(), stream(100)
    async with app(platform, messages) as (playing, tally, seen):
        await playing.play(messages, 200)
    assert sum(answer.correct for answer in tally.answers) >= 80
    assert len({answer.version for answer in seen}) == len(seen)


async def test_messages_are_asked_at_the_rate_and_not_as_fast_as_they_are_answered():
    platform, messages = Platform(), stream(50)
    async with app(platform, messages) as (playing, tally, _):
        await playing.play(messages, 100)
    assert tally.answers[-1].answered_s >= 0.48


async def test_feedback_is_sent_again_while_the_collector_is_busy_and_each_refusal_counts_as_failed():
    platform, messages = Platform(busy=3), stream(30)
    async with app(platform, messages) as (playing, tally, _):
        await playing.play(messages, 3000)
    assert len(tally.accepted_s) == 30
    assert tally.failures["collect 503"] == 3


async def test_an_event_that_the_collector_refuses_is_not_counted_as_accepted():
    platform, messages = Platform(reject=frozenset({4})), stream(20)
    async with app(platform, messages) as (playing, tally, _):
        await playing.play(messages, 2000)
    assert len(tally.accepted_s) == 19
    assert tally.failures == {"event refused: too_large": 1}


async def test_a_wrong_key_ends_the_run_with_what_the_service_said():
    platform, messages = Platform(predict_status=401), stream(5)
    async with app(platform, messages) as (playing, _, _):
        with pytest.raises(Permanent, match="answered 401"):
            await playing.play(messages, 100)


async def test_inference_that_stays_away_leaves_messages_unanswered_and_counts_every_try(monkeypatch):
    async def no_wait(_: float) -> None:
        return None

    monkeypatch.setattr("services.demo.product.asyncio.sleep", no_wait)
    platform, messages = Platform(predict_status=503), stream(4)
    async with app(platform, messages) as (playing, tally, _):
        client = playing._client
        with pytest.raises(Transient, match="5 times"):
            await client.predict("support-intents", [{"text": "x"}])
        before = tally.failures.total()
        await playing._one(0, messages[0], 0.0)
    assert before == 5
    assert tally.unanswered == 1
    assert tally.failures.total() == 10
