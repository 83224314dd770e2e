"""What ``ratchet up`` can be told through the environment."""

import os
from dataclasses import dataclass
from pathlib import Path

from shared.settings import Keys, port, positive, setting


def _half_the_cores() -> int:
    return max(1, (os.cpu_count() or 1) // 2)


@dataclass(frozen=True)
class Settings:
    """The embedded stack's settings. A port of 0 means any free one, chosen anew at each start."""

    data_dir: Path = setting("RATCHET_DATA_DIR", Path(".data"), "Everything that the stack keeps lies here.")
    loops_dir: Path = setting("RATCHET_LOOPS_DIR", Path("examples/loops"), "The loop files.")
    kafka_port: int = setting("RATCHET_KAFKA_PORT", 9092, "TCP port of the embedded Kafka.", check=port)
    postgres_port: int = setting("RATCHET_POSTGRES_PORT", 5432, "TCP port of the embedded Postgres.", check=port)
    redis_port: int = setting("RATCHET_REDIS_PORT", 6379, "TCP port of the embedded Redis.", check=port)
    collector_port: int = setting("RATCHET_COLLECTOR_PORT", 8080, "TCP port of the collector.", check=port)
    inference_port: int = setting("RATCHET_INFERENCE_PORT", 8081, "TCP port of inference.", check=port)
    processor_port: int = setting("RATCHET_PROCESSOR_PORT", 8082,
                                  "TCP port of the processor's health and metrics; more workers take free ports.",
                                  check=port)
    trainer_port: int = setting("RATCHET_TRAINER_PORT", 8083, "TCP port of the trainer's health and metrics.",
                                check=port)
    topic_prefix: str = setting("RATCHET_TOPIC_PREFIX", "ratchet", "What the Kafka topics' names start with.")
    processor_workers: int = setting("RATCHET_PROCESSOR_WORKERS", 1, "How many processor processes run.",
                                     check=positive)
    inference_threads: int = setting("RATCHET_INFERENCE_THREADS", _half_the_cores(),
                                     "Threads of inference's matrix operations; 0: torch decides.")
    trainer_threads: int = setting("RATCHET_TRAINER_THREADS", _half_the_cores(),
                                   "Threads of the trainer's matrix operations.", check=positive)
    collect_keys: Keys | None = setting("RATCHET_COLLECT_KEYS", None,
                                        "Keys that may send events; None: one named app is made and kept.",
                                        secret=True)
    infer_keys: Keys | None = setting("RATCHET_INFER_KEYS", None,
                                      "Keys that may ask for predictions; None: one named app is made and kept.",
                                      secret=True)
    operate_keys: Keys | None = setting("RATCHET_OPERATE_KEYS", None,
                                        "Keys that may operate; None: one named operator is made and kept.",
                                        secret=True)
    pseudonym_key: str | None = setting("RATCHET_PSEUDONYM_KEY", None,
                                        "Keys the pseudonyms; None: one is made and kept.", secret=True)
    start_timeout_s: float = setting("RATCHET_START_TIMEOUT_S", 180.0,
                                     "Seconds until everything must be ready after the downloads.", check=positive)

    def ports(self) -> dict[str, int]:
        """Every fixed port by its variable."""
        named = {
            "RATCHET_KAFKA_PORT": self.kafka_port, "RATCHET_POSTGRES_PORT": self.postgres_port,
            "RATCHET_REDIS_PORT": self.redis_port, "RATCHET_COLLECTOR_PORT": self.collector_port,
            "RATCHET_INFERENCE_PORT": self.inference_port, "RATCHET_PROCESSOR_PORT": self.processor_port,
            "RATCHET_TRAINER_PORT": self.trainer_port,
        }
        return {variable: number for variable, number in named.items() if number}
