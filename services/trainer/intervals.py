"""Confidence bounds for shares, for paired shares, and for which labels were forgotten. Pure arithmetic.

Every bound is one-sided: an interval "at 0.95" has a lower bound that holds with 95 % confidence and an upper bound
that holds with 95 % confidence.
"""

from collections.abc import Mapping
from math import comb, sqrt
from statistics import NormalDist


def wilson(n_right: int, n: int, confidence: float) -> tuple[float, float]:
    """Bounds of a share (Wilson, JASA 1927); (0, 1) when nothing was measured."""
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(confidence)
    share = n_right / n
    middle = share + z * z / (2 * n)
    half = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def paired_difference(both: int, only_first: int, only_second: int, neither: int,
                      confidence: float) -> tuple[float, float, float]:
    """Second share minus first share on the same examples, with bounds (Newcombe, Stat. Med. 1998, method 10).

    Built from the two Wilson intervals and the pairs' correlation; unlike the Wald interval it keeps its confidence
    for few pairs and for shares near 1, and does not shrink to nothing when all pairs agree.

    Args:
        both, only_first, only_second, neither: How many examples both got right, and so on.

    Returns:
        (difference, lower, upper); (0, -1, 1) when nothing was measured.
    """
    n = both + only_first + only_second + neither
    if n == 0:
        return 0.0, -1.0, 1.0
    first, second = (both + only_first) / n, (both + only_second) / n
    l1, u1 = wilson(both + only_first, n, confidence)
    l2, u2 = wilson(both + only_second, n, confidence)
    margins = (both + only_first) * (only_second + neither) * (both + only_second) * (only_first + neither)
    excess = both * neither - only_first * only_second
    corrected = max(excess - n / 2, 0.0) if excess > 0 else float(excess)
    phi = corrected / sqrt(margins) if margins else 0.0
    difference = second - first
    down = (second - l2) ** 2 - 2 * phi * (second - l2) * (u1 - first) + (u1 - first) ** 2
    up = (u2 - second) ** 2 - 2 * phi * (u2 - second) * (first - l1) + (first - l1) ** 2
    return difference, difference - sqrt(max(down, 0.0)), difference + sqrt(max(up, 0.0))


def worse_by_chance(losses: int, gains: int) -> float:
    """Probability of at least so many losses among the disagreements if neither were worse (McNemar's exact test)."""
    n = losses + gains
    # Whole numbers to the end: as floats, 2**1024 is too large, and each comb() anew would cost seconds.
    ways, total = comb(n, losses), 0
    for k in range(losses, n + 1):
        total += ways
        ways = ways * (n - k) // (k + 1)
    return total / (1 << n)


def shown_worse(pairs: Mapping[str, tuple[int, int]], confidence: float) -> set[str]:
    """Which of many labels are shown to have lost, with the given confidence for all of them together.

    An exact one-sided test per label. The level is shared only among labels that have enough disagreements to reach
    it (Tarone, Biometrics 1990): labels with two examples cannot be shown anything and must not weaken the rest.

    Args:
        pairs: (losses, gains) by label: disagreements that the first model had right, and that the second had right.
    """
    level = 1.0 - confidence
    sizes = [losses + gains for losses, gains in pairs.values()]
    share = next((k for k in range(1, len(sizes) + 1) if sum(0.5**n <= level / k for n in sizes) <= k), 1)
    return {label for label, (losses, gains) in pairs.items() if worse_by_chance(losses, gains) <= level / share}
