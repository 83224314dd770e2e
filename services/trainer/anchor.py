"""The best version so far, so that losses too small to be shown do not add up step by step."""

import msgspec
import numpy as np
import numpy.typing as npt

from schemas.loops import Gate
from schemas.manifest import GateDecision
from services.trainer.core import Scorer, Unseen
from services.trainer.gate import Pairs, decide


class Anchor:
    """What a small step is compared with besides the champion.

    Each step may be worse than its champion by what cannot be shown, and by ``gate.margin`` besides. Compared with the
    best version so far as well, all steps together may. The best is the one that was last at least as good on the
    unseen examples of its day; it lasts for one generation and one run of champions, and a restart begins anew.
    """

    def __init__(self) -> None:
        self._best: Scorer | None = None

    def release(self) -> None:
        """Forget the best: an operator chose another champion, and that is what counts."""
        self._best = None

    def judge(self, decision: GateDecision, right: npt.NDArray[np.bool_], unseen: Unseen, *, encoder: str,
              champion: str | None, gate: Gate) -> tuple[GateDecision, bool]:
        """Refuse an accepted candidate that is shown to be worse than the best.

        Args:
            right: Whether the candidate is, on ``unseen``.
            champion: Compared with already; nothing is done again when it is the best.

        Returns:
            The decision, and whether the candidate is at least as good as the best.
        """
        best = self._best
        if best is None or best.encoder != encoder:
            return decision, True
        theirs = best.right(best.measure(unseen), unseen.labels)
        as_good = bool(right.sum() >= theirs.sum())
        if decision.verdict == "rejected" or best.version == champion:
            return decision, as_good
        beside = decide("non-inferior", Pairs(unseen.labels, theirs, right), gate)
        if beside.verdict == "accepted":
            return decision, as_good
        reason = f"{decision.reason}; but beside {best.version}, the best so far: {beside.reason}"
        return msgspec.structs.replace(decision, verdict="rejected", reason=reason), False

    def keep(self, version: Scorer) -> None:
        """Take a version that serves as the best so far."""
        self._best = version
