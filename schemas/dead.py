"""A dead letter: input that can never be processed, with the reason, as written to ``ratchet.dead``."""

import hashlib

import msgspec


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One refused input.

    Attributes:
        id: ``dl_`` and 32 hex digits, or derived from where it came from, so that writing it twice is once.
        stage: Who refused it: ``collector`` or ``processor``.
        code: The reason code, as in ``Invalid.code``.
        path: The dotted path of the offending field; empty when it is the whole input.
        message: What was wrong, in a sentence.
        time_ms: When it was refused, ms since the epoch.
        project: The write key's name; empty when unknown.
        payload: The input as JSON text, pseudonymised where it could be parsed, cut at 32 KiB.
        origin: Where it came from: an HTTP path, or ``topic/partition/offset``.
    """

    id: str
    stage: str
    code: str
    message: str
    time_ms: int
    path: str = ""
    project: str = ""
    payload: str = ""
    origin: str = ""


def letter_id(identity: str) -> str:
    """Return the id of the dead letter of what this text identifies; the same each time, so that twice is once."""
    return f"dl_{hashlib.sha256(identity.encode()).hexdigest()[:32]}"
