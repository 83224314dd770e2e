"""Kafka's jars: fetched once through jgo, each of them checked against a hash that the project pins.

jgo's own resolution is used only to write the pins (``python -m services.stack.jars > services/stack/kafka.jars``).
At run time each pinned file is fetched by its exact version: resolving Kafka and log4j as one composite has silently
given kafka-clients 3.9.1 beside a 4.x broker, and a resolution that needs no network cannot drift.
"""

import hashlib
import logging
import os
import queue
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import Permanent, Transient
from services.stack.process import NEVER, STOP_POLL_S, Say, Stopped

KAFKA_VERSION = "4.3.1"
LOG4J_VERSION = "2.25.4"
PINS = Path(__file__).with_name("kafka.jars")
N_DOWNLOADS = 8
N_ATTEMPTS = 3
TIMEOUT_S = 30
_SCRATCH = ".fetch-"
_ABANDONED_S = 3600


@dataclass(frozen=True)
class Jar:
    """One pinned file."""

    group: str
    artifact: str
    version: str
    n_bytes: int
    sha256: str

    @property
    def file_name(self) -> str:
        """Its name in the cache."""
        return f"{self.artifact}-{self.version}.jar"


def pins(text: str | None = None) -> list[Jar]:
    """Read the pins: lines of ``group:artifact:version bytes sha256``."""
    lines = (PINS.read_text(encoding="utf-8") if text is None else text).splitlines()
    jars = []
    for line in lines:
        if line and not line.startswith("#"):
            coordinate, n_bytes, digest = line.split()
            group, artifact, version = coordinate.split(":")
            jars.append(Jar(group, artifact, version, int(n_bytes), digest))
    return jars


def cache_dir() -> Path:
    """Return the user's cache: RATCHET_CACHE_DIR, else ``ratchet`` under XDG_CACHE_HOME or ``~/.cache``."""
    named = os.environ.get("RATCHET_CACHE_DIR")
    if named:
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ratchet"


def classpath(say: Say, cache: Path | None = None, stop: threading.Event = NEVER) -> str:
    """Return Kafka's class path; what is missing or damaged in the cache is fetched, and every jar is checked.

    Raises:
        Transient: A jar could not be fetched.
        Permanent: A fetched jar is not the pinned one.
        Stopped: It was asked to stop first.
    """
    return os.pathsep.join(map(str, fetched(pins(), say, cache, stop)))


def fetched(wanted: Sequence[Jar], say: Say, cache: Path | None = None, stop: threading.Event = NEVER) -> list[Path]:
    """Return pinned jars' files; what is missing or damaged in the cache is fetched. Raises as ``classpath``."""
    folder = (cache or cache_dir()) / f"kafka-{KAFKA_VERSION}"
    folder.mkdir(parents=True, exist_ok=True)
    missing = [jar for jar in wanted if not _intact(folder / jar.file_name, jar)]
    if missing:
        _fetch_all(missing, folder, say, stop)
    return [folder / jar.file_name for jar in wanted]


def _intact(file: Path, jar: Jar) -> bool:
    try:
        return file.stat().st_size == jar.n_bytes and _sha256(file) == jar.sha256
    except FileNotFoundError:
        return False


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _fetch_all(missing: list[Jar], folder: Path, say: Say, stop: threading.Event) -> None:
    _sweep(folder)
    total_mb = sum(jar.n_bytes for jar in missing) / 1e6
    say(f"fetching Kafka {KAFKA_VERSION}: {len(missing)} jars, {total_mb:.0f} MB, once, into {folder}")
    done_mb, shown_percent = 0.0, 0
    waiting: queue.SimpleQueue[Jar] = queue.SimpleQueue()
    for jar in missing:
        waiting.put(jar)
    fetched: queue.SimpleQueue[Jar | Exception] = queue.SimpleQueue()
    over = threading.Event()
    # Daemons, and no pool: nobody waits for a download that is stuck, neither here nor when the process ends.
    for _ in range(min(N_DOWNLOADS, len(missing))):
        threading.Thread(target=_fetch_some, args=(waiting, fetched, over, folder), daemon=True).start()
    try:
        for _ in missing:
            result = _next(fetched, stop)
            if isinstance(result, Exception):
                raise result
            done_mb += result.n_bytes / 1e6
            percent = int(100 * done_mb / total_mb)
            if percent >= shown_percent + 20:
                shown_percent = percent
                say(f"fetching Kafka: {done_mb:.0f} of {total_mb:.0f} MB")
    finally:
        over.set()


