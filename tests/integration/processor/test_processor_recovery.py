"""Kafka and Postgres disagree about what was done: the processor goes on exactly, or stops and says why."""

import time

import psycopg
from kafka import KafkaAdminClient, TopicPartition

from tests.support.join_reference import workload
from tests.support.services import eventually

TABLES = "events, predictions, feedback, joins, loop_counters, labels, observations, dead_letters"


def run_sql(tables, statement, *args):
    with psycopg.connect(tables.url, autocommit=True) as connection:
        connection.execute(statement, args)


def wait_until_ended(worker):
    return eventually(lambda: worker.child.poll() is not None and [worker.child.poll()], timeout_s=30)[0]


def test_a_restored_postgres_is_brought_up_to_date_from_kafka(processor_env, sender, tables, start):
    load = workload(300, seed=40, now_ms=time.time_ns() // 1_000_000)
    want = load.expected
    sender.send(load.items)
    worker = start("processor", processor_env)
    eventually(lambda: tables.has(want), timeout_s=30)
    assert worker.stop()
    # The backup that was restored is from before anything was processed, and Kafka's group is far ahead of it.
    run_sql(tables, f"TRUNCATE {TABLES}")
    run_sql(tables, "UPDATE offsets SET next_offset = 0")
    worker.start()
    eventually(lambda: tables.has(want), timeout_s=30)
    assert tables.actual() == want
    tables.check_numbering()


def test_sigterm_finishes_and_a_new_worker_goes_on_without_reading_again(processor_env, sender, tables, start):
    load = workload(300, seed=41, now_ms=time.time_ns() // 1_000_000)
    middle = len(load.items) // 2
    sender.send(load.items[:middle])
    worker = start("processor", processor_env)
    eventually(lambda: tables.value("SELECT count(*) FROM events") > 0)
    assert worker.stop()
    assert worker.child.poll() == 0
    assert '"processor_stopped"' in worker.log
    sender.send(load.items[middle:])
    worker.start()
    want = load.expected
    eventually(lambda: tables.has(want), timeout_s=30)
    assert tables.actual() == want


def test_records_that_retention_removed_stop_the_processor_until_an_operator_accepts_the_loss(
        servers, processor_env, sender, topics, tables, start):
    load = workload(200, seed=42, now_ms=time.time_ns() // 1_000_000)
    first, second = workload(50, seed=43, now_ms=1), load
    sender.send(first.items)
    worker = start("processor", processor_env)
    eventually(lambda: tables.has(first.expected), timeout_s=30)
    assert worker.stop()
    lost, kept = second.items[:50], second.items[50:]
    sender.send(lost)
    admin = KafkaAdminClient(bootstrap_servers=servers.kafka)
    try:
        admin.delete_records({TopicPartition(topic, part): -1 for topic in topics.all for part in range(3)})
    finally:
        admin.close()
    sender.send(kept)

    worker.start(wait=False)
    assert wait_until_ended(worker) == 1
    assert "were removed by retention before they were processed" in worker.log
    assert "RATCHET_PROCESSOR_ACCEPT_LOSS=true" in worker.log

    accepting = start("processor", processor_env | {"RATCHET_PROCESSOR_ACCEPT_LOSS": "true"})
    n_expected = len(first.expected.events | {(e.project, e.id) for e in kept if hasattr(e, "properties")})
    eventually(lambda: tables.value("SELECT count(*) FROM events") == n_expected, timeout_s=30)
    assert '"loss_accepted"' in accepting.log


def test_a_topic_made_again_under_its_old_name_stops_the_processor(processor_env, tables, topics, start):
    run_sql(tables, "INSERT INTO offsets VALUES ('ratchet-processor', %s, 0, 1000)", topics.events)
    worker = start("processor", processor_env, wait=False)
    assert wait_until_ended(worker) == 1
    assert "the topic was made again under its old name" in worker.log


def test_a_wrong_setting_or_loop_file_is_one_clear_line(processor_env, loops_dir, start):
    (loops_dir / "alpha.toml").write_text('name = "alpha"\nlabls = []\n')
    worker = start("processor", processor_env, wait=False)
    assert wait_until_ended(worker) == 2
    assert "alpha.toml:2: labls: is not a known key" in worker.log
    (loops_dir / "alpha.toml").write_text('name = "alpha"\n[feedback.x]\nevent = "X"\nvalue = "x"\n')
    worker = start("processor", processor_env | {"RATCHET_PROCESSOR_PATIENCE_S": "soon"}, wait=False)
    assert wait_until_ended(worker) == 2
    assert "RATCHET_PROCESSOR_PATIENCE_S='soon' is wrong" in worker.log
