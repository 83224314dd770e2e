"""``ratchet bench``: measure Ratchet and its peers side by side, on this machine."""

import argparse
from typing import TYPE_CHECKING

from schemas.errors import Invalid
from services.cli.grammar import command

if TYPE_CHECKING:
    from services.cli.grammar import Commands

EXAMPLES = """\
  ratchet bench                         the benchmarks there are
  ratchet bench collector               one of them: Ratchet and its peers in turn, ratios with their spread
  ratchet bench collector --help        its options
  ratchet bench all                     all of them, one after the other (make bench)
  ratchet bench processor --docs        and write the plots and the section of docs/benchmarks.md"""


def add(commands: "Commands") -> None:
    """Declare the command."""
    parser = command(
        commands, "bench", _run, about="measure Ratchet and its peers side by side",
        more="Runs in a checkout. Peers are installed when first needed, pinned, each in an environment of its own.",
        examples=EXAMPLES)
    parser.add_argument("name", nargs="?", metavar="NAME", help="which benchmark, or `all`; without it they are listed")
    parser.add_argument("options", nargs=argparse.REMAINDER, metavar="...", help="the benchmark's own options")


def _run(arguments: argparse.Namespace) -> int:
    try:
        from benchmarks.harness import running
    except ImportError as exc:
        raise Invalid("benchmarks come with the source: clone the repository, run `make setup`, and use its "
                      f".venv/bin/ratchet ({exc})") from exc
    known = running.summaries()
    if arguments.name is None:
        for name, summary in known.items():
            print(f"{name:12}  {summary}")
        return 0
    if arguments.name != "all" and arguments.name not in known:
        raise Invalid(f"there is no benchmark {arguments.name}; there are: {', '.join(known)}")
    for name in known if arguments.name == "all" else [arguments.name]:
        running.run(name, arguments.options)
    return 0
