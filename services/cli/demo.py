"""``ratchet demo``: watch a model learn live."""

import argparse
from typing import TYPE_CHECKING

from services.cli.grammar import command
from services.demo.arguments import add_arguments

if TYPE_CHECKING:
    from services.cli.grammar import Commands

EXAMPLES = """\
  ratchet demo                              Banking77 where it is at hand, else a small corpus of our own
  ratchet demo --data tickets.csv --text body --label queue --rate 50
  ratchet demo --report report.json         where the report goes; its page goes beside it"""


def add(commands: "Commands") -> None:
    """Declare the command."""
    add_arguments(command(
        commands, "demo", _run, about="watch a model learn live from real feedback",
        more="Plays a product app over HTTP: asks for predictions on real messages, then sends the true label as\n"
             "feedback. Shows accuracy and loop time as they change, and writes a report.",
        examples=EXAMPLES))


def _run(arguments: argparse.Namespace) -> int:
    from services.demo.main import run

    return run(arguments)
