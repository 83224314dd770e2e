"""TCP ports: finding free ones, and saying who holds a taken one."""

import errno
import socket
from collections.abc import Mapping

import psutil

from schemas.errors import Permanent

HOST = "127.0.0.1"


class PortTaken(Permanent):
    """Something else listens where we should; names the port, the variable and, where known, the process."""


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


def holder(port: int) -> str:
    """Describe the process that listens on a port, or return '' when it cannot be known."""
    try:
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return f"{psutil.Process(connection.pid).name()}, pid {connection.pid}"
    except psutil.Error:
        return ""
    return ""


def require_free(ports: Mapping[str, int]) -> None:
    """Check that every port is free and that no two are the same, before anything starts.

    Args:
        ports: Port by the environment variable that sets it.

    Raises:
        PortTaken: Names every port that is not free.
    """
    faults: list[str] = []
    seen: dict[int, str] = {}
    for variable, port in ports.items():
        if port in seen:
            faults.append(f"{variable} and {seen[port]} are both {port}")
        elif not is_free(port):
            who = holder(port)
            faults.append(f"port {port} is taken{f' by {who}' if who else ''}; set {variable} to another port"
                          " (0 picks a free one)")
        seen[port] = variable
    if faults:
        raise PortTaken("; ".join(faults))
