"""Where each feedback's loop time went, from what the platform records anyway: times in tables, logs and the registry.

The clocks are one: all processes run on one machine. Times are seconds since the epoch.
"""

import bisect
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from kafka import KafkaConsumer, TopicPartition

from benchmarks.loop_load import Heard
from benchmarks.loop_stack import LOOP, Running
from schemas.events import Event
from schemas.frames import Decoder, content_type
from schemas.topics import Topics
from shared import postgres
from shared.holdout import is_held_out
from shared.registry import Registry

# Each stage ends at a moment that is written down; the order is that of the way around.
STAGES = {
    "received": "HTTP to the collector",
    "framed": "validate, pseudonymise, gather into a frame",
    "accepted": "Kafka acks=all, answer 200",
    "begun": "fetch, gather a batch, prepare",
    "committed": "join, Postgres commit",
    "read": "trainer wakes, or its turn comes",
    "decided": "read, update the head, gate",
    "published": "tensors and manifest to disk and Redis",
    "promoted": "journal, decision, alias",
    "swapped": "inference loads, checks, switches",
    "asked": "until somebody asks",
    "answered": "answer",
}
BEFORE = ("received", "framed", "accepted")  # the loop time is counted from the acceptance


@dataclass(frozen=True)
class Trip:
    """One feedback's way around.

    Attributes:
        loop_s: From the acceptance to the first answer by a version that learned it.
        stages_s: By name, what each stage added; those after the acceptance sum to ``loop_s``.
    """

    loop_s: float
    stages_s: Mapping[str, float]


@dataclass(frozen=True)
class Found:
    """All trips of a run.

    Attributes:
        n_held_out: Feedback that is only measured on.
        n_open: Feedback that no answer had learned by the end.
        n_lost: Accepted feedback that made no example.
    """

    trips: Sequence[Trip]
    n_held_out: int
    n_open: int
    n_lost: int

    def percentile(self, q: float) -> float:
        """Of the loop times, in seconds."""
        return percentile([trip.loop_s for trip in self.trips], q)

    def around(self, low: float, high: float) -> dict[str, float]:
        """The mean stages of the trips whose loop times lie between two quantiles; their sum is about that quantile."""
        floor, ceiling = self.percentile(low), self.percentile(high)
        chosen = [trip for trip in self.trips if floor <= trip.loop_s <= ceiling]
        return {name: statistics.fmean(trip.stages_s[name] for trip in chosen) for name in STAGES}


def percentile(values: Sequence[float], q: float) -> float:
    """The q-quantile; NaN of nothing."""
    ordered = sorted(values)
    return ordered[min(int(q * len(ordered)), len(ordered) - 1)] if ordered else float("nan")


def trace(stack: Running, heard: Heard) -> Found:
    """Follow every accepted feedback of a run around."""
    versions = _versions(stack)
    frames_s = _frames(stack, since_s=heard.began_s - 1)
    firsts = first_answers(heard, versions)
    best = [cut for cut, _ in firsts]
    trips, n_held_out, n_open = [], 0, 0
    examples = _examples(stack, list(heard.told))
    share, seed = _holdout(stack)
    for prediction_id, (seq, subject, received_s, begun_s, committed_s) in examples.items():
        told = heard.told[prediction_id]
        if is_held_out(subject, prediction_id, share, seed):
            n_held_out += 1
            continue
        place = bisect.bisect_left(best, seq)
        if place == len(firsts):
            n_open += 1
            continue
        version, asked_s, answered_s = firsts[place][1]
        times = versions[version]
        ends = {"received": received_s, "framed": frames_s.get(told.event_id, received_s),
                "accepted": told.accepted_s, "begun": begun_s, "committed": committed_s, **times,
                "asked": asked_s, "answered": answered_s}
        trips.append(trip(told.sent_s, ends))
    return Found(trips, n_held_out, n_open, len(heard.told) - len(examples))


def trip(sent_s: float, ends: Mapping[str, float]) -> Trip:
    """Turn the times at which stages ended into what each added; the sum stays whatever order they ended in."""
    stages, now_s = {}, sent_s
    for name in STAGES:
        # A stage may end before the one that is counted before it: the worker fetches what the client has not heard of.
        stages[name] = max(0.0, ends[name] - now_s)
        now_s = max(now_s, ends[name])
    return Trip(sum(s for name, s in stages.items() if name not in BEFORE), stages)


