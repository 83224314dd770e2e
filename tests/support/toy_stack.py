"""``ratchet up`` with toy services, real servers, and everything else as it is."""

import os
import sys
from pathlib import Path

from schemas.errors import RatchetError
from services.stack.settings import Settings
from services.stack.supervisor import Supervisor
from shared.settings import read

SERVICE = Path(__file__).with_name("toy_service.py")


def main() -> int:
    """Run until SIGTERM, saying what happens on standard output."""
    def say(line: str) -> None:
        print(line, flush=True)

    try:
        Supervisor(read(Settings, os.environ), say, program=(sys.executable, "-P", str(SERVICE))).run()
    except RatchetError as exc:
        print(f"failed: {exc}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
