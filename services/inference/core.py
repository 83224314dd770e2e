"""Pure decisions: what a request asks, what is answered, and what is logged."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.errors import Invalid
from schemas.predictions import Prediction

MAX_INPUTS = 256
MAX_TEXT_CHARS = 32_768
# The product wants every score; the log, which is kept for ever, only the likeliest.
LOGGED_SCORES = 5
_USER_FIELDS = ("user_id", "subject", "anonymous_id")


class TooLarge(Invalid):
    """The input is well-formed but larger than what is served: answered with 413."""


@dataclass(frozen=True)
class Ask:
    """One input to predict for.

    Attributes:
        user: The caller's own id of the user, not yet a pseudonym; empty when none was named.
    """

    text: str
    user: str = ""


@dataclass(frozen=True)
class Answer:
    """One prediction.

    Attributes:
        label: The likeliest label; None while the loop knows none.
        scores: (C,) float32, in the order of ``labels``.
        embedding: (D,) float32.
    """

    prediction_id: str
    version: str
    label: str | None
    labels: Sequence[str]
    scores: npt.NDArray[np.float32]
    embedding: npt.NDArray[np.float32]

    @property
    def probability(self) -> float:
        """Of the label; 0 when there is none."""
        return float(self.scores.max(initial=0.0))


class PredictionIds:
    """Makes ids that sort by time: ``pr_``, 48 bits of milliseconds, a 16-bit counter within them, 64 random bits.

    The random bits keep replicas apart; the counter keeps one replica's ids in the order in which it gave them, and
    two of them different even if the random source repeated itself. Not safe to share between threads.
    """

    def __init__(self, random_bytes: Callable[[int], bytes]) -> None:
        self._random = random_bytes
        self._drawn = b""
        self._last = 0

    def __call__(self, now_ms: int) -> str:
        """Return an id that was never returned before; a clock that steps back does not matter."""
        self._last = max(now_ms << 16, self._last + 1)
        if not self._drawn:
            # Many at once: each draw is a system call, after which Python waits for its turn behind a forward pass.
            self._drawn = self._random(4096)
        drawn, self._drawn = self._drawn[:8], self._drawn[8:]
        return f"pr_{self._last & (1 << 64) - 1:016x}{drawn.hex()}"


def asks_of(body: object, field: str) -> list[Ask]:
    """Read the body of a predict request.

    Args:
        body: Decoded JSON: ``{"inputs": [{field: ..., "user_id": ...}, ...]}``, or one such input itself.
        field: The name of the text, from the loop file; ``text`` is understood too.

    Raises:
        Invalid: With the path of what is wrong.
        TooLarge: Too many inputs, or one is too long.
    """
    if not isinstance(body, dict):
        raise Invalid("the body is a JSON object", code="not_an_object")
    if "inputs" not in body:
        return [_ask(body, field, "")]
    inputs = body["inputs"]
    if not isinstance(inputs, list) or not inputs:
        raise Invalid("inputs is a list of at least one input", code="wrong_type", path="inputs")
    check_count(len(inputs))
    return [_ask(item, field, f"inputs.{i}") for i, item in enumerate(inputs)]


def _ask(item: Any, field: str, path: str) -> Ask:
    if not isinstance(item, dict):
        raise Invalid(f"{path or 'the input'} is an object with {field!r}", code="wrong_type", path=path)
    name = field if field in item or "text" not in item else "text"
    at = f"{path}.{name}" if path else name
    if name not in item:
        raise Invalid(f"{at} is missing", code="missing_field", path=at)
    return Ask(text=check_text(item[name], at), user=_user(item, path))


def _user(item: Mapping[str, Any], path: str) -> str:
    for name in _USER_FIELDS:
        value = item.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, str | int):
            at = f"{path}.{name}" if path else name
            raise Invalid(f"{at} is a string", code="wrong_type", path=at)
        return str(value)
    return ""


def check_text(text: object, path: str) -> str:
    """Return a text that can be predicted for and stored.

    Raises:
        Invalid: It is no string, or holds a NUL character, which Postgres cannot store.
        TooLarge: It is longer than MAX_TEXT_CHARS.
    """
    if not isinstance(text, str):
        raise Invalid(f"{path} is a string", code="wrong_type", path=path)
    if len(text) > MAX_TEXT_CHARS:
        raise TooLarge(f"{path} has {len(text)} characters; at most {MAX_TEXT_CHARS} are read", code="text_too_long",
                       path=path)
    if "\0" in text:
        raise Invalid(f"{path} holds a NUL character", code="nul_character", path=path)
    return text


def check_count(n: int) -> None:
    """Refuse a request of too many inputs.

    Raises:
        TooLarge: More than MAX_INPUTS.
    """
    if n > MAX_INPUTS:
        raise TooLarge(f"{n} inputs in one request; at most {MAX_INPUTS} are answered", code="too_many_inputs",
                       path="inputs")


def likeliest(labels: Sequence[str], scores: npt.NDArray[np.float32], n: int) -> list[int]:
    """Return the columns of the ``n`` greatest scores, greatest first; equal ones in the order of the columns."""
    return [int(i) for i in np.argsort(-scores[:len(labels)], kind="stable")[:n]]


def answer_of(prediction_id: str, version: str, labels: Sequence[str], scores: npt.NDArray[np.float32],
              embedding: npt.NDArray[np.float32]) -> Answer:
    """Return the answer that a version's scores (C,) mean."""
    label = labels[int(scores.argmax())] if len(labels) else None
    return Answer(prediction_id, version, label, labels, scores, embedding)


def prediction_of(answer: Answer, *, loop: str, field: str, text: str, subject: str, encoder: str,
                  now_ms: int) -> Prediction:
    """Return what is logged of an answer."""
    top = likeliest(answer.labels, answer.scores, LOGGED_SCORES)
    return Prediction(
        id=answer.prediction_id, loop=loop, version=answer.version, subject=subject, time_ms=now_ms,
        input={field: text}, label=answer.label,
        scores={answer.labels[i]: round(float(answer.scores[i]), 6) for i in top},
        embedding=answer.embedding.astype("<f4").tobytes(), encoder=encoder)