def first_answers(heard: Heard, versions: Mapping[str, Mapping[str, float]]
                  ) -> list[tuple[int, tuple[str, float, float]]]:
    """(the last seq it learned, the first answer) of each version that learned more than all that answered before."""
    found: list[tuple[int, tuple[str, float, float]]] = []
    for answer in sorted(heard.answers, key=lambda a: a.answered_s):
        cut = int(versions[answer.version]["cut"]) if answer.version in versions else 0
        if cut > (found[-1][0] if found else 0):
            found.append((cut, tuple(answer)))
    return found


def _examples(stack: Running, predictions: list[str]) -> dict[str, tuple[int, str, float, float, float]]:
    with postgres.connect(stack.stores.postgres_url, name="ratchet-bench", autocommit=True) as connection:
        rows = connection.execute(
            "SELECT l.prediction_id, l.seq, p.subject, f.received_at, l.learnable_at, pg_xact_commit_timestamp(l.xmin)"
            " FROM labels l JOIN predictions p ON p.id = l.prediction_id"
            " JOIN feedback f ON f.prediction_id = l.prediction_id"
            " WHERE l.revision = 1 AND l.prediction_id = ANY(%s)", (predictions,)).fetchall()
    return {key: (seq, subject, *(moment.timestamp() for moment in moments)) for key, seq, subject, *moments in rows}


def _versions(stack: Running) -> dict[str, dict[str, float]]:
    """When each version was read for, decided, published, promoted and switched to, and the last seq it learned."""
    with postgres.connect(stack.stores.postgres_url, name="ratchet-bench", autocommit=True) as connection:
        rows = connection.execute("SELECT version, last_seq, started_at, ended_at FROM training_runs"
                                  " WHERE loop = %s AND version IS NOT NULL", (LOOP,)).fetchall()
    found = {version: {"cut": float(cut), "read": started.timestamp(), "decided": ended.timestamp()}
             for version, cut, started, ended in rows}
    registry = Registry.connect(stack.stores.redis_url, stack.stores.artifacts_dir)
    try:
        for entry in registry.log(LOOP, limit=1_000_000):
            if entry.action in ("published", "promoted") and entry.version in found:
                found[entry.version].setdefault(entry.action, entry.time_ms / 1000)
    finally:
        registry.close()
    for line in stack.log("inference"):
        if line["event"] == "version_swapped" and line["version"] in found:
            found[line["version"]].setdefault("swapped", datetime.fromisoformat(line["time"]).timestamp())
    return {version: times for version, times in found.items() if "swapped" in times}


def _holdout(stack: Running) -> tuple[float, int]:
    registry = Registry.connect(stack.stores.redis_url, stack.stores.artifacts_dir)
    try:
        newest = registry.versions(LOOP, limit=1)
        return (float(newest[0].settings["holdout"]), newest[0].seed) if newest else (0.0, 0)
    finally:
        registry.close()


def _frames(stack: Running, *, since_s: float) -> dict[str, float]:
    """When the frame that holds each event was made, by event id: Kafka keeps the time."""
    topic, decoder = Topics("ratchet").events, Decoder(Event)
    consumer = KafkaConsumer(bootstrap_servers=stack.urls["kafka"], enable_auto_commit=False, check_crcs=False)
    try:
        parts = [TopicPartition(topic, part) for part in sorted(consumer.partitions_for_topic(topic) or ())]
        consumer.assign(parts)
        starts = consumer.offsets_for_times({part: int(since_s * 1000) for part in parts})
        ends = consumer.end_offsets(parts)
        left = {part for part in parts if starts.get(part) and starts[part].offset < ends[part]}
        consumer.assign(list(left))
        for part in left:
            consumer.seek(part, starts[part].offset)
        found: dict[str, float] = {}
        while left:
            for part, records in consumer.poll(timeout_ms=1000).items():
                for record in records:
                    events, _ = decoder.decode(record.value, content_type(record.headers))
                    found.update((event.id, record.timestamp / 1000) for event in events)
                if records[-1].offset + 1 >= ends[part]:
                    left.discard(part)
        return found
    finally:
        consumer.close()
