"""Real Kafka, Postgres and Redis for tests: in containers where Docker answers, else on the embedded stack."""

import gc
import io
import os
import secrets
import shutil
import sys
import tarfile
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.stack.kafka import Kafka
from services.stack.postgres import Postgres
from services.stack.process import Child, Server, wait_ready
from services.stack.redis import Redis, new_password
from shared.ports import free_port

N_DATABASES = 4096
START_TIMEOUT_S = 120
IMAGES = {"kafka": "apache/kafka:4.1.0", "postgres": "postgres:17", "redis": "redis:7"}


def say(line: str) -> None:
    """Print past pytest's capture: starting servers takes seconds, and someone is watching."""
    print(f"[servers] {line}", file=sys.__stderr__, flush=True)


@dataclass(frozen=True)
class Servers:
    """Where the servers answer.

    Attributes:
        kafka: Bootstrap address.
        postgres_url: Of an administrator who may create databases.
        redis_url: Of database 0; there are N_DATABASES of them.
    """

    kafka: str
    postgres_url: str
    redis_url: str
    flavour: str


@dataclass
class RestartableServers:
    """Embedded servers of one test, each of which can be killed, stopped and started again on its port."""

    parts: dict[str, Server]
    children: dict[str, Child] = field(default_factory=dict)

    @property
    def servers(self) -> Servers:
        """Where they answer."""
        kafka, postgres, redis = self.parts["kafka"], self.parts["postgres"], self.parts["redis"]
        assert isinstance(kafka, Kafka)
        assert isinstance(postgres, Postgres)
        assert isinstance(redis, Redis)
        return Servers(kafka.bootstrap, postgres.url, redis.url, "embedded")

    def start(self, name: str, *, wait: bool = True) -> None:
        """Start one; blocks until it answers unless told otherwise."""
        self.children[name] = Child(self.parts[name].command())
        if wait:
            wait_ready(self.parts[name], self.children[name], timeout_s=START_TIMEOUT_S)

    def kill(self, name: str) -> None:
        """SIGKILL one with all its processes."""
        self.children.pop(name).kill()

    def stop(self, name: str) -> None:
        """End one in an orderly way."""
        self.children.pop(name).stop()

    def restart(self, name: str) -> None:
        """Kill one and start it again."""
        self.kill(name)
        self.start(name)

    def stop_all(self) -> None:
        """End all that run."""
        for name in list(self.children):
            self.stop(name)


@contextmanager
def data_dir() -> Iterator[Path]:
    """A temporary folder that other users may pass through: pytest's own is closed to Postgres when run as root."""
    path = Path(tempfile.mkdtemp(prefix="ratchet-test-"))
    path.chmod(0o711)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def embedded(*, names: tuple[str, ...] = ("kafka", "postgres", "redis"), durable: bool = True
             ) -> Iterator[RestartableServers]:
    """Run servers on the embedded stack, on free ports.

    Args:
        durable: False turns Postgres's fsync off, which only a power cut would notice.
    """
    with data_dir() as folder:
        password = new_password()
        parts: dict[str, Server] = {
            "kafka": Kafka(folder / "kafka", free_port(), folder / "kafka.log"),
            "postgres": Postgres(folder / "postgres", free_port(), password, folder / "postgres.log",
                                 settings={"max_connections": "200"} | ({} if durable else {"fsync": "off"})),
            "redis": Redis(folder / "redis", free_port(), password, folder / "redis.log", n_databases=N_DATABASES),
        }
        running = RestartableServers(parts)
        try:
            for name in names:
                parts[name].prepare(say)
                running.start(name, wait=False)
            for name in names:
                wait_ready(parts[name], running.children[name], timeout_s=START_TIMEOUT_S)
            yield running
        finally:
            running.stop_all()


def docker_fault() -> str | None:
    """Return why containers cannot be used here, or None. Asks the engine, and pulls what it does not have."""
    try:
        import docker
        from docker.errors import DockerException
    except ImportError:
        return "testcontainers is not installed"
    with warnings.catch_warnings():
        # The client leaves the socket of a refused connection open, and the exception's frames hold it until here.
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            client = docker.from_env(timeout=30)
        except DockerException as exc:
            fault = f"Docker does not answer: {str(exc).splitlines()[0][:150]}"
            client = None
        gc.collect()
    if client is None:
        return fault
    try:
        client.ping()
        for image in IMAGES.values():
            try:
                client.images.get(image)
            except docker.errors.ImageNotFound:
                say(f"pulling {image}")
                client.images.pull(*image.split(":"))
    except DockerException as exc:
        return f"Docker answers, but not with what is needed: {str(exc).splitlines()[0][:150]}"
    finally:
        client.close()
    return None


