"""The collector's settings."""

from dataclasses import dataclass

from services.collector.privacy import DEFAULT_FIELDS
from shared.settings import Keys, port, positive, setting


@dataclass(frozen=True)
class Settings:
    """Read once by ``main.py``; see each description."""

    collect_keys: Keys = setting("RATCHET_COLLECT_KEYS", doc="Write keys, name:key,name:key; the name is the project.",
                                 secret=True)
    pseudonym_key: str = setting("RATCHET_PSEUDONYM_KEY", doc="Secret of the pseudonyms, 16 characters or more.",
                                 secret=True,
                                 check=lambda key: None if len(key) >= 16 else "it is shorter than 16 characters")
    kafka: str = setting("RATCHET_KAFKA_BOOTSTRAP", "127.0.0.1:9092", "Kafka's host:port, several by commas.")
    topic_prefix: str = setting("RATCHET_TOPIC_PREFIX", "ratchet", "What the topics' names begin with.")
    host: str = setting("RATCHET_COLLECTOR_HOST", "127.0.0.1", "Address to listen on.")
    port: int = setting("RATCHET_COLLECTOR_PORT", 8080, "TCP port to listen on.", check=port)
    log_level: str = setting("RATCHET_LOG_LEVEL", "INFO", "DEBUG, INFO, WARNING or ERROR.")
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
