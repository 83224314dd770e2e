"""What surrounds a service: the settings that several of them have in common, a group for each thing.

A service includes what it uses::

    @dataclass(frozen=True, kw_only=True)
    class Settings:
        at: Address = group(Address(port=USUAL["collector"]), of="COLLECTOR")
        kafka: Kafka = group()
        log_level: str = log_level()
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.ports import HOST, USUAL
from shared.settings import port, setting

_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
_DEVICES = ("auto", "cpu", "cuda")
_MIN_KEY_CHARS = 16


def topic_prefix() -> Any:
    """Declare how the topics are named."""
    return setting("RATCHET_TOPIC_PREFIX", "ratchet", "What the topics' names begin with. Topics that are made anew "
                   "need a new one: the fences know the old ones by their names.")


def loops_dir() -> Any:
    """Declare the folder of the loop files."""
    return setting("RATCHET_LOOPS_DIR", Path("examples/loops"), "Folder of the loop files, *.toml; the same for every "
                   "service.")


def log_level() -> Any:
    """Declare how much is logged."""
    return setting("RATCHET_LOG_LEVEL", "INFO", "DEBUG, INFO, WARNING or ERROR.", check=_one_of(_LEVELS))


def device() -> Any:
    """Declare where models run."""
    return setting("RATCHET_DEVICE", "auto", "cpu, cuda, or auto: a GPU where there is one.", check=_one_of(_DEVICES))


def pseudonym_key() -> Any:
    """Declare the secret that turns users into subjects."""
    return setting("RATCHET_PSEUDONYM_KEY", doc=f"Secret of the pseudonyms, {_MIN_KEY_CHARS} characters or more. "
                   "Collector and inference need the same one, or one user is two subjects.", secret=True,
                   check=lambda key: None if len(key) >= _MIN_KEY_CHARS else
                   f"it is shorter than {_MIN_KEY_CHARS} characters")


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where a service answers."""

    host: str = setting("RATCHET_*_HOST", HOST, "Address to listen on. 127.0.0.1 answers this machine only, since not "
                        "everything here asks for a key; 0.0.0.0 answers all.")
    port: int = setting("RATCHET_*_PORT", doc="TCP port to listen on; 0: any free one.", check=port)


@dataclass(frozen=True, kw_only=True)
class Kafka:
    """Where the log is, and which topics of it are ours."""

    bootstrap: str = setting("RATCHET_KAFKA_BOOTSTRAP", f"{HOST}:{USUAL['kafka']}",
                             "Kafka's host:port, several by commas; one that answers is enough to find the others.")
    topic_prefix: str = topic_prefix()


@dataclass(frozen=True, kw_only=True)
class Postgres:
    """Where events, predictions and examples are kept."""

    url: str = setting("RATCHET_POSTGRES_URL", doc="postgresql://user:password@host:port/database; no default, so "
                       "that nothing is written where nobody said.", secret=True)


@dataclass(frozen=True, kw_only=True)
class Registry:
    """Where the versions are kept."""

    artifacts_dir: Path = setting("RATCHET_ARTIFACTS_DIR", doc="Folder of the registry's durable copy; the same for "
                                  "trainer and inference. No default: what Redis loses is restored from it.")
    redis_url: str = setting("RATCHET_REDIS_URL", f"redis://{HOST}:{USUAL['redis']}/0",
                             "redis://:password@host:port/database.", secret=True)


def _one_of(allowed: tuple[str, ...]) -> Any:
    return lambda value: None if value in allowed else f"{value!r} is none of {', '.join(allowed)}"
