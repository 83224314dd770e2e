"""What the registry answers with, and how it refuses.

    Invalid   ── NotFound   the version, or its weights, do not exist
    Permanent ── Corrupt    stored bytes are not what their digest says
    RatchetError ── Conflict   somebody else changed the alias, or it is pinned
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from schemas.errors import Invalid, Permanent, RatchetError

ALIASES = ("champion", "previous", "canary", "shadow", "pinned")


class NotFound(Invalid):
    """The registry has no such version, or its weights were collected."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="not_found")


class Corrupt(Permanent):
    """Stored bytes are damaged or missing, in Redis and in the artifact directory alike; nothing of them is used."""


class Conflict(RatchetError):
    """A change was refused: the aliases moved meanwhile, the loop is pinned, or there is nothing to go back to."""


@dataclass(frozen=True)
class Bounds:
    """How much of a loop is kept; never less than what has weights, and what an alias or a replica names.

    Attributes:
        n_manifests: The newest versions whose manifests stay, besides those that have weights or that anything names.
        n_entries: The newest log entries that stay; the artifact directory's journal keeps all of them.
        n_archived: The newest versions whose manifests stay in the artifact directory: at 30 KB each 3 GB.
    """

    n_manifests: int = 1000
    n_entries: int = 10_000
    n_archived: int = 100_000


@dataclass(frozen=True)
class Aliases:
    """Which version plays which part in one loop; None where no version does.

    Attributes:
        champion: Serves.
        previous: Served before; the target of a rollback, so replicas keep it loaded.
        canary: Serves a share of the traffic.
        shadow: Answers beside the champion without being heard.
        pinned: Holds the champion until an operator unpins it.
        epoch: Grows with every change of an alias; a replica refuses an older one.
    """

    champion: str | None = None
    previous: str | None = None
    canary: str | None = None
    shadow: str | None = None
    pinned: str | None = None
    epoch: int = 0

    def named(self) -> set[str]:
        """The versions that any alias names."""
        return {version for name in ALIASES if (version := getattr(self, name)) is not None}


@dataclass(frozen=True)
class LogEntry:
    """One line of a loop's append-only log.

    Attributes:
        id: The stream id, ``<ms>-<n>``; grows.
        action: published, promoted, rolled_back, pinned, unpinned, assigned, restored, or what ``record`` was given.
        version: The version it is about; None when it is about none.
        before, after: The champion before and after; for ``assigned`` the canary or shadow.
        epoch: The epoch after it.
        fields: More, as text, for example the gate's numbers.
    """

    id: str
    time_ms: int
    action: str
    actor: str
    reason: str
    version: str | None
    before: str | None
    after: str | None
    epoch: int
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Replica:
    """What one inference process said that it serves.

    Attributes:
        digest: SHA-256 of the manifest it serves.
        seen_ms: When it said so, ms since the epoch, by its own clock.
    """

    name: str
    version: str
    digest: str
    epoch: int
    seen_ms: int


@dataclass(frozen=True)
class Restored:
    """What a restore of one loop found and did.

    Attributes:
        n_versions: Versions whose manifests are in Redis now.
        n_blobs: Tensors that had to be written; those already there do not count.
        n_entries: Log entries that had to be written.
        damaged: Files of the artifact directory that were not usable, by path, with the reason.
    """

    loop: str
    n_versions: int
    n_blobs: int
    n_entries: int
    champion: str | None
    epoch: int
    damaged: Mapping[str, str]


def number_of(version: str) -> int:
    """Return the number of a version name: 12 for ``v12``.

    Raises:
        NotFound: It is no version name.
    """
    if not version.startswith("v") or not version[1:].isascii() or not version[1:].isdigit():
        raise NotFound(f"{version!r} is not a version: versions are named v1, v2, ...")
    return int(version[1:])


def refuse(verdict: str, detail: str, loop: str, version: str) -> None:
    """Raise what a verdict of the script that changes aliases means; return when it was no refusal.

    Raises:
        NotFound, Conflict: With what to do about it.
    """
    match verdict:
        case "unknown":
            raise NotFound(f"loop {loop} has no version {version}")
        case "collected":
            raise NotFound(f"the weights of loop {loop} version {version} were collected; it cannot serve again")
        case "pinned":
            raise Conflict(f"loop {loop} is pinned to {detail}: unpin it first, or force")
        case "moved":
            raise Conflict(f"the aliases of loop {loop} have moved on to epoch {detail}: look again, then decide")
        case "nothing":
            raise Conflict(f"loop {loop} has no version to go to")
        case _:
            return
