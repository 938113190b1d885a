"""Checks of the numeric arguments of functions for Python; UserError names the argument and what was expected."""

import math
from numbers import Integral, Real

from timesformer.errors import UserError


def check_whole(name: str, value: object, minimum: int) -> None:
    """Raises UserError if `value` is not a whole number of `minimum` or more."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < minimum:
        raise UserError(f"{name} is {value!r}, expected a whole number of {minimum} or more")


def check_positive(name: str, value: object) -> None:
    """Raises UserError if `value` is not a finite number above 0."""
    if not (_is_number(value) and value > 0):
        raise UserError(f"{name} is {value!r}, expected a number above 0")


def check_not_negative(name: str, value: object) -> None:
    """Raises UserError if `value` is not a finite number of 0 or more."""
    if not (_is_number(value) and value >= 0):
        raise UserError(f"{name} is {value!r}, expected a number of 0 or more")


def check_fraction(name: str, value: object, most: float = 1.0) -> None:
    """Raises UserError if `value` is not a number from 0 to `most`."""
    if not (_is_number(value) and 0 <= value <= most):
        raise UserError(f"{name} is {value!r}, expected a number from 0 to {most:g}")


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