@contextmanager
def containers() -> Iterator[Servers]:
    """Run servers in containers of the official images."""
    # No ryuk (its image may not be there), only published ports of 127.0.0.1, and quick polls.
    os.environ |= {"TESTCONTAINERS_RYUK_DISABLED": "true", "TESTCONTAINERS_CONNECTION_MODE": "docker_host",
                   "TC_HOST": "127.0.0.1", "TC_POOLING_INTERVAL": "0.2", "TC_MAX_TRIES": "600"}
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.wait_strategies import LogMessageWaitStrategy

    password = secrets.token_hex(12)
    with ExitStack() as stack:
        redis = DockerContainer(IMAGES["redis"]).with_exposed_ports(6379).with_command(
            ["redis-server", "--requirepass", password, "--databases", str(N_DATABASES)])
        postgres = (DockerContainer(IMAGES["postgres"]).with_exposed_ports(5432)
                    .with_env("POSTGRES_USER", "ratchet").with_env("POSTGRES_PASSWORD", password)
                    .with_command(["postgres", "-c", "fsync=off", "-c", "max_connections=200"]))
        kafka = _kafka_container(DockerContainer)
        for container in (kafka, postgres, redis):
            container.start()
            stack.callback(container.stop)
        _advertise(kafka)
        timeout = START_TIMEOUT_S
        LogMessageWaitStrategy("Kafka Server started").with_startup_timeout(timeout).wait_until_ready(kafka)
        LogMessageWaitStrategy("Ready to accept connections").with_startup_timeout(timeout).wait_until_ready(redis)
        # The second time: the first is the server that only runs the init scripts.
        LogMessageWaitStrategy("database system is ready to accept connections", times=2
                               ).with_startup_timeout(timeout).wait_until_ready(postgres)
        yield Servers(
            f"127.0.0.1:{kafka.get_exposed_port(9092)}",
            f"postgresql://ratchet:{password}@127.0.0.1:{postgres.get_exposed_port(5432)}/ratchet",
            f"redis://:{password}@127.0.0.1:{redis.get_exposed_port(6379)}/0",
            "containers",
        )


START_SCRIPT = "/tmp/start.sh"


def _kafka_container(container_class: Callable[[str], Any]) -> Any:
    """One KRaft node that waits for its advertised address: the published port is known only once it runs."""
    container = container_class(IMAGES["kafka"]).with_exposed_ports(9092)
    settings = {
        "KAFKA_NODE_ID": "1",
        "KAFKA_PROCESS_ROLES": "broker,controller",
        "KAFKA_LISTENERS": "HOST://:9092,CONTROLLER://:9093",
        "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "HOST:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "KAFKA_INTER_BROKER_LISTENER_NAME": "HOST",
        "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
        "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
        "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
        "KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS": "4",
        "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
        "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
        "KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS": "1000",
        "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
        "KAFKA_MESSAGE_MAX_BYTES": "8388608",
        "KAFKA_HEAP_OPTS": "-Xmx512m -Xms128m",
    }
    for key, value in settings.items():
        container.with_env(key, value)
    return container.with_command(["sh", "-c", f"until [ -f {START_SCRIPT} ]; do sleep 0.1; done; . {START_SCRIPT}"])


def _advertise(container: Any) -> None:
    address = f"HOST://127.0.0.1:{container.get_exposed_port(9092)}"
    script = f"export KAFKA_ADVERTISED_LISTENERS={address}\nexec /etc/kafka/docker/run\n".encode()
    with io.BytesIO() as buffer:
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            entry = tarfile.TarInfo(START_SCRIPT.rsplit("/", 1)[1])
            entry.size, entry.mode = len(script), 0o644
            tar.addfile(entry, io.BytesIO(script))
        container.get_wrapped_container().put_archive("/tmp", buffer.getvalue())


@contextmanager
def chosen(flavour: str) -> Iterator[Servers]:
    """Run servers of the wished flavour: ``auto``, ``containers`` or ``embedded``."""
    if flavour not in ("auto", "containers", "embedded"):
        raise ValueError(f"RATCHET_TEST_SERVERS={flavour!r} is wrong: auto, containers or embedded")
    fault = docker_fault() if flavour in ("auto", "containers") else "not asked for"
    if fault is None:
        say("starting Kafka, Postgres and Redis in containers")
        with containers() as servers:
            yield servers
        return
    if flavour == "containers":
        raise RuntimeError(f"RATCHET_TEST_SERVERS=containers, but {fault}")
    say(f"starting Kafka, Postgres and Redis on the embedded stack{'' if flavour == 'embedded' else f' ({fault})'}")
    with embedded(durable=False) as running:
        yield running.servers
