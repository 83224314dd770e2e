"""Postgres: connections, migrations and errors. The one home of psycopg's settings."""

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from typing import Any

import psycopg

from schemas.errors import Invalid, Permanent, RatchetError, Transient

Connection = psycopg.Connection[tuple[Any, ...]]
# Raised inside ``connection.transaction()``, it takes the transaction back and goes no further.
Rollback = psycopg.Rollback

# Any constant does, as long as every migrating process of one database takes the same one.
_MIGRATION_LOCK = 0x7261746368657400 >> 1
_CONNECT_TIMEOUT_S = 5
# A server that vanishes without a goodbye (power, network) is noticed after about 15 s instead of after hours.
_KEEPALIVE: dict[str, Any] = {"keepalives_idle": 5, "keepalives_interval": 5, "keepalives_count": 2,
                              "tcp_user_timeout": 15_000}

_BUSY = {"25006", "25P03", "25P04", "40001", "40P01", "55P03", "57014", "57P01", "57P02", "57P03", "57P05"}
_UNSTORABLE = {"22", "54"}
_DUPLICATE = "23505"


class Duplicate(Permanent):
    """A row with this key is there already."""


def connect(url: str, *, name: str = "ratchet", autocommit: bool = False) -> Connection:
    """Open a connection; times are UTC, statements are planned anew each time.

    Args:
        url: ``postgresql://user:password@host:port/database``.
        name: Shown in ``pg_stat_activity``.
        autocommit: Needed for LISTEN and for work without a transaction.

    Raises:
        Transient: The server does not answer or does not let us in.
    """
    with wrapped(f"connect as {name}"):
        # Server-side plans are off: the tables grow from nothing, and a plan made for an empty table stays slow.
        return psycopg.connect(url, application_name=name, autocommit=autocommit, prepare_threshold=None,
                               connect_timeout=_CONNECT_TIMEOUT_S, client_encoding="utf8",
                               options="-c timezone=UTC -c jit=off", **_KEEPALIVE)


def wait_for_postgres(url: str, *, deadline_s: float) -> None:
    """Block until the server takes connections.

    Raises:
        Transient: It did not within ``deadline_s`` seconds.
    """
    end = time.monotonic() + deadline_s
    while True:
        try:
            connect(url, name="ratchet-wait", autocommit=True).close()
            return
        except Transient:
            if time.monotonic() >= end:
                raise
        time.sleep(0.05)


@contextmanager
def wrapped(doing: str) -> Iterator[None]:
    """Turn the driver's errors into ours.

    Args:
        doing: What is being done, for the message.

    Raises:
        Transient: The server is away, busy, or chose this transaction as a deadlock's victim.
        Invalid: A value cannot be stored; code ``unstorable``.
        Duplicate: A row with this key is there already.
        Permanent: Anything else; the statement or the schema is wrong.
    """
    try:
        yield
    except psycopg.Error as exc:
        raise _translated(exc, doing) from exc


def _translated(exc: psycopg.Error, doing: str) -> RatchetError:
    """Return the error of ours that a driver's error stands for; see ``wrapped``."""
    state = exc.sqlstate or ""
    message = f"postgres cannot {doing}: {str(exc).strip() or type(exc).__name__}" + (f" ({state})" if state else "")
    if state[:2] in _UNSTORABLE or isinstance(exc, psycopg.DataError):
        return Invalid(message, code="unstorable")
    if state in _BUSY or state[:2] in {"08", "53"}:
        return Transient(message)
    if isinstance(exc, psycopg.InterfaceError) or (isinstance(exc, psycopg.OperationalError) and not state):
        return Transient(message)
    return Duplicate(message) if state == _DUPLICATE else Permanent(message)


def migrate(url: str) -> list[str]:
    """Bring the database to the newest schema; returns the names of the migrations that it applied.

    Safe to call from many processes at once: they take turns, and each file of ``schemas/sql`` is applied once,
    in its own transaction.

    Raises:
        Transient: The server is away, or another process has been migrating for a minute.
        Permanent: A migration fails, or one that was applied has been changed since.
    """
    done: list[str] = []
    connection = connect(url, name="ratchet-migrate", autocommit=True)
    with wrapped("migrate"), connection:
        connection.execute("SET lock_timeout = '60s'; SET client_min_messages = warning")
        connection.execute("SELECT pg_advisory_lock(%s)", [_MIGRATION_LOCK])
        connection.execute("CREATE TABLE IF NOT EXISTS migrations (name text PRIMARY KEY, sha256 text NOT NULL, "
                           "applied_at timestamptz NOT NULL DEFAULT now())")
        applied: dict[str, str] = dict(connection.execute("SELECT name, sha256 FROM migrations").fetchall())
        for name, text in _migrations():
            digest = hashlib.sha256(text.encode()).hexdigest()
            if applied.get(name, digest) != digest:
                raise Permanent(f"the migration {name} was changed after this database applied it; "
                                "add a new migration instead, or start from an empty database")
            if name not in applied:
                with connection.transaction():
                    connection.execute(text.encode())
                    connection.execute("INSERT INTO migrations (name, sha256) VALUES (%s, %s)", [name, digest])
                done.append(name)
    return done


def _migrations() -> list[tuple[str, str]]:
    folder = resources.files("schemas") / "sql"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".sql")), key=lambda f: f.name)
    return [(f.name, f.read_text(encoding="utf-8")) for f in files]
