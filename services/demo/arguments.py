"""The arguments of ``ratchet demo``."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the demo's arguments to its sub-command's parser."""
    data = parser.add_argument_group("what to play")
    data.add_argument("--data", type=Path, metavar="CSV",
                      help="messages to stream, .csv or .csv.gz with a header; by default Banking77 from "
                           "../shared/data where present, else examples/support-messages.csv")
    data.add_argument("--text", metavar="COL", default="text", help="column of the message (default: %(default)s)")
    data.add_argument("--label", metavar="COL", help="column of the true label (default: category, else queue)")
    data.add_argument("--test", type=Path, metavar="CSV",
                      help="messages that the last version is asked about at the end, never learned from")
    data.add_argument("--limit", type=_count, metavar="N", help="play only N messages of the shuffled stream")
    data.add_argument("--seed", type=int, default=7, metavar="N",
                      help="order of messages and users (default: %(default)s)")
    data.add_argument("--rate", type=_rate, metavar="N",
                      help="messages per second (default: 50; 8 for the small corpus, so that there is time to watch)")
    stack = parser.add_argument_group("where to play it")
    stack.add_argument("--data-dir", type=Path, metavar="DIR",
                       help="play on the stack of this data folder, whose loop then learns the messages; by default on "
                            "a fresh stack in a fresh folder under .data/, removed afterwards, beside whatever runs")
    stack.add_argument("--loop", default="support-intents", metavar="NAME", help="loop to play (default: %(default)s)")
    stack.add_argument("--keep", action="store_true", help="leave the stack and its data up afterwards")
    out = parser.add_argument_group("what to show")
    out.add_argument("--report", type=Path, metavar="FILE.json", default=Path("reports/demo.json"),
                     help="the report; the page with plots goes beside it as .html (default: %(default)s)")
    out.add_argument("--open", action="store_true", help="open the live page in the browser")


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("is at least 1")
    return value


def _rate(text: str) -> float:
    value = float(text)
    if not 0 < value <= 10_000:
        raise argparse.ArgumentTypeError("is above 0 and at most 10000 messages per second")
    return value
