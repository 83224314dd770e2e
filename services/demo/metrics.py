"""What a run is measured by: pure functions of what was asked, answered, told and learned."""

import bisect
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from schemas.manifest import SeqRange

NO_VERSION = "v0"  # what inference answers with before a first version exists: no label


@dataclass(frozen=True)
class Answer:
    """One answered message of the stream.

    Attributes:
        index: Its place in the stream, from 0.
        answered_s: When the answer came, in seconds since the run began.
        label: None while the loop knows no label.
        truth: The true label.
    """

    index: int
    answered_s: float
    prediction_id: str
    version: str
    label: str | None
    truth: str

    @property
    def correct(self) -> bool:
        """Whether the answer was the true label; no answer is not."""
        return self.label == self.truth


@dataclass(frozen=True)
class LoopTimes:
    """How long it took from telling the truth to the first answer by a version that learned it.

    Attributes:
        values_s: One for each feedback that was learned and answered with, in the order it was accepted.
        n_held_out: Feedback of subjects that are never learned from, only measured on.
        n_unlearned: Other feedback that no version learned: still to come at the end.
        n_unserved: Feedback learned by a version that answered nothing any more: the last of the stream.
    """

    values_s: tuple[float, ...]
    n_held_out: int
    n_unlearned: int
    n_unserved: int


def share(flags: Sequence[bool]) -> float | None:
    """The share of true values; None of nothing."""
    return sum(flags) / len(flags) if flags else None


def window_of(n_messages: int) -> int:
    """How many messages "accuracy now" is taken over: 500, or a fifth of a short stream."""
    return min(500, max(25, n_messages // 5))


def rolling(flags: Mapping[int, bool], span: int, least: int = 10) -> list[tuple[int, float]]:
    """The share of true values among the last ``span`` places up to each place that has one.

    Args:
        flags: By place in the stream; places may be missing, as in a sample.
        least: Points made of fewer flags than this are left out.
    """
    points: list[tuple[int, float]] = []
    inside: deque[tuple[int, bool]] = deque()
    total = 0
    for place in sorted(flags):
        inside.append((place, flags[place]))
        total += flags[place]
        while inside[0][0] <= place - span:
            total -= inside.popleft()[1]
        if len(inside) >= least:
            points.append((place, total / len(inside)))
    return points


def percentile(values: Sequence[float], q: float) -> float | None:
    """The q-quantile (0 to 1) with linear interpolation between neighbours; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    place = q * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def first_answers(answers: Iterable[Answer]) -> dict[str, float]:
    """When each version answered for the first time, in that order; messages answered by no version included."""
    first: dict[str, float] = {}
    for answer in sorted(answers, key=lambda a: a.answered_s):
        first.setdefault(answer.version, answer.answered_s)
    return first


def swaps(answers: Iterable[Answer]) -> int:
    """How often a version answered for the first time in place of another one."""
    return max(0, len(first_answers(answers)) - 1)


def freeze_place(n_messages: int) -> int:
    """The place in the stream whose answering version is frozen: the first message after the first tenth."""
    return n_messages // 10


def loop_times(answers: Sequence[Answer], accepted_s: Mapping[str, float], seqs: Mapping[str, int],
               learned: Mapping[str, Sequence[SeqRange]], held_out: Collection[str] = ()) -> LoopTimes:
    """Measure the loop time of every accepted feedback, those held out excepted.

    Args:
        answers: All answers of the run.
        accepted_s: When the collector accepted the feedback on a prediction, by prediction id, on the answers' clock.
        seqs: The sequence number of the example that it became, by prediction id.
        learned: The ranges of examples each version learned from, by version; those held out may be inside.
        held_out: The predictions whose examples are never learned from.
    """
    by_version: dict[str, list[float]] = {}
    for answer in answers:
        by_version.setdefault(answer.version, []).append(answer.answered_s)
    for times in by_version.values():
        times.sort()
    first_time, any_version = _first_time_of(seqs.values(), by_version, learned)
    values: list[float] = []
    n_held_out = n_unlearned = n_unserved = 0
    for prediction_id, accepted in sorted(accepted_s.items(), key=lambda item: item[1]):
        seq = seqs.get(prediction_id)
        if prediction_id in held_out:
            n_held_out += 1
        elif seq is None or seq not in any_version:
            n_unlearned += 1
        elif seq not in first_time:
            n_unserved += 1
        else:
            # A version may answer with what it learned before the 200 of the collector is read: that is no time.
            values.append(max(0.0, first_time[seq] - accepted))
    return LoopTimes(tuple(values), n_held_out, n_unlearned, n_unserved)


def _first_time_of(seqs: Iterable[int], by_version: Mapping[str, Sequence[float]],
                   learned: Mapping[str, Sequence[SeqRange]]) -> tuple[dict[int, float], set[int]]:
    """When each example was first answered with, and which examples any version learned at all."""
    ordered = sorted(seqs)
    first_time: dict[int, float] = {}
    any_version: set[int] = set()
    by_first_answer = sorted(learned, key=lambda version: by_version.get(version, [float("inf")])[0])
    for version in by_first_answer:
        times = by_version.get(version)
        for span in learned[version]:
            for place in range(bisect.bisect_left(ordered, span.first), bisect.bisect_right(ordered, span.last)):
                any_version.add(ordered[place])
                if times:
                    first_time.setdefault(ordered[place], times[0])
    return first_time, any_version


def histogram(values: Sequence[float], edges: Sequence[float]) -> list[int]:
    """Count the values in [edges[i], edges[i+1]); the last bin takes all that is above."""
    counts = [0] * (len(edges) - 1)
    for value in values:
        counts[min(max(bisect.bisect_right(edges, value) - 1, 0), len(counts) - 1)] += 1
    return counts


def thin(points: Sequence[tuple[int, float]], n_points: int) -> list[tuple[int, float]]:
    """At most about ``n_points`` points spread evenly over a series, the last one always among them."""
    step = max(1, -(-len(points) // n_points))
    kept = list(points[::step])
    if points and kept[-1] != points[-1]:
        kept.append(points[-1])
    return kept
