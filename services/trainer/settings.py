"""What the trainer is told from outside."""

from dataclasses import dataclass
from pathlib import Path

from shared.ports import USUAL
from shared.settings import group, positive, setting
from shared.surroundings import Address, Postgres, Registry, device, log_level, loops_dir


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Read once, in ``main.py``."""

    at: Address = group(Address(port=USUAL["trainer"]), of="TRAINER")
    postgres: Postgres = group()
    registry: Registry = group()
    loops_dir: Path = loops_dir()
    log_level: str = log_level()
    device: str = device()
    n_threads: int = setting("RATCHET_TRAINER_THREADS", 1, "Threads for the analytic head, and for a fine-tune's "
                             "process. On a small machine more would slow serving down.", check=positive)
    n_processes: int = setting("RATCHET_TRAINER_PROCESSES", 0, "Processes that share one fine-tune; 0: one per GPU, "
                               "or one.", check=lambda n: None if 0 <= n <= 64 else f"{n} is not 0 to 64")
    update_every_s: float = setting("RATCHET_TRAINER_UPDATE_EVERY_S", 0.5, "Least time between the starts of two "
                                    "updates, in seconds; after one it rests as long as it worked.",
                                    check=positive)
    snapshot_every_s: float = setting("RATCHET_TRAINER_SNAPSHOT_EVERY_S", 60.0, "Least time between two snapshots of "
                                      "the sums, in seconds; a start reads what came after the last.", check=positive)
    keep_versions: int = setting("RATCHET_TRAINER_KEEP_VERSIONS", 20, "How many of the newest versions keep their "
                                 "weights, 1 to 1000; those that an alias or a replica names keep them anyway.",
                                 check=lambda n: None if 1 <= n <= 1000 else f"{n} is not 1 to 1000")
