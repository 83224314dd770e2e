"""Keeps log files private, and bounded without asking their writers."""

import shutil
from pathlib import Path

MAX_BYTES = 20_000_000


def make_folder(folder: Path) -> None:
    """Make the folder that only its owner reads; one that is there becomes so. Idempotent."""
    folder.mkdir(parents=True, exist_ok=True)
    # Of a folder made with a wider mode before, or under any umask: texts of users can stand in a traceback.
    folder.chmod(0o700)


def bound(folder: Path, max_bytes: int = MAX_BYTES) -> list[str]:
    """Cut each ``*.log`` that grew past the limit; what it held moves to ``*.log.1``.

    The writers hold the files open in append mode, so they go on at the new end. What is written between the copy
    and the cut is lost: a line or two of a log.

    Returns:
        The names of the files that were cut.
    """
    cut = []
    for file in sorted(folder.glob("*.log")):
        if file.stat().st_size > max_bytes:
            shutil.copyfile(file, file.with_name(file.name + ".1"))
            with file.open("r+b") as stream:
                stream.truncate(0)
            cut.append(file.name)
    return cut
