"""Keep things apart on a line while moving them as little as can be."""

from collections.abc import Sequence


def spread(aims: Sequence[float], gaps: Sequence[float], weights: Sequence[float]) -> list[float]:
    r"""Return the places nearest to `aims` that keep their order and their distances.

    Minimises :math:`\sum_i w_i (x_i - a_i)^2` subject to :math:`x_{i+1} - x_i \ge g_i`. With the
    gaps summed up and subtracted this is isotonic regression, which pooling adjacent violators
    solves exactly.

    Args:
        aims: Wanted places, in the order that is kept.
        gaps: Least distances, one fewer than aims.
        weights: How strongly each aim pulls, positive.

    Returns:
        One place per aim, in the same units.

    References:
        https://en.wikipedia.org/wiki/Isotonic_regression
    """
    shifts = [0.0]
    for gap in gaps:
        shifts.append(shifts[-1] + gap)
    pools: list[tuple[float, float, int]] = []  # mean, weight, members
    for aim, weight, shift in zip(aims, weights, shifts, strict=False):
        mean, total, count = aim - shift, weight, 1
        while pools and pools[-1][0] > mean:
            other, mass, members = pools.pop()
            mean = (mean * total + other * mass) / (total + mass)
            total, count = total + mass, count + members
        pools.append((mean, total, count))
    means = [mean for mean, _, count in pools for _ in range(count)]
    return [mean + shift for mean, shift in zip(means, shifts, strict=False)]
