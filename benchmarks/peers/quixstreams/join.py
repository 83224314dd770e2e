"""Joins pairs with quixstreams: arguments are the bootstrap address, the topics' prefix, and the database."""

import sys
import tempfile

from quixstreams import Application
from quixstreams.sinks.base import BatchingSink, SinkBatch

from benchmarks.peers.pairs import Pairs

# Frames in one transaction; a frame has 100 items.
BATCH = 40


class Sink(BatchingSink):  # type: ignore[misc]
    """All partitions of a checkpoint in one transaction, not one each."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._pairs = Pairs(url)

    def flush(self) -> None:
        """Store what has come since the last checkpoint; quixstreams commits the offsets after it."""
        self._pairs.write((topic, item.value) for (topic, _), batch in self._batches.items() for item in batch)
        self._batches.clear()

    def write(self, batch: SinkBatch) -> None:
        """Not used: ``flush`` stores all batches at once."""


def main() -> None:
    """Run until killed."""
    bootstrap, prefix, url = sys.argv[1:]
    sink = Sink(url)
    app = Application(bootstrap, consumer_group=f"quix-{url.rsplit('/', 1)[1]}", auto_offset_reset="earliest",
                      commit_interval=1.0, commit_every=BATCH, state_dir=tempfile.mkdtemp(), loglevel="WARNING",
                      auto_create_topics=False)
    for name in ("predictions", "events"):
        app.dataframe(app.topic(f"{prefix}.{name}", value_deserializer="bytes", key_deserializer="bytes")).sink(sink)
    app.run()


if __name__ == "__main__":
    main()
