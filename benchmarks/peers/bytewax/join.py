"""Joins pairs with bytewax: arguments are the bootstrap address, the topics' prefix, and the database."""

import sys
import tempfile
from datetime import timedelta
from pathlib import Path

import bytewax.operators as op
from bytewax.connectors.kafka import KafkaSource
from bytewax.dataflow import Dataflow
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.run import cli_main

from benchmarks.peers.pairs import Pairs

# Frames in one transaction; a frame has 100 items.
BATCH = 40


class Partition(StatelessSinkPartition):  # type: ignore[misc]
    """Stores what a step of the dataflow gave."""

    def __init__(self, url: str) -> None:
        self._pairs = Pairs(url)

    def write_batch(self, items: list) -> None:  # type: ignore[type-arg]
        """Store a batch of both topics' records in one transaction."""
        self._pairs.write((message.topic, message.value) for batch in items for message in batch[1])


class Sink(DynamicSink):  # type: ignore[misc]
    """One partition for the one worker."""

    def __init__(self, url: str) -> None:
        self._url = url

    def build(self, step_id: str, worker_index: int, worker_count: int) -> Partition:
        """Open the connection."""
        return Partition(self._url)


def main() -> None:
    """Run until killed."""
    bootstrap, prefix, url = sys.argv[1:]
    flow = Dataflow("join")
    source = KafkaSource([bootstrap], [f"{prefix}.predictions", f"{prefix}.events"], batch_size=10)
    records = op.key_on("one", op.input("records", flow, source), lambda _: "all")
    # Of all partitions together, so that both halves of most pairs come in one transaction.
    op.output("postgres", op.collect("collect", records, timedelta(seconds=0.25), BATCH), Sink(url))
    folder = Path(tempfile.mkdtemp())
    init_db_dir(folder, 1)
    cli_main(flow, epoch_interval=timedelta(seconds=1), recovery_config=RecoveryConfig(str(folder)))


if __name__ == "__main__":
    main()
