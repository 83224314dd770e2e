"""A prediction: what inference answered and from which features, as it writes it to ``ratchet.predictions``."""

from typing import Any

import msgspec


class Prediction(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One answer of one version. ``id`` identifies it for ever.

    Attributes:
        id: ``pr_`` and 32 hex digits, time-ordered.
        loop: The loop's name.
        version: The version that answered, for example ``v42``.
        subject: The pseudonymous user, as in events; empty when the caller named none.
        time_ms: When it was answered, ms since the epoch.
        input: What was asked, for text classification ``{"text": ...}``.
        label: The answer; None while the loop knows no label yet.
        scores: Probability by label, the likeliest few; sums to at most 1.
        embedding: The encoder's output for this input, float32 little-endian (D,), base64 in JSON; empty when absent.
        encoder: Digest of the encoder that made ``embedding``; empty when absent.
        arm: Which alias answered: ``champion``, ``canary`` or ``shadow``.
        propensity: Probability with which that arm was chosen, in (0, 1].
    """

    id: str
    loop: str
    version: str
    subject: str
    time_ms: int
    input: dict[str, Any]
    label: str | None = None
    scores: dict[str, float] = {}
    embedding: bytes = b""
    encoder: str = ""
    arm: str = "champion"
    propensity: float = 1.0
