"""The messages to play: where they come from, in which order, and which simulated user writes each."""

import csv
import gzip
import io
import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import Invalid

LABEL_COLUMNS = ("category", "queue", "label")
# What inference and the processor take; beyond it a run would end in the middle, or wait for examples that never come.
MAX_TEXT_CHARS, MAX_LABEL_CHARS = 32_768, 256


@dataclass(frozen=True)
class Message:
    """One customer message and where it truly belongs. ``user_id`` is empty for test messages."""

    text: str
    label: str
    user_id: str = ""


@dataclass(frozen=True)
class Source:
    """The files of a run.

    Attributes:
        name: What the report calls the data.
        test: Messages to ask about at the end; None for none.
        label: Column of the label; None: the first of ``LABEL_COLUMNS`` that the file has.
        rate: Messages per second unless the caller says otherwise.
    """

    name: str
    stream: Path
    test: Path | None
    text: str
    label: str | None
    rate: float


def default_source(project: Path) -> Source:
    """Banking77 where it lies beside the project, else the small corpus written for this project."""
    banking = project.parent / "shared" / "data" / "banking77"
    if (banking / "train.csv.gz").is_file():
        return Source("Banking77", banking / "train.csv.gz", banking / "test.csv", "text", "category", 50.0)
    small = project / "examples"
    return Source("the small support inbox", small / "support-messages.csv", small / "support-messages-test.csv",
                  "text", "queue", 8.0)


def read(path: Path, text: str, label: str | None) -> list[Message]:
    """Read a CSV file, gzipped or not; rows without a text or a label are left out.

    Raises:
        Invalid: The file cannot be read, a column is missing, a row is none that the platform takes, or there is no
            message in it.
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        rows = csv.DictReader(io.StringIO(raw.decode("utf-8-sig"), newline=""))
        columns = rows.fieldnames or []
        label = label or next((name for name in LABEL_COLUMNS if name in columns), LABEL_COLUMNS[0])
        for column in (text, label):
            if column not in columns:
                raise Invalid(f"{path} has no column {column!r}; it has {', '.join(columns)}", code="no_such_column")
        found = []
        for row in rows:
            if row[text] and row[label]:
                _check(row[text], row[label], f"{path}:{rows.line_num}")
                found.append(Message(row[text], row[label]))
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as exc:
        raise Invalid(f"{path} cannot be read: {exc}", code="unreadable") from exc
    if not found:
        raise Invalid(f"{path} holds no message with a label", code="empty")
    return found


def _check(text: str, label: str, place: str) -> None:
    if len(text) > MAX_TEXT_CHARS:
        raise Invalid(f"{place}: the text has {len(text)} characters; at most {MAX_TEXT_CHARS} are read",
                      code="too_long")
    if len(label) > MAX_LABEL_CHARS:
        raise Invalid(f"{place}: the label has {len(label)} characters; at most {MAX_LABEL_CHARS} are learned",
                      code="too_long")
    if "\0" in text or "\0" in label:
        raise Invalid(f"{place}: the character U+0000 cannot be stored", code="nul_character")


def play_list(messages: Sequence[Message], *, seed: int, limit: int | None = None) -> list[Message]:
    """Shuffle the messages and give each to a simulated user; equal arguments give an equal list.

    There is about one user for ten messages, so that a hold-out by user leaves a fair share of messages out.
    """
    rng = random.Random(seed)
    order = list(messages)
    rng.shuffle(order)
    order = order[:limit]
    n_users = max(20, len(order) // 10)
    return [Message(m.text, m.label, f"customer-{rng.randrange(n_users):05d}") for m in order]
