"""A capacity model: a stage costs so much when idle, for each batch it handles, and for each item in a batch.

Batches and items are counted and not assumed, so that a run on a busy machine, where more is gathered into a batch, is
described by the same costs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Point:
    """What one stage did and used at one load: batches and items a second, and CPU seconds a second."""

    batches_per_s: float
    items_per_s: float
    cores: float


@dataclass(frozen=True)
class Cost:
    """cores = idle + batch * batches_per_s + item * items_per_s; in cores, and CPU seconds."""

    idle: float
    batch: float
    item: float

    def cores(self, batches_per_s: float, items_per_s: float) -> float:
        """Predict a load's cores."""
        return self.idle + self.batch * batches_per_s + self.item * items_per_s


def fit(idle: float, points: Sequence[Point]) -> Cost:
    """Find the costs, neither below 0, by least squares on relative errors: the greatest load does not decide alone.

    Args:
        idle: Cores that the stage used without load.
    """
    rows = [(p.batches_per_s / p.cores, p.items_per_s / p.cores, max(0.0, 1 - idle / p.cores))
            for p in points if p.cores > 0]
    bb, bi, ii = (sum(r[x] * r[y] for r in rows) for x, y in ((0, 0), (0, 1), (1, 1)))
    by, iy = (sum(r[x] * r[2] for r in rows) for x in (0, 1))
    both = bb * ii - bi * bi
    if both > 1e-9 * bb * ii:
        batch, item = (by * ii - iy * bi) / both, (iy * bb - by * bi) / both
        if batch >= 0 and item >= 0:
            return Cost(idle, batch, item)
    # On the edge: one of them alone, whichever leaves less.
    alone = [Cost(idle, by / bb if bb else 0.0, 0.0), Cost(idle, 0.0, iy / ii if ii else 0.0)]
    return min(alone, key=lambda cost: sum((r[2] - cost.batch * r[0] - cost.item * r[1]) ** 2 for r in rows))


@dataclass(frozen=True)
class Need:
    """What one stage needs at some load: cores at full use, and machines at the planned use."""

    items_per_s: float
    cores: float
    machines: float


def needs(costs: Mapping[str, Cost], loads: Mapping[str, tuple[float, float]], *, cores_per_machine: int, busy: float
          ) -> dict[str, Need]:
    """Predict what every stage needs; what it costs when idle is left out, since at such loads that is nothing.

    Args:
        loads: Batches and items a second of each stage.
        busy: The share of its cores that a machine is planned to use.
    """
    found = {}
    for name, cost in costs.items():
        batches_per_s, items_per_s = loads[name]
        cores = cost.batch * batches_per_s + cost.item * items_per_s
        found[name] = Need(items_per_s, cores, cores / (cores_per_machine * busy))
    return found
