"""What ``ratchet up`` can be told through the environment."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.ports import USUAL, variable
from shared.settings import Keys, port, positive, setting
from shared.surroundings import loops_dir, topic_prefix


def _half_the_cores() -> int:
    return max(1, (os.cpu_count() or 1) // 2)


def _port(part: str, doc: str) -> Any:
    return setting(variable(part), USUAL[part], doc, check=port)


@dataclass(frozen=True)
class Settings:
    """The embedded stack's settings. A port of 0 means any free one, chosen anew at each start."""

    data_dir: Path = setting("RATCHET_DATA_DIR", Path(".data"), "Everything that the stack keeps lies here.")
    loops_dir: Path = loops_dir()
    kafka_port: int = _port("kafka", "TCP port of the embedded Kafka.")
    postgres_port: int = _port("postgres", "TCP port of the embedded Postgres.")
    redis_port: int = _port("redis", "TCP port of the embedded Redis.")
    collector_port: int = _port("collector", "TCP port of the collector.")
    inference_port: int = _port("inference", "TCP port of inference.")
    processor_port: int = _port("processor", "TCP port of the processor's health and metrics; more workers take free "
                                "ports.")
    trainer_port: int = _port("trainer", "TCP port of the trainer's health and metrics.")
    topic_prefix: str = topic_prefix()
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
        return {variable(part): number for part in USUAL if (number := getattr(self, f"{part}_port"))}
