"""The Redis side of the registry, and the one home of redis-py: keys, scripts, chunks, and the driver's errors.

Keys of one loop share the hash tag ``{ratchet:LOOP}``, so that a script may touch them all on a Redis cluster:
``aliases`` (hash), ``log`` (stream), ``versions`` (sorted set by number), ``collected`` (set), ``counter``,
``trimmed`` (the greatest number of a version that is in the artifact directory only), ``replicas`` (hash),
``manifest:v12`` and ``blob:<sha256>:<i>`` (chunk i of at most 1 MiB).
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from schemas.errors import Permanent, Transient
from schemas.manifest import TensorRef
from shared.registry.artifacts import JournalLine

# A single 500 MiB value stalls every other client for up to 1.2 s; in chunks of 1 MiB the others wait 12 ms at most.
CHUNK_BYTES = 1 << 20
_MAX_BLOCK_MS = 2000
_SOCKET_TIMEOUT_S = 5.0


class RedisStore:
    """One connection pool and the few operations that the registry is made of.

    Raises (from every method):
        Transient: Redis is away, busy, or out of memory.
        Permanent: Redis refused a command: this is no Redis that Ratchet can use.
    """

    def __init__(self, url: str) -> None:
        # No retries by the driver: a change that was applied and whose answer was lost would run twice.
        self._redis = redis.Redis.from_url(url, socket_timeout=_SOCKET_TIMEOUT_S, socket_connect_timeout=2.0,
                                           retry=Retry(NoBackoff(), 0), decode_responses=False)
        folder = files("shared.registry")
        self._publish = self._redis.register_script((folder / "publish.lua").read_text(encoding="utf-8"))
        self._collect = self._redis.register_script((folder / "collect.lua").read_text(encoding="utf-8"))
        self._change = self._redis.register_script((folder / "change.lua").read_text(encoding="utf-8"))

    def close(self) -> None:
        """Close every connection."""
        self._redis.close()

    def ping(self) -> None:
        """Return if Redis answers."""
        with _driver_errors():
            self._redis.ping()

    # Blobs

    def has_blob(self, loop: str, ref: TensorRef) -> bool:
        """Whether every chunk of the tensor is there with its full length; the bits are not looked at."""
        with _driver_errors():
            pipe = self._redis.pipeline(transaction=False)
            for key in _chunk_keys(loop, ref.sha256, ref.n_bytes):
                pipe.strlen(key)
            lengths: list[int] = pipe.execute()
        return sum(lengths) == ref.n_bytes

    def put_blob(self, loop: str, sha256: str, data: bytes) -> None:
        """Write a tensor's chunks, one command each."""
        with _driver_errors():
            for i, key in enumerate(_chunk_keys(loop, sha256, len(data))):
                self._redis.set(key, data[i * CHUNK_BYTES:(i + 1) * CHUNK_BYTES])

    def blobs(self, loop: str, refs: Sequence[TensorRef]) -> Iterator[tuple[TensorRef, bytes]]:
        """Read tensors' bytes, unchecked; a missing chunk shortens them. One chunk per round trip."""
        for ref in refs:
            keys = _chunk_keys(loop, ref.sha256, ref.n_bytes)
            with _driver_errors():
                chunks = [self._redis.get(key) for key in keys]
            yield ref, b"".join(chunk or b"" for chunk in chunks)

    def drop_blob(self, loop: str, ref: TensorRef) -> None:
        """Delete a tensor's chunks."""
        with _driver_errors():
            self._redis.unlink(*_chunk_keys(loop, ref.sha256, ref.n_bytes))

    # Manifests and versions

    def publish(self, loop: str, version: str, number: int, sealed: bytes, actor: str, reason: str, *,
                has_history: bool) -> str:
        """Run ``publish.lua``; returns its verdict."""
        with _driver_errors():
            verdict = self._publish(keys=[_key(loop, f"manifest:{version}"), _key(loop, "versions"),
                                          _key(loop, "log"), _key(loop, "aliases")],
                                    args=[sealed, version, number, actor, reason, "1" if has_history else ""])
        return _text(verdict)

    def put_manifest(self, loop: str, version: str, number: int, sealed: bytes) -> None:
        """Write a manifest without a log entry: a restore."""
        with _driver_errors():
            pipe = self._redis.pipeline()
            pipe.set(_key(loop, f"manifest:{version}"), sealed)
            pipe.zadd(_key(loop, "versions"), {version: number})
            pipe.execute()

    def manifest(self, loop: str, version: str) -> bytes | None:
        """The sealed manifest; None when there is none."""
        with _driver_errors():
            found: bytes | None = self._redis.get(_key(loop, f"manifest:{version}"))
        return found

    def versions(self, loop: str, limit: int) -> list[str]:
        """The newest versions, newest first; all of them when the limit is negative."""
        with _driver_errors():
            found = self._redis.zrevrange(_key(loop, "versions"), 0, limit - 1 if limit >= 0 else -1)
        return [_text(name) for name in found]

    def mark_collected(self, loop: str, versions: Sequence[str]) -> list[str]:
        """Note that versions lose their weights and can never be promoted again; returns those no alias names."""
        with _driver_errors():
            marked = self._collect(keys=[_key(loop, "aliases"), _key(loop, "collected")], args=list(versions))
        return [_text(name) for name in marked]

    def put_collected(self, loop: str, versions: Collection[str]) -> None:
        """Set which versions have no weights: a restore."""
        with _driver_errors():
            pipe = self._redis.pipeline()
            pipe.delete(_key(loop, "collected"))
            if versions:
                pipe.sadd(_key(loop, "collected"), *versions)
            pipe.execute()

    def collected(self, loop: str) -> set[str]:
        """The versions whose weights are gone."""
        with _driver_errors():
            return {_text(name) for name in self._redis.smembers(_key(loop, "collected"))}

    def drop_versions(self, loop: str, versions: Sequence[str], *, upto: int) -> None:
        """Forget collected versions, whose manifests are in the artifact directory; ``upto`` is their greatest number.

        In one transaction: a reader that finds no manifest finds the number that sends it to the directory.
        """
        with _driver_errors():
            pipe = self._redis.pipeline()
            pipe.set(_key(loop, "trimmed"), upto)
            pipe.zrem(_key(loop, "versions"), *versions)
            pipe.srem(_key(loop, "collected"), *versions)
            pipe.unlink(*(_key(loop, f"manifest:{version}") for version in versions))
            pipe.execute()

    def trimmed(self, loop: str) -> int:
        """The greatest number of a version that may be in the artifact directory only; 0 when none was dropped."""
        with _driver_errors():
            return int(self._redis.get(_key(loop, "trimmed")) or 0)

    def put_trimmed(self, loop: str, number: int) -> None:
        """Set that number: a restore."""
        with _driver_errors():
            self._redis.set(_key(loop, "trimmed"), number)

    def reserve(self, loop: str) -> int | None:
        """Count the version counter up by one; None when Redis has no counter for this loop."""
        with _driver_errors():
            key = _key(loop, "counter")
            return int(self._redis.incr(key)) if self._redis.exists(key) else None

    def put_counter(self, loop: str, value: int) -> None:
        """Set the version counter."""
        with _driver_errors():
            self._redis.set(_key(loop, "counter"), value)

    # Aliases and log

    def is_known(self, loop: str) -> bool:
        """Whether anything was ever published here since Redis was last empty."""
        with _driver_errors():
            return bool(self._redis.hexists(_key(loop, "aliases"), "epoch"))

    def change(self, loop: str, action: str, *, version: str = "", actor: str, reason: str, expect_epoch: int | None,
               force: bool = False, extra: str = "", recorded: str = "",
               has_history: bool = False) -> tuple[str, str, dict[str, str]]:
        """Run ``change.lua``; returns its verdict, its detail, and the aliases as they are now."""
        with _driver_errors():
            verdict, detail, flat = self._change(
                keys=[_key(loop, name) for name in ("aliases", "log", "versions", "collected")],
                args=[action, version, actor, reason, "" if expect_epoch is None else expect_epoch,
                      "1" if force else "", extra, recorded, "1" if has_history else ""])
        texts = [_text(item) for item in flat]
        return _text(verdict), _text(detail), dict(zip(texts[::2], texts[1::2], strict=True))

    def aliases(self, loop: str) -> dict[str, str]:
        """The aliases as stored; empty for a loop that was never published to."""
        with _driver_errors():
            found = self._redis.hgetall(_key(loop, "aliases"))
        return {_text(name): _text(value) for name, value in found.items()}

    def put_aliases(self, loop: str, values: Mapping[str, str]) -> None:
        """Write the aliases of a loop that lost them: a restore."""
        with _driver_errors():
            pipe = self._redis.pipeline(transaction=True)
            pipe.delete(_key(loop, "aliases"))
            pipe.hset(_key(loop, "aliases"), mapping=dict(values))
            pipe.execute()

    def log(self, loop: str, after: str, limit: int) -> list[JournalLine]:
        """Log entries after an id, oldest first."""
        with _driver_errors():
            return [_entry(*item) for item in self._redis.xrange(_key(loop, "log"), f"({after}", "+", count=limit)]

    def newest_log(self, loop: str, limit: int) -> list[JournalLine]:
        """The newest log entries, oldest first."""
        with _driver_errors():
            found = [_entry(*item) for item in self._redis.xrevrange(_key(loop, "log"), count=limit)]
        return found[::-1]

    def trim_log(self, loop: str, n_entries: int) -> None:
        """Drop all but the newest log entries."""
        with _driver_errors():
            self._redis.xtrim(_key(loop, "log"), maxlen=n_entries, approximate=False)

    def last_id(self, loop: str) -> str:
        """The id of the newest log entry; ``0-0`` when there is none."""
        with _driver_errors():
            found = self._redis.xrevrange(_key(loop, "log"), count=1)
        return _text(found[0][0]) if found else "0-0"

    def follow(self, loop: str, after: str, block_ms: int) -> list[JournalLine]:
        """Log entries after an id; waits for one, but not longer than told and than 2 s."""
        key = _key(loop, "log")
        with _driver_errors():
            found: Any = self._redis.xread({key: after}, count=100, block=max(1, min(block_ms, _MAX_BLOCK_MS)))
        streams = found.items() if isinstance(found, dict) else found or ()
        return [_entry(*item) for _, items in streams for item in _flat_items(items)]

    def put_log(self, loop: str, lines: Sequence[JournalLine]) -> None:
        """Append entries under their old ids: a restore."""
        with _driver_errors():
            pipe = self._redis.pipeline(transaction=False)
            for line in lines:
                pipe.xadd(_key(loop, "log"), dict(line.entry), id=line.id)
            pipe.execute()

    # Replicas

    def put_replica(self, loop: str, name: str, state: bytes) -> None:
        """Store what one replica says of itself."""
        with _driver_errors():
            self._redis.hset(_key(loop, "replicas"), name, state)

    def replicas(self, loop: str) -> dict[str, bytes]:
        """What every replica last said of itself, by name."""
        with _driver_errors():
            return {_text(name): state for name, state in self._redis.hgetall(_key(loop, "replicas")).items()}

    def drop_replica(self, loop: str, name: str) -> None:
        """Forget a replica."""
        with _driver_errors():
            self._redis.hdel(_key(loop, "replicas"), name)