def _fetch_some(waiting: "queue.SimpleQueue[Jar]", fetched: "queue.SimpleQueue[Jar | Exception]",
                over: threading.Event, folder: Path) -> None:
    while not over.is_set():
        try:
            jar = waiting.get_nowait()
        except queue.Empty:
            return
        try:
            _fetch(jar, folder)
            fetched.put(jar)
        except Exception as exc:  # noqa: BLE001 - raised again by the thread that waits
            fetched.put(exc)


def _next(fetched: "queue.SimpleQueue[Jar | Exception]", stop: threading.Event) -> Jar | Exception:
    while not stop.is_set():
        try:
            return fetched.get(timeout=STOP_POLL_S)
        except queue.Empty:
            continue
    raise Stopped


def _sweep(folder: Path) -> None:
    """Take away what an interrupted fetch left; another one may be under way in the same cache."""
    for scratch in folder.glob(_SCRATCH + "*"):
        if scratch.stat().st_mtime < time.time() - _ABANDONED_S:
            shutil.rmtree(scratch, ignore_errors=True)


def _fetch(jar: Jar, folder: Path) -> None:
    import requests
    from jgo.maven import MavenContext

    logging.getLogger("jgo").setLevel(logging.ERROR)
    fault: Exception | None = None
    for _ in range(N_ATTEMPTS):
        # jgo writes in place and only warns about a wrong checksum: hence a folder of its own, a check, a rename.
        scratch = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=folder))
        try:
            context = MavenContext(repo_cache=scratch, timeout=TIMEOUT_S)
            fetched = context.project(jar.group, jar.artifact).at_version(jar.version).artifact().resolve()
            if _intact(fetched, jar):
                fetched.replace(folder / jar.file_name)
                return
            raise Permanent(f"{jar.file_name} as fetched has SHA-256 {_sha256(fetched)}, but {PINS.name} pins "
                            f"{jar.sha256}; it was not used")
        except (requests.RequestException, RuntimeError, OSError) as exc:
            fault = exc
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    raise Transient(f"{jar.file_name} could not be fetched: {fault}; is the Maven repository reachable?") from fault


def resolve() -> Iterable[Jar]:
    """Resolve Kafka and its log back end anew through jgo and hash what it fetches. Needs the network."""
    import jgo

    found: dict[tuple[str, str], str] = {}
    for endpoint in (f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}",
                     f"org.apache.logging.log4j:log4j-slf4j-impl:{LOG4J_VERSION}"):
        for artifact in jgo.resolve(endpoint):
            version = found.setdefault((artifact.groupId, artifact.artifactId), artifact.version)
            if version != artifact.version:
                raise Permanent(f"{artifact.artifactId} would be both {version} and {artifact.version}")
    with tempfile.TemporaryDirectory() as scratch:
        from jgo.maven import MavenContext

        context = MavenContext(repo_cache=Path(scratch), timeout=TIMEOUT_S)
        for (group, name), version in sorted(found.items()):
            file = context.project(group, name).at_version(version).artifact().resolve()
            yield Jar(group, name, version, file.stat().st_size, _sha256(file))


if __name__ == "__main__":
    sys.stdout.write(f"# Kafka {KAFKA_VERSION} and log4j {LOG4J_VERSION}: group:artifact:version bytes sha256\n")
    for line in resolve():
        sys.stdout.write(f"{line.group}:{line.artifact}:{line.version} {line.n_bytes} {line.sha256}\n")
