"""The product app: asks inference about each message, then tells the collector where it truly belonged."""

import asyncio
import base64
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import aiohttp
import msgspec

from schemas.errors import Permanent, RatchetError, Transient
from services.demo.messages import Message
from services.demo.metrics import Answer
from services.demo.tally import Tally

EVENT = "Ticket Resolved"
# Long: on a machine that is busy with other things a slow answer is better than asking again, which adds to the load.
_TIMEOUT = aiohttp.ClientTimeout(total=60)
_BATCH = 50  # events per request at most
_GATHER_S = 0.004  # how long feedback waits for company
_MAX_IN_FLIGHT = 128  # questions; beyond it the app falls behind its plan, and the report shows by how much


@dataclass(frozen=True)
class Endpoints:
    """Where the stack's public interfaces are, and the keys that open them."""

    collector: str
    inference: str
    collect_key: str
    infer_key: str


class Client:
    """The public HTTP interfaces, tried again when they answer that they are busy.

    Args:
        failed: Told of each request that was not answered with 200, whether or not the next try is.
    """

    def __init__(self, http: aiohttp.ClientSession, at: Endpoints, failed: Callable[[str], None]) -> None:
        self._http, self._at, self._failed = http, at, failed
        self._infer = {"Authorization": f"Bearer {at.infer_key}", "Content-Type": "application/json"}
        basic = base64.b64encode(f"{at.collect_key}:".encode()).decode()
        self._collect = {"Authorization": f"Basic {basic}", "Content-Type": "application/json"}

    async def predict(self, loop: str, inputs: Sequence[Mapping[str, str]], *, tries: int = 5) -> list[dict[str, Any]]:
        """Ask about one or many inputs.

        Raises:
            Transient: No try was answered with success.
            Permanent: The request was refused for good.
        """
        url = f"{self._at.inference}/v1/loops/{loop}/predict"
        answer = await self._post("predict", url, {"inputs": inputs}, self._infer, tries)
        predictions: list[dict[str, Any]] = answer["predictions"]
        return predictions

    async def describe(self, loop: str) -> dict[str, Any]:
        """What inference says about a loop: the version it serves and how many examples that learned.

        Raises:
            Transient: It did not answer with success.
        """
        url = f"{self._at.inference}/v1/loops/{loop}"
        try:
            async with self._http.get(url, headers=self._infer, timeout=_TIMEOUT) as answer:
                if answer.status != 200:
                    raise Transient(f"{url} answered {answer.status}")
                found: dict[str, Any] = msgspec.json.decode(await answer.read())
                return found
        except (TimeoutError, aiohttp.ClientError, msgspec.DecodeError) as exc:
            raise Transient(f"{url} did not answer: {exc!r}") from exc

    async def tell(self, events: Sequence[Mapping[str, Any]], *, tries: int = 30) -> dict[str, Any]:
        """Send a batch of Segment events.

        Raises:
            Transient: No try was answered with success.
            Permanent: The request was refused for good.
        """
        body = {"batch": events, "sentAt": _timestamp()}
        return await self._post("collect", f"{self._at.collector}/v1/batch", body, self._collect, tries)

    async def _post(self, what: str, url: str, body: Any, headers: Mapping[str, str], tries: int) -> dict[str, Any]:
        data = msgspec.json.encode(body)
        reason = ""
        for attempt in range(tries):
            wait_s = min(0.1 * 2**attempt, 2.0)
            try:
                async with self._http.post(url, data=data, headers=headers, timeout=_TIMEOUT) as answer:
                    content = await answer.read()
                    if answer.status == 200:
                        found: dict[str, Any] = msgspec.json.decode(content)
                        return found
                    reason = f"answered {answer.status}: {content[:300].decode('utf-8', 'replace')}"
                    with suppress(ValueError):
                        wait_s = float(answer.headers.get("Retry-After", wait_s))
                    self._failed(f"{what} {answer.status}")
                    if answer.status < 500 and answer.status not in (408, 429):
                        raise Permanent(f"{url} {reason}")
            except (TimeoutError, aiohttp.ClientError, msgspec.DecodeError) as exc:
                reason = f"did not answer: {exc!r}"
                self._failed(f"{what} {type(exc).__name__}")
            if attempt + 1 < tries:
                await asyncio.sleep(min(wait_s, 5.0))
        raise Transient(f"{url} {reason}, {tries} times")


