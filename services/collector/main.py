"""Runs the collector."""

import gc
import sys
import time
import uuid

from schemas.errors import Permanent
from schemas.topics import Topics
from services.collector import app
from services.collector.endpoints import Shared
from services.collector.gateway import Gateway
from services.collector.privacy import Privacy
from services.collector.settings import Settings
from shared import logs, settings, web
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
        opened = web.listen(config.host, config.port, "RATCHET_COLLECTOR_PORT")
    except Permanent as exc:
        print(f"ratchet collector: {exc}", file=sys.stderr)
        sys.exit(2)
    logs.set_up(config.log_level)
    _log.info("collector_started", **settings.shown(config))
    topics = Topics(config.topic_prefix)
    producer = FrameProducer(
        config.kafka, (topics.events, topics.dead), client_id="ratchet-collector",
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
        web.serve(app.build(shared, sizes=sizes, allow_origins=config.allow_origins, live=producer.alive), opened,
                  drain_s=config.drain_s, doom=lambda: "" if producer.alive() else producer.fault())
    except Permanent as exc:
        _log.error("collector_must_restart", fault=str(exc))
        sys.exit(1)
    finally:
        lost = producer.close()
        _log.info("collector_stopped", unacknowledged=lost)
