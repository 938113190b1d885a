"""The table of lists has a row for each kind of list, opened in a process of its own."""

import sys
from collections.abc import Callable

import pytest


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured from Linux' /proc")
def test_each_kind_of_list_is_opened_and_measured(run_benchmark: Callable) -> None:
    code, lines, error = run_benchmark("lists", "--clips", "8000")
    assert (code, error) == (0, "")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[4:]]
    # 20 clips of each class: at random, 2 to the test and 2 to the validation.
    assert [row[:2] for row in rows] == [["kinetics, `train.csv`", "8,000"], ["folder, split at random", "6,400"]]
    assert all(float(seconds) > 0 for _, _, seconds, _ in rows)
    assert all(float(memory) >= 0 for *_, memory in rows)
