"""What the processor must end up with, worked out the slow and plain way, and shuffled workloads to try it with."""

import hashlib
import random
from collections.abc import Iterable
from dataclasses import dataclass, field

from schemas.events import Event
from schemas.predictions import Prediction

# Two loops that both learn from the same event, several kinds, and every sort of feature.
LOOPS = {
    "alpha.toml": """
name = "alpha"
[feedback.correction]
event = "Resolved"
label = "properties.queue"
window = "7d"
[feedback.click]
event = "Clicked"
value = "clicked"
window = "1h"
[features.activity]
entity = "user"
[features.views]
entity = "item"
key = "properties.item_id"
[features.feedback]
entity = "label"
[features.amount]
entity = "user"
event = "Paid"
value = "properties.amount"
aggregates = ["count", "rate", "recency", "last"]
windows = ["10s", "1h", "7d"]
""",
    "beta.toml": """
name = "beta"
[feedback.correction]
event = "Resolved"
label = "properties.queue"
window = "30m"
[features.activity]
entity = "user"
event = "Viewed"
""",
}
_WINDOW_MS = {("alpha", "correction"): 7 * 86_400_000, ("alpha", "click"): 3_600_000, ("beta", "correction"): 1_800_000}
_KINDS = {"Resolved": [("alpha", "correction"), ("beta", "correction")], "Clicked": [("alpha", "click")]}


@dataclass
class Expected:
    """The tables, as they must be.

    Attributes:
        examples: Of each labelled prediction: loop, label, source, labelled_ms, late.
        feedback: loop, kind, project, event id, prediction id, label.
        observations: loop, entity, key, feature, source id, number.
    """

    events: set[tuple[str, str]] = field(default_factory=set)
    predictions: set[str] = field(default_factory=set)
    examples: dict[str, tuple[str, str, str, int, bool]] = field(default_factory=dict)
    feedback: set[tuple[str, str, str, str, str, str]] = field(default_factory=set)
    observations: set[tuple[str, str, str, str, str, float | None]] = field(default_factory=set)

    @property
    def orphans(self) -> set[tuple[str, str, str, str, str]]:
        """Feedback whose prediction never comes: loop, kind, project, event id, prediction id."""
        return {row[:5] for row in self.feedback if row[4] not in self.predictions}


def expect(events: Iterable[Event], predictions: Iterable[Prediction]) -> Expected:
    """Join one item after the other, with everything in memory."""
    want = Expected()
    by_id = {p.id: p for p in predictions}
    want.predictions = set(by_id)
    unique = {(e.project, e.id): e for e in events}
    want.events = set(unique)
    best: dict[str, tuple[tuple[int, str, str, str], Event, str, str]] = {}
    for event in unique.values():
        source = f"{event.project}/{event.id}"
        properties = event.properties
        if event.subject:
            want.observations.add(("alpha", "user", event.subject, "activity", source, None))
            if event.name == "Viewed":
                want.observations.add(("beta", "user", event.subject, "activity", source, None))
            if event.name == "Paid":
                want.observations.add(("alpha", "user", event.subject, "amount", source, properties["amount"]))
        if "item_id" in properties:
            want.observations.add(("alpha", "item", properties["item_id"], "views", source, None))
        for loop, kind in _KINDS.get(event.name, ()):
            target = properties.get("prediction_id")
            if not target:
                continue
            label = "clicked" if kind == "click" else properties["queue"]
            want.feedback.add((loop, kind, event.project, event.id, target, label))
            if loop == "alpha":
                want.observations.add(("alpha", "label", label, "feedback", source, None))
            prediction = by_id.get(target)
            if prediction is None or prediction.loop != loop:
                continue
            order = (event.time_ms, event.project, event.id, kind)
            if target not in best or order > best[target][0]:
                best[target] = (order, event, kind, label)
    for target, (_, event, kind, label) in best.items():
        prediction = by_id[target]
        closes = prediction.time_ms + _WINDOW_MS[prediction.loop, kind]
        late = event.time_ms > closes or event.received_ms > closes
        want.examples[target] = (prediction.loop, label, kind, event.time_ms, late)
    return want


@dataclass
class Workload:
    """Events and predictions in the order in which they are to be sent; some more than once."""

    items: list[Event | Prediction]

    @property
    def events(self) -> list[Event]:
        """The events, repeated ones included."""
        return [item for item in self.items if isinstance(item, Event)]

    @property
    def predictions(self) -> list[Prediction]:
        """The predictions, repeated ones included."""
        return [item for item in self.items if isinstance(item, Prediction)]

    @property
    def expected(self) -> Expected:
        """What must come of it."""
        return expect(self.events, self.predictions)


def workload(n_predictions: int, *, seed: int, now_ms: int) -> Workload:
    """Make predictions of both loops, feedback early, late, repeated and contradicting, and other events."""
    rng = random.Random(seed)

    def new_id() -> str:
        return hashlib.sha256(rng.randbytes(8)).hexdigest()[:32]

    timed: list[tuple[float, Event | Prediction]] = []
    for number in range(n_predictions):
        at = float(number)
        subject = f"s_{rng.randrange(50):032x}"
        time_ms = now_ms - rng.choice([0, 0, 0, 3_000_000, 9_000_000_000]) + number
        prediction = Prediction(
            id=f"pr_{new_id()}", loop=rng.choice(["alpha", "alpha", "beta"]), version="v1", subject=subject,
            time_ms=time_ms, input={"text": f"message {number}"}, label="a", scores={"a": 0.7, "b": 0.2},
            embedding=rng.randbytes(32), encoder="e1")
        timed.append((at, prediction))
        if rng.random() < 0.02:
            timed.append((at + rng.random() * 30, prediction))
        for _ in range(rng.choice([0, 1, 1, 1, 2, 3])):
            name = rng.choice(["Resolved", "Resolved", "Clicked"])
            # The same moment for some, so that the tie has to be broken alike in every order.
            happened = time_ms + rng.choice([0, 1000, 1000, rng.randrange(100_000)])
            event = Event(
                id=new_id(), project=rng.choice(["app", "web"]), kind="track", name=name, subject=subject,
                time_ms=happened, received_ms=max(happened, now_ms - rng.randrange(1000)), source="segment",
                properties={"prediction_id": prediction.id, "queue": rng.choice(["a", "b", "c"])})
            # Some feedback comes long before its prediction.
            when = at + rng.choice([rng.random() * 5, -rng.random() * 20, rng.random() * 100])
            timed.append((when, event))
            if rng.random() < 0.05:
                timed.append((when + rng.random() * 50, event))
        for _ in range(rng.choice([0, 0, 1, 2])):
            name = rng.choice(["Viewed", "Paid"])
            viewed = {"item_id": f"i{rng.randrange(20)}"}
            properties = viewed if name == "Viewed" else {"amount": rng.randrange(100) / 2}
            timed.append((at + rng.random() * 10, Event(
                id=new_id(), project="app", kind="track", name=name, subject=rng.choice([subject, ""]),
                time_ms=time_ms + rng.randrange(1000), received_ms=now_ms, source="segment", properties=properties)))
    # Feedback whose prediction never comes.
    timed.append((0.0, Event(id=new_id(), project="app", kind="track", name="Resolved", subject="", time_ms=now_ms,
                             received_ms=now_ms, source="segment",
                             properties={"prediction_id": f"pr_{new_id()}", "queue": "a"})))
    timed.sort(key=lambda pair: pair[0])
    return Workload([item for _, item in timed])
