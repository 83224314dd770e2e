"""Fixtures that every test may use: real servers, a fresh corner of each, and services as processes."""

import itertools
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import hypothesis
import pytest

from schemas.topics import Topics
from shared import ports
from tests.support import servers as real
from tests.support.services import ROOT, ServiceProcess, start_service

# How long an example takes says something about the machine, and nothing about the code.
hypothesis.settings.register_profile("untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("untimed")
_redis_databases = itertools.count(1)


@pytest.fixture(scope="session")
def servers() -> Iterator[real.Servers]:
    """Kafka, Postgres and Redis, once per session; RATCHET_TEST_SERVERS says which flavour."""
    with real.chosen(os.environ.get("RATCHET_TEST_SERVERS", "auto")) as started:
        real.say(f"ready, flavour {started.flavour}")
        yield started


@pytest.fixture
def restartable_servers() -> Iterator[real.RestartableServers]:
    """Servers of one test that it may kill and start again; always embedded, since a container changes its port."""
    with real.embedded() as running:
        yield running


@pytest.fixture(scope="session")
def _template_database(servers: real.Servers) -> str:
    import psycopg

    from shared import postgres

    name = "ratchet_template"
    with psycopg.connect(servers.postgres_url, autocommit=True) as admin:
        admin.execute(f'DROP DATABASE IF EXISTS "{name}"')
        admin.execute(f'CREATE DATABASE "{name}"')
    postgres.migrate(_with_database(servers.postgres_url, name))
    return name


@pytest.fixture
def postgres_url(servers: real.Servers, _template_database: str) -> Iterator[str]:
    """A fresh, migrated database."""
    import psycopg

    name = f"t_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(servers.postgres_url, autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{_template_database}"')
        try:
            yield _with_database(servers.postgres_url, name)
        finally:
            admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def redis_url(servers: real.Servers) -> Iterator[str]:
    """An empty Redis database of the test's own."""
    import redis

    number = next(_redis_databases) % real.N_DATABASES
    url = _with_database(servers.redis_url, str(number))
    with redis.Redis.from_url(url) as client:
        client.flushdb()
        yield url
        client.flushdb()


@pytest.fixture
def topics(servers: real.Servers) -> Topics:
    """The topics of an installation of the test's own, made on the broker with three partitions each."""
    from shared.kafka import create_topics

    names = Topics(prefix=f"t{uuid.uuid4().hex[:12]}")
    create_topics(servers.kafka, names.all, partitions=3)
    return names


@pytest.fixture
def free_port() -> int:
    """A TCP port of 127.0.0.1 that was free a moment ago."""
    return ports.free_port()


@pytest.fixture
def service_env(servers: real.Servers, topics: Topics, postgres_url: str, redis_url: str, tmp_path: Path
                ) -> dict[str, str]:
    """The settings with which every service runs against the test's own corner of the servers."""
    return {
        "RATCHET_KAFKA_BOOTSTRAP": servers.kafka,
        "RATCHET_TOPIC_PREFIX": topics.prefix,
        "RATCHET_POSTGRES_URL": postgres_url,
        "RATCHET_REDIS_URL": redis_url,
        "RATCHET_ARTIFACTS_DIR": str(tmp_path / "artifacts"),
        "RATCHET_LOOPS_DIR": str(ROOT / "examples" / "loops"),
        "RATCHET_PSEUDONYM_KEY": "a-test-key-of-32-characters-1234",
        "RATCHET_COLLECT_KEYS": "app:collect-key",
        "RATCHET_INFER_KEYS": "app:infer-key",
        "RATCHET_OPERATE_KEYS": "operator:operate-key",
    }


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., ServiceProcess]]:
    """``start("collector", env)``: a service in its own process, ready when returned and ended with the test."""
    running: list[ServiceProcess] = []

    def start_one(name: str, env: dict[str, str], *, wait: bool = True, label: str | None = None,
                  timeout_s: float = 90.0) -> ServiceProcess:
        process = start_service(name, env, tmp_path, wait=wait, label=label or f"{name}-{len(running)}",
                                timeout_s=timeout_s)
        running.append(process)
        return process

    yield start_one
    for process in running:
        process.stop()


def _with_database(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))
