"""What inference is told from outside."""

from dataclasses import dataclass
from pathlib import Path

from shared.settings import Keys, port, positive, setting


@dataclass(frozen=True)
class Settings:
    """Read once, in ``main.py``."""

    pseudonym_key: str = setting(
        "RATCHET_PSEUDONYM_KEY", doc="The secret that turns user ids into subjects; as the collector's.", secret=True,
        check=lambda key: None if len(key) >= 16 else "is shorter than 16 characters")
    infer_keys: Keys = setting(
        "RATCHET_INFER_KEYS", doc="name:key pairs, comma separated, of those who may ask for predictions.",
        secret=True)
    artifacts_dir: Path = setting("RATCHET_ARTIFACTS_DIR", doc="The registry's durable copy.")
    operate_keys: Keys = setting(
        "RATCHET_OPERATE_KEYS", Keys(), "name:key pairs of operators; they may ask too.", secret=True)
    host: str = setting("RATCHET_INFERENCE_HOST", "127.0.0.1", "Address to listen on.")
    port: int = setting("RATCHET_INFERENCE_PORT", 8081, "TCP port to listen on.", check=port)
    redis_url: str = setting("RATCHET_REDIS_URL", "redis://127.0.0.1:6379/0", "Redis of the registry.", secret=True)
    kafka_bootstrap: str = setting("RATCHET_KAFKA_BOOTSTRAP", "127.0.0.1:9092", "Kafka, host:port,host:port.")
    topic_prefix: str = setting("RATCHET_TOPIC_PREFIX", "ratchet", "Prefix of the topics' names.")
    loops_dir: Path = setting("RATCHET_LOOPS_DIR", Path("examples/loops"), "Directory of the loop files.")
    device: str = setting("RATCHET_DEVICE", "auto", "auto, cpu or cuda.",
                          check=lambda name: None if name in ("auto", "cpu", "cuda") else f"{name!r} is none of them")
    n_threads: int = setting("RATCHET_INFERENCE_THREADS", 0, "Threads for one forward pass; 0: torch decides.",
                             check=lambda n: None if 0 <= n <= 256 else f"{n} is not 0 to 256")
    max_batch: int = setting("RATCHET_INFERENCE_MAX_BATCH", 32, "Texts in one forward pass, at most.",
                             check=positive)
    max_waiting: int = setting("RATCHET_INFERENCE_MAX_WAITING", 512,
                               "Texts that may wait for a forward pass; more are answered with 503.", check=positive)
    max_wait_s: float = setting(
        "RATCHET_INFERENCE_MAX_WAIT_S", 5.0, "Seconds a request may wait for its forward pass; then it gets 503.",
        check=positive)
    max_request_bytes: int = setting(
        "RATCHET_INFERENCE_MAX_REQUEST_BYTES", 128 << 20,
        "Bytes of bodies being received at once; beyond it the answer is 503.", check=positive)
    log_max_bytes: int = setting(
        "RATCHET_INFERENCE_LOG_MAX_BYTES", 64 << 20,
        "Bytes of predictions kept while Kafka is away; beyond it they are answered but lost, and counted.",
        check=positive)
    replica: str = setting("RATCHET_REPLICA", "", "This replica's name in the registry; empty: host name and port.")
    log_level: str = setting("RATCHET_LOG_LEVEL", "INFO", "DEBUG, INFO, WARNING or ERROR.")
