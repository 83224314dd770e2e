"""What a run has seen so far, kept by the product app and shown by the screen and the live page."""

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from services.demo.metrics import NO_VERSION, Answer, freeze_place, percentile, window_of

_RATE_SPAN_S = 5.0


@dataclass(frozen=True)
class Final:
    """The report's figures, which take the place of those that the run was shown with; None as in the snapshot."""

    rate: float
    window: int
    recent: float | None
    overall: float | None
    static: float | None
    versions: int
    loop_p50_s: float | None
    loop_p95_s: float | None


@dataclass(frozen=True)
class Snapshot:
    """How a run stands at a moment; what the screen and the live page show.

    Attributes:
        phase: What the demo is doing, in a few words.
        window: How many messages "recent" means.
        recent: Accuracy over the last ``window`` messages; None before the first answer.
        overall: Accuracy over all messages so far.
        static: Accuracy of the never-updated version; None before it is frozen.
        static_is_estimate: Whether that is still the accuracy around the moment of freezing; the version itself is
            asked when the stream is over.
        loop_p50_s, loop_p95_s: The loop time; None before the first swap.
        loop_is_estimate: Whether that is still an estimate; it is measured when the stream is over and learned.
        version: The version that answered last; before the first answer, the one that the run started with.
        versions: How many versions the loop has published since the run began.
        failed: Requests that were not answered with success.
    """

    phase: str
    elapsed_s: float
    done: int
    total: int
    rate: float
    window: int
    recent: float | None
    overall: float | None
    static: float | None
    static_is_estimate: bool
    static_version: str
    version: str
    versions: int
    swaps: int
    loop_p50_s: float | None
    loop_p95_s: float | None
    loop_is_estimate: bool
    accepted: int
    failed: int


class Tally:
    """Counts a run. Used from one event loop only, so it needs no lock.

    Args:
        total: Messages that will be played.
        now: The clock, in seconds; all times are on it, and 0 is the run's start.
        held_out_share: About which share of the feedback is never learned from.
        started_with: The champion before the run; None when the loop starts with nothing.
    """

    def __init__(self, total: int, now: Callable[[], float], *, held_out_share: float = 0.03,
                 started_with: str | None = None) -> None:
        self.total, self.window = total, window_of(total)
        self.now = now
        self._held_out_share = held_out_share
        self._started_with = started_with or NO_VERSION
        self.final: Final | None = None
        self.phase = "starting"
        self.answers: list[Answer] = []
        self.accepted_s: dict[str, float] = {}
        self.event_ids: list[str] = []
        self.failures: Counter[str] = Counter()
        self.predict_s: list[float] = []
        self.slips_s: list[float] = []
        self.unanswered = 0
        self.published = 0
        self.frozen_place = freeze_place(total)
        self.static_version = ""
        self.static_flags: dict[int, bool] = {}
        self.first_seen_s: dict[str, float] = {}
        self.first_place: dict[str, int] = {}
        self.generations: dict[str, int] = {}
        self.loop_estimates_s: list[float] = []
        self._n_learned: dict[str, int] = {}
        self._near_freezing: list[bool] = []
        self._recent: deque[bool] = deque(maxlen=self.window)
        self._n_correct = 0
        self._accept_times: list[float] = []
        self._times: deque[float] = deque()

    def answered(self, answer: Answer, took_s: float, slip_s: float) -> bool:
        """Note an answer; returns whether its version answered for the first time.

        Args:
            took_s: Time from asking to the answer.
            slip_s: How much later than planned the question was asked.
        """
        self.answers.append(answer)
        self.predict_s.append(took_s)
        self.slips_s.append(slip_s)
        self._note(answer.correct)
        if abs(answer.index - self.frozen_place) <= self.window // 5:
            self._near_freezing.append(answer.correct)
        is_new = answer.version not in self.first_seen_s
        if is_new:
            self.first_seen_s[answer.version] = answer.answered_s
            self.first_place[answer.version] = answer.index
            self._estimate(answer.version)
        return is_new

    def not_answered(self) -> None:
        """Note a message that got no answer in all its tries; it counts as wrong."""
        self.unanswered += 1
        self._note(False)

    def accepted(self, prediction_id: str, event_id: str) -> None:
        """Note that the collector accepted the feedback on a prediction, now."""
        self.accepted_s[prediction_id] = self.now()
        self.event_ids.append(event_id)
        self._accept_times.append(self.now())

    def failed(self, what: str) -> None:
        """Note a request that was not answered with success, even if trying again helps."""
        self.failures[what] += 1

    def learned(self, version: str, n_examples: int) -> None:
        """Note how many examples a version learned; from that, the loop time is estimated once it has answered."""
        if version not in self._n_learned:
            self._n_learned[version] = n_examples
            self._estimate(version)

    def _estimate(self, version: str) -> None:
        """Take the loop time of the newest example that a version learned; the report measures exactly.

        Of n learned examples the newest is about the n/(1 - held-out share)-th feedback that was accepted.
        """
        if version in self._n_learned and version in self.first_seen_s:
            place = min(int(self._n_learned[version] / (1 - self._held_out_share)), len(self._accept_times)) - 1
            if place >= 0:
                self.loop_estimates_s.append(max(0.0, self.first_seen_s[version] - self._accept_times[place]))

    def static_accuracy(self) -> float | None:
        """Of the never-updated version: measured once it was asked, before that the accuracy around the freezing."""
        flags = list(self.static_flags.values()) or self._near_freezing
        return sum(flags) / len(flags) if self.static_version and flags else None

    def snapshot(self) -> Snapshot:
        """How the run stands now."""
        now = self.now()
        while self._times and self._times[0] < now - _RATE_SPAN_S:
            self._times.popleft()
        done = len(self.answers) + self.unanswered
        latest = self.answers[-1].version if self.answers else self._started_with
        running = Snapshot(
            phase=self.phase, elapsed_s=now, done=done, total=self.total,
            rate=len(self._times) / min(_RATE_SPAN_S, max(now, 0.5)),
            window=self.window, recent=sum(self._recent) / len(self._recent) if self._recent else None,
            overall=self._n_correct / done if done else None,
            static=self.static_accuracy(), static_is_estimate=not self.static_flags,
            static_version=self.static_version,
            version=latest, versions=max(0, self.published - int(self._started_with.lstrip("v"))),
            swaps=max(0, len(self.first_seen_s) - 1),
            loop_p50_s=percentile(self.loop_estimates_s, 0.5), loop_p95_s=percentile(self.loop_estimates_s, 0.95),
            loop_is_estimate=True, accepted=len(self.accepted_s), failed=self.failures.total(),
        )
        if self.final is None:
            return running
        return replace(running, **vars(self.final), static_is_estimate=False, loop_is_estimate=False)

    def _note(self, correct: bool) -> None:
        self._recent.append(correct)
        self._n_correct += correct
        self._times.append(self.now())
