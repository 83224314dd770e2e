"""One loop's trainer: reads new examples, proposes a candidate, lets the gate decide, publishes, fine-tunes."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from schemas.errors import Transient
from schemas.loops import Loop
from schemas.manifest import GateDecision, Method
from services.trainer import generations, metrics
from services.trainer.anchor import Anchor
from services.trainer.champion import Champions
from services.trainer.core import Learner, Scorer, Unseen, Vectors, temperature
from services.trainer.examples import Embedded, in_force
from services.trainer.finetune import FineTune
from services.trainer.gate import Pairs, Rule, decide
from services.trainer.keeping import Keeper
from services.trainer.publisher import Candidate, Generation, Publisher
from services.trainer.reading import BATCH, Reader, Shape
from services.trainer.schedule import Started, is_due, next_update_at
from services.trainer.store import Progress, Store
from services.trainer.trial import Trial, job_for
from shared.holdout import is_held_out
from shared.logs import Log
from shared.models.analytic import DEFAULT_TEMPERATURE
from shared.models.encoder import Encoder
from shared.registry import Aliases, Corrupt, NotFound, Registry

_log = Log("ratchet.trainer")

# Rows after the candidate's cut that the gate looks at, at most: they came while the candidate was made.
_FRESH = 200
# Before a candidate is made, at most so many full batches are read, so that a flood does not hold updates up.
_BATCHES = 20
_COLLECT_EVERY = 10
_RETRY_S = (0.2, 0.5, 1.0, 2.0)


@dataclass(frozen=True)
class Options:
    """What ``Settings`` says about one loop's trainer, and where it keeps its files."""

    directory: Path
    update_every_s: float = 0.5
    snapshot_every_s: float = 60.0
    keep_versions: int = 20
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000


