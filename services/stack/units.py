"""One supervised process: started, watched, started again with growing pauses."""

from collections.abc import Callable
from dataclasses import dataclass, field

from services.stack.plan import Service
from services.stack.process import Child, Server
from shared.restarts import Pauses

FIRST_PAUSE_S, MAX_PAUSE_S = 0.2, 10.0


@dataclass
class Unit:
    """A server or service with its process.

    Attributes:
        what: What to run.
        child: Its process, or None before the first start.
        n_restarts: How often it was started again.
    """

    what: Server | Service
    child: Child | None = None
    n_restarts: int = 0
    _pauses: Pauses = field(default_factory=lambda: Pauses(FIRST_PAUSE_S, MAX_PAUSE_S))
    _started_at_s: float = 0.0
    _due_at_s: float | None = field(default=None)

    @property
    def name(self) -> str:
        """Its name."""
        return self.what.name

    def start(self, now_s: float) -> None:
        """Start it."""
        self.child = Child(self.what.command())
        self._started_at_s, self._due_at_s = now_s, None

    def died(self, now_s: float) -> int | None:
        """Return the exit status the first time it is seen dead, and plan the restart; None otherwise."""
        if self.child is None or self._due_at_s is not None:
            return None
        status = self.child.poll()
        if status is None:
            return None
        self._due_at_s = now_s + self._pauses.after(now_s - self._started_at_s)
        return status

    def pause_s(self, now_s: float) -> float:
        """How long until the planned restart."""
        return max(0.0, (self._due_at_s or now_s) - now_s)

    def restart_if_due(self, now_s: float) -> bool:
        """Start it again when its pause is over; True when that happened.

        Raises:
            OSError: It cannot be started, as on a full disk; the next attempt is planned.
        """
        if self._due_at_s is None or now_s < self._due_at_s:
            return False
        try:
            self.start(now_s)
        except OSError:
            self._due_at_s = now_s + self._pauses.after(0.0)
            raise
        self.n_restarts += 1
        return True


def why(status: int, describe: Callable[[int], str]) -> str:
    """Return an exit status in words."""
    return f"killed by {describe(-status)}" if status < 0 else f"status {status}"
