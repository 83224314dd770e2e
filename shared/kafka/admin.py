"""Topics, and waiting until a broker answers."""

import socket
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError, TopicAlreadyExistsError, for_code
from kafka.net.compat import KafkaNetClient

from schemas.errors import Transient

_EXISTS = int(TopicAlreadyExistsError.errno)


def connect(bootstrap: str, *, client_id: str, timeout_s: float) -> KafkaAdminClient:
    """Open an admin connection; the caller closes it.

    Raises:
        Transient: No broker answered within ``timeout_s``.
    """
    _knock(bootstrap, timeout_s)
    opened: list[KafkaNetClient] = []

    def open_net(**config: Any) -> KafkaNetClient:
        opened.append(KafkaNetClient(**config))
        return opened[-1]

    timeout_ms = max(1, int(timeout_s * 1000))
    try:
        return KafkaAdminClient(
            bootstrap_servers=bootstrap.split(","), client_id=client_id, kafka_client=open_net,
            request_timeout_ms=timeout_ms, bootstrap_timeout_ms=timeout_ms,
            reconnect_backoff_ms=50, reconnect_backoff_max_ms=200)
    except (KafkaError, OSError) as exc:
        # kafka-python leaves its thread and sockets behind when the constructor fails: one of each per try.
        for net in opened:
            net.close()
        raise Transient(f"Kafka at {bootstrap} does not answer: {exc}") from exc


def _knock(bootstrap: str, timeout_s: float) -> None:
    """Find out whether any broker listens; kafka-python would try and log ten times a second, and leak the sockets."""
    last = ""
    for address in bootstrap.split(","):
        host, _, port = address.strip().rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout_s).close()
            return
        except (OSError, ValueError, OverflowError) as exc:
            last = f"{address}: {exc}"
    raise Transient(f"Kafka does not answer: {last}")


@contextmanager
def _admin(bootstrap: str, timeout_s: float) -> Iterator[KafkaAdminClient]:
    client = connect(bootstrap, client_id="ratchet-admin", timeout_s=timeout_s)
    try:
        yield client
    except (KafkaError, OSError) as exc:
        raise Transient(f"Kafka at {bootstrap}: {exc}") from exc
    finally:
        client.close()


def create_topics(bootstrap: str, topics: Collection[str], *, partitions: int, retention_ms: int = -1,
                  replication: int = -1, timeout_s: float = 30.0) -> list[str]:
    """Create the topics that do not exist yet and wait until each partition has a leader. Idempotent.

    Args:
        partitions: Of each new topic; a topic that exists is left as it is.
        retention_ms: How long records are kept; -1 is for ever.
        replication: Copies of each partition; -1 is the broker's default.

    Returns:
        The names of the topics that were created.

    Raises:
        Transient: Kafka is away, or refused for a reason that its message gives.
    """
    wanted = {name: {"num_partitions": partitions, "replication_factor": replication,
                     "configs": {"retention.ms": str(retention_ms)}} for name in topics}
    with _admin(bootstrap, timeout_s) as admin:
        answer = admin.create_topics(wanted, raise_errors=False)
        created = []
        for topic in answer["topics"]:
            if topic["error_code"] == 0:
                created.append(str(topic["name"]))
            elif topic["error_code"] != _EXISTS:
                raise Transient(f"Kafka did not create the topic {topic['name']}: "
                                f"{for_code(topic['error_code']).__name__} {topic['error_message'] or ''}")
        admin.wait_for_topics(list(topics), timeout_ms=int(timeout_s * 1000))
    return created


def topic_faults(admin: KafkaAdminClient, topics: Collection[str]) -> Mapping[str, str]:
    """Ask the broker about topics; returns what is wrong with each one that cannot be written to."""
    faults = {}
    for topic in admin.describe_topics(list(topics)):
        if topic["error_code"]:
            faults[str(topic["name"])] = for_code(topic["error_code"]).__name__
        elif any(part["leader_id"] < 0 for part in topic["partitions"]):
            faults[str(topic["name"])] = "a partition has no leader"
    return faults


def wait_for_kafka(bootstrap: str, deadline_s: float = 30.0) -> None:
    """Block until a broker answers.

    Args:
        deadline_s: How long to wait, in seconds.

    Raises:
        Transient: None answered in that time.
    """
    end = time.monotonic() + deadline_s
    while True:
        left = end - time.monotonic()
        try:
            connect(bootstrap, client_id="ratchet-wait", timeout_s=max(0.1, min(left, 2.0))).close()
            return
        except Transient:
            if time.monotonic() >= end:
                raise
            time.sleep(min(0.05, max(0.0, left)))
