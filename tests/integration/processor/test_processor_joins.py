"""The processor as a process of its own, on real Kafka and Postgres."""

import time

from tests.support.join_reference import workload
from tests.support.services import eventually


def test_a_shuffled_stream_gives_the_reference_join(processor_env, sender, tables, start):
    load = workload(400, seed=1, now_ms=time.time_ns() // 1_000_000)
    sender.send(load.items)

    start("processor", processor_env)
    want = load.expected
    eventually(lambda: tables.has(want), timeout_s=30)

    assert tables.actual() == want
    tables.check_numbering()
