"""TCP ports: the usual ones of every part, and whether one is free."""

import errno
import socket
from collections.abc import Mapping
from types import MappingProxyType

from schemas.errors import Permanent

HOST = "127.0.0.1"
# What each part listens on when nobody says otherwise; ``variable`` names the setting that does.
USUAL: Mapping[str, int] = MappingProxyType({
    "collector": 8080, "inference": 8081, "processor": 8082, "trainer": 8083, "kafka": 9092, "postgres": 5432,
    "redis": 6379,
})


def variable(part: str) -> str:
    """Return the environment variable that sets the port of a part."""
    return f"RATCHET_{part.upper()}_PORT"


def cannot_listen(host: str, port: int, variable: str, exc: OSError) -> Permanent:
    """Return the error that a service ends with when it cannot open its port, most often because another has it."""
    return Permanent(f"cannot listen on {host}:{port}: {exc.strerror or exc}; choose another port by {variable}")


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def is_free(port: int) -> bool:
    """Tell whether we could listen on a port of 127.0.0.1 now."""
    with socket.socket() as probe:
        # Without it a port whose last connections are in TIME_WAIT looks taken for a minute after a stop.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as exc:
            if exc.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True