class LoopTrainer:
    """Learns one loop, in one thread.

    Whatever is killed when: the examples table says what there is to learn, the snapshot how far the sums are, the
    registry what was published. A start reads them and goes on; no example is in the sums twice.

    Attributes:
        fault: Why it makes no progress; empty while it does.
    """

    def __init__(self, loop: Loop, base: Encoder, *, store: Store, registry: Registry, finetune: FineTune,
                 encoders: dict[str, Encoder], options: Options) -> None:
        self._loop, self._base, self._options = loop, base, options
        self._store, self._registry, self._finetune = store, registry, finetune
        self._shape = Shape.of(loop.training, max_tokens=loop.max_tokens, window=loop.gate.window)
        self._champions = Champions(registry, store, loop.name, encoders)
        self._publisher = Publisher(registry, loop)
        self._keeper = Keeper(options.directory, store, now_ms=options.now_ms)
        self._generation = Generation(0, base)
        self._learner: Learner | None = None
        self._reader = Reader(store, base, self._shape)
        self._started = Started()
        self._line: Scorer | None = None
        self._anchor = Anchor()
        self._pending = self._held_back = self._caught_up = False
        self._stop = Event()
        self._next_update_at = 0.0
        self._n_published = 0
        self.fault = "starting"

    def run(self, stop: Event) -> None:
        """Work until told to stop; waits for Postgres and Redis as long as it takes.

        Raises:
            Permanent: Going on would do harm; the fine-tune's process is stopped.
        """
        self._stop, failures = stop, 0
        while not stop.is_set():
            try:
                self.step()
                self.fault, failures = "", 0
                self._rest(stop)
            except Transient as exc:
                metrics.errors.labels(self._loop.name).inc()
                if str(exc) != self.fault:
                    _log.warning("waiting", loop=self._loop.name, reason=str(exc))
                self.fault = str(exc)
                stop.wait(_RETRY_S[min(failures, len(_RETRY_S) - 1)])
                failures += 1
            except BaseException:
                # Not the sums: whatever was found wrong may be in them.
                self._finetune.stop()
                self._store.close()
                raise
        self.close()

    def close(self) -> None:
        """Stop the fine-tune's process, whose job stays, and keep the sums."""
        self._finetune.stop()
        if self._learner is not None:
            try:
                self._keeper.finish(self._learner, self._fingerprint(), self._progress())
            except Transient as exc:
                _log.warning("snapshot_not_saved", loop=self._loop.name, reason=str(exc))
        self._store.close()

    def step(self) -> None:
        """One round: read, update when due, look after the fine-tune, keep the sums."""
        self._registry.ensure(self._loop.name)
        learner = self._learner if self._learner is not None else self._start()
        if not self._caught_up and not self._catch_up(learner):
            return
        began_at, began_ms, worked_s = time.monotonic(), self._options.now_ms(), time.thread_time()
        if self._read(learner, self._reader) or self._was_unpinned():
            self._pending = True
        if self._pending and self._wait_s() <= 0:
            self._update(learner, began_ms=began_ms)
            ended_at, worked_s = time.monotonic(), time.thread_time() - worked_s
            self._next_update_at = next_update_at(self._options.update_every_s, began_at, ended_at, worked_s)
            metrics.update_s.labels(self._loop.name).observe(ended_at - began_at)
        self._look_after_fine_tune(learner)
        self._keeper.tend(self._present(), self._fingerprint(), self._progress(),
                          every_s=self._options.snapshot_every_s)

    def forget(self, subject: str) -> int:
        """Take a subject's examples out of the sums; the next version is one that never learned them.

        Call it in the loop's thread, and delete the subject's rows before the next start: a snapshot without them is
        written here, but a start without one reads the table.

        Returns:
            How many examples were taken out or are measured on no more.
        """
        learner = self._learner if self._learner is not None else self._start()
        if not self._caught_up:
            self._catch_up(learner)
        rows = list(in_force(self._store.of_subject(subject, upto=learner.cursor)).values())
        vectors = self._reader.embed(rows)
        mine = [Embedded(row.seq, row.prediction_id, row.label, vectors[row.seq]) for row in rows
                if row.seq in vectors]
        held = is_held_out(subject, "", self._shape.holdout, self._shape.seed)
        learner.forget([] if held else mine, mine if held else [])
        self._keeper.forgotten()
        self._keeper.finish(learner, self._fingerprint(), self._progress())
        self._pending = self._pending or bool(mine)
        return len(mine)

    # Starting

    def _start(self) -> Learner:
        progress = self._store.progress()
        self._generation = generations.present(self._options.directory, self._base, progress, self._registry,
                                               self._loop.name)
        self._started = progress.started
        self._reader = Reader(self._store, self._generation.encoder, self._shape)
        learner = self._keeper.load(progress, self._fingerprint(), self._shape)
        learner = learner or self._shape.learner(self._generation.encoder)
        self._learner = learner
        metrics.generation.labels(self._loop.name).set(self._generation.number)
        _log.info("starting_loop", loop=self._loop.name, generation=self._generation.number,
                  snapshot_seq=learner.cursor)
        return learner

    def _catch_up(self, learner: Learner) -> bool:
        """Read what came after the snapshot, with snapshots on the way; returns False when told to stop meanwhile."""
        while self._read(learner, self._reader, n_batches=1):
            self._keeper.tend(learner, self._fingerprint(), self._progress(),
                              every_s=self._options.snapshot_every_s)
            if self._stop.is_set():
                return False
        champion = self._registry.aliases(self._loop.name).champion
        decided = self._registry.manifest(self._loop.name, champion) if champion else None
        cut = decided.examples[-1].last if decided and decided.encoder == learner.encoder and decided.examples else 0
        self._pending = learner.n_learned > 0 and learner.cursor > cut
        self._caught_up = True
        _log.info("started", loop=self._loop.name, generation=self._generation.number, seq=learner.cursor,
                  learned=learner.n_learned, champion=champion)
        return True

    def _present(self) -> Learner:
        assert self._learner is not None
        return self._learner

    def _fingerprint(self) -> str:
        return self._shape.fingerprint(self._generation.encoder)

    def _progress(self) -> Progress:
        generation = self._generation
        return Progress(generation=generation.number, encoder=generation.encoder.digest,
                        settings=dict(generation.settings), started=self._started)

    # Reading

    def _read(self, learner: Learner, reader: Reader, *, n_batches: int = _BATCHES) -> bool:
        """Absorb what is new; returns whether anything was."""
        before, embedded, skipped = learner.n_learned, reader.n_embedded, reader.n_skipped
        cursor = learner.cursor
        for _ in range(n_batches):
            if len(reader.absorb(learner).rows) < BATCH:
                break
        name = self._loop.name
        metrics.learned.labels(name).inc(max(0, learner.n_learned - before))
        metrics.embedded.labels(name).inc(reader.n_embedded - embedded)
        metrics.skipped.labels(name).inc(reader.n_skipped - skipped)
        return learner.cursor > cursor

    def _was_unpinned(self) -> bool:
        if not self._held_back or self._registry.aliases(self._loop.name).pinned:
            return False
        self._held_back = False
        return True

    def _wait_s(self) -> float:
        return self._next_update_at - time.monotonic()

    def _rest(self, stop: Event) -> None:
        """Wait for what comes next: the next update's time, or an announcement, at most a second."""
        if self._pending:
            stop.wait(max(0.0, self._wait_s()))
        else:
            self._store.wait(1.0)

    # Updating

    def _update(self, learner: Learner, *, began_ms: int) -> None:
        scorer = learner.candidate()
        if not scorer.labels:
            self._pending = False
            return
        peeked = self._reader.peek(learner, limit=_FRESH)
        metrics.lag.labels(self._loop.name).set(len(peeked.rows))
        unseen = learner.unseen(peeked.unseen())
        aliases = self._registry.aliases(self._loop.name)
        scores = scorer.measure(unseen)
        decision, cut = self._decide(scorer, scores, unseen, aliases)
        if self._line is None or aliases.champion != self._line.version:
            self._anchor.release()
        decision, as_good = self._anchor.judge(decision, scorer.right(scores, unseen.labels), unseen,
                                               encoder=scorer.encoder, champion=aliases.champion, gate=self._loop.gate)
        candidate = self._candidate(self._generation, learner, scorer, decision, "analytic", aliases,
                                    temperature(scorer, scores, unseen))
        settled = self._conclude(candidate, aliases, first_seq=cut + 1, began_ms=began_ms)
        if as_good and decision.verdict == "accepted" and self._line is not None:
            self._anchor.keep(self._line)
        self._pending = bool(peeked.rows) or not settled

    def _decide(self, scorer: Scorer, scores: Vectors, unseen: Unseen, aliases: Aliases) -> tuple[GateDecision, int]:
        """The gate's decision on an analytic update, and the champion's last seq."""
        rule: Rule = "non-inferior"
        reference = None
        if aliases.champion is None:
            rule = "first"
        else:
            try:
                reference = self._champions.of(aliases.champion)
                if reference.encoder != scorer.encoder and self._line is not None:
                    # The operator went back to an older generation; this one's own line was compared with it.
                    reference = self._line
            except (Corrupt, NotFound) as exc:
                _log.error("champion_unreadable", loop=self._loop.name, version=aliases.champion, reason=str(exc))
        right = scorer.right(scores, unseen.labels)
        if reference is None:
            pairs = Pairs(unseen.labels, right, right)
            return decide(rule, pairs, self._loop.gate), 0
        theirs, chosen = self._champions.right(reference, unseen, encoder=scorer.encoder)
        pairs = Pairs([unseen.labels[i] for i in chosen], theirs, right[list(chosen)])
        return decide(rule, pairs, self._loop.gate), reference.cut

    def _candidate(self, generation: Generation, learner: Learner, scorer: Scorer, decision: GateDecision,
                   method: Method, aliases: Aliases, fitted: float) -> Candidate:
        measured = {"unseen_accuracy": decision.candidate,
                    "prequential_accuracy": learner.prequential(self._loop.gate.confidence)}
        return Candidate(generation, scorer, method, fitted, decision, learner.n_learned, learner.head.ridge,
                         aliases.champion, {key: value for key, value in measured.items() if value and value.n})

    def _conclude(self, candidate: Candidate, aliases: Aliases, *, first_seq: int, began_ms: int) -> bool:
        """Write the decision down; publish and promote what was accepted.

        Returns:
            False when an operator moved the aliases meanwhile, so that the decision must be taken again.
        """
        name, now_ms, decision, scorer = self._loop.name, self._options.now_ms(), candidate.decision, candidate.scorer
        metrics.verdicts.labels(name, decision.rule, decision.verdict).inc()
        version = self._registry.next_version(name) if decision.verdict == "accepted" else None
        if version is not None:
            self._publisher.publish(candidate, version, now_ms=now_ms)
        # After publishing, so that no row names a version that does not exist; the same row when this is tried again.
        self._store.record_run(run_id=f"{candidate.method}-{scorer.cut}-{aliases.epoch}", method=candidate.method,
                               version=version, started_ms=began_ms, ended_ms=now_ms,
                               first_seq=min(first_seq, scorer.cut), last_seq=scorer.cut, gate=decision)
        if version is None:
            self._registry.record(name, "rejected", actor="trainer", reason=decision.reason,
                                  fields={"method": candidate.method, **_numbers(decision)})
            _log.info("rejected", loop=name, method=candidate.method, seq=scorer.cut, reason=decision.reason)
            return True
        self._line = Scorer(version, scorer.encoder, scorer.projection, scorer.head, scorer.labels, scorer.cut)
        self._n_published += 1
        self._held_back = aliases.pinned is not None
        serves = not self._held_back and self._publisher.promote(version, epoch=aliases.epoch, reason=decision.reason)
        if serves:
            self._champions.keep(version, scorer)
            metrics.promoted.labels(name).inc()
        if "prequential_accuracy" in candidate.metrics:
            metrics.prequential.labels(name).set(candidate.metrics["prequential_accuracy"].value)
        _log.info("published", loop=name, version=version, method=candidate.method, seq=scorer.cut, serves=serves,
                  learned=candidate.n_examples, labels=len(scorer.labels), reason=decision.reason)
        if self._n_published % _COLLECT_EVERY == 0:
            self._registry.collect(name, keep=self._options.keep_versions)
        return serves or self._held_back

    # Fine-tuning

    def _look_after_fine_tune(self, learner: Learner) -> None:
        state = self._finetune.poll()
        if state == "done":
            self._judge_fine_tune(learner)
        elif state == "failed":
            _log.error("fine_tune_given_up", loop=self._loop.name)
            metrics.fine_tunes.labels(self._loop.name, "failed").inc()
            self._finetune.end()
        elif state == "idle" and is_due(self._loop.training, self._started, now_ms=self._options.now_ms(),
                                        n_learned=learner.n_learned, n_labels=len(learner.head.labels)):
            job = job_for(self._loop, self._generation, learner.cursor, since=self._started.cut)
            self._started = Started(self._options.now_ms(), learner.cursor, learner.n_learned)
            self._finetune.folder.begin(job, adapter=self._generation.adapter, champion=learner.candidate())
            self._keeper.note(self._progress())
            _log.info("fine_tune_started", loop=self._loop.name, generation=job.generation, seq=job.cut)

    def _judge_fine_tune(self, learner: Learner) -> None:
        """Compare the new generation with the present one at the same cut; go over to it when it is better."""
        name, began_ms = self._loop.name, self._options.now_ms()
        trial = Trial.load(self._finetune.folder, self._base, self._shape, learner)
        if trial is None:
            _log.warning("fine_tune_dropped", loop=name, reason="the loop or the generation changed since it started")
            self._finetune.end()
            return
        metrics.last_loss.labels(name).set(trial.result.last_loss)
        decision = decide("superior", trial.pairs(self._store, self._reader, learner), self._loop.gate)
        metrics.fine_tunes.labels(name, decision.verdict).inc()
        aliases = self._registry.aliases(name)
        if decision.verdict == "rejected":
            self._conclude(self._candidate(trial.generation, trial.learner, trial.at_cut, decision, trial.job.method,
                                           aliases, DEFAULT_TEMPERATURE), aliases, first_seq=1, began_ms=began_ms)
            self._finetune.end()
            return
        reader = Reader(self._store, trial.generation.encoder, self._shape)
        self._read(trial.learner, reader)
        scorer, unseen = trial.learner.candidate(), trial.learner.unseen()
        candidate = self._candidate(trial.generation, trial.learner, scorer, decision, trial.job.method, aliases,
                                    temperature(scorer, scorer.measure(unseen), unseen))
        settled = self._conclude(candidate, aliases, first_seq=1, began_ms=began_ms)
        # In this order: after a crash the adapter is there before any progress names it, and the job is judged again
        # unless progress says that the generation is in use.
        generations.keep(self._options.directory, trial.generation)
        self._generation, self._reader, self._learner = trial.generation, reader, trial.learner
        self._pending = self._pending or not settled
        metrics.generation.labels(name).set(trial.generation.number)
        self._keeper.finish(trial.learner, self._fingerprint(), self._progress())
        self._finetune.end()


def _numbers(decision: GateDecision) -> dict[str, object]:
    difference = decision.difference
    numbers: dict[str, object] = {"rule": decision.rule, "metric": decision.metric}
    if difference is not None:
        numbers |= {"difference": difference.value, "low": difference.low, "high": difference.high, "n": difference.n}
    return numbers
