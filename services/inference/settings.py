"""What inference is told from outside."""

from dataclasses import dataclass
from pathlib import Path

from shared.ports import USUAL
from shared.settings import Keys, group, positive, setting
from shared.surroundings import Address, Kafka, Registry, device, log_level, loops_dir, pseudonym_key


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Read once, in ``main.py``."""

    at: Address = group(Address(port=USUAL["inference"]), of="INFERENCE")
    kafka: Kafka = group()
    registry: Registry = group()
    loops_dir: Path = loops_dir()
    log_level: str = log_level()
    device: str = device()
    pseudonym_key: str = pseudonym_key()
    infer_keys: Keys = setting(
        "RATCHET_INFER_KEYS", doc="name:key pairs, comma separated, of those who may ask for predictions.",
        secret=True)
    operate_keys: Keys = setting(
        "RATCHET_OPERATE_KEYS", Keys(), "name:key pairs of operators; they may ask too.", secret=True)
    n_threads: int = setting("RATCHET_INFERENCE_THREADS", 0, "Cores that forward passes may use; 0: all.",
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
