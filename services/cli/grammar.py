"""What the sub-commands' parsers share: how one is declared, and the options that several have."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def command(commands: "Commands", name: str, run: Callable[[argparse.Namespace], int | None], *, about: str,
            more: str = "", examples: str = "") -> argparse.ArgumentParser:
    """Declare one sub-command.

    Args:
        run: Called with the parsed arguments; returns the exit status, None for 0.
        about: One line for the list of commands.
        more: What else to know, shown by the command's own --help.
        examples: Lines of the command's own --help.
    """
    parts = [about[0].upper() + about[1:] + "."]
    if more:
        parts.append(more)
    parser = commands.add_parser(
        name, help=about, description="\n\n".join(parts), epilog=f"examples:\n{examples}" if examples else None,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.set_defaults(run=run)
    return parser


def add_data_dir(parser: argparse.ArgumentParser) -> None:
    """Add ``--data-dir``."""
    parser.add_argument("--data-dir", type=Path, metavar="DIR",
                        help="the stack's data folder (default: RATCHET_DATA_DIR, else .data)")


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
