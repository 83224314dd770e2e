"""The model registry: versions in Redis, backed by a durable artifact directory."""

from shared.registry.registry import Registry
from shared.registry.values import Aliases, Bounds, Conflict, Corrupt, LogEntry, NotFound, Replica, Restored

__all__ = ["Aliases", "Bounds", "Conflict", "Corrupt", "LogEntry", "NotFound", "Registry", "Replica", "Restored"]