@contextmanager
def _driver_errors() -> Iterator[None]:
    try:
        yield
    except (redis.ConnectionError, redis.TimeoutError, redis.exceptions.BusyLoadingError,
            redis.exceptions.OutOfMemoryError, redis.exceptions.ReadOnlyError) as exc:
        raise Transient(f"Redis is away or busy: {exc}") from exc
    except redis.RedisError as exc:
        # From inside a script these come as a plain ResponseError; MISCONF: its disk is full.
        if any(code in str(exc) for code in ("OOM", "MISCONF", "NOREPLICAS")):
            raise Transient(f"Redis takes no writes: {exc}", retry_after_s=10.0) from exc
        raise Permanent(f"Redis refused a command: {exc}") from exc


def _key(loop: str, name: str) -> str:
    return f"{{ratchet:{loop}}}:{name}"


def _chunk_keys(loop: str, sha256: str, n_bytes: int) -> list[str]:
    return [_key(loop, f"blob:{sha256}:{i}") for i in range(max(1, -(-n_bytes // CHUNK_BYTES)))]


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _entry(identity: bytes, fields: Mapping[bytes, bytes]) -> JournalLine:
    return JournalLine(id=_text(identity), entry={_text(name): _text(value) for name, value in fields.items()})


def _flat_items(items: Any) -> list[tuple[bytes, Mapping[bytes, bytes]]]:
    """The entries of one stream; RESP3 wraps them in one more list than RESP2."""
    entries: list[tuple[bytes, Mapping[bytes, bytes]]] = items[0] if items and isinstance(items[0], list) else items
    return entries
