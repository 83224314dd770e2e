"""The Faust application, before and while it starts."""

from types import SimpleNamespace

from faust.exceptions import ConsumerNotStarted

from services.processor.app import assignment


class _Starting:
    def assignment(self) -> set[object]:
        raise ConsumerNotStarted("Consumer thread not yet started")


def test_a_consumer_that_is_still_starting_reads_no_partition() -> None:
    assert assignment(SimpleNamespace(consumer=_Starting())) == set()
