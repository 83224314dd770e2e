"""Every effect happens once, whatever is killed, frozen or restarted while it happens."""

import os
import random
import signal
import threading
import time

import pytest

from schemas.topics import Topics
from shared import postgres
from shared.kafka import create_topics
from tests.support.join_reference import workload
from tests.support.services import eventually
from tests.support.tables import Tables

CHUNK = 240
N_PARTITIONS = 3


class Load:
    """Sends a workload from a thread, a chunk at a time, so that there is always something under way."""

    def __init__(self, sender, items, *, seconds):
        self._sender, self._items, self._pause_s = sender, items, seconds / (len(items) / CHUNK)
        self._thread = threading.Thread(target=self._run)
        self._wake = threading.Event()
        self.errors = []

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._thread.join(timeout=60)
        assert not self._thread.is_alive()
        assert self.errors == []

    def _run(self):
        try:
            for start in range(0, len(self._items), CHUNK):
                self._sender.send(self._items[start: start + CHUNK], frame=10)
                self._wake.wait(self._pause_s)
        except Exception as exc:  # noqa: BLE001
            self.errors.append(exc)


def progress(tables):
    return tables.value("SELECT coalesce(sum(next_offset), 0)::bigint FROM offsets")


def wait_for_progress(tables, since, rng):
    """Wait until something more was committed, and then for a random part of a batch."""
    eventually(lambda: progress(tables) > since, timeout_s=20, every_s=0.002)
    deadline = time.monotonic() + rng.random() * 0.05
    eventually(lambda: time.monotonic() >= deadline, every_s=0.001)


def check(tables, want, *, timeout_s=40):
    eventually(lambda: tables.has(want), timeout_s=timeout_s)
    # Predictions and events are all there; the join of the last batch is in the same transaction.
    assert tables.actual() == want
    tables.check_numbering()


@pytest.mark.parametrize("n_workers", [1, 2])
def test_sigkill_at_any_moment_loses_and_doubles_nothing(n_workers, processor_env, sender, tables, start):
    rng = random.Random(n_workers)
    load = workload(4000, seed=10 + n_workers, now_ms=time.time_ns() // 1_000_000)
    workers = [start("processor", processor_env | {"RATCHET_PROCESSOR_INSTANCE": f"worker-{number}",
                                                   "RATCHET_PROCESSOR_SESSION_TIMEOUT_S": "6"})
               for number in range(n_workers)]
    with Load(sender, load.items, seconds=10):
        for round_ in range(5):
            wait_for_progress(tables, progress(tables), rng)
            victim = workers[round_ % n_workers]
            victim.kill()
            victim.start(wait=False)
    check(tables, load.expected)


def test_a_worker_that_was_frozen_and_replaced_doubles_nothing(processor_env, sender, tables, start):
    load = workload(2500, seed=20, now_ms=time.time_ns() // 1_000_000)
    short = processor_env | {"RATCHET_PROCESSOR_SESSION_TIMEOUT_S": "2"}
    zombie = start("processor", short | {"RATCHET_PROCESSOR_INSTANCE": "zombie"})
    with Load(sender, load.items, seconds=6):
        wait_for_progress(tables, 0, random.Random(1))
        os.kill(zombie.pid, signal.SIGSTOP)
        try:
            start("processor", short | {"RATCHET_PROCESSOR_INSTANCE": "heir"})
            eventually(lambda: progress_of_all(tables), timeout_s=30)
        finally:
            os.kill(zombie.pid, signal.SIGCONT)
    check(tables, load.expected)


def progress_of_all(tables):
    """Whether every partition has been read by somebody."""
    n = tables.value("SELECT count(*) FROM offsets WHERE next_offset > 3")
    return n == 2 * N_PARTITIONS


@pytest.mark.parametrize(("victim", "times"), [("postgres", 2), ("kafka", 1)])
def test_a_server_killed_under_load_costs_and_doubles_nothing(
        victim, times, restartable_servers, processor_env, new_sender, start):
    servers = restartable_servers.servers
    topics = Topics("restarted")
    create_topics(servers.kafka, topics.all, partitions=N_PARTITIONS)
    postgres.migrate(servers.postgres_url)
    tables = Tables(servers.postgres_url)
    load = workload(2000, seed=30, now_ms=time.time_ns() // 1_000_000)
    worker = start("processor", processor_env | {
        "RATCHET_KAFKA_BOOTSTRAP": servers.kafka, "RATCHET_POSTGRES_URL": servers.postgres_url,
        "RATCHET_TOPIC_PREFIX": topics.prefix})
    pid = worker.pid
    with Load(new_sender(servers.kafka, topics), load.items, seconds=6):
        for _ in range(times):
            wait_for_progress(tables, progress(tables), random.Random(2))
            restartable_servers.kill(victim)
            eventually(lambda: not worker.ready(), timeout_s=30)
            restartable_servers.start(victim)
            eventually(worker.ready, timeout_s=60)
    check(tables, load.expected)
    # It waited instead of dying: nothing had to start it again.
    assert worker.pid == pid
    assert worker.child.poll() is None
    eventually(worker.ready, timeout_s=30)


def test_a_second_worker_of_one_name_waits_and_says_why_until_the_first_is_gone(processor_env, start):
    first = start("processor", processor_env)
    second = start("processor", processor_env, wait=False)
    eventually(lambda: "give each its own RATCHET_PROCESSOR_INSTANCE" in second.log, timeout_s=30)
    assert b"give each its own RATCHET_PROCESSOR_INSTANCE" in second.get("/health/ready")[1]
    assert first.ready()
    first.kill()
    second.wait_ready(30)
