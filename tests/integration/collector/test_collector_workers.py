"""Several collector processes on one port: all answer, one may die, and all end together."""

import os
import re
import signal
import subprocess
import sys

import httpx
import psutil

from schemas.events import Event
from tests.support.services import ROOT, eventually
from tests.support.topics import read_items

TWO = {"RATCHET_COLLECTOR_WORKERS": "2", "RATCHET_COLLECTOR_ACK_TIMEOUT_S": "20"}


def workers(process):
    """The processes that take connections."""
    return sorted(child.pid for child in psutil.Process(process.pid).children()
                  if any(found.status == psutil.CONN_LISTEN for found in child.net_connections("tcp")))


def accepted(process):
    """What any of the workers says that all of them accepted."""
    found = re.search(rb'^ratchet_collector_events_total\{outcome="accepted",protocol="segment"\} ([\d.e+]+)$',
                      process.get("/metrics")[1], re.MULTILINE)
    return int(float(found[1])) if found else 0


def test_two_workers_share_a_port_and_either_tells_the_metrics_of_both(broker, own_topics, collectors, ledgers):
    process = collectors(**TWO)
    eventually(lambda: len(workers(process)) == 2)
    ledger = ledgers(process.port).start(12)
    eventually(lambda: len(ledger.answered) > 300)
    ledger.stop()

    assert set(ledger.statuses) == {200}
    assert {accepted(process) for _ in range(12)} == {len(ledger.answered)}
    ids = [event.id for event in read_items(broker.bootstrap, own_topics.events, Event)]
    assert sorted(ids) == sorted(ledger.answered)


def test_a_killed_worker_is_started_again_and_nothing_answered_is_lost(broker, own_topics, collectors, ledgers):
    process = collectors(**TWO)
    before = eventually(lambda: len(workers(process)) == 2 and workers(process))
    ledger = ledgers(process.port).start(8)
    eventually(lambda: len(ledger.answered) > 100)
    psutil.Process(before[0]).kill()

    # The other one goes on alone, until there are two again.
    answered = len(ledger.answered)
    eventually(lambda: len(ledger.answered) > answered + 50)
    eventually(lambda: before[0] not in workers(process) and len(workers(process)) == 2)
    ledger.stop()
    assert set(ledger.statuses) <= {200, 0}
    ids = {event.id for event in read_items(broker.bootstrap, own_topics.events, Event)}
    assert set(ledger.answered) <= ids
    # What the dead one counted still counts.
    assert accepted(process) >= len(ledger.answered)


def test_sigterm_lets_all_workers_answer_what_is_under_way(broker, own_topics, collectors, ledgers):
    process = collectors(**TWO)
    ended = eventually(lambda: len(workers(process)) == 2 and workers(process))
    ledger = ledgers(process.port).start(8)
    eventually(lambda: len(ledger.answered) > 100)

    assert process.stop()

    ledger.stop()
    assert process.child.poll() == 0
    assert process.log.count('"event":"collector_stopped"') == 2
    assert not any(psutil.pid_exists(pid) for pid in ended)
    assert set(ledger.statuses) <= {200, 0}
    ids = {event.id for event in read_items(broker.bootstrap, own_topics.events, Event)}
    assert set(ledger.answered) <= ids


def test_workers_end_when_their_supervisor_is_killed_and_leave_the_port(broker, own_topics, collectors):
    process = collectors(**TWO)
    orphans = eventually(lambda: len(workers(process)) == 2 and workers(process))
    os.kill(process.pid, signal.SIGKILL)
    assert eventually(process.child.poll) == -signal.SIGKILL
    eventually(lambda: not any(psutil.pid_exists(pid) for pid in orphans))
    process.start()
    assert httpx.get(f"{process.url}/health/ready").status_code == 200


def test_a_port_that_another_collector_has_is_refused_with_one_line(broker, own_topics, collectors):
    process = collectors(**TWO)
    ended = subprocess.run([sys.executable, "-c", "from services.collector.main import run; run()"], cwd=ROOT,
                           env=process.command.env, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 2
    assert f":{process.port}" in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
