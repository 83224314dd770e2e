"""A loop: what to predict, from which events to learn, and when a version may serve. Declared in TOML."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from functools import cached_property
from typing import Any, Literal, get_args, get_origin, get_type_hints

from schemas.errors import RatchetError

Entity = Literal["user", "item", "label"]
Aggregate = Literal["count", "rate", "recency", "last"]

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
_PATH = re.compile(r"(properties|traits|context|data)(\.[^.\s]+)+")


class InvalidLoop(RatchetError):
    """A loop file is wrong. Says the file, the line, the key, what is wrong and what would be right."""

    def __init__(self, message: str, *, key: str = "", line: int = 0, file: str = "") -> None:
        self.key, self.line, self.file = key, line, file
        where = ":".join(str(part) for part in (file, line) if part)
        super().__init__(f"{where}: {key}: {message}" if key else f"{where}: {message}")


class Seconds(float):
    """A duration in seconds; written in loop files as ``"500ms"``, ``"10s"``, ``"2h"`` or ``"7d"``."""

    @classmethod
    def parse(cls, text: str) -> "Seconds":
        """Read a duration.

        Raises:
            ValueError: It is not a number followed by ms, s, m, h, d or w.
        """
        match = _DURATION.fullmatch(text.strip())
        if match is None:
            raise ValueError(f'{text!r} is not a duration such as "500ms", "10s", "2h" or "7d"')
        return cls(float(match[1]) * _UNIT_S[match[2]])


@dataclass(frozen=True, kw_only=True)
class Input:
    """Where a prediction's input comes from.

    Attributes:
        text: Path of the text inside an event; a predict request names the field by the path's last part.
    """

    text: str = "properties.text"


@dataclass(frozen=True, kw_only=True)
class Feedback:
    """One kind of feedback: which event tells the truth about a prediction.

    Attributes:
        event: Segment event name or CloudEvents type.
        prediction: Path of the prediction id.
        label: Path of the true label; None when ``value`` gives it.
        value: A constant label that the event stands for (a click: ``"clicked"``); None when ``label`` gives it.
        window: How long after the prediction the feedback may be waited for.
    """

    event: str
    prediction: str = "properties.prediction_id"
    label: str | None = None
    value: str | None = None
    window: Seconds = Seconds(7 * 86400)


@dataclass(frozen=True, kw_only=True)
class Feature:
    """A feature of a user, an item or a label, computed from events and exact as of any time.

    Attributes:
        entity: Whose feature it is; a user is the event's subject, a label the label of a feedback.
        event: Segment event name or CloudEvents type; ``*`` is every event. Not used for labels.
        key: Path of the item's id; only for items.
        value: Path of the value (``last``, and a mean for ``rate`` of a number); None counts the events.
        aggregates: What to compute.
        windows: Over which spans counts and rates are taken.
    """

    entity: Entity
    event: str = "*"
    key: str | None = None
    value: str | None = None
    aggregates: tuple[Aggregate, ...] = ("count", "rate", "recency")
    windows: tuple[Seconds, ...] = (Seconds(3600), Seconds(86400), Seconds(604800))


def _default_features() -> dict[str, Feature]:
    return {
        "activity": Feature(entity="user"),
        "views": Feature(entity="item", key="properties.item_id"),
        "feedback": Feature(entity="label"),
    }


@dataclass(frozen=True, kw_only=True)
class Training:
    """When and how the trainer learns. The analytic head always learns within a second of new examples.

    Attributes:
        every_examples: Least number of new examples before the next fine-tune starts; the learned examples must also
            have grown by half since the last one, so that recomputing the head's sums stays cheap in the long run.
        every: Least time between the starts of two fine-tunes.
        method: analytic | lora | full | analytic+lora | analytic+full.
        replay: Old examples mixed in per new one in a fine-tune.
        projection: Random features of the analytic head.
        ridge: Its least regularisation; it takes up to 1,024 times that where the labels are noisy.
        holdout: Share of subjects whose examples are never learned from, only measured on.
        learning_rate: Of a LoRA fine-tune, at its peak; a full one takes a tenth of it.
        epochs, batch_size, lora_rank: The fine-tune's own.
        seed: Makes a version reproducible.
    """

    every_examples: int = 1000
    every: Seconds = Seconds(60)
    method: Literal["analytic", "lora", "full", "analytic+lora", "analytic+full"] = "analytic+lora"
    replay: float = 3.0
    projection: int = 3000
    ridge: float = 20.0
    holdout: float = 0.03
    learning_rate: float = 3e-4
    epochs: int = 1
    batch_size: int = 32
    lora_rank: int = 16
    seed: int = 17


@dataclass(frozen=True, kw_only=True)
class Gate:
    """What a candidate must show before it may serve.

    Attributes:
        metric: Compared on examples that neither version has trained on.
        confidence: Of the interval on the paired difference.
        max_forgetting: No known label may lose more recall than this.
        margin: How much worse an analytic update may be without being shown worse (non-inferiority).
        window: The newest unseen examples that are compared on, at most.
    """

    metric: Literal["accuracy"] = "accuracy"
    confidence: float = 0.95
    max_forgetting: float = 0.02
    margin: float = 0.01
    window: int = 1000


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """How a generation goes live: shares of the traffic, each held for a while."""

    shadow: bool = False
    canary: tuple[float, ...] = (1.0,)
    hold: Seconds = Seconds(60)


@dataclass(frozen=True, kw_only=True)
class Loop:
    """One feedback loop, as declared.

    Attributes:
        name: Lower-case letters, digits, ``-``, ``_`` and ``.``; also the model's name in the Open Inference Protocol.
        base: ``minilm`` (packaged), a local directory, or a Hugging Face id.
        labels: Known from the start; empty means that labels are learned as they appear.
        default_label: What a prediction without feedback matures to; None: it teaches nothing.
        max_tokens: Longer inputs are cut, in tokens.
    """

    name: str
    task: Literal["text-classification"] = "text-classification"
    base: str = "minilm"
    labels: tuple[str, ...] = ()
    default_label: str | None = None
    max_tokens: int = 128
    input: Input = Input()
    feedback: Mapping[str, Feedback] = field(default_factory=dict)
    features: Mapping[str, Feature] = field(default_factory=_default_features)
    training: Training = Training()
    gate: Gate = Gate()
    rollout: Rollout = Rollout()

    @cached_property
    def window_s(self) -> float:
        """The longest attribution window of any feedback kind, in seconds: when a prediction matures."""
        return max((kind.window for kind in self.feedback.values()), default=0.0)


def parse(text: str, *, file: str = "") -> Loop:
    """Read a loop file.

    Raises:
        InvalidLoop: With the line, the key, what is wrong and what would be right. The first fault found is raised.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        line = re.search(r"at line (\d+)", str(exc))
        raise InvalidLoop(f"not TOML: {exc}", line=int(line[1]) if line else 0, file=file) from exc
    lines = _lines(text)
    try:
        loop: Loop = _build(Loop, data, "")
        _check(loop)
    except InvalidLoop as exc:
        raise InvalidLoop(exc.args[0].removeprefix(f": {exc.key}: "), key=exc.key,
                          line=_line_of(lines, exc.key), file=file) from None
    return loop