class ProductApp:
    """Plays the stream open-loop: a question is asked when its time has come, whether or not others are answered.

    Args:
        watch: Called with every answer, and whether it is the first one of its version.
    """

    def __init__(self, client: Client, loop: str, tally: Tally,
                 watch: Callable[[Answer, bool], Awaitable[None]]) -> None:
        self._client, self._loop, self._tally, self._watch = client, loop, tally, watch
        self._outbox: asyncio.Queue[tuple[str, dict[str, Any]] | None] = asyncio.Queue()
        self._room = asyncio.Semaphore(_MAX_IN_FLIGHT)

    async def play(self, messages: Sequence[Message], rate: float) -> None:
        """Ask about every message at the rate (per second) and tell the truth; returns when all was told.

        Raises:
            Transient: The collector did not take feedback in all its tries.
            Permanent: It, or inference, refused a request for good.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._send_batches())
                await self._ask_all(messages, rate)
                self._outbox.put_nowait(None)
        except ExceptionGroup as group:
            raise _first(group) from group

    async def _ask_all(self, messages: Sequence[Message], rate: float) -> None:
        start_s = self._tally.now()
        async with asyncio.TaskGroup() as asking:
            for index, message in enumerate(messages):
                due_s = start_s + index / rate
                delay_s = due_s - self._tally.now()
                if delay_s > 0:
                    await asyncio.sleep(delay_s)
                await self._room.acquire()
                asking.create_task(self._one(index, message, due_s))

    async def _one(self, index: int, message: Message, due_s: float) -> None:
        asked_s = self._tally.now()
        try:
            found = await self._client.predict(self._loop, [{"text": message.text, "user_id": message.user_id}])
        except Transient:
            self._tally.not_answered()
            return
        finally:
            self._room.release()
        now_s = self._tally.now()
        answer = Answer(index, now_s, found[0]["prediction_id"], found[0]["version"], found[0]["label"],
                        message.label)
        is_new = self._tally.answered(answer, now_s - asked_s, asked_s - due_s)
        self._outbox.put_nowait((answer.prediction_id, _resolved(answer, message)))
        await self._watch(answer, is_new)

    async def _send_batches(self) -> None:
        async with asyncio.TaskGroup() as sending:
            open_ = True
            while open_:
                first = await self._outbox.get()
                if first is None:
                    return
                await asyncio.sleep(_GATHER_S)
                batch = [first]
                while len(batch) < _BATCH and not self._outbox.empty():
                    item = self._outbox.get_nowait()
                    if item is None:
                        open_ = False
                        break
                    batch.append(item)
                sending.create_task(self._send(batch))

    async def _send(self, batch: Sequence[tuple[str, dict[str, Any]]]) -> None:
        answer = await self._client.tell([event for _, event in batch])
        bad = refused(answer)
        for place, (prediction_id, event) in enumerate(batch):
            if place in bad:
                self._tally.failed(f"event refused: {bad[place]}")
            else:
                self._tally.accepted(prediction_id, event["messageId"])


def refused(answer: Mapping[str, Any]) -> dict[int, str]:
    """The places of the events in a batch that the collector did not take, with its reason code."""
    return {place: str(result.get("code", "unknown")) for place, result in enumerate(answer["results"])
            if result["status"] != "accepted"}


def _first(group: ExceptionGroup[Exception]) -> Exception:
    """The error of our own that a group of tasks failed with, else whichever came first."""
    ours, others = group.split(RatchetError)
    found: Exception = ours or others or group
    while isinstance(found, ExceptionGroup):
        found = found.exceptions[0]
    return found


def _resolved(answer: Answer, message: Message) -> dict[str, Any]:
    """The Segment event that an agent's click on "resolve" sends."""
    return {
        "type": "track", "event": EVENT, "userId": message.user_id, "messageId": f"demo-{uuid.uuid4()}",
        "timestamp": _timestamp(),
        "properties": {"prediction_id": answer.prediction_id, "queue": message.label},
    }


def _timestamp() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
