"""Missing predictions: those that feedback names and that never came, counted per loop."""

from typing import NamedTuple

from shared.postgres import Connection, wrapped

_QUERY = """
SELECT loop, n_waiting, (extract(epoch FROM waiting_since) * 1000)::bigint, n_orphaned FROM missing_predictions
"""


class Missing(NamedTuple):
    """What one loop misses.

    Attributes:
        n_waiting: Predictions that feedback waits for.
        since_ms: Receipt of the feedback that has waited longest, ms since the epoch; None when none waits.
        n_orphaned: Predictions that did not come while feedback waited for them, and have not come since.
    """

    n_waiting: int = 0
    since_ms: int | None = None
    n_orphaned: int = 0

    def age_s(self, now_ms: int) -> float | None:
        """Return for how long the oldest has been waited for, in seconds; None when none is."""
        return None if self.since_ms is None else max(0, now_ms - self.since_ms) / 1000


def missing_predictions(connection: Connection) -> dict[str, Missing]:
    """Return what each loop misses; loops that miss nothing are left out. Reads one index, of these rows only.

    Raises:
        Transient: Postgres is away.
    """
    with wrapped("count missing predictions"):
        return {loop: Missing(*counts) for loop, *counts in connection.execute(_QUERY).fetchall()}
