"""Says who holds a port that we should listen on."""

from collections.abc import Mapping

import psutil

from schemas.errors import Permanent
from shared.ports import is_free


class PortTaken(Permanent):
    """Something else listens where we should; names the port, the variable and, where known, the process."""


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