def _fail(key: str, message: str) -> InvalidLoop:
    return InvalidLoop(message, key=key)


def _build(kind: Any, data: Any, at: str) -> Any:
    if not isinstance(data, dict):
        raise _fail(at, f"is a table, not {_toml_name(data)}")
    hints = get_type_hints(kind)
    known = {f.name: f for f in fields(kind)}
    for key in data:
        if key not in known:
            raise _fail(_join(at, key), f"is not a known key; known here: {', '.join(sorted(known))}")
    for name, spec in known.items():
        required = spec.default is MISSING and spec.default_factory is MISSING
        if required and name not in data:
            raise _fail(_join(at, name), "is required")
    return kind(**{key: _value(hints[key], value, _join(at, key)) for key, value in data.items()})


def _value(hint: Any, value: Any, at: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if is_dataclass(hint):
        return _build(hint, value, at)
    if origin is Literal:
        if value not in args:
            raise _fail(at, f"is one of {', '.join(map(str, args))}, not {value!r}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise _fail(at, f"is a list, not {_toml_name(value)}")
        return tuple(_value(args[0], item, at) for item in value)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            raise _fail(at, f"is a table of tables, not {_toml_name(value)}")
        return {name: _value(args[1], item, _join(at, name)) for name, item in value.items()}
    if args and type(None) in args:
        return _value(next(a for a in args if a is not type(None)), value, at)
    return _scalar(hint, value, at)


def _scalar(hint: type, value: Any, at: str) -> Any:
    if hint is Seconds:
        if not isinstance(value, str):
            raise _fail(at, f'is a duration such as "10s", not {_toml_name(value)}')
        try:
            return Seconds.parse(value)
        except ValueError as exc:
            raise _fail(at, str(exc)) from None
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise _fail(at, f"is a {_TOML[hint]}, not {_toml_name(value)}")
    return value


_TOML: dict[type, str] = {str: "string", int: "whole number", float: "number", bool: "true or false",
                          list: "list", dict: "table"}


def _toml_name(value: Any) -> str:
    return f"the {_TOML.get(type(value), type(value).__name__)} {value!r}"


def _join(at: str, key: str) -> str:
    return f"{at}.{key}" if at else key


def _require(ok: bool, key: str, message: str) -> None:
    if not ok:
        raise _fail(key, message)


def _check(loop: Loop) -> None:
    _require(_NAME.fullmatch(loop.name) is not None, "name",
             f"{loop.name!r} is not 1 to 64 lower-case letters, digits, '-', '_' or '.'")
    _require(len(set(loop.labels)) == len(loop.labels), "labels", "names a label twice")
    _require(all(loop.labels) or not loop.labels, "labels", "has an empty label")
    _require(8 <= loop.max_tokens <= 8192, "max_tokens", "is between 8 and 8192")
    _require(_PATH.fullmatch(loop.input.text) is not None, "input.text", _path_rule(loop.input.text))
    _require(bool(loop.feedback), "feedback", "at least one [feedback.NAME] table is needed, or nothing is learned")
    for name, kind in loop.feedback.items():
        at = f"feedback.{name}"
        _require(bool(kind.event), f"{at}.event", "is empty")
        _require(_PATH.fullmatch(kind.prediction) is not None, f"{at}.prediction", _path_rule(kind.prediction))
        _require((kind.label is None) != (kind.value is None), at,
                 "needs exactly one of label (a path) and value (a constant label)")
        if kind.label is not None:
            _require(_PATH.fullmatch(kind.label) is not None, f"{at}.label", _path_rule(kind.label))
        _require(kind.window > 0, f"{at}.window", "is longer than 0")
    for name, feature in loop.features.items():
        at = f"features.{name}"
        _require((feature.key is not None) == (feature.entity == "item"), f"{at}.key",
                 "is the path of the item's id: needed for items, not allowed for others")
        for key, path in (("key", feature.key), ("value", feature.value)):
            _require(path is None or _PATH.fullmatch(path) is not None, f"{at}.{key}", _path_rule(path))
        _require(all(w > 0 for w in feature.windows), f"{at}.windows", "are longer than 0")
        _require("last" not in feature.aggregates or feature.value is not None, f"{at}.value",
                 "is needed for the aggregate 'last'")
    t = loop.training
    _require(t.every_examples >= 1, "training.every_examples", "is at least 1")
    _require(t.every > 0, "training.every", "is longer than 0")
    _require(0 <= t.replay <= 100, "training.replay", "is between 0 and 100")
    _require(64 <= t.projection <= 20000, "training.projection", "is between 64 and 20000")
    _require(t.ridge > 0, "training.ridge", "is above 0")
    _require(0 <= t.holdout <= 0.5, "training.holdout", "is between 0 and 0.5")
    _require(0 < t.learning_rate <= 1, "training.learning_rate", "is above 0 and at most 1")
    for key in ("epochs", "batch_size", "lora_rank"):
        _require(1 <= getattr(t, key) <= 4096, f"training.{key}", "is between 1 and 4096")
    _require(t.seed >= 0, "training.seed", "is 0 or more")
    g = loop.gate
    _require(0.5 <= g.confidence < 1, "gate.confidence", "is between 0.5 and 1")
    _require(0 <= g.max_forgetting <= 1, "gate.max_forgetting", "is between 0 and 1")
    _require(0 <= g.margin <= 1, "gate.margin", "is between 0 and 1")
    _require(10 <= g.window <= 100_000, "gate.window", "is between 10 and 100000")
    shares = loop.rollout.canary
    _require(bool(shares) and all(0 < s <= 1 for s in shares) and list(shares) == sorted(shares) and shares[-1] == 1,
             "rollout.canary", "is a growing list of shares above 0 that ends with 1.0")


def _path_rule(path: str | None) -> str:
    return f"{path!r} is not a path such as 'properties.queue' (from properties, traits, context or data)"


def _lines(text: str) -> dict[str, int]:
    """Map every key and table header of a TOML text to its line, by dotted name."""
    found: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), start=1):
        header = re.match(r"\s*\[+\s*([^\]]+?)\s*\]+", line)
        key = re.match(r"\s*([A-Za-z0-9_.\"'-]+?)\s*=", line)
        if header:
            table = header[1].replace('"', "").replace("'", "").replace(" ", "")
            found.setdefault(table, number)
        elif key:
            found.setdefault(_join(table, key[1].strip("\"'")), number)
    return found


def _line_of(lines: dict[str, int], key: str) -> int:
    """The line of a key, or of the nearest table around it; 1 when neither is written."""
    while key and key not in lines:
        key = key.rpartition(".")[0]
    return lines.get(key, 1)
