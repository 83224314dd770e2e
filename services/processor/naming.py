"""One worker per name: a second one that is started under the same name waits instead of joining the group."""

from schemas.errors import Transient
from shared.postgres import Connection, connect, wrapped

_TRY = "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))"


class Name:
    """A worker's name in the group, held by a lock of a Postgres session.

    Kafka would give the name's partitions to whoever asked last, and two workers of one name would take them from each
    other for ever: nothing would be doubled, and little would be done. A dead worker's session ends with it, so that
    its successor does not wait.
    """

    def __init__(self, url: str, group: str, instance: str) -> None:
        self._url, self._key = url, f"{group}/{instance}"
        self._held: Connection | None = None

    def hold(self) -> bool:
        """Take the name, or make sure it is still held; False when another worker has it. Blocks for one question.

        Raises:
            Transient: Postgres is away.
        """
        try:
            with wrapped("hold the worker's name"):
                if self._held is not None:
                    self._held.execute("SELECT 1")
                    return True
                connection = connect(self._url, name="ratchet-processor-name", autocommit=True)
                row = connection.execute(_TRY, [self._key]).fetchone()
        except Transient:
            self.release()
            raise
        if row is None or not row[0]:
            connection.close()
            return False
        self._held = connection
        return True

    def release(self) -> None:
        """Give the name back."""
        if self._held is not None:
            self._held.close()
            self._held = None
