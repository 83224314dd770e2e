"""The hold-out: which examples are never learned from, only measured on."""

import hashlib


def is_held_out(subject: str, prediction_id: str, share: float, seed: int) -> bool:
    """Whether an example belongs to the hold-out: by a hash of its subject, or of its prediction if it has none.

    All examples of one subject fall on the same side, so that the measure is of people never learned from.

    Args:
        share: Of subjects that are held out, 0 to 1.
        seed: The loop's; another one holds out other subjects.
    """
    digest = hashlib.sha256(f"holdout\0{seed}\0{subject or prediction_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64
