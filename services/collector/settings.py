"""The collector's settings."""

from dataclasses import dataclass

from services.collector.privacy import DEFAULT_FIELDS
from shared.ports import USUAL
from shared.settings import Keys, group, positive, setting
from shared.surroundings import Address, Kafka, log_level, pseudonym_key


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Read once by ``main.py``; see each description."""

    at: Address = group(Address(port=USUAL["collector"]), of="COLLECTOR")
    kafka: Kafka = group()
    log_level: str = log_level()
    collect_keys: Keys = setting("RATCHET_COLLECT_KEYS", doc="Write keys, name:key,name:key; the name is the project.",
                                 secret=True)
    pseudonym_key: str = pseudonym_key()
    pseudonymise_fields: tuple[str, ...] = setting(
        "RATCHET_PSEUDONYMISE_FIELDS", DEFAULT_FIELDS,
        "Dotted paths of fields that are replaced by keyed hashes, by commas. Users' ids always are.")
    allow_origins: tuple[str, ...] = setting(
        "RATCHET_COLLECTOR_ALLOW_ORIGINS", ("*",), "Web origins that may send events from a browser, by commas.")
    one_per_record: bool = setting(
        "RATCHET_COLLECTOR_ONE_PER_RECORD", False,
        "Write one event per Kafka record, keyed by subject, for consumers that know no frames; 4 times slower.")
    linger_s: float = setting("RATCHET_COLLECTOR_LINGER_S", 0.003, "How long events are gathered into a frame, s.")
    ack_timeout_s: float = setting(
        "RATCHET_COLLECTOR_ACK_TIMEOUT_S", 0.8,
        "How long a request waits for Kafka before it is answered with 503, s.", check=positive)
    max_bytes_in_flight: int = setting(
        "RATCHET_COLLECTOR_MAX_BYTES_IN_FLIGHT", 64 << 20,
        "Bytes of events that may wait for Kafka; beyond it requests are answered with 503.", check=positive)
    max_requests: int = setting(
        "RATCHET_COLLECTOR_MAX_REQUESTS", 1000, "Requests under way at once; beyond it the answer is 503.",
        check=positive)
    max_request_bytes: int = setting(
        "RATCHET_COLLECTOR_MAX_REQUEST_BYTES", 64 << 20,
        "Bytes of bodies being received at once; beyond it the answer is 503.", check=positive)
    segment_max_body_bytes: int = setting(
        "RATCHET_SEGMENT_MAX_BODY_BYTES", 4 << 20,
        "Largest /v1 body, packed and unpacked. Segment sends up to 500 KB, RudderStack up to 4 MB.", check=positive)
    segment_max_event_bytes: int = setting("RATCHET_SEGMENT_MAX_EVENT_BYTES", 32 << 10, "Largest /v1 event, bytes.",
                                           check=positive)
    posthog_max_body_bytes: int = setting(
        "RATCHET_POSTHOG_MAX_BODY_BYTES", 6 << 20,
        "Largest PostHog body. The SDKs stop a batch at 5 MiB.", check=positive)
    posthog_max_event_bytes: int = setting(
        "RATCHET_POSTHOG_MAX_EVENT_BYTES", 900 << 10,
        "Largest PostHog event, bytes. Kafka takes records up to 1 MiB.", check=positive)
    cloudevents_max_body_bytes: int = setting("RATCHET_CLOUDEVENTS_MAX_BODY_BYTES", 4 << 20,
                                              "Largest /events body, bytes.", check=positive)
    cloudevents_max_event_bytes: int = setting(
        "RATCHET_CLOUDEVENTS_MAX_EVENT_BYTES", 256 << 10,
        "Largest CloudEvent, bytes. The specification wants 64 KiB or more.", check=positive)
    workers: int = setting(
        "RATCHET_COLLECTOR_WORKERS", 1,
        "Processes that share the port. Each takes up to a core; the bounds above are those of each.", check=positive)
    supervisor: int = setting("RATCHET_COLLECTOR_SUPERVISOR", 0,
                              "Set by the collector for its workers: the process with which they end.")
    drain_s: float = setting("RATCHET_COLLECTOR_DRAIN_S", 10.0,
                             "How long requests under way may take after SIGTERM, s.", check=positive)
