"""Features as of a moment: the declared aggregates of one user, item or label, read from the observations."""

from dataclasses import dataclass

from schemas.loops import Aggregate, Entity, Loop
from shared.postgres import Connection, wrapped

_QUERY = """
SELECT f.feature, a.aggregate, a.window_s, a.number, a.text
FROM unnest(%(features)s::text[], %(windows)s::text[]) AS f(feature, windows)
CROSS JOIN LATERAL feature_as_of(
    %(loop)s, %(entity)s, %(key)s, f.feature, f.windows::double precision[],
    timestamptz 'epoch' + %(at_ms)s * interval '1 ms') a
"""


@dataclass(frozen=True, slots=True)
class FeatureValue:
    """One aggregate of one feature.

    Attributes:
        window_s: Over which span, in seconds; None for recency and last.
        value: A count; a rate per second or, of a feature of numbers, their mean; the seconds since the newest
            observation; the newest value. None when there is none.
    """

    feature: str
    aggregate: Aggregate
    window_s: float | None
    value: float | str | None


def features_as_of(connection: Connection, loop: Loop, entity: Entity, key: str, at_ms: int) -> list[FeatureValue]:
    """Return the declared features of one user, item or label from the observations before a moment.

    Exactly as of that moment, whenever it is asked: an observation of the moment itself or later does not count, so
    the features that an example is trained with hold nothing that was unknown when it was predicted.

    Args:
        key: The subject, the item's id, or the label.
        at_ms: The moment, ms since the epoch.

    Raises:
        Transient: Postgres is away or busy.
    """
    declared = {name: feature for name, feature in loop.features.items() if feature.entity == entity}
    if not declared:
        return []
    with wrapped("read features"):
        rows = connection.execute(_QUERY, {
            "features": list(declared), "loop": loop.name, "entity": entity, "key": key, "at_ms": at_ms,
            "windows": ["{" + ",".join(map(repr, map(float, f.windows))) + "}" for f in declared.values()],
        }).fetchall()
    found = {(name, aggregate, window_s): number if text is None else text
             for name, aggregate, window_s, number, text in rows}
    values = []
    for name, feature in declared.items():
        for aggregate in feature.aggregates:
            windows = [float(w) for w in feature.windows] if aggregate in ("count", "rate") else [None]
            values += [FeatureValue(name, aggregate, window_s, found.get((name, aggregate, window_s)))
                       for window_s in windows]
    return values
