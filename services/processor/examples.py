"""Writes decisions as examples: gapless sequence numbers in commit order, and a notification for the trainer."""

from collections.abc import Sequence

from services.processor import statements as sql
from services.processor.join import Decision
from services.processor.rows import DECISIONS, copy, decision_row
from shared.postgres import Connection


def write_examples(connection: Connection, decisions: Sequence[Decision]) -> None:
    """Insert and amend examples. To be called last in a transaction: it locks the loops' counters until the commit."""
    amended = [d for d in decisions if d.action == "amend"]
    if amended:
        connection.execute(sql.AMEND_EXAMPLES, [[d.prediction_id for d in amended], [d.revision for d in amended],
                                                [d.labelled_ms for d in amended], [d.late for d in amended]])
    by_loop: dict[str, list[Decision]] = {}
    for decision in decisions:
        if decision.action == "insert":
            by_loop.setdefault(decision.loop, []).append(decision)
    if not by_loop:
        return
    # In order of name, so that two workers never wait for each other's counters.
    numbered = []
    for loop in sorted(by_loop):
        row = connection.execute(sql.TAKE_SEQ, {"loop": loop, "n": len(by_loop[loop])}).fetchone()
        first = row[0] if row else 1
        numbered += [decision_row(decision, seq) for seq, decision in enumerate(by_loop[loop], start=first)]
        connection.execute(sql.NOTIFY, [loop])
    copy(connection, DECISIONS, numbered)
    connection.execute(sql.INSERT_EXAMPLES)
