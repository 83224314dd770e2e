"""The fence: which records of a batch are still to be done; pure.

``next_offset`` of each partition is read and moved in the transaction that writes the effects, so it says exactly what
has been done, whatever Kafka believes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from schemas.errors import RatchetError
from services.processor.records import Partition, Record


class Gap(RatchetError):
    """Records between the fence and the first one at hand are missing: they were lost, skipped, or never existed.

    Attributes:
        partition: Topic and partition.
        fence: The offset that should come next.
        offset: The offset that came.
    """

    def __init__(self, partition: Partition, fence: int, offset: int) -> None:
        super().__init__(f"{partition[0]}/{partition[1]}: offset {offset} came where {fence} is next")
        self.partition, self.fence, self.offset = partition, fence, offset


@dataclass(frozen=True, slots=True)
class Admitted:
    """What of a batch is to be done.

    Attributes:
        records: In the order in which they came.
        next_offsets: The fence after them, of the partitions in which it moves.
        n_dropped: How many records had been done before.
    """

    records: list[Record]
    next_offsets: dict[Partition, int]
    n_dropped: int


def admit(records: Sequence[Record], fences: Mapping[Partition, int], holes: Mapping[tuple[Partition, int], int]
          ) -> Admitted:
    """Sort out what was done before.

    Args:
        fences: The next offset of every partition of the batch.
        holes: By partition and offset, the next offset that exists at or after it, where the broker has been asked:
            compaction and transaction markers leave offsets without records.

    Raises:
        Gap: A record's offset is above the next one, and the hole between them is not known.
    """
    expected = dict(fences)
    kept: list[Record] = []
    for record in records:
        partition = record.partition
        due = expected[partition]
        if record.offset < due:
            continue
        if record.offset > due and holes.get((partition, due)) != record.offset:
            raise Gap(partition, due, record.offset)
        expected[partition] = record.offset + 1
        kept.append(record)
    moved = {partition: offset for partition, offset in expected.items() if offset != fences[partition]}
    return Admitted(kept, moved, len(records) - len(kept))
