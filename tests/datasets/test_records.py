"""Packed strings come back as they were."""

import random

import numpy as np
import pytest

from timesformer.datasets.records import Strings


@pytest.mark.parametrize("characters", ["abc/_.0", "aé\udc80ß中"])
def test_strings_are_unpacked_by_index_choice_and_iteration(characters: str) -> None:
    rng = random.Random(0)
    strings = ["".join(rng.choices(characters, k=rng.randrange(5))) for _ in range(20_001)]
    packed = Strings(iter(strings))
    assert list(packed) == strings
    assert [packed[index] for index in (-1, 0, 9_999, 10_000)] == [strings[n] for n in (-1, 0, 9_999, 10_000)]
    chosen = np.array([3, 3, 20_000, 10_000, 0])
    assert list(packed.choose(chosen)) == [strings[index] for index in chosen]


def test_no_strings_can_be_packed() -> None:
    assert list(Strings([])) == []
