"""The processor's metrics, each declared once."""

from collections.abc import Collection, Mapping

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from services.processor.sink import Stored
from shared.missing import Missing

_BATCH_SIZES = (1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000)
_SECONDS = (0.003, 0.01, 0.03, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30)


class Metrics:
    """Counts what happened. One per process, or per registry.

    Args:
        loops: Those that are declared, so that one that misses nothing reads 0 and not nothing.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY, *, loops: Collection[str] = ()) -> None:
        def counter(name: str, doc: str) -> Counter:
            return Counter(f"ratchet_processor_{name}", doc, registry=registry)

        self.lag_records = Gauge("ratchet_processor_lag_records", "Kafka records not yet stored, of this worker's "
                                 "partitions.", ["topic", "partition"], registry=registry)
        self.batch_items = Histogram("ratchet_processor_batch_items", "Events and predictions in one transaction.",
                                     buckets=_BATCH_SIZES, registry=registry)
        self.commit_seconds = Histogram("ratchet_processor_commit_seconds", "Seconds from the first statement of a "
                                        "batch to its commit.", buckets=_SECONDS, registry=registry)
        self.retries = counter("retries", "Batches tried again because Postgres was away or busy.")
        self.matured = counter("matured", "Predictions whose window closed without feedback.")
        self.defaulted = counter("defaulted", "Examples made from a loop's default label.")
        self.dead_letters = counter("dead_letters", "Dead letters stored.")
        # Counted in Postgres, for all workers and since ever: of several workers each says the same.
        self._waiting, self._oldest, self._orphaned = (
            Gauge(f"ratchet_processor_{name}", doc, ["loop"], registry=registry) for name, doc in [
                ("waiting_predictions", "Predictions that feedback waits for."),
                ("waiting_oldest_seconds", "Age of the feedback that waits longest for its prediction; 0 for none."),
                ("orphaned_predictions", "Predictions that did not come while feedback waited for them.")])
        self._missed = set(loops)
        self._counters = {
            "n_records": counter("records", "Kafka records stored."),
            "n_dropped": counter("dropped_records", "Kafka records read again after they had been stored."),
            "n_events": counter("events", "Events stored."),
            "n_repeated": counter("repeated_events", "Events that had been stored under another offset."),
            "n_predictions": counter("predictions", "Predictions stored."),
            "n_feedback": counter("feedback", "Feedback stored."),
            "n_waiting": counter("early_feedback", "Feedback that came before its prediction."),
            "n_joined": counter("joined", "Predictions that got their first label."),
            "n_revised": counter("revised", "Examples whose label changed."),
            "n_late": counter("late_feedback", "Feedback that came after its window."),
            "n_observations": counter("observations", "Observations for features stored."),
            "n_dead": self.dead_letters,
        }

    def stored(self, stored: Stored) -> None:
        """Count what one transaction did."""
        for name, counter in self._counters.items():
            counter.inc(getattr(stored, name))
        self.batch_items.observe(stored.n_events + stored.n_repeated + stored.n_predictions)
        self.commit_seconds.observe(stored.seconds)

    def missing(self, missing: Mapping[str, Missing], now_ms: int) -> None:
        """Show what each loop misses; one that was shown before and is not here misses nothing."""
        self._missed |= missing.keys()
        for loop in self._missed:
            found = missing.get(loop, Missing())
            self._waiting.labels(loop).set(found.n_waiting)
            self._oldest.labels(loop).set(found.age_s(now_ms) or 0)
            self._orphaned.labels(loop).set(found.n_orphaned)
