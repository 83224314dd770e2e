"""The processor's settings."""

from dataclasses import dataclass
from pathlib import Path

from shared.ports import USUAL
from shared.settings import group, positive, setting
from shared.surroundings import Address, Kafka, Postgres, log_level, loops_dir


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Read in ``main.py`` from the environment; what each field means stands beside it."""

    at: Address = group(Address(port=USUAL["processor"]), of="PROCESSOR")
    kafka: Kafka = group()
    postgres: Postgres = group()
    loops_dir: Path = loops_dir()
    log_level: str = log_level()
    instance: str = setting("RATCHET_PROCESSOR_INSTANCE", "processor-1",
                            "This worker's name in the consumer group. Workers that run at once need different ones; "
                            "one that restarts under its old name has its partitions back within about 2 s.")
    max_records: int = setting("RATCHET_PROCESSOR_MAX_RECORDS", 200,
                               "Kafka records in one transaction, at most; each may hold many events.",
                               check=positive)
    max_bytes: int = setting("RATCHET_PROCESSOR_MAX_BYTES", 8 * 1024 * 1024,
                             "Bytes of Kafka records in one transaction, about; bounds its time and the memory.",
                             check=positive)
    linger_s: float = setting("RATCHET_PROCESSOR_LINGER_S", 0.02,
                              "How long an idle worker waits for more records to share a transaction, in seconds.")
    patience_s: float = setting("RATCHET_PROCESSOR_PATIENCE_S", 60.0,
                                "How long Postgres may be away before the process ends, in seconds.", check=positive)
    mature_every_s: float = setting("RATCHET_PROCESSOR_MATURE_EVERY_S", 0.5,
                                    "How often predictions whose window has closed are looked for, in seconds.",
                                    check=positive)
    session_timeout_s: float = setting("RATCHET_PROCESSOR_SESSION_TIMEOUT_S", 10.0,
                                       "After how long without a sign of life other workers take its partitions, in "
                                       "seconds. Not less than the broker's group.min.session.timeout.ms.",
                                       check=positive)
    accept_loss: bool = setting("RATCHET_PROCESSOR_ACCEPT_LOSS", False,
                                "Go on from the first record Kafka still holds where records are lost, instead of "
                                "stopping. For one start, by an operator who has read why it stopped.")
