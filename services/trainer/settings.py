"""What the trainer is told from outside."""

from dataclasses import dataclass
from pathlib import Path

from shared.settings import port, positive, setting


@dataclass(frozen=True)
class Settings:
    """Read once, in ``main.py``."""

    artifacts_dir: Path = setting("RATCHET_ARTIFACTS_DIR", doc="The registry's durable copy; progress is kept there.")
    postgres_url: str = setting("RATCHET_POSTGRES_URL", doc="postgresql://user:password@host:port/database.",
                                secret=True)
    redis_url: str = setting("RATCHET_REDIS_URL", "redis://127.0.0.1:6379/0", "Redis of the registry.", secret=True)
    host: str = setting("RATCHET_TRAINER_HOST", "127.0.0.1", "Address of health and metrics.")
    port: int = setting("RATCHET_TRAINER_PORT", 8083, "TCP port of health and metrics.", check=port)
    loops_dir: Path = setting("RATCHET_LOOPS_DIR", Path("examples/loops"), "Directory of the loop files.")
    device: str = setting("RATCHET_DEVICE", "auto", "auto, cpu or cuda.",
                          check=lambda name: None if name in ("auto", "cpu", "cuda") else f"{name!r} is none of them")
    n_threads: int = setting("RATCHET_TRAINER_THREADS", 1, "Threads for the analytic head, and for a fine-tune's "
                             "process. On a small machine more would slow serving down.", check=positive)
    n_processes: int = setting("RATCHET_TRAINER_PROCESSES", 0, "Processes that share one fine-tune; 0: one per GPU, "
                               "or one.", check=lambda n: None if 0 <= n <= 64 else f"{n} is not 0 to 64")
    update_every_s: float = setting("RATCHET_TRAINER_UPDATE_EVERY_S", 0.25, "Least time between the starts of two "
                                    "updates, in seconds; after one it rests as long as it worked.",
                                    check=positive)
    snapshot_every_s: float = setting("RATCHET_TRAINER_SNAPSHOT_EVERY_S", 60.0, "Least time between two snapshots of "
                                      "the sums, in seconds; a start reads what came after the last.", check=positive)
    keep_versions: int = setting("RATCHET_TRAINER_KEEP_VERSIONS", 20, "How many of the newest versions keep their "
                                 "weights, 1 to 1000; those that an alias or a replica names keep them anyway.",
                                 check=lambda n: None if 1 <= n <= 1000 else f"{n} is not 1 to 1000")
    log_level: str = setting("RATCHET_LOG_LEVEL", "INFO", "DEBUG, INFO, WARNING or ERROR.")
