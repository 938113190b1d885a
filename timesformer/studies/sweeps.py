"""Sweeps: a study's own setting with any options varied, by grid or at random."""

import ast
import itertools
import math
import random
import re
from collections.abc import Callable, Sequence
from typing import Any

from timesformer.studies.study import Row, Setting, StudyError, Table

_RANGE = re.compile(r"(log)?uniform\(([^,()]+),([^,()]+)\)")
_MAX_GRID = 1000


def sweep_table(sweeps: Sequence[str], draws: int, seed: int) -> Table:
    """The table of a sweep, with a row for each combination.

    Args:
        sweeps: KEY=value,value,... each; a value that holds commas stands in brackets, and drawn at random, the values
            may be uniform(low,high) or loguniform(low,high).
        draws: number of combinations drawn at random; 0 for all.
        seed: of the draw.

    Raises:
        StudyError: if a sweep is not written so, a key comes twice, or a range is to make a grid.
    """
    choices = dict(map(_parse, sweeps))
    if len(choices) < len(sweeps):
        raise StudyError("--sweep: a key comes twice, expected all of its values in one")
    if draws:
        rng = random.Random(seed)
        combinations = [{key: draw(rng) for key, (_, draw) in choices.items()} for _ in range(draws)]
    else:
        if ranges := [key for key, (values, _) in choices.items() if not values]:
            raise StudyError(
                f"--sweep {ranges[0]} is a range, which has no grid: give --sweep-random N to draw from it"
            )
        if (size := math.prod(len(values) for values, _ in choices.values())) > _MAX_GRID:
            raise StudyError(f"--sweep: a grid of {size}, expected up to {_MAX_GRID}: give --sweep-random N instead")
        grid = itertools.product(*(values for values, _ in choices.values()))
        combinations = [dict(zip(choices, values, strict=True)) for values in grid]
    rows = {_name(options): options for options in combinations}
    short = {key: key.rpartition(".")[2] for key in choices}
    names = short if len(set(short.values())) == len(short) else {key: key for key in choices}
    return Table(
        title="Sweep",
        rows=tuple(
            # Of the demo too, whose own options would come after the row's.
            Row(name, (None, None), Setting(set=options), Setting(set=options), {})
            for name, options in rows.items()
        ),
        columns={names[key]: key for key in choices},
        findings=(),
        note="Choose by the validation: the best of many test figures flatters itself.",
    )


def _name(options: dict[str, Any]) -> str:
    return ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in options.items())


def _parse(text: str) -> tuple[str, tuple[list[Any], Callable[[random.Random], Any]]]:
    key, equals, written = text.partition("=")
    key = key.strip()
    if not (key and equals and written.strip()):
        raise StudyError(f"--sweep {text}: expected KEY=value,value,..., such as SOLVER.BASE_LR=0.001,0.0035")
    if match := _RANGE.fullmatch(written.replace(" ", "")):
        try:
            low, high = float(match[2]), float(match[3])
        except ValueError:
            low = high = math.nan
        if not (low < high and (low > 0 or not match[1])):
            raise StudyError(f"--sweep {text}: expected two rising numbers, above 0 for loguniform")
        if match[1]:
            return key, ([], lambda rng: float(f"{math.exp(rng.uniform(math.log(low), math.log(high))):.4g}"))
        return key, ([], lambda rng: float(f"{rng.uniform(low, high):.4g}"))
    values = [_value(part) for part in re.split(r",(?![^\[]*\])", written)]
    return key, (values, lambda rng: rng.choice(values))


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        return text.strip()
