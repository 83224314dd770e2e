"""Logs: an event name and fields, one JSON object a line on standard error."""

import logging
import sys
import time
from typing import Any

import msgspec


class _Line(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


def set_up(level: str = "INFO") -> None:
    """Send all logs of this process to standard error as JSON lines. Called by ``main.py`` only."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Line())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for noisy in ("kafka", "faust", "mode", "httpx", "httpcore", "aiokafka"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # It logs an error for every attempt to connect, several a second while Kafka is away; shared.kafka says it once.
    logging.getLogger("kafka.net").setLevel(logging.CRITICAL)


class Log:
    """A logger whose lines are an event name and fields: ``log.info("swapped", loop=name, version=new)``."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def info(self, event: str, **fields: Any) -> None:
        """Something happened as it should."""
        self._logger.info(event, extra={"fields": fields})

    def warning(self, event: str, **fields: Any) -> None:
        """Something went wrong and was dealt with."""
        self._logger.warning(event, extra={"fields": fields})

    def error(self, event: str, *, exc: BaseException | None = None, **fields: Any) -> None:
        """Something went wrong and a person should look."""
        self._logger.error(event, extra={"fields": fields}, exc_info=exc)
