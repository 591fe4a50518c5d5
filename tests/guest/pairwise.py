# SPDX-License-Identifier: GPL-2.0-or-later
"""Choose few combinations such that every two values of different dimensions meet in one of them."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence

Combination = dict[str, Hashable]
Pair = tuple[tuple[str, Hashable], tuple[str, Hashable]]
LOOKED_AT = 300
"""Of the combinations that hold a missing pair, as many are compared; more give hardly fewer in the end."""


def pairs_of(combination: Mapping[str, Hashable]) -> frozenset[Pair]:
    """Every two values that meet in a combination."""
    return frozenset(itertools.combinations(combination.items(), 2))


def pairwise(
    dimensions: Mapping[str, Sequence[Hashable]],
    possible: Callable[[Mapping[str, Hashable]], bool],
    plain: Mapping[str, Hashable] | None = None,
) -> list[Combination]:
    """Combinations that hold every pair which any possible combination holds; the same ones every time.

    A pair that no possible combination holds is left out. Greedy: the one with most missing pairs comes next. Of equal
    ones that with most values of ``plain`` comes first, then that whose values were used least.
    """
    combinations = [dict(zip(dimensions, values, strict=True)) for values in itertools.product(*dimensions.values())]
    holding: dict[Pair, list[Combination]] = defaultdict(list)
    for combination in filter(possible, combinations):
        for pair in itertools.combinations(combination.items(), 2):
            holding[pair].append(combination)
    missing = set(holding)
    used: Counter[tuple[str, Hashable]] = Counter()
    usual = set((plain or {}).items())

    def worth(one: Combination) -> tuple[int, int, int]:
        values = one.items()
        return len(pairs_of(one) & missing), len(usual & set(values)), -sum(used[value] for value in values)

    chosen: list[Combination] = []
    # The rarest pairs leave the least choice, so they choose first.
    for pair in sorted(holding, key=lambda one: len(holding[one])):
        if pair in missing:
            best = max(_spread(holding[pair]), key=worth)
            missing -= pairs_of(best)
            used.update(best.items())
            chosen.append(best)
    return chosen


def _spread(combinations: Sequence[Combination]) -> Sequence[Combination]:
    """Some of the combinations, evenly from all of them."""
    return combinations[:: max(1, len(combinations) // LOOKED_AT)]
