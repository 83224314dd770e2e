"""Preflight: does what Kafka holds still fit what Postgres says has been done? Pure.

A broker that lost records, a topic that was deleted and made again, and retention that overtook a stopped processor
all look the same from inside: records to be dropped, or missing. They are told apart here, before anything is read.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from schemas.errors import Permanent
from services.processor.records import Partition

ACCEPT_LOSS = "RATCHET_PROCESSOR_ACCEPT_LOSS"


@dataclass(frozen=True, slots=True)
class Extent:
    """The offsets that a partition holds: from ``first`` up to, not including, ``end``."""

    first: int
    end: int


@dataclass(frozen=True, slots=True)
class Loss:
    """Records that were not done and cannot be read any more, or a topic that is not the one that was read before."""

    partition: Partition
    fence: int
    extent: Extent

    @property
    def message(self) -> str:
        """What is wrong, in one sentence."""
        name = f"{self.partition[0]}/{self.partition[1]}"
        if self.extent.first > self.fence:
            return (f"{name}: offsets {self.fence} to {self.extent.first - 1} were removed by retention before they "
                    "were processed")
        return (f"{name}: ends at offset {self.extent.end}, but {self.fence} offsets have been processed: the topic "
                "was made again under its old name, or the broker lost records")


@dataclass(frozen=True, slots=True)
class Plan:
    """Where to go on.

    Attributes:
        next_offsets: Of every partition, what Kafka's consumer group is to be told.
        new: The partitions that Postgres does not know yet, or whose fence has to move.
        losses: What the operator accepted to lose.
    """

    next_offsets: dict[Partition, int]
    new: dict[Partition, int]
    losses: list[Loss]


def plan(fences: Mapping[Partition, int], extents: Mapping[Partition, Extent], *, accept_loss: bool) -> Plan:
    """Decide where each partition goes on.

    A partition that was never read starts at its first record. With ``accept_loss`` one that does not fit is read from
    its first record on: effects are idempotent by event id, so that reading too much is safe.

    Raises:
        Permanent: Records are lost and nobody accepted that. Names all partitions and what to do.
    """
    next_offsets: dict[Partition, int] = {}
    new: dict[Partition, int] = {}
    losses: list[Loss] = []
    for partition, extent in sorted(extents.items()):
        fence = fences.get(partition)
        if fence is None:
            new[partition] = extent.first
        elif not extent.first <= fence <= extent.end:
            losses.append(Loss(partition, fence, extent))
            new[partition] = extent.first
        next_offsets[partition] = new.get(partition, fence if fence is not None else extent.first)
    if losses and not accept_loss:
        raise Permanent("; ".join(loss.message for loss in losses) + f". Nothing was changed. Restore the topic, or "
                        f"start once with {ACCEPT_LOSS}=true to go on from the first record that Kafka still holds")
    return Plan(next_offsets, new, losses)
