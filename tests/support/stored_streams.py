"""Turns items into the records of a small topic, cut into batches, as hypothesis likes to shuffle them."""

from collections.abc import Sequence

from hypothesis import strategies as st

from schemas import frames
from schemas.events import Event
from schemas.loops import parse
from schemas.predictions import Prediction
from schemas.topics import Topics
from services.processor.records import Record
from tests.support.join_reference import LOOPS

TOPICS = Topics("t")
DECLARED = {loop.name: loop for loop in (parse(text, file=name) for name, text in LOOPS.items())}
BASE_MS = 1_700_000_000_000

predictions = st.builds(
    lambda number, loop: Prediction(
        id=f"pr_{number}", loop=loop, version="v1", subject=f"s_{number % 2}", time_ms=BASE_MS + number,
        input={"text": "t"}, label="a", scores={"a": 1.0}),
    st.integers(0, 3), st.sampled_from(["alpha", "beta"]))


def _event(number: int, target: int, name: str, label: str, minutes: int, delay: int) -> Event:
    time_ms = BASE_MS + minutes * 60_000
    return Event(id=f"e{number}", project="ab"[number % 2], kind="track", name=name, subject=f"s_{target % 2}",
                 time_ms=time_ms, received_ms=time_ms + delay * 60_000, source="segment",
                 properties={"prediction_id": f"pr_{target}", "queue": label, "amount": 1.5, "item_id": f"i{target}"})


# Few ids, labels and times, so that ties, repetitions and contradictions are the rule.
events = st.builds(
    _event, st.integers(0, 6), st.integers(0, 3), st.sampled_from(["Resolved", "Clicked", "Viewed", "Paid"]),
    st.sampled_from(["a", "b", "clicked"]), st.sampled_from([0, 0, 1, 20, 45, 90]), st.sampled_from([0, 0, 50]))


@st.composite
def distinct_items(draw: st.DrawFn) -> list[Event | Prediction]:
    """Events and predictions, each id with one content only: an id identifies its event for ever."""
    found: dict[tuple[str, ...], Event | Prediction] = {}
    for event in draw(st.lists(events, max_size=8)):
        found.setdefault((event.project, event.id), event)
    for prediction in draw(st.lists(predictions, max_size=4)):
        found.setdefault((prediction.id,), prediction)
    return list(found.values())


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[Event | Prediction], list[Event | Prediction]]:
    """Items, and the same items in another order with some of them repeated."""
    items = draw(distinct_items())
    again = draw(st.lists(st.sampled_from(items), max_size=6)) if items else []
    return items, draw(st.permutations(items + again))


def records(items: Sequence[Event | Prediction], *, start: int = 0) -> list[Record]:
    """Return one record per item, in two partitions per topic; offsets count from ``start`` in each."""
    offsets: dict[tuple[str, int], int] = {}
    made = []
    for item in items:
        topic = TOPICS.events if isinstance(item, Event) else TOPICS.predictions
        partition = topic, len(item.id) % 2
        offset = offsets.get(partition, start)
        offsets[partition] = offset + 1
        made.append(Record(topic, partition[1], offset, BASE_MS, frames.SINGLE, frames.encode_one(item)))
    return made


def cut(stream: Sequence[Record], sizes: Sequence[int]) -> list[list[Record]]:
    """Cut a stream into batches of these sizes; the last batch takes the rest."""
    batches, at = [], 0
    for size in sizes:
        batches.append(list(stream[at: at + size]))
        at += size
    batches.append(list(stream[at:]))
    return [batch for batch in batches if batch]
