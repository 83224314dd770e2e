"""The demo's settings."""

from dataclasses import dataclass

from shared.settings import port, setting


@dataclass(frozen=True)
class Settings:
    """Read from the environment in ``main.py``."""

    port: int = setting("RATCHET_DEMO_PORT", 8090, "TCP port of the live page; a free one when it is taken.",
                        check=port)
