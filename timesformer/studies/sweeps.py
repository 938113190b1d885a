"""Sweeps: a study's own setting with some options varied. The options, their values, and the rows of the trials."""

import itertools
import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import yaml

from timesformer.studies.study import Row, Setting, StudyError, Table

Value = str | float
"""One of the values of an option as it was written, or a number of its range."""
Sampler = Literal["grid", "random", "tpe"]
Pruner = Literal["none", "median", "hyperband"]

_RANGE = re.compile(r"(log)?uniform\(([^,()]+),([^,()]+)\)")
_MAX_GRID = 1000


@dataclass(frozen=True)
class Values:
    """A list of values, as written."""

    texts: tuple[str, ...]

    def draw(self, rng: random.Random) -> Value:
        """One of the values."""
        return rng.choice(self.texts)


@dataclass(frozen=True)
class Range:
    """All numbers from `low` to `high`, equally likely or, with `is_log`, with equally likely logarithms."""

    low: float
    high: float
    is_log: bool

    def draw(self, rng: random.Random) -> Value:
        """A number of the range."""
        if self.is_log:
            return _round(math.exp(rng.uniform(math.log(self.low), math.log(self.high))))
        return _round(rng.uniform(self.low, self.high))


@dataclass(frozen=True)
class Sweep:
    """What to vary, and how. `combinations` are those of grid and random search, in order; other samplers have none."""

    space: Mapping[str, Values | Range]
    sampler: Sampler
    trials: int
    seed: int
    pruner: Pruner
    combinations: tuple[dict[str, Value], ...]

    def example(self) -> dict[str, Value]:
        """The first value of each list, and the lowest of each range."""
        return {key: one.low if isinstance(one, Range) else one.texts[0] for key, one in self.space.items()}

    def row(self, values: Mapping[str, Value]) -> Row:
        """The row of a trial."""
        options = {key: yaml.safe_load(one) if isinstance(one, str) else _round(one) for key, one in values.items()}
        name = ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in options.items())
        return Row(name=name, set=options, demo=Setting(set=options))  # over the demo's own options, too

    def table(self, rows: Sequence[Row]) -> Table:
        """The table of these rows; equal ones once."""
        short = {key.rpartition(".")[2]: key for key in self.space}
        return Table(
            title="Sweep",
            rows=tuple({row.name: row for row in rows}.values()),
            columns=short if len(short) == len(self.space) else {key: key for key in self.space},
            note="Choose by the validation: selecting on the test set is optimistically biased.",
        )


def make_sweep(
    texts: Sequence[str], sampler: Sampler = "grid", trials: int = 0, seed: int = 1, pruner: Pruner = "none"
) -> Sweep:
    """Reads the options of a sweep; StudyError if they are not valid.

    Args:
        texts: KEY=value,value,... each; values with commas are in brackets. Except for a grid, the values may be
            uniform(low,high) or loguniform(low,high).
        sampler: how combinations are chosen.
        trials: their number; a grid has all.
        seed: of the random numbers.
        pruner: how trials are chosen that end early.
    """
    space = dict(map(_parse, texts))
    if len(space) < len(texts):
        raise StudyError("--sweep: found a key several times, expected all of its values in one")
    combinations: list[dict[str, Value]] = []
    if sampler == "grid":
        combinations = _grid(space)
        trials = len(combinations)
    elif sampler == "random":
        rng = random.Random(seed)
        drawn = [{key: values.draw(rng) for key, values in space.items()} for _ in range(trials)]
        combinations = [one for number, one in enumerate(drawn) if one not in drawn[:number]]
        trials = len(combinations)
    return Sweep(space, sampler, trials, seed, pruner, tuple(combinations))


def _grid(space: Mapping[str, Values | Range]) -> list[dict[str, Value]]:
    if ranges := [key for key, values in space.items() if isinstance(values, Range)]:
        raise StudyError(f"--sweep {ranges[0]}: found a range, which has no grid; add --sweep-random N")
    if (size := math.prod(len(values.texts) for values in space.values())) > _MAX_GRID:
        raise StudyError(f"--sweep: found a grid of {size}, expected up to {_MAX_GRID}; add --sweep-random N")
    return [dict(zip(space, one, strict=True)) for one in itertools.product(*(v.texts for v in space.values()))]


def _parse(text: str) -> tuple[str, Values | Range]:
    """The key and its values."""
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
        return key, Range(low, high, bool(match[1]))
    return key, Values(tuple(part.strip() for part in re.split(r",(?![^\[]*\])", written)))


def _round(number: float) -> float:
    return float(f"{number:.4g}")
