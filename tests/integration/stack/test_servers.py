"""The servers that every other integration test relies on, in whichever flavour this session runs."""

import uuid

import psycopg
import pytest
import redis
from kafka import KafkaConsumer, KafkaProducer

from schemas.topics import Topics
from services.stack.process import wait_ready
from tests.support.servers import RestartableServers, Servers


def test_each_test_gets_a_database_with_ratchets_tables(postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection:
        assert connection.execute("SELECT count(*) FROM events").fetchone() == (0,)
        connection.execute("INSERT INTO loop_counters VALUES ('a', 1)")


def test_a_database_does_not_see_another_tests_rows(postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection:
        assert connection.execute("SELECT count(*) FROM loop_counters").fetchone() == (0,)


def test_a_redis_database_is_empty_at_first(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        client.set("a", "1")


def test_topics_take_and_give_records(servers: Servers, topics: Topics) -> None:
    producer = KafkaProducer(bootstrap_servers=servers.kafka, acks="all")
    producer.send(topics.events, b"hello").get(timeout=20)
    producer.close()
    consumer = KafkaConsumer(topics.events, bootstrap_servers=servers.kafka, auto_offset_reset="earliest",
                             group_id=uuid.uuid4().hex, consumer_timeout_ms=20_000)
    assert next(consumer).value == b"hello"
    consumer.close()


@pytest.mark.parametrize("wrong", ["", "wrong"])
def test_postgres_and_redis_refuse_a_wrong_password(servers: Servers, wrong: str) -> None:
    password = servers.redis_url.split("@")[0].rpartition(":")[2]
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(servers.postgres_url.replace(password, wrong), connect_timeout=5)
    with redis.Redis.from_url(servers.redis_url.replace(password, wrong)) as client, pytest.raises(
            redis.exceptions.AuthenticationError):
        client.ping()


def test_what_was_acknowledged_survives_the_death_of_every_server(restartable_servers: RestartableServers) -> None:
    servers = restartable_servers.servers
    from shared.kafka import create_topics

    create_topics(servers.kafka, ["kept"], partitions=1)
    producer = KafkaProducer(bootstrap_servers=servers.kafka, acks="all")
    producer.send("kept", b"record").get(timeout=20)
    producer.close()
    with psycopg.connect(servers.postgres_url) as connection:
        connection.execute("CREATE TABLE kept (x int)")
        connection.execute("INSERT INTO kept VALUES (7)")
    with redis.Redis.from_url(servers.redis_url) as client:
        client.set("kept", "value")

    for name in ("kafka", "postgres", "redis"):
        restartable_servers.kill(name)
    for name in ("kafka", "postgres", "redis"):
        restartable_servers.start(name, wait=False)
    for name, child in restartable_servers.children.items():
        wait_ready(restartable_servers.parts[name], child, timeout_s=60)

    consumer = KafkaConsumer("kept", bootstrap_servers=servers.kafka, auto_offset_reset="earliest",
                             consumer_timeout_ms=20_000)
    assert next(consumer).value == b"record"
    consumer.close()
    with psycopg.connect(servers.postgres_url) as connection:
        assert connection.execute("SELECT x FROM kept").fetchone() == (7,)
    with redis.Redis.from_url(servers.redis_url) as client:
        assert client.get("kept") == b"value"
