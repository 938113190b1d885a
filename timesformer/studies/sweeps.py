"""Sweeps: a study's own setting with some options varied, by grid or at random."""

import itertools
import math
import random
import re
from collections.abc import Callable, Sequence
from typing import Any

import yaml

from timesformer.studies.study import Row, Setting, StudyError, Table

_RANGE = re.compile(r"(log)?uniform\(([^,()]+),([^,()]+)\)")
_MAX_GRID = 1000


def sweep_table(sweeps: Sequence[str], draws: int, seed: int) -> Table:
    """The table of a sweep, with a row for each of `draws` random combinations, or for the whole grid if 0.

    sweeps: KEY=value,value,... each; values with commas are in brackets. For draws, the values may be
    uniform(low,high) or loguniform(low,high).
    """
    choices = dict(map(_parse, sweeps))
    if len(choices) < len(sweeps):
        raise StudyError("--sweep: found a key several times, expected all of its values in one")
    if draws:
        rng = random.Random(seed)
        combinations = [[draw(rng) for _, draw in choices.values()] for _ in range(draws)]
    else:
        for key, (values, _) in choices.items():
            if not values:
                raise StudyError(f"--sweep {key}: found a range, which has no grid; add --sweep-random N")
        if (size := math.prod(len(values) for values, _ in choices.values())) > _MAX_GRID:
            raise StudyError(f"--sweep: found a grid of {size}, expected up to {_MAX_GRID}; add --sweep-random N")
        combinations = list(itertools.product(*(values for values, _ in choices.values())))
    short = {key.rpartition(".")[2]: key for key in choices}
    rows = {}
    for combination in combinations:
        options = dict(zip(choices, combination, strict=True))
        name = ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in options.items())
        rows[name] = Row(name=name, set=options, demo=Setting(set=options))  # over the demo's own options, too
    return Table(
        title="Sweep",
        rows=tuple(rows.values()),
        columns=short if len(short) == len(choices) else {key: key for key in choices},
        note="Choose by the validation: selecting on the test set is optimistically biased.",
    )


def _parse(text: str) -> tuple[str, tuple[list[Any], Callable[[random.Random], Any]]]:
    """The key, its values (none for a range), and a function that draws one."""
    key, _, written = (part.strip() for part in text.partition("="))
    if not (key and written):
        raise StudyError(f"--sweep {text}: expected KEY=value,value,..., such as SOLVER.BASE_LR=0.001,0.0035")
    if match := _RANGE.fullmatch(written.replace(" ", "")):
        try:
            low, high = float(match[2]), float(match[3])
        except ValueError:
            low = high = math.nan
        if not (low < high and (low > 0 or not match[1])):
            raise StudyError(f"--sweep {text}: expected low < high, and low > 0 for loguniform")
        if match[1]:
            return key, ([], lambda rng: float(f"{math.exp(rng.uniform(math.log(low), math.log(high))):.4g}"))
        return key, ([], lambda rng: float(f"{rng.uniform(low, high):.4g}"))
    values = [yaml.safe_load(part) for part in re.split(r",(?![^\[]*\])", written)]
    return key, (values, lambda rng: rng.choice(values))
