"""Micro-batching: requests that wait at the same time share one forward pass of the encoder.

An idle server adds no wait: a request starts at once, and whoever comes while it runs forms the next batch. Each text
is scored by the head of the version that its request was admitted with, so no answer mixes versions.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt

from schemas.errors import Transient


class Rows(Protocol):
    """What can be cut: lists, and arrays along their first axis."""

    def __getitem__(self, part: slice, /) -> Self:
        """Return a part."""


T = TypeVar("T")
R = TypeVar("R", bound=Rows)
Vectors = npt.NDArray[np.float32]


def cut(texts: Sequence[T], size: int) -> list[Sequence[T]]:
    """Return the texts in pieces of at most ``size``, in order."""
    return [texts[start:start + size] for start in range(0, len(texts), size)]


def merge(pieces: Sequence[Sequence[T]]) -> tuple[list[T], list[int]]:
    """Return all pieces in one list, and the length of each."""
    return [item for piece in pieces for item in piece], [len(piece) for piece in pieces]


def split(rows: R, lengths: Sequence[int]) -> list[R]:
    """Undo ``merge``: ``split(*merge(x)) == x``."""
    found: list[R] = []
    start = 0
    for length in lengths:
        found.append(rows[start:start + length])
        start += length
    return found


class Model(Protocol):
    """What a request keeps from admission to answer: one version, immutable."""

    @property
    def group(self) -> Hashable:
        """Equal for versions whose texts may share a forward pass: the same encoder and length limit."""

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return (B, D) float32."""

    def probabilities(self, embeddings: Vectors) -> Vectors:
        """Return (B, C) float32."""


@dataclass(frozen=True)
class Scored:
    """The result for some texts of one request.

    Attributes:
        embeddings: (n, D) float32.
        scores: (n, C) float32.
        queued_ns, compute_ns: How long they waited, and how long their batch took.
        batch: How many texts were in it.
    """

    embeddings: Vectors
    scores: Vectors
    queued_ns: int
    compute_ns: int
    batch: int


@dataclass(eq=False)
class _Request:
    """What the pieces of one request share: once one of them was computed, the others are owed."""

    since_ns: int
    started: bool = False


@dataclass(eq=False)
class _Piece:
    request: _Request
    model: Model
    texts: Sequence[str]
    done: "asyncio.Future[Scored]"


