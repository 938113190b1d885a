"""The table of options: the type and the valid values of each, what it affects, and what reads it.

`defaults.py` fills the table. Validation, the comparison of runs and docs/options.md derive from it.
"""

import copy
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from fvcore.common.config import CfgNode

EFFECTS = {
    "model": "the network and its weights; a run cannot resume with another value",
    "optimizer": "the parameter groups; a run cannot resume with another value",
    "split": "which videos are for training, validation and test; a run cannot resume with another value",
    "clips": "how a video becomes a clip",
    "start": "the weights that training starts from",
    "training": "the course of training",
    "evaluation": "the results of a test",
    "inputs": "where data and weights are read, and whether to train",
    "rounding": "speed and memory; results change by rounding at most",
    "runtime": "nothing in the results",
}
"""What an option can affect."""

_PATH_ENDINGS = ("_DIR", "_PATH", "_PREFIX", "_MODEL")


@dataclass
class Option:
    """An option; see `register_option`."""

    key: str
    default: Any
    affects: tuple[str, ...]
    help: str
    choices: tuple[Any, ...] = ()
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    length: int | None = None
    pattern: str = ""
    values: str = ""
    read_by: Mapping[str, str] = field(default_factory=dict)
    synonyms: Mapping[str, str] = field(default_factory=dict)
    new: bool = True
    item_type: type = float

    @property
    def is_path(self) -> bool:
        """Whether the value is a path, so that a leading `~` is the home directory."""
        return isinstance(self.default, str) and self.key.endswith(_PATH_ENDINGS)

    @property
    def kind(self) -> str:
        """The type in words."""
        if not isinstance(self.default, list):
            return {bool: "true or false", int: "a whole number", float: "a number", str: "text"}[type(self.default)]
        return {int: "a list of whole numbers", float: "a list of numbers", str: "a list of text"}[self.item_type]

    def expected(self) -> str:
        """The valid values in words; empty if every value of the type is valid."""
        if self.choices:
            return one_of(self.choices)
        limits = ((">=", self.low), (">", self.above), ("<=", self.high), ("<", self.below))
        limit = " and ".join(f"{sign} {bound:g}" for sign, bound in limits if bound is not None)
        number = f"{self.length} values" if self.length else ""
        return self.values or ", each ".join(filter(None, (number, limit)))

    def problem(self, value: Any) -> str:
        """What is wrong with a value of the correct type; empty if nothing is."""
        items = value if isinstance(value, list) else [value]
        if self.choices:
            if value in self.choices or all(item in self.choices for item in items):
                return ""
            near = get_close_matches(str(value).lower(), [c for c in self.choices if isinstance(c, str) and c], n=1)
            return f"is {value!r}, expected {self.expected()}" + "".join(f"; the nearest is {name}" for name in near)
        is_valid = (
            (self.length is None or len(items) == self.length)
            and (not self.pattern or re.fullmatch(self.pattern, value) is not None)
            and all(self._is_in_range(item) for item in items if isinstance(item, int | float))
        )
        return "" if is_valid else f"is {value!r}, expected {self.expected() or 'finite numbers'}"

    def _is_in_range(self, number: float) -> bool:
        return (
            math.isfinite(number)
            and (self.low is None or number >= self.low)
            and (self.above is None or number > self.above)
            and (self.high is None or number <= self.high)
            and (self.below is None or number < self.below)
        )

    def why_unread(self, cfg: CfgNode) -> str:
        """Why nothing reads the option in a configuration; empty if something does."""
        for key, names in self.read_by.items():
            keys = ("TRAIN.DATASET", "TEST.DATASET") if key == "DATASET" else (key,)
            values = [get_option(cfg, key) for key in keys]
            if not any(_matches(value, names) for value in values):
                return f"{keys[0]} is {values[0]}, and it is only read with {keys[0]} {_words(names)}"
        return ""


OPTIONS: dict[str, Option] = {}
"""Every option by its key, in the order of docs/options.md."""


