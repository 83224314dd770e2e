"""Micro-batching: shared forward passes, own heads, bounded waiting."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import Transient
from services.inference.batching import Batcher, cut, merge, split


@given(st.lists(st.lists(st.integers())))
def test_splitting_what_was_merged_gives_it_back(pieces: list[list[int]]) -> None:
    assert split(*merge(pieces)) == pieces


@given(st.lists(st.integers(), min_size=1), st.integers(1, 40))
def test_pieces_hold_everything_in_order_and_none_is_too_large(items: list[int], size: int) -> None:
    pieces = cut(items, size)
    assert merge(pieces)[0] == items
    assert all(1 <= len(piece) <= size for piece in pieces)


@dataclass
class Encoders:
    """Counts forward passes; a gate can hold them."""

    batches: list[list[str]] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)

    def encode(self, texts: Sequence[str]) -> Any:
        self.gate.wait(10)
        self.batches.append(list(texts))
        return np.array([[float(text)] for text in texts], np.float32)


@dataclass(eq=False)
class Fake:
    """A version whose score is text times factor."""

    encoders: Encoders
    factor: float
    group: str = "e1"
    fault: Exception | None = None

    def embed(self, texts: Sequence[str]) -> Any:
        return self.encoders.encode(texts)

    def probabilities(self, embeddings: Any) -> Any:
        if self.fault:
            raise self.fault
        return embeddings * self.factor


@pytest.fixture
def encoders() -> Encoders:
    return Encoders()


@pytest.fixture
async def batcher() -> AsyncIterator[Callable[..., Batcher]]:
    made: list[Batcher] = []

    def make(max_batch: int = 8, max_waiting: int = 100, max_wait_s: float = 60.0, n_workers: int = 1,
             clock_ns: Callable[[], int] = time.monotonic_ns) -> Batcher:
        made.append(Batcher(max_batch=max_batch, max_waiting=max_waiting, max_wait_s=max_wait_s, n_workers=n_workers,
                            clock_ns=clock_ns))
        made[-1].start()
        return made[-1]

    yield make
    for one in made:
        await one.stop()


async def _scores(batcher: Batcher, model: Fake, *texts: int) -> list[float]:
    parts = await batcher.score(model, [str(text) for text in texts])
    return [float(row[0]) for part in parts for row in part.scores]


async def _taken(batcher: Batcher, task: "asyncio.Task[list[float]]") -> None:
    """Let the loop turn until the first request is in its forward pass."""
    for _ in range(100):
        await asyncio.sleep(0)
        if batcher.n_waiting == 0 and not task.done():
            return


async def test_requests_that_wait_together_share_a_forward_pass_and_keep_their_own_version(
        batcher: Callable[..., Batcher], encoders: Encoders) -> None:
    one, two = Fake(encoders, 10), Fake(encoders, 1000)
    running = batcher()
    first = asyncio.create_task(_scores(running, one, 1))
    await _taken(running, first)
    others = [asyncio.create_task(_scores(running, model, *texts))
              for model, texts in ((one, (2, 3)), (two, (4,)), (two, (5,)), (one, (6,)))]
    await asyncio.sleep(0)
    encoders.gate.set()
    assert await first == [10]
    assert [await other for other in others] == [[20, 30], [4000], [5000], [60]]
    assert encoders.batches == [["1"], ["2", "3", "4", "5", "6"]]


async def test_free_workers_share_what_waits_and_run_at_the_same_time(batcher: Callable[..., Batcher],
                                                                      encoders: Encoders) -> None:
    model, together = Fake(encoders, 1), threading.Barrier(2, timeout=10)
    encoders.gate.wait = lambda timeout=None: together.wait() >= 0  # type: ignore[method-assign]
    running = batcher(n_workers=2)
    assert await asyncio.gather(*(_scores(running, model, i) for i in range(6))) == [[i] for i in range(6)]
    assert sorted(encoders.batches) == [["0", "1", "2"], ["3", "4", "5"]]


async def test_versions_of_another_encoder_never_share_a_forward_pass(batcher: Callable[..., Batcher],
                                                                      encoders: Encoders) -> None:
    one, two = Fake(encoders, 1, "e1"), Fake(encoders, 1, "e2")
    running = batcher()
    tasks = [asyncio.create_task(_scores(running, model, i)) for i, model in enumerate([one, two, one, two])]
    await asyncio.sleep(0)
    encoders.gate.set()
    await asyncio.gather(*tasks)
    assert sorted(map(sorted, encoders.batches)) == [["0", "2"], ["1", "3"]]


async def test_a_request_larger_than_a_batch_is_answered_in_order(batcher: Callable[..., Batcher],
                                                                  encoders: Encoders) -> None:
    encoders.gate.set()
    assert await _scores(batcher(), Fake(encoders, 2), *range(20)) == [2 * i for i in range(20)]
    assert max(map(len, encoders.batches)) == 8


async def test_beyond_the_bound_requests_are_refused_at_once(batcher: Callable[..., Batcher],
                                                             encoders: Encoders) -> None:
    running, model = batcher(max_batch=2, max_waiting=4), Fake(encoders, 1)
    tasks = [asyncio.create_task(_scores(running, model, 1, 2))]
    await _taken(running, tasks[0])
    tasks += [asyncio.create_task(_scores(running, model, 1, 2)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Transient, match="wait already"):
        await _scores(running, model, 1, 2, 3)
    encoders.gate.set()
    assert await asyncio.gather(*tasks) == [[1, 2]] * 3
    assert running.n_waiting == 0


async def test_who_waited_too_long_is_refused_so_that_newer_requests_are_answered_in_time(
        batcher: Callable[..., Batcher], encoders: Encoders) -> None:
    now_s = [0.0]
    running = batcher(max_batch=2, max_wait_s=0.5, clock_ns=lambda: int(now_s[0] * 1e9))
    model = Fake(encoders, 1)
    first = asyncio.create_task(_scores(running, model, 1))
    await _taken(running, first)
    old = [asyncio.create_task(_scores(running, model, 2, 3, 4)), asyncio.create_task(_scores(running, model, 5))]
    await asyncio.sleep(0)
    now_s[0] = 0.6
    new = asyncio.create_task(_scores(running, model, 6))
    await asyncio.sleep(0)
    encoders.gate.set()
    assert await asyncio.gather(first, new) == [[1], [6]]
    for task in old:
        with pytest.raises(Transient, match="waited"):
            await task
    assert encoders.batches == [["1"], ["6"]]
    assert running.n_waiting == 0


async def test_a_model_that_fails_fails_its_batch_and_not_the_next(batcher: Callable[..., Batcher],
                                                                   encoders: Encoders) -> None:
    encoders.gate.set()
    running = batcher()
    with pytest.raises(RuntimeError, match="boom"):
        await _scores(running, Fake(encoders, 1, fault=RuntimeError("boom")), 1)
    assert await _scores(running, Fake(encoders, 1), 1) == [1]


async def test_stopping_fails_what_still_waits(encoders: Encoders) -> None:
    running = Batcher(max_batch=1, max_waiting=10, max_wait_s=10)
    running.start()
    tasks = [asyncio.create_task(_scores(running, Fake(encoders, 1), i)) for i in range(3)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    stopping = asyncio.create_task(running.stop())
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, Transient) for result in results)
    encoders.gate.set()
    await stopping
