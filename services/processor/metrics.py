"""The processor's metrics, each declared once."""

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from services.processor.sink import Stored

_BATCH_SIZES = (1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000)
_SECONDS = (0.003, 0.01, 0.03, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30)


class Metrics:
    """Counts what happened. One per process, or per registry."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
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
            "n_dead": counter("dead_letters", "Dead letters stored."),
        }

    def stored(self, stored: Stored) -> None:
        """Count what one transaction did."""
        for name, counter in self._counters.items():
            counter.inc(getattr(stored, name))
        self.batch_items.observe(stored.n_events + stored.n_repeated + stored.n_predictions)
        self.commit_seconds.observe(stored.seconds)
