"""Reads the loop files that every service shares."""

from pathlib import Path

from schemas.loops import InvalidLoop, Loop, parse


def load(directory: Path) -> dict[str, Loop]:
    """Read every ``*.toml`` in a directory, by loop name.

    Raises:
        InvalidLoop: A file is wrong, two files name the same loop, or there is no file at all.
    """
    loops: dict[str, Loop] = {}
    for file in sorted(directory.glob("*.toml")):
        loop = load_file(file)
        if loop.name in loops:
            raise InvalidLoop(f"the loop {loop.name!r} is declared in another file too", file=str(file))
        loops[loop.name] = loop
    if not loops:
        raise InvalidLoop("no *.toml here: declare a loop, or name another directory by RATCHET_LOOPS_DIR",
                          file=str(directory))
    return loops


def load_file(file: Path) -> Loop:
    """Read one loop file.

    Raises:
        InvalidLoop: The file cannot be read or is wrong.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise InvalidLoop(f"cannot be read: {exc}", file=str(file)) from exc
    return parse(text, file=str(file))
