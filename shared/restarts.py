"""How long to wait before a process that ended is started again: longer each time, soon again after a steady while."""

from dataclasses import dataclass, field

STEADY_S = 30.0
_GROWTH = 2.5


@dataclass
class Pauses:
    """The pauses of one process, in seconds.

    Attributes:
        first_s, most_s: The first pause, and the longest.
    """

    first_s: float
    most_s: float
    _next_s: float = field(init=False)

    def __post_init__(self) -> None:
        """Begin with the first."""
        self._next_s = self.first_s

    def after(self, ran_s: float) -> float:
        """Return the pause after a run of so many seconds; more than ``STEADY_S`` of them begin anew."""
        if ran_s > STEADY_S:
            self._next_s = self.first_s
        pause_s, self._next_s = self._next_s, min(self.most_s, self._next_s * _GROWTH)
        return pause_s