def register_option(
    key: str,
    default: bool | int | float | str | list,
    affects: str,
    help: str,
    *,
    choices: Sequence[Any] = (),
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    length: int | None = None,
    pattern: str = "",
    values: str = "",
    read_by: Mapping[str, str] | None = None,
    synonyms: Mapping[str, str] | None = None,
    item_type: type = float,
    new: bool = True,
) -> None:
    """Adds an option to the table, so that it has a default and YAML files and command lines can set it.

    Args:
        key: its name with the section, such as "SOLVER.MY_FACTOR".
        default: gives the type too.
        affects: words of `EFFECTS`, separated by blanks.
        help: one short sentence, for docs/options.md.
        choices: the valid values; for a list, those of each item.
        low, high, above, below: the range of a number, or of each number of a list: `low` and `high` are valid values.
        length: the number of items of a list.
        pattern: regular expression for the whole of a text.
        values: the valid values in words, for `pattern`.
        read_by: other options, with the values for which this one is read, separated by blanks: {"MODEL.MODEL_NAME":
            "ViViT"}, or with "!" before them the values for which it is not. "DATASET" is TRAIN.DATASET and
            TEST.DATASET together. An option that is set but not read is an error.
        synonyms: other spellings of values, in lower case.
        item_type: of an empty list.
        new: whether the original codebase does not have it.

    Raises:
        ValueError: if another option has the key, `affects` has an unknown word, or the default is not valid.
    """
    option = Option(
        *(key, default, tuple(affects.split()), help, tuple(choices), low, high, above, below, length, pattern, values),
        *(read_by or {}, synonyms or {}, new),
        item_type=type(default[0]) if isinstance(default, list) and default else item_type,
    )
    if unknown := set(option.affects) - set(EFFECTS):
        raise ValueError(f"{key} affects {', '.join(unknown)}, expected words of {', '.join(EFFECTS)}")
    if OPTIONS.get(key, option) != option:
        raise ValueError(f"{key} is registered twice, with different definitions")
    if any(key.startswith(f"{other}.") or other.startswith(f"{key}.") for other in OPTIONS):
        raise ValueError(f"{key} would be an option and a section of options")
    if problem := option.problem(default):
        raise ValueError(f"the default of {key} {problem}")
    OPTIONS.setdefault(key, option)


def get_cfg() -> CfgNode:
    """Returns a new configuration with the default of every option."""
    cfg = CfgNode()
    for option in OPTIONS.values():
        set_option(cfg, option.key, copy.copy(option.default))
    return cfg


def get_option(cfg: CfgNode, key: str) -> Any:
    """The value of the option with a dotted key."""
    for name in key.split("."):
        cfg = cfg[name]
    return cfg


def set_option(cfg: CfgNode, key: str, value: Any) -> None:
    """Sets the option with a dotted key; its sections are created if necessary."""
    *sections, name = key.split(".")
    for section in sections:
        cfg = cfg.setdefault(section, CfgNode())
    cfg[name] = value


def effects_of(key: str) -> set[str]:
    """What an option affects; empty for an option that the present version does not have."""
    return set(OPTIONS[key].affects) if key in OPTIONS else set()


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """The options of nested sections by their dotted keys; empty for anything but a mapping."""
    options: dict[str, Any] = {}
    for name, value in config.items() if isinstance(config, Mapping) else ():
        options |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return options


def one_of(values: Sequence[Any]) -> str:
    """The values as in "a, b or c"."""
    names = ["'' (empty)" if value == "" else str(value) for value in values]
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _matches(value: Any, names: str | Sequence[Any]) -> bool:
    if isinstance(names, str):
        return _matches(value, names.lstrip("!").split()) != names.startswith("!")
    return value in names or any(fnmatchcase(str(value), name) for name in names if isinstance(name, str))


def _words(names: str) -> str:
    words = one_of(names.lstrip("!").replace("?*", "<name>").split())
    return f"other than {words}" if names.startswith("!") else words
