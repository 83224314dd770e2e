"""A sink that keeps its tables in memory: the twin of the real one, for tests of what joining means."""

from collections.abc import Mapping, Sequence

from schemas.dead import DeadLetter
from schemas.loops import Loop
from services.processor import join
from services.processor.attribution import Fact
from services.processor.fence import admit
from services.processor.join import Current, Decision
from services.processor.orphans import Orphan, dead_letter
from services.processor.preparing import Batch, Preparer
from services.processor.records import Partition, Record
from services.processor.rows import Row
from shared.missing import Missing
from tests.support.join_reference import Expected


class MemorySink:
    """Does what ``services.processor.sink.Sink`` does, one item after the other."""

    def __init__(self, loops: Mapping[str, Loop], preparer: Preparer) -> None:
        self._loops, self._preparer = loops, preparer
        self._fences: dict[Partition, int] = {}
        self._events: set[tuple[str, str]] = set()
        self._predictions: dict[str, tuple[str, int]] = {}
        self._facts: dict[tuple[str, str, str, str], Fact] = {}
        self._observations: set[Row] = set()
        self._states: dict[str, str] = {}
        self._waiting: dict[str, tuple[int, int]] = {}
        self._first_loops: dict[str, str] = {}
        self._dead: dict[str, DeadLetter] = {}
        self._examples: list[Decision] = []

    def store(self, records: Sequence[Record], batch: Batch) -> None:
        """Store what is new in a batch, and move the fence."""
        fences = {record.partition: self._fences.get(record.partition, 0) for record in records}
        admitted = admit(records, fences, {})
        if admitted.n_dropped:
            batch = self._preparer.prepare(admitted.records)
        touched = set()
        for answer in batch.predictions:
            p = answer.prediction
            if p.id not in self._predictions:
                self._predictions[p.id] = p.loop, p.time_ms
                self._states[p.id] = "open"
                touched.add(p.id)
        for effects in batch.events:
            if effects.key not in self._events:
                self._events.add(effects.key)
                self._observations.update(effects.observations)
                for fact in effects.facts:
                    self._facts[fact.loop, fact.kind, fact.project, fact.event_id] = fact
                    touched.add(fact.prediction_id)
                    if fact.prediction_id not in self._predictions:
                        self._wait(fact)
        for key in sorted(touched):
            self._join(key)
        self._fences |= admitted.next_offsets

    def mature(self, now_ms: int, *, limit: int) -> tuple[int, int]:
        """Mature the open predictions whose deadline has passed."""
        due = [key for key, state in self._states.items() if state == "open" and self._deadline(key) <= now_ms][:limit]
        n_examples = len(self._examples)
        for key in due:
            self._states[key] = "matured"
            loop, _ = self._predictions[key]
            decision = join.mature(key, loop, self._deadline(key), self._loops.get(loop))
            if decision:
                self._write(decision)
        return len(due), len(self._examples) - n_examples

    def orphan(self, now_ms: int, *, limit: int) -> tuple[int, int]:
        """Give up the missing predictions that were waited for until now."""
        due = [key for key, state in self._states.items() if state == "waiting" and self._waiting[key][1] <= now_ms]
        n_dead = len(self._dead)
        for key in due[:limit]:
            self._states[key] = "orphaned"
            for f in self._facts.values():
                if f.prediction_id == key:
                    orphan = Orphan(f.loop, f.kind, f.project, f.event_id, key, self._waiting[key][1], "")
                    letter = dead_letter(orphan, self._loops.get(f.loop))
                    self._dead.setdefault(letter.id, letter)
        return len(due[:limit]), len(self._dead) - n_dead

    def missing(self) -> dict[str, Missing]:
        """Count the missing predictions by the loop of their first feedback."""
        found: dict[str, Missing] = {}
        for key, state in self._states.items():
            if state in ("waiting", "orphaned"):
                loop = self._first_loops[key]
                n_waiting, since_ms, n_orphaned = found.get(loop, Missing())
                if state == "waiting":
                    own_ms = self._waiting[key][0]
                    found[loop] = Missing(n_waiting + 1, min(own_ms, since_ms or own_ms), n_orphaned)
                else:
                    found[loop] = Missing(n_waiting, since_ms, n_orphaned + 1)
        return found

    def states(self) -> dict[str, str]:
        """Return the state of every prediction that was seen or named."""
        return dict(self._states)

    def dead(self) -> set[tuple[str, str, str, str, int]]:
        """Return id, code, path, message and time of every dead letter."""
        return {(d.id, d.code, d.path, d.message, d.time_ms) for d in self._dead.values()}

    def actual(self) -> Expected:
        """Return the tables in the reference's form."""
        return Expected(
            events=set(self._events), predictions=set(self._predictions),
            examples={d.prediction_id: (d.loop, d.label, d.source, d.labelled_ms, d.late)
                      for d in sorted(self._examples, key=lambda d: d.revision)},
            feedback={(f.loop, f.kind, f.project, f.event_id, f.prediction_id, f.label) for f in self._facts.values()},
            observations={(*row[:4], row[5], row[6]) for row in self._observations})

    def revisions(self) -> list[tuple[str, int, str, str]]:
        """Return prediction, revision, label and source of every example, sorted."""
        return sorted((d.prediction_id, d.revision, d.label, d.source) for d in self._examples)

    def _wait(self, fact: Fact) -> None:
        key, until_ms = fact.prediction_id, join.waits_until_ms(fact, self._loops.get(fact.loop))
        if key not in self._waiting:
            self._first_loops[key] = fact.loop
        since_ms, longest_ms = self._waiting.get(key, (fact.received_ms, until_ms))
        if self._states.get(key) == "orphaned":
            since_ms = fact.received_ms
        self._states[key] = "waiting"
        self._waiting[key] = min(since_ms, fact.received_ms), max(longest_ms, until_ms)

    def _join(self, key: str) -> None:
        if key not in self._predictions:
            return
        loop, predicted_ms = self._predictions[key]
        facts = [fact for fact in self._facts.values() if fact.prediction_id == key and fact.loop == loop]
        if not facts:
            return
        newest = max((d for d in self._examples if d.prediction_id == key), key=lambda d: d.revision, default=None)
        current = newest and Current(newest.revision, newest.label, newest.source, newest.labelled_ms, newest.late)
        decision = join.decide(key, predicted_ms, self._loops.get(loop), max(facts, key=lambda f: f.order), current)
        if decision:
            self._states[key] = "labelled"
            self._write(decision)

    def _write(self, decision: Decision) -> None:
        if decision.action == "amend":
            self._examples = [d for d in self._examples
                              if (d.prediction_id, d.revision) != (decision.prediction_id, decision.revision)]
        self._examples.append(decision)

    def _deadline(self, key: str) -> int:
        loop, predicted_ms = self._predictions[key]
        return join.deadline_ms(predicted_ms, self._loops.get(loop))
