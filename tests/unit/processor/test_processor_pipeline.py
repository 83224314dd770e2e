"""The pipeline, when something in it goes wrong: the process ends at once, and nothing is acknowledged."""

import asyncio
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry

from schemas.errors import Permanent, Transient
from services.processor.metrics import Metrics
from services.processor.pipeline import Delivery, Pipeline
from services.processor.records import Record


class Ended(Exception):
    """Stands for the end of the process."""


class Harness:
    """A pipeline whose store does what a test says."""

    def __init__(self, store, *, acknowledge=None):
        self.died = asyncio.Event()
        self.reasons = []
        self.acknowledged = []
        self._acknowledge = acknowledge
        preparer = SimpleNamespace(prepare=lambda records: records)
        storer, broker, metrics = SimpleNamespace(store=store), SimpleNamespace(), Metrics(CollectorRegistry())
        self.pipeline = Pipeline(preparer, storer, broker, metrics, max_records=10, max_bytes=1 << 20, linger_s=0.0,
                                 accept_loss=False, die=self._die)

    async def give(self, offset=0):
        async def acknowledge():
            if self._acknowledge:
                raise self._acknowledge
            self.acknowledged.append(offset)

        await self.pipeline.take(Delivery(Record("events", 0, offset, 0, "", b"x"), acknowledge))

    def _die(self, reason, exc):
        self.reasons.append((reason, exc))
        self.died.set()
        raise Ended


def failing(exc):
    def store(records, batch, holes):
        raise exc

    return store


@pytest.mark.parametrize("exc", [Permanent("the schema is wrong"), Transient("away for a minute"), KeyError("a bug")])
async def test_a_batch_that_cannot_be_stored_ends_the_process_though_no_other_batch_follows(exc):
    harness = Harness(failing(exc))
    running = asyncio.create_task(harness.pipeline.run())
    await harness.give()
    await asyncio.wait_for(harness.died.wait(), 30)
    assert harness.reasons[0][1] is exc
    assert harness.acknowledged == []
    assert not running.done()
    running.cancel()


async def test_an_acknowledgement_that_fails_ends_the_process():
    exc = RuntimeError("faust has no such stream")
    harness = Harness(lambda records, batch, holes: [], acknowledge=exc)
    running = asyncio.create_task(harness.pipeline.run())
    await harness.give()
    await asyncio.wait_for(harness.died.wait(), 30)
    assert harness.reasons[0][1] is exc
    running.cancel()
