"""Sends rows to Postgres by COPY."""

from collections.abc import Iterable

from schemas.errors import Invalid
from services.processor.rows import Layout, Row
from shared.postgres import Connection


def copy(connection: Connection, layout: Layout, rows: Iterable[Row]) -> int:
    """Copy rows in; returns how many there were. Without any, the server is not asked.

    Raises:
        Invalid: A value is none of its column's type.
    """
    iterator = iter(rows)
    first = next(iterator, None)
    if first is None:
        return 0
    n = 1
    with connection.cursor() as cursor, cursor.copy(layout.statement.encode()) as stream:
        stream.set_types(layout.types)
        try:
            stream.write_row(first)
            for row in iterator:
                stream.write_row(row)
                n += 1
        except (ValueError, OverflowError) as exc:
            raise Invalid(f"a row cannot be sent to {layout.table}: {exc}", code="unstorable") from exc
    return n
