"""Runs the collector."""

import gc
import os
import socket
import sys
import time
import uuid

from schemas.errors import Permanent
from schemas.topics import Topics
from services.collector import app, workers
from services.collector.endpoints import Shared
from services.collector.gateway import Gateway
from services.collector.privacy import Privacy
from services.collector.settings import Settings
from shared import logs, serving, settings
from shared.kafka import FrameProducer
from shared.pseudonym import Pseudonymiser

_log = logs.Log(__name__)


def run() -> None:
    """Run until SIGTERM or SIGINT, then answer what is under way and return.

    Exits with 2 when a setting is wrong, and with 1 when only a new process can help.
    """
    try:
        config = settings.read(Settings)
        try:
            privacy = Privacy(Pseudonymiser(config.pseudonym_key), config.pseudonymise_fields)
        except ValueError as exc:
            raise settings.InvalidSetting(f"RATCHET_PSEUDONYMISE_FIELDS is wrong: {exc}") from exc
        # Workers may share the port, with each other and nobody else.
        opened = serving.listen(config.at.host, config.at.port, "RATCHET_COLLECTOR_PORT", share=config.supervisor != 0)
    except Permanent as exc:
        print(f"ratchet collector: {exc}", file=sys.stderr)
        sys.exit(2)
    logs.set_up(config.log_level)
    if config.workers > 1 and not config.supervisor:
        sys.exit(_supervise(config, opened))
    _log.info("collector_started", **settings.shown(config))
    topics = Topics(config.kafka.topic_prefix)
    producer = FrameProducer(
        config.kafka.bootstrap, (topics.events, topics.dead), client_id="ratchet-collector",
        max_bytes_in_flight=config.max_bytes_in_flight, ack_timeout_s=config.ack_timeout_s, linger_s=config.linger_s,
        one_per_record=config.one_per_record)
    gateway = Gateway(producer, topics, max_requests=config.max_requests, max_request_bytes=config.max_request_bytes)
    shared = Shared(gateway=gateway, keys=config.collect_keys, privacy=privacy,
                    now_ms=lambda: time.time_ns() // 1_000_000, new_id=lambda: f"gen_{uuid.uuid4().hex}")
    sizes = app.Sizes(segment=(config.segment_max_body_bytes, config.segment_max_event_bytes),
                      posthog=(config.posthog_max_body_bytes, config.posthog_max_event_bytes),
                      cloudevents=(config.cloudevents_max_body_bytes, config.cloudevents_max_event_bytes))
    # What exists now lives as long as the process, and a batch makes thousands of short-lived objects: with Python's
    # defaults the collector of garbage takes 15 % of the time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    try:
        if config.supervisor:
            _await_kafka(producer)
        serving.serve(app.build(shared, sizes=sizes, allow_origins=config.allow_origins, live=producer.alive,
                            metrics=workers.metrics), opened, drain_s=config.drain_s,
                  doom=lambda: (workers.supervisor_fault(config.supervisor)
                                or ("" if producer.alive() else producer.fault())))
    except Permanent as exc:
        _log.error("collector_must_restart", fault=str(exc))
        sys.exit(1)
    finally:
        lost = producer.close()
        _log.info("collector_stopped", unacknowledged=lost)


def _await_kafka(producer: FrameProducer) -> None:
    """Give Kafka a moment: until this process takes connections, its siblings get them."""
    until_s = time.monotonic() + 2.0
    while producer.fault() and producer.alive() and time.monotonic() < until_s:
        time.sleep(0.02)


def _supervise(config: Settings, opened: socket.socket) -> int:
    """Run several workers on the port that was opened to see whether it is free."""
    host, port = opened.getsockname()[:2]
    opened.close()
    # Bound and not listening, it takes no connection, and keeps the port while no worker has it.
    with serving.bound(host, port, share=True):
        _log.info("collector_workers_started", workers=config.workers, port=port)
        return workers.supervise(workers.command(), os.environ | {"RATCHET_COLLECTOR_PORT": str(port)}, config.workers,
                                 stop_s=config.drain_s + 10.0)