class Batcher:
    """One queue and a few worker threads: torch releases the GIL while it computes, so the event loop stays free.

    A free worker never waits for more texts. What waits is shared out among the free ones.

    Args:
        max_batch: Texts in one forward pass, at most.
        n_workers: Forward passes at a time. Two of one thread each answer more than one of two, which wait for each
            other in every layer.
        max_waiting: Texts that may wait; beyond it requests are refused.
        max_wait_s: A request that waited longer is refused instead of computed. Under more load than it can carry a
            server without this answers ever later, until every client has given up before its answer comes.
        observe: Called with each batch's size and duration in seconds.
        clock_ns: Nanoseconds that only grow.
    """

    def __init__(self, *, max_batch: int, max_waiting: int, max_wait_s: float, n_workers: int = 1,
                 observe: Callable[[int, float], None] = lambda n, duration_s: None,
                 clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock_ns = clock_ns
        self._max_batch, self._max_waiting, self._observe = max_batch, max_waiting, observe
        self._max_wait_ns = int(max_wait_s * 1e9)
        self._queue: deque[_Piece] = deque()
        self._n_waiting = 0
        self._wake = asyncio.Event()
        self._n_workers = self._n_free = n_workers
        self._pool = ThreadPoolExecutor(n_workers, thread_name_prefix="forward")
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start the workers; called inside the event loop."""
        self._tasks = [asyncio.get_running_loop().create_task(self._run()) for _ in range(self._n_workers)]

    async def stop(self) -> None:
        """Stop the workers; what still waits fails with Transient."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        while self._queue:
            piece = self._queue.popleft()
            if not piece.done.done():
                piece.done.set_exception(Transient("inference is shutting down"))
        self._n_waiting = 0
        self._pool.shutdown(wait=False)

    async def score(self, model: Model, texts: Sequence[str]) -> list[Scored]:
        """Return the results of all texts, in order, all by this one version; in one or more parts.

        Raises:
            Transient: Too much waits already, or this waited too long; nothing was started.
        """
        if self._n_waiting and self._n_waiting + len(texts) > self._max_waiting:
            raise Transient(f"{self._n_waiting} texts wait already; at most {self._max_waiting} may")
        loop = asyncio.get_running_loop()
        request = _Request(self._clock_ns())
        pieces = [_Piece(request, model, part, loop.create_future()) for part in cut(texts, self._max_batch)]
        self._queue.extend(pieces)
        self._n_waiting += len(texts)
        self._wake.set()
        try:
            return list(await asyncio.gather(*(piece.done for piece in pieces)))
        except Transient:
            for piece in pieces:  # so that nobody computes, or misses, what is left of a refused request
                piece.done.cancel()
            raise

    @property
    def n_waiting(self) -> int:
        """Texts that wait for a forward pass."""
        return self._n_waiting

    def _take(self) -> list[_Piece]:
        """The next batch: the oldest piece, and those behind it that fit and share its encoder; may be empty."""
        taken: list[_Piece] = []
        passed: list[_Piece] = []
        room = min(self._max_batch, -(-self._n_waiting // max(1, self._n_free)))
        now_ns = self._clock_ns()
        while self._queue and room > 0:
            piece = self._queue.popleft()
            if self._is_void(piece, now_ns):
                self._n_waiting -= len(piece.texts)
            elif not taken or (piece.model.group == taken[0].model.group and len(piece.texts) <= room):
                taken.append(piece)
                room -= len(piece.texts)
                piece.request.started = True
            else:
                passed.append(piece)
        self._queue.extendleft(reversed(passed))
        self._n_waiting -= sum(len(piece.texts) for piece in taken)
        return taken

    def _is_void(self, piece: _Piece, now_ns: int) -> bool:
        """Whether nobody needs this piece: its client went away, or it waited too long and is refused here."""
        waited_ns = now_ns - piece.request.since_ns
        if not piece.done.done() and not piece.request.started and waited_ns > self._max_wait_ns:
            piece.done.set_exception(Transient(f"waited {waited_ns / 1e9:.1f} s for a forward pass: more is asked "
                                               "than this replica can answer"))
        return piece.done.done()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                batch = self._take()
                if not batch:
                    continue
                started_ns = self._clock_ns()
                self._n_free -= 1
                try:
                    results = await loop.run_in_executor(self._pool, _forward, batch)
                except asyncio.CancelledError:
                    _fail(batch, Transient("inference is shutting down"))
                    raise
                except Exception as exc:  # noqa: BLE001 - whatever the model raised belongs to these requests only
                    _fail(batch, exc)
                    continue
                finally:
                    self._n_free += 1
                took_ns = self._clock_ns() - started_ns
                n_texts = sum(len(piece.texts) for piece in batch)
                for piece, (embeddings, scores) in zip(batch, results, strict=True):
                    if not piece.done.done():
                        queued_ns = started_ns - piece.request.since_ns
                        piece.done.set_result(Scored(embeddings, scores, queued_ns, took_ns, n_texts))
                self._observe(n_texts, took_ns / 1e9)


def _fail(batch: Sequence[_Piece], exc: Exception) -> None:
    for piece in batch:
        if not piece.done.done():
            piece.done.set_exception(exc)


def _forward(batch: Sequence[_Piece]) -> list[tuple[Vectors, Vectors]]:
    """Embed a batch at once, then let each version score its own rows. Runs in the worker thread."""
    texts, lengths = merge([piece.texts for piece in batch])
    parts = split(batch[0].model.embed(texts), lengths)
    members: dict[int, list[int]] = {}
    for i, piece in enumerate(batch):
        members.setdefault(id(piece.model), []).append(i)
    scores: dict[int, Vectors] = {}
    for own in members.values():
        rows = batch[own[0]].model.probabilities(np.concatenate([parts[i] for i in own]))
        scores |= zip(own, split(rows, [lengths[i] for i in own]), strict=True)
    return [(part, scores[i]) for i, part in enumerate(parts)]
