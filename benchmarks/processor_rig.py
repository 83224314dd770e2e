"""Where processors are measured: filled topics, databases, and the processes that read the ones into the others."""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import psutil
import psycopg
from kafka import KafkaProducer

from schemas import frames
from schemas.events import Event
from schemas.predictions import Prediction
from schemas.topics import Topics
from shared import postgres
from shared.kafka import create_topics
from shared.ports import free_port
from tests.support import servers

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / "benchmarks" / "peers"
LOOP = "support-intents"
N_PARTITIONS = 4
FRAME = 100
TIMEOUT_S = 240
# Pairs that are joined, and frames that are read; both are committed with what they count.
_PROGRESS = ("SELECT (SELECT coalesce(max(next_seq) - 1, 0) FROM loop_counters),"
             " (SELECT coalesce(sum(next_offset), 0)::bigint FROM offsets)")


@dataclass
class Site:
    """A Kafka and a Postgres, filled topics, and a place for logs."""

    running: servers.RestartableServers
    folder: Path
    topics: Topics = field(default_factory=lambda: Topics("bench"))
    n_pairs: int = 0

    @classmethod
    @contextlib.contextmanager
    def open(cls) -> Iterator["Site"]:
        """Start the servers, and stop them at the end."""
        with servers.embedded(names=("kafka", "postgres")) as running, tempfile.TemporaryDirectory() as folder:
            yield cls(running, Path(folder))

    def fill(self, n_pairs: int, lag: int) -> None:
        """Write predictions, and each one's feedback when so many others have followed it."""
        kafka = self.running.servers.kafka
        create_topics(kafka, self.topics.all, partitions=N_PARTITIONS)
        producer = KafkaProducer(bootstrap_servers=kafka, acks="all", linger_ms=5, max_request_size=4 << 20)
        header = [(frames.HEADER, frames.FRAME.encode())]
        self.n_pairs = n_pairs // FRAME * FRAME
        waiting: list[list[str]] = []
        for number in range(n_pairs // FRAME):
            now_ms = time.time_ns() // 1_000_000
            ids = [f"pr_{now_ms:012x}{uuid.uuid4().hex[:20]}" for _ in range(FRAME)]
            producer.send(self.topics.predictions, frames.encode([_prediction(key, now_ms) for key in ids]),
                          partition=number % N_PARTITIONS, headers=header)
            waiting.append(ids)
            last = number == n_pairs // FRAME - 1
            while waiting and (last or len(waiting) * FRAME > lag):
                number_then = number - len(waiting) + 1
                said = [_feedback(key, now_ms + 1, number_then) for key in waiting.pop(0)]
                producer.send(self.topics.events, frames.encode(said), partition=number_then % N_PARTITIONS,
                              headers=header)
        producer.flush()
        producer.close()

    @contextlib.contextmanager
    def database(self) -> Iterator[str]:
        """Make a migrated database; it is dropped at the end."""
        admin, name = self.running.servers.postgres_url, f"bench_{uuid.uuid4().hex[:12]}"
        url = f"{admin.rsplit('/', 1)[0]}/{name}"
        with psycopg.connect(admin, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
            try:
                postgres.migrate(url)
                with psycopg.connect(url, autocommit=True) as own:
                    own.execute("CREATE SEQUENCE pairs_seq")
                yield url
            finally:
                connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
                connection.execute("CHECKPOINT")

    def measure(self, start: Callable[[str], "Contestants"], *, joined: bool = True, url: str | None = None,
                course: list["Moment"] | None = None) -> Mapping[str, float]:
        """Start workers on a database and wait until they have stored every pair.

        Args:
            joined: Whether it joins, so that the pairs are to be counted at the end.
            url: A database that has examples already; it is read from the topics' first record anew.
            course: Gets what was seen on the way.
        """
        with contextlib.ExitStack() as stack:
            database = url or stack.enter_context(self.database())
            connection = stack.enter_context(psycopg.connect(database, autocommit=True))
            before, _ = _progress(connection)
            contestants = start(database)
            stack.callback(contestants.stop)
            first = self._watch(connection, contestants, lambda _, n_frames: n_frames > 0)
            last = self._watch(connection, contestants, lambda n_joined, _: n_joined - before >= self.n_pairs, course)
            n_events = 2 * self.n_pairs - first.n_frames * FRAME
            if joined and not url:
                counted = connection.execute("SELECT count(*), count(DISTINCT prediction_id) FROM examples").fetchone()
                if counted != (self.n_pairs, self.n_pairs):
                    raise RuntimeError(f"{self.n_pairs} pairs were sent, {counted} are stored")
            return {"rate": n_events / (last.at_s - first.at_s), "cpu": (last.cpu_s - first.cpu_s) / n_events * 1e6,
                    "postgres_cpu": (last.postgres_s - first.postgres_s) / n_events * 1e6, "rss": last.rss / 1e6}

    def workers(self, url: str, n: int) -> "Contestants":
        """Start processors that begin at the same moment, when all of them have their partitions."""
        ports = [free_port() for _ in range(n)]
        with psycopg.connect(url) as holding:
            for topic in self.topics.all:
                for part in range(N_PARTITIONS):
                    holding.execute("INSERT INTO offsets VALUES ('ratchet-processor', %s, %s, 0) "
                                    "ON CONFLICT (consumer, topic, part) DO UPDATE SET next_offset = 0", [topic, part])
            holding.commit()
            holding.execute("SELECT * FROM offsets FOR UPDATE")
            found = Contestants([self._start(
                [sys.executable, "-m", "services.processor.main"], f"worker-{number}", {
                    "RATCHET_KAFKA_BOOTSTRAP": self.running.servers.kafka, "RATCHET_POSTGRES_URL": url,
                    "RATCHET_TOPIC_PREFIX": self.topics.prefix, "RATCHET_LOOPS_DIR": str(ROOT / "examples" / "loops"),
                    "RATCHET_PROCESSOR_PORT": str(port), "RATCHET_PROCESSOR_INSTANCE": f"worker-{number}",
                    "RATCHET_LOG_LEVEL": "WARNING"}) for number, port in enumerate(ports)])
            _until(lambda: all(map(_ready, ports)), "the processors are ready", found)
        return found

    def peer(self, python: Path, program: str, url: str) -> "Contestants":
        """Start a peer's program in the peer's own environment."""
        argv = [str(python), str(PEERS / program), self.running.servers.kafka, self.topics.prefix, url]
        return Contestants([self._start(argv, program.replace("/", "-"), {"PYTHONPATH": str(ROOT)})])

    def _start(self, argv: Sequence[str], name: str, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("wb") as log:
            return subprocess.Popen(argv, env={**os.environ, **env}, cwd=ROOT, stdout=log, stderr=log)

    def _watch(self, connection: psycopg.Connection, contestants: "Contestants", until: Callable[[int, int], bool],
               course: list["Moment"] | None = None) -> "Moment":
        """Wait until so much is joined or read; ``course`` gets what was seen on the way."""
        server = psutil.Process(self.running.children["postgres"].pid)
        ends_s = time.perf_counter() + TIMEOUT_S
        while True:
            n_joined, n_frames = _progress(connection)
            processes = contestants.processes()
            seen = Moment(time.perf_counter(), n_joined, n_frames, sum(map(_cpu_s, processes)),
                          _cpu_s(server, children=True), max(p.memory_info().rss for p in processes))
            if course is not None:
                course.append(seen)
            if until(n_joined, n_frames):
                return seen
            contestants.check(self.folder)
            if seen.at_s > ends_s:
                raise TimeoutError(f"{n_joined} of {self.n_pairs} pairs after {TIMEOUT_S} s")
            time.sleep(0.02)


class Moment(NamedTuple):
    """How far a contestant was at a moment, and what it had used: seconds of CPU, bytes of memory."""

    at_s: float
    n_joined: int
    n_frames: int
    cpu_s: float
    postgres_s: float
    rss: int


@dataclass
class Contestants:
    """The processes of one contestant."""

    started: list[subprocess.Popen[bytes]]

    def processes(self) -> list[psutil.Process]:
        """Return those that run, with their children."""
        own = [psutil.Process(process.pid) for process in self.started]
        return own + [child for process in own for child in process.children(recursive=True)]

    def check(self, folder: Path) -> None:
        """Raise when one has ended, with the end of its log."""
        if any(process.poll() is not None for process in self.started):
            logs = [path.read_text(errors="replace")[-1500:] for path in folder.glob("*.log")]
            raise RuntimeError("a contestant ended by itself:\n" + "\n".join(logs))

    def stop(self) -> None:
        """End them."""
        for process in self.started:
            process.terminate()
        for process in self.started:
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _prediction(key: str, now_ms: int) -> Prediction:
    return Prediction(id=key, loop=LOOP, version="v1", subject=f"s_{key[3:]}", time_ms=now_ms, label="card",
                      input={"text": "I have been waiting for my new card for a week, where is it?"},
                      scores={"card": 0.6, "loan": 0.2}, embedding=os.urandom(384 * 4), encoder="0" * 64)


def _feedback(key: str, now_ms: int, number: int) -> Event:
    return Event(id=str(uuid.uuid4()), project="app", kind="track", name="Ticket Resolved", subject=f"s_{key[15:]}",
                 time_ms=now_ms, received_ms=now_ms, source="segment",
                 properties={"prediction_id": key, "queue": f"label-{number % 77}"},
                 context={"library": {"name": "analytics-python", "version": "2.4.0"}})


def _cpu_s(process: psutil.Process, *, children: bool = False) -> float:
    times = process.cpu_times()
    found = times.user + times.system + times.children_user + times.children_system
    if children:
        for child in process.children():
            with contextlib.suppress(psutil.NoSuchProcess):
                found += child.cpu_times().user + child.cpu_times().system
    return float(found)


def _progress(connection: psycopg.Connection) -> tuple[int, int]:
    row = connection.execute(_PROGRESS).fetchone()
    return (int(row[0]), int(row[1])) if row else (0, 0)


def _ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _until(condition: Callable[[], bool], what: str, contestants: Contestants) -> None:
    ends_s = time.monotonic() + 60
    while not condition():
        if time.monotonic() > ends_s or any(process.poll() is not None for process in contestants.started):
            contestants.stop()
            raise RuntimeError(f"it did not come to this: {what}")
        time.sleep(0.05)
