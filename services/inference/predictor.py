"""Answers predict requests: admitted with one version, scored in a batch, logged, and never the worse for a swap."""

import time
from collections.abc import Callable, Mapping, Sequence

from schemas.errors import Transient
from services.inference import metrics
from services.inference.batching import Batcher, Scored
from services.inference.core import Answer, Ask, PredictionIds, answer_of, prediction_of
from services.inference.prediction_log import PredictionLog
from services.inference.serving import Served, ServedLoop
from shared.pseudonym import Pseudonymiser
from shared.registry import NotFound


class Predictor:
    """The use case behind both protocols. Lives in the event loop; nothing in it blocks."""

    def __init__(self, loops: Mapping[str, ServedLoop], batcher: Batcher, log: PredictionLog,
                 pseudonymiser: Pseudonymiser, *, new_id: PredictionIds,
                 now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> None:
        self.loops = loops
        self._batcher, self._log, self._pseudonymiser = batcher, log, pseudonymiser
        self._new_id, self._now_ms = new_id, now_ms

    def loop(self, name: str) -> ServedLoop:
        """Return a loop.

        Raises:
            NotFound: No such loop is declared.
        """
        found = self.loops.get(name)
        if found is None:
            raise NotFound(f"unknown loop '{name}'; the loops are {', '.join(sorted(self.loops))}")
        return found

    def version(self, name: str, version: str | None = None) -> Served:
        """Return the version that answers, or the one named.

        Raises:
            NotFound: No such loop, or the version is not loaded here.
            Transient: The loop is still loading.
        """
        loop = self.loop(name)
        lineup = loop.lineup
        if lineup is None:
            raise Transient(f"loop '{name}' is not ready yet: {loop.degraded or 'its version is being loaded'}",
                            retry_after_s=2.0)
        if version is None:
            return lineup.current
        if version not in lineup.loaded:
            raise NotFound(f"loop '{name}' has no version '{version}' loaded; loaded are {', '.join(lineup.loaded)}")
        return lineup.loaded[version]

    async def predict(self, served: Served, asks: Sequence[Ask], project: str) -> list[Answer]:
        """Answer every input with this version, and log the predictions.

        Args:
            project: The name of the caller's key: the space in which its user ids are pseudonymised.

        Raises:
            Transient: Too many texts wait already.
        """
        started_ns = time.monotonic_ns()
        try:
            parts = await self._batcher.score(served, [ask.text for ask in asks])
        except BaseException:
            served.stats.fail.add(time.monotonic_ns() - started_ns)
            raise
        now_ms = self._now_ms()
        loop = self.loops[served.loop]
        answers = [answer_of(self._new_id(now_ms), served.version, served.labels, scores, embedding)
                   for part in parts for scores, embedding in zip(part.scores, part.embeddings, strict=True)]
        self._log.write(loop.name, [
            prediction_of(answer, loop=loop.name, field=loop.field, text=ask.text, encoder=served.encoder.digest,
                          subject=self._pseudonymiser.subject(project, ask.user), now_ms=now_ms)
            for ask, answer in zip(asks, answers, strict=True)])
        metrics.predictions.labels(loop.name).inc(len(answers))
        metrics.log_bytes.set(self._log.n_bytes)
        metrics.waiting_texts.set(self._batcher.n_waiting)
        _count(served, parts, len(asks), time.monotonic_ns() - started_ns, now_ms)
        return answers


def _count(served: Served, parts: Sequence[Scored], n: int, took_ns: int, now_ms: int) -> None:
    stats = served.stats
    stats.last_inference_ms = now_ms
    stats.inference_count += n
    stats.execution_count += len(parts)
    stats.success.add(took_ns)
    stats.queue.add(max(part.queued_ns for part in parts))
    stats.compute_infer.add(sum(part.compute_ns for part in parts))
