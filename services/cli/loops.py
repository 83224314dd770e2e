"""``ratchet loops check``: says what is wrong in loop files, and where."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from services.cli.grammar import command

if TYPE_CHECKING:
    from schemas.loops import Loop
    from services.cli.grammar import Commands

CHECK_EXAMPLES = """\
  ratchet loops check examples/loops/support-intents.toml
  ratchet loops check examples/loops/*.toml"""


def add(commands: "Commands") -> None:
    """Declare the group."""
    group = commands.add_parser("loops", help="check loop files", description="Work with loop files.")
    actions = group.add_subparsers(title="commands", metavar="COMMAND", required=True)
    check = command(actions, "check", _check, about="explain what is wrong in loop files, and where",
                    more="Prints one line per file; the exit status is 1 when any is wrong.", examples=CHECK_EXAMPLES)
    check.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a loop file, or a folder of them")


def warn_of_rollout(loop: "Loop") -> None:
    """Say in one line when a loop wishes for a rollout, which nothing acts on yet."""
    if loop.rollout.shadow or loop.rollout.canary != (1.0,):
        print(f"warning: the loop {loop.name} declares a [rollout], but rollout is not acted on yet: an accepted "
              "version serves everyone at once", file=sys.stderr)


def _check(arguments: argparse.Namespace) -> int:
    from schemas.loops import InvalidLoop
    from shared.loops import load_file

    n_wrong = 0
    seen: dict[str, Path] = {}
    for file in _files(arguments.files):
        try:
            loop = load_file(file)
            if loop.name in seen:
                raise InvalidLoop(f"the loop {loop.name!r} is declared in {seen[loop.name]} too", file=str(file))
        except InvalidLoop as exc:
            print(exc, file=sys.stderr)
            n_wrong += 1
            continue
        seen[loop.name] = file
        print(f"{file}: ok, loop {loop.name}: {loop.task} on {loop.base}, "
              f"learns from {', '.join(loop.feedback) or 'nothing'}")
        warn_of_rollout(loop)
    return 1 if n_wrong else 0


def _files(named: list[Path]) -> list[Path]:
    found: list[Path] = []
    for path in named:
        found += sorted(path.glob("*.toml")) if path.is_dir() else [path]
    return found
