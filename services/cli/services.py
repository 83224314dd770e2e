"""``ratchet collector|processor|trainer|inference``: one service in this process."""

import argparse
import importlib
import os
from typing import TYPE_CHECKING

from services.cli.grammar import command

if TYPE_CHECKING:
    from services.cli.grammar import Commands

SERVICES = {
    "collector": ("run the collector: takes events over HTTP, answers when Kafka has them",
                  "RATCHET_COLLECT_KEYS=app:secret RATCHET_PSEUDONYM_KEY=... ratchet collector"),
    "processor": ("run a processor: joins predictions with feedback, writes Postgres exactly once",
                  "RATCHET_POSTGRES_URL=postgresql://... ratchet processor"),
    "trainer": ("run the trainer: learns from new examples, publishes what passes the gate",
                "RATCHET_DEVICE=cuda ratchet trainer"),
    "inference": ("run an inference replica: serves the champion, swaps without failing a request",
                  "RATCHET_INFER_KEYS=app:secret RATCHET_PSEUDONYM_KEY=... ratchet inference"),
}
MORE = """\
Runs until SIGTERM or Ctrl-C, then finishes what it accepted. Kafka, Postgres and Redis may be anywhere:
RATCHET_KAFKA_BOOTSTRAP, RATCHET_POSTGRES_URL and RATCHET_REDIS_URL say where. A wrong setting or loop file ends
it at once with status 2."""


def add(commands: "Commands") -> None:
    """Declare the four services."""
    for name, (about, example) in SERVICES.items():
        command(commands, name, _run, about=about, more=MORE, examples=f"  {example}").set_defaults(service=name)


def _run(arguments: argparse.Namespace) -> None:
    # Read by the libraries when they are first imported, which is below.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    importlib.import_module(f"services.{arguments.service}.main").run()
