"""Stands for one of Ratchet's services where only the supervisor is tested: ready at once, ends on SIGTERM."""

import os
import signal
import sys
from types import FrameType

from shared.ports import HOST, variable
from shared.probe import Probe


def main() -> int:
    """Run until SIGTERM; TOY_<NAME>=wrong-setting makes it end as a service does whose settings are wrong."""
    name = sys.argv[1]
    if name == "registry":
        print(f"restored {os.environ['RATCHET_ARTIFACTS_DIR']}")
        return 0
    if os.environ.get(f"TOY_{name.upper()}") == "wrong-setting":
        print("RATCHET_TOY is wrong: no toy is this big", file=sys.stderr)
        return 2
    port = variable(name)
    probe = Probe(HOST, int(os.environ[port]), port, dict)
    probe.start()
    stop: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        stop.append(number)

    signal.signal(signal.SIGTERM, ask)
    while not stop:
        signal.pause()
    print(f"{name} drained", flush=True)
    probe.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
