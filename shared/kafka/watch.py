"""Knows at any time whether Kafka answers, by asking it twice a second in a thread of its own."""

import threading
import time
from collections.abc import Collection

from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError

from schemas.errors import Transient
from shared.kafka.admin import connect, topic_faults
from shared.logs import Log

_log = Log(__name__)


class Watch:
    """Asks Kafka about the topics, and remembers the answer.

    A producer alone cannot tell: it learns that Kafka is away only by failing to send, and readiness has to turn red
    when nobody sends.

    Attributes:
        fault: Why events cannot be written now; empty while all is well.
        asked_s: Monotonic time at which the question behind ``fault`` was asked.
    """

    def __init__(self, bootstrap: str, topics: Collection[str], *, client_id: str, period_s: float = 0.5,
                 timeout_s: float = 0.9) -> None:
        self.fault = "Kafka was not asked yet"
        self.asked_s = time.monotonic()
        self._bootstrap, self._topics, self._client_id = bootstrap, tuple(topics), client_id
        self._period_s, self._timeout_s = period_s, timeout_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"{client_id}-watch", daemon=True)

    def start(self) -> None:
        """Start asking."""
        self._thread.start()

    def stop(self) -> None:
        """Stop asking; waits for a question that is under way, at most its time-out and a second."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(self._timeout_s + 1.0)

    def _run(self) -> None:
        admin: KafkaAdminClient | None = None
        while not self._stop.is_set():
            asked_s = time.monotonic()
            try:
                if admin is None:
                    admin = connect(self._bootstrap, client_id=f"{self._client_id}-watch", timeout_s=self._timeout_s)
                faults = topic_faults(admin, self._topics)
                fault = "; ".join(f"topic {topic}: {why}" for topic, why in faults.items())
            except (Transient, KafkaError, OSError, RuntimeError) as exc:
                fault = str(exc) or type(exc).__name__
                # A new connection each time: the old one may be backing off, or hang on a frozen broker.
                if admin is not None:
                    admin.close()
                    admin = None
            if bool(fault) != bool(self.fault):
                (_log.warning if fault else _log.info)("kafka_away" if fault else "kafka_back", fault=fault)
            self.asked_s, self.fault = asked_s, fault
            self._stop.wait(self._period_s)
        if admin is not None:
            admin.close()
