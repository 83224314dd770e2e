"""A product app that asks for predictions and sends feedback, as any client would: public HTTP, retries, ids."""

import base64
import csv
import http.client
import json
import random
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.support.services import eventually

LOOP = "support-intents"
RETRY_S = 60.0


@dataclass(frozen=True)
class Answer:
    """What one message was answered with."""

    prediction_id: str
    label: str | None
    version: str
    at_s: float


@dataclass
class App:
    """Asks and tells, again until it is answered; every event keeps its message id over its retries.

    Attributes:
        predictions: All that was answered, by prediction id.
        accepted: Message ids of the events that were answered with success.
        n_retries: Requests that had to be sent again.
    """

    collector_url: str
    inference_url: str
    collect_key: str
    infer_key: str
    predictions: dict[str, Answer] = field(default_factory=dict)
    accepted: set[str] = field(default_factory=set)
    n_retries: int = 0

    def predict(self, text: str, user_id: str) -> Answer:
        """Ask for one prediction."""
        body = self._until_answered(
            self.inference_url, f"/v1/loops/{LOOP}/predict", {"text": text, "user_id": user_id},
            f"Bearer {self.infer_key}")
        told = body["predictions"][0]
        answer = Answer(told["prediction_id"], told["label"], told["version"], time.monotonic())
        self.predictions[answer.prediction_id] = answer
        return answer

    def resolve(self, answer: Answer, label: str, user_id: str) -> None:
        """Send the true label of a prediction."""
        message_id = uuid.uuid4().hex
        self._until_answered(
            self.collector_url, "/v1/track",
            {"userId": user_id, "event": "Ticket Resolved", "messageId": message_id,
             "properties": {"prediction_id": answer.prediction_id, "queue": label}},
            "Basic " + base64.b64encode(f"{self.collect_key}:".encode()).decode())
        self.accepted.add(message_id)

    def say(self, event: str, user_id: str) -> None:
        """Send an event that is no feedback."""
        message_id = uuid.uuid4().hex
        self._until_answered(self.collector_url, "/v1/track",
                             {"userId": user_id, "event": event, "messageId": message_id, "properties": {}},
                             "Basic " + base64.b64encode(f"{self.collect_key}:".encode()).decode())
        self.accepted.add(message_id)

    def loop(self) -> dict[str, Any]:
        """What inference says about the loop."""
        status, body = self._send(self.inference_url, "GET", f"/v1/loops/{LOOP}", None, f"Bearer {self.infer_key}")
        if status != 200:
            raise AssertionError(f"GET /v1/loops/{LOOP} answered {status}: {body!r}")
        found: dict[str, Any] = json.loads(body)
        return found

    def _until_answered(self, url: str, path: str, payload: dict[str, Any], authorization: str) -> dict[str, Any]:
        def ask() -> dict[str, Any]:
            try:
                status, body = self._send(url, "POST", path, json.dumps(payload).encode(), authorization)
            except (OSError, http.client.HTTPException) as exc:
                status, body = 0, repr(exc).encode()
            if status not in (0, 200, 429, 503):
                raise RuntimeError(f"POST {path} answered {status}: {body!r}")
            self.n_retries += status != 200
            assert status == 200, f"POST {path} answered {status}: {body!r}"
            answer: dict[str, Any] = json.loads(body)
            return answer

        return eventually(ask, timeout_s=RETRY_S, every_s=0.1)

    @staticmethod
    def _send(url: str, method: str, path: str, body: bytes | None, authorization: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json", "Authorization": authorization})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


@dataclass(frozen=True)
class Message:
    """A customer's message with the queue it belongs to."""

    text: str
    label: str
    user_id: str


def messages(file: Path, *, seed: int = 7, n_users: int = 60) -> list[Message]:
    """Read a corpus in shuffled order, spread over users."""
    rng = random.Random(seed)
    with file.open(newline="", encoding="utf-8") as stream:
        rows = [(row["text"], row["queue"]) for row in csv.DictReader(stream)]
    rng.shuffle(rows)
    return [Message(text, label, f"user-{rng.randrange(n_users)}") for text, label in rows]


def play(app: App, stream: list[Message], *, rate: float, meanwhile: Callable[[int], None] = lambda n: None
         ) -> list[bool]:
    """Ask about each message, then tell its true label; returns which predictions were right.

    Args:
        rate: Messages per second, at most.
        meanwhile: Called with the number of messages played so far.
    """
    right = []
    began_s = time.monotonic()
    for number, message in enumerate(stream):
        meanwhile(number)
        answer = app.predict(message.text, message.user_id)
        right.append(answer.label == message.label)
        app.resolve(answer, message.label, message.user_id)
        time.sleep(max(0.0, began_s + (number + 1) / rate - time.monotonic()))
    return right
