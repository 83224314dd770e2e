"""Groups outgoing items by topic and partition into frames. Pure: no clock, no thread, no Kafka."""

import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from schemas.errors import Transient


def partition_of(key: str, n_partitions: int) -> int:
    """Return the partition of a key: CRC-32 modulo the number of partitions, the same in every service.

    Not Kafka's murmur2: that costs 20 us a key in Python, and frames name their partition themselves.
    """
    return zlib.crc32(key.encode("utf-8", "surrogatepass")) % n_partitions


Part = tuple[str, str, bytes]
"""One encoded item on its way: topic, key and bytes. A plain tuple, since there is one for every event."""


Told = Callable[[Transient | None], None]
"""Takes the answer about some items: None when Kafka has all of them."""


class Ticket:
    """One caller's items, and whom to tell when Kafka has all of them.

    Attributes:
        resolved: The caller was told.
        deadline_s: Monotonic time after which the caller is told that Kafka did not acknowledge in time.
        n_pieces: Frames that hold some of its items and are not acknowledged yet; set by ``group``.
    """

    __slots__ = ("_told", "deadline_s", "n_bytes", "n_pieces", "parts", "resolved")

    def __init__(self, parts: Sequence[Part], n_bytes: int, deadline_s: float, told: Told) -> None:
        self.parts = parts
        self.n_bytes = n_bytes
        self.deadline_s = deadline_s
        self.n_pieces = 0
        self.resolved = False
        self._told = told

    def acknowledge(self) -> bool:
        """One of its frames is safe. Returns whether that was the last one."""
        self.n_pieces -= 1
        return self.n_pieces == 0

    def resolve(self, error: Transient | None) -> None:
        """Tell the caller. Only the first call counts; two at once are for whoever calls to prevent."""
        if not self.resolved:
            self.resolved = True
            self._told(error)


@dataclass(slots=True)
class Frame:
    """Items of one partition that go out as one record.

    Attributes:
        key: The record key; None for a frame of many items, whose keys differ.
        tickets: Each caller with items in it, once.
    """

    topic: str
    partition: int
    key: str | None = None
    parts: list[bytes] = field(default_factory=list)
    tickets: list[Ticket] = field(default_factory=list)
    n_bytes: int = 0
    sent_s: float = 0.0


def group(tickets: Iterable[Ticket], n_partitions: Callable[[str], int], *, max_frame_bytes: int,
          one_per_record: bool = False) -> list[Frame]:
    """Put the items of many tickets into frames, keeping their order within each partition.

    Args:
        n_partitions: Gives a topic's number of partitions.
        max_frame_bytes: A frame is closed before it grows beyond this; an item larger than it has a frame of its own.
        one_per_record: One item per frame, keyed; for consumers that know no frames.

    Returns:
        Frames in the order in which they must be sent. Every ticket's ``n_pieces`` is set.
    """
    frames: list[Frame] = []
    by_topic: dict[str, list[Frame | None]] = {}
    for ticket in tickets:
        for topic, key, data in ticket.parts:
            current = by_topic.get(topic)
            if current is None:
                current = by_topic[topic] = [None] * n_partitions(topic)
            partition = partition_of(key, len(current))
            frame = current[partition]
            if frame is None or one_per_record or frame.n_bytes + len(data) > max_frame_bytes:
                frame = current[partition] = Frame(topic, partition, key if one_per_record else None)
                frames.append(frame)
            frame.parts.append(data)
            frame.n_bytes += len(data)
            if not frame.tickets or frame.tickets[-1] is not ticket:
                frame.tickets.append(ticket)
                ticket.n_pieces += 1
    return frames
