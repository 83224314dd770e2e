"""Writes decisions as examples: gapless sequence numbers in commit order, and a notification for the trainer."""

from collections.abc import Collection, Sequence

from services.processor import statements as sql
from services.processor.copying import copy
from services.processor.join import Decision
from services.processor.rows import LABELS, label_row
from shared.postgres import Connection


def lock_loops(connection: Connection, loops: Collection[str]) -> dict[str, int]:
    """Lock loops until the commit, and return the next sequence number of each.

    Whoever joins a loop's predictions or writes its examples does so one after the other, and sees what the one before
    has committed. In order of name, so that two workers never wait for each other. Late in a transaction, since
    every other worker on these loops waits for its commit.
    """
    names = sorted(loops)
    rows = connection.execute(sql.LOCK_LOOPS, [names]).fetchall()
    if len(rows) < len(names):
        connection.execute(sql.ADD_LOOPS, [names])
        rows = connection.execute(sql.LOCK_LOOPS, [names]).fetchall()
    return dict(rows)


def write_examples(connection: Connection, decisions: Sequence[Decision], next_seqs: dict[str, int]) -> None:
    """Insert and amend examples.

    Args:
        next_seqs: What ``lock_loops`` returned, for all loops of the decisions; moved on.
    """
    amended = [d for d in decisions if d.action == "amend"]
    if amended:
        connection.execute(sql.AMEND_LABELS, [[d.prediction_id for d in amended], [d.revision for d in amended],
                                              [d.labelled_ms for d in amended], [d.late for d in amended]])
    rows = []
    for decision in decisions:
        if decision.action == "insert":
            seq = next_seqs[decision.loop]
            next_seqs[decision.loop] = seq + 1
            rows.append(label_row(decision, seq))
    if not rows:
        return
    copy(connection, LABELS, rows)
    for loop in sorted({row[0] for row in rows}):
        connection.execute(sql.MOVE_LOOP, [next_seqs[loop], loop])
        connection.execute(sql.NOTIFY, [loop])
