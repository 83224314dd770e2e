"""The durable copy of the registry: a directory from which an emptied Redis is restored.

    <directory>/<loop>/blobs/<first two hex digits>/<sha256>.safetensors
    <directory>/<loop>/manifests/v12.json
    <directory>/<loop>/journal.jsonl      every log entry with the aliases after it, each line with its CRC-32
    <directory>/<loop>/counter            the greatest version number ever handed out

A file is written beside its place, synced and renamed: it is there whole or not at all.
"""

import fcntl
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from schemas.errors import Transient
from schemas.manifest import Manifest
from shared.registry import envelope
from shared.registry.blobs import check
from shared.registry.values import Corrupt, NotFound


class JournalLine(msgspec.Struct, frozen=True):
    """A log entry as Redis has it: its stream id and its raw fields."""

    id: str
    entry: dict[str, str]


_line_decoder = msgspec.json.Decoder(JournalLine)


class Artifacts:
    """Files of all loops under one directory, shared by every process that publishes, operates or restores."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def loops(self) -> list[str]:
        """The loops that have anything here."""
        if not self._directory.is_dir():
            return []
        return sorted(child.name for child in self._directory.iterdir() if self.has_history(child.name))

    def has_history(self, loop: str) -> bool:
        """Whether the loop was ever published to or logged here."""
        folder = self._directory / loop
        return (folder / "journal.jsonl").is_file() or (folder / "manifests").is_dir()

    @contextmanager
    def lock(self, loop: str, what: str) -> Iterator[None]:
        """Hold one of the loop's locks against every other process on this file system; waits for it."""
        folder = self._directory / loop
        with _disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            file = open(folder / f".{what}.lock", "ab")  # noqa: SIM115 - closed below, after the caller's block
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    # Blobs

    def blob_path(self, loop: str, sha256: str) -> Path:
        """Where a tensor lies."""
        return self._directory / loop / "blobs" / sha256[:2] / f"{sha256}.safetensors"

    def blob(self, loop: str, sha256: str) -> bytes:
        """Read one tensor's bytes, checked.

        Raises:
            Corrupt: Missing or damaged.
        """
        path = self.blob_path(loop, sha256)
        try:
            data = path.read_bytes()
        except OSError as exc:
            raise Corrupt(f"tensor {sha256[:12]} is not in the artifact directory: {exc.strerror}") from exc
        return check(data, sha256, str(path))

    def has_blob(self, loop: str, sha256: str, n_bytes: int) -> bool:
        """Whether the tensor lies here whole; its bits are not looked at."""
        try:
            return self.blob_path(loop, sha256).stat().st_size == n_bytes
        except OSError:
            return False

    def put_blob(self, loop: str, sha256: str, data: bytes) -> None:
        """Store one tensor; returns when it is on disk."""
        _write(self.blob_path(loop, sha256), data)

    def drop_blob(self, loop: str, sha256: str) -> None:
        """Delete one tensor; nothing happens when it is gone already."""
        self.blob_path(loop, sha256).unlink(missing_ok=True)

    # Manifests

    def put_manifest(self, manifest: Manifest) -> None:
        """Store one manifest; returns when it is on disk."""
        _write(self._manifest_path(manifest.loop, manifest.version), envelope.seal(manifest))

    def manifest(self, loop: str, version: str) -> Manifest:
        """Read one manifest.

        Raises:
            NotFound: There is none.
            Corrupt: It is damaged.
        """
        path = self._manifest_path(loop, version)
        try:
            data = path.read_bytes()
        except OSError as exc:
            raise NotFound(f"loop {loop} has no version {version}") from exc
        return envelope.open_(data, str(path))

    def has_manifest(self, loop: str, version: str) -> bool:
        """Whether the version's manifest is here; it is not looked at."""
        return self._manifest_path(loop, version).is_file()

    def drop_manifest(self, loop: str, version: str) -> None:
        """Delete one manifest; nothing happens when it is gone already."""
        self._manifest_path(loop, version).unlink(missing_ok=True)

    def versions(self, loop: str) -> list[str]:
        """The versions whose manifests are here, oldest first."""
        found = (self._directory / loop / "manifests").glob("v*.json")
        return sorted((path.stem for path in found if path.stem[1:].isdigit()), key=lambda name: int(name[1:]))

    def _manifest_path(self, loop: str, version: str) -> Path:
        return self._directory / loop / "manifests" / f"{version}.json"

    # The journal and the version counter

    def journal(self, loop: str) -> tuple[list[JournalLine], list[int]]:
        """Read the journal: the good lines in order, and the numbers of the damaged ones."""
        try:
            data = (self._directory / loop / "journal.jsonl").read_bytes()
        except FileNotFoundError:
            return [], []
        good, bad = [], []
        # What follows the last newline was cut off by a crash in the middle of a write: it was never confirmed.
        for number, line in enumerate(data.split(b"\n")[:-1], start=1):
            entry = _read_line(line)
            if entry is None:
                bad.append(number)
            else:
                good.append(entry)
        return good, bad

    def last_id(self, loop: str) -> str:
        """The id of the journal's last good line; ``0-0`` when there is none. Reads the end only."""
        try:
            with open(self._directory / loop / "journal.jsonl", "rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - 65536))
                lines = file.read().split(b"\n")[:-1]
        except FileNotFoundError:
            return "0-0"
        entry = next((entry for line in reversed(lines) if (entry := _read_line(line)) is not None), None)
        return entry.id if entry else "0-0"

    def append(self, loop: str, lines: Sequence[JournalLine]) -> None:
        """Append to the journal; returns when it is on disk. The caller holds the ``journal`` lock."""
        path = self._directory / loop / "journal.jsonl"
        created = not path.exists()
        with _disk_errors(path), open(path, "ab+") as file:
            size = file.seek(0, os.SEEK_END)
            if size and _byte_at(file.fileno(), size - 1) != b"\n":
                file.write(b"\n")  # a torn last line stays, as a damaged one, and costs the next line nothing
            file.write(b"".join(_write_line(line) for line in lines))
            file.flush()
            os.fsync(file.fileno())
        if created:
            _sync_directory(path.parent)

    def counter(self, loop: str) -> int:
        """The greatest version number handed out, published or not; 0 when none was."""
        try:
            written = int((self._directory / loop / "counter").read_text())
        except (FileNotFoundError, ValueError):
            written = 0
        versions = self.versions(loop) if written == 0 else []
        return max([written, *(int(name[1:]) for name in versions)])

    def put_counter(self, loop: str, value: int) -> None:
        """Store the counter; returns when it is on disk."""
        _write(self._directory / loop / "counter", str(value).encode())


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise Transient(f"the artifact directory cannot be written at {path}: {exc.strerror}",
                        retry_after_s=5.0) from exc


def _write(path: Path, data: bytes) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}.part")
    with _disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(beside, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
        _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_line(line: JournalLine) -> bytes:
    body = msgspec.json.encode(line)
    return b"%08x %s\n" % (zlib.crc32(body), body)


def _read_line(line: bytes) -> JournalLine | None:
    checksum, _, body = line.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(body):
        return None
    try:
        return _line_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _byte_at(handle: int, offset: int) -> bytes:
    return os.pread(handle, 1, offset)
