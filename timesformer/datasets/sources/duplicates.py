"""Equal strings among millions, found by sorted hashes, so that no Python object is kept for each of them."""

from array import array
from collections.abc import Iterable, Sequence

import numpy as np


def hashes(strings: Iterable[str]) -> np.ndarray:
    """Hashes of the strings, int64 (strings,): equal for equal strings, in this process alone."""
    return np.asarray(array("q", map(hash, strings)))


def repeats(strings: Sequence[str], of: np.ndarray) -> list[tuple[int, int]]:
    """Pairs (number of a string, number of the first one equal to it), for those that stood there before; rising.

    of: the hashes of `strings`.
    """
    order = np.argsort(of, kind="stable")
    same = of[order[1:]] == of[order[:-1]]
    suspects = np.sort(order[np.append(same, False) | np.append(False, same)]) if len(of) else order
    first: dict[str, int] = {}
    places = ((int(number), first.setdefault(strings[number], int(number))) for number in suspects)
    return [(number, earlier) for number, earlier in places if earlier != number]


def matches(strings: Sequence[str], of: np.ndarray, others: Sequence[str], of_others: np.ndarray) -> np.ndarray:
    """For each of `strings` the number of the first of `others` that equals it, or -1: int64 (strings,).

    of, of_others: the hashes of `strings` and `others`.
    """
    order = np.argsort(of_others, kind="stable")
    by_hash = of_others[order]
    places = np.searchsorted(by_hash, of)
    found = np.full(len(of), -1, np.int64)
    suspects = places < len(by_hash)
    suspects[suspects] = by_hash[places[suspects]] == of[suspects]
    for number in np.flatnonzero(suspects).tolist():
        string, place = strings[number], places[number]
        while place < len(by_hash) and by_hash[place] == of[number]:  # more than once only if hashes collide
            if others[order[place]] == string:
                found[number] = order[place]
                break
            place += 1
    return found
