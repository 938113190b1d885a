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
    "clips": "how a video becomes a clip; a test warns if the checkpoint was trained with another value",
    "start": "the weights that training starts from; a run that resumes ignores it",
    "training": "the course of training; a run resumes with the new value and a warning",
    "evaluation": "the results of a test; results with other values go to another folder",
    "inputs": "where data and weights are read, and whether to train",
    "rounding": "speed and memory; results change by rounding at most",
    "runtime": "nothing in the results",
}
"""What an option can affect."""


@dataclass
class Option:
    """An option of the configuration, of the type of its default: bool, int, float, str or list.

    `read_by` names other options with the values for which this one is read, as in "MODEL.MODEL_NAME ViViT and
    VIVIT.MODEL 2 3", or after "!" the values for which it is not; "or" separates alternatives. "DATASET" is
    TRAIN.DATASET or TEST.DATASET. An option that is set but not read is an error.
    """

    key: str  # with the section, such as "SOLVER.MY_FACTOR"
    default: Any
    affects: str  # words of `EFFECTS`, separated by blanks
    help: str  # one short sentence, for docs/options.md
    choices: str | Sequence[Any] = ()  # valid values (a text: separated by blanks), for a list those of each item
    low: float = -math.inf  # bounds of a number, or of each number of a list; `low` and `high` are valid
    high: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    length: int | None = None  # of a list
    pattern: str = ""  # regular expression for the whole of a text
    read_by: str = ""
    synonyms: Mapping[str, str] = field(default_factory=dict)  # other spellings of values, in lower case
    item_type: type = float  # of an empty list
    past_defaults: tuple[Any, ...] = ()  # of earlier versions, which are in the configurations that runs have written
    new: bool = True  # whether the original codebase does not have it

    def __post_init__(self) -> None:
        self.choices = tuple(self.choices.split() if isinstance(self.choices, str) else self.choices)
        if isinstance(self.default, list) and self.default:
            self.item_type = type(self.default[0])

    @property
    def is_path(self) -> bool:
        """Whether the value is a path, so that a leading `~` is the home directory."""
        return isinstance(self.default, str) and self.key.endswith(("_DIR", "_PATH", "_PREFIX", "_MODEL"))

    @property
    def kind(self) -> str:
        """The type in words."""
        if isinstance(self.default, list):
            return {int: "a list of whole numbers", float: "a list of numbers", str: "a list of text"}[self.item_type]
        return {bool: "true or false", int: "a whole number", float: "a number", str: "text"}[type(self.default)]

    def expected(self) -> str:
        """The valid values in words."""
        if self.choices:
            return _one_of(self.choices)
        limits = ((">=", self.low), (">", self.above), ("<=", self.high), ("<", self.below))
        limit = " and ".join(f"{sign} {bound:g}" for sign, bound in limits if math.isfinite(bound))
        number = f"{self.length} values" if self.length else ""
        pattern = "not empty" if self.pattern == ".+" else self.pattern
        return pattern or ", each ".join(filter(None, (number, limit))) or self.kind

    def problem(self, value: Any) -> str:
        """What is wrong with a value of the correct type; empty if it is valid."""
        items = value if isinstance(value, list) else [value]
        numbers = [item for item in items if isinstance(item, int | float)]
        if self.choices:
            is_valid = value in self.choices or all(item in self.choices for item in items)
        else:
            is_valid = (
                (self.length is None or len(items) == self.length)
                and (not self.pattern or re.fullmatch(self.pattern, value) is not None)
                and all(self.low <= v <= self.high and self.above < v < self.below for v in numbers)
            )
        words = [choice for choice in self.choices if isinstance(choice, str) and choice]
        near = "".join(f"; the nearest is {word}" for word in get_close_matches(str(value).lower(), words, n=1))
        return "" if is_valid else f"is {value!r}, expected {self.expected()}{near}"

    def conditions(self) -> list[list[tuple[str, bool, list[str]]]]:
        """Alternatives of `read_by` in parts: a key, whether its value has to be one of the words, and the words."""
        alternatives = [[part.split() for part in one.split(" and ")] for one in self.read_by.split(" or ") if one]
        return [
            [(key, not words[0].startswith("!"), [word.lstrip("!") for word in words]) for key, *words in parts]
            for parts in alternatives
        ]

    def condition(self) -> str:
        """`read_by` in words; empty if the option is always read."""
        alternatives = [
            " and ".join(f"{key} {'' if among else 'other than '}{_one_of(words)}" for key, among, words in parts)
            for parts in self.conditions()
        ]
        return ", or ".join(alternatives).replace("?*", "NAME")

    def is_default(self, value: Any) -> bool:
        """Whether a value is the default, of this version or of an earlier one."""
        return value == self.default or value in self.past_defaults

    def is_read(self, cfg: CfgNode) -> bool:
        """Whether something reads the option in a configuration."""
        alternatives = [
            all(
                any(any(fnmatchcase(value, word) for word in words) == among for value in _values(cfg, key))
                for key, among, words in parts
            )
            for parts in self.conditions()
        ]
        return any(alternatives) or not alternatives


OPTIONS: dict[str, Option] = {}
"""Every option by its key, in the order of docs/options.md."""


def register_option(key: str, default: Any, affects: str, help: str, **rules: Any) -> None:
    """Adds an option to the table, so that it has a default, and YAML files and command lines can set it.

    The arguments are the fields of `Option`. Raises ValueError if another option has the key, `affects` has an unknown
    word, or the default is not valid.
    """
    option = Option(key, default, affects, help, **rules)
    if unknown := set(affects.split()) - set(EFFECTS):
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


def set_option(cfg: dict[str, Any], key: str, value: Any) -> None:
    """Sets the option with a dotted key; its sections are created if necessary."""
    *sections, name = key.split(".")
    for section in sections:
        cfg = cfg.setdefault(section, type(cfg)())
    cfg[name] = value


def effects_of(key: str) -> set[str]:
    """What an option affects; empty for an option that the present version does not have."""
    return set(OPTIONS[key].affects.split()) if key in OPTIONS else set()


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """The options of nested sections by their dotted keys; empty for anything but a mapping."""
    options: dict[str, Any] = {}
    for name, value in config.items() if isinstance(config, Mapping) else ():
        options |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return options


def _values(cfg: CfgNode, key: str) -> list[str]:
    keys = ("TRAIN.DATASET", "TEST.DATASET") if key == "DATASET" else (key,)
    return [str(get_option(cfg, key)) for key in keys]


def _one_of(values: Sequence[Any]) -> str:
    """The values as in "a, b or c"."""
    names = ["'' (empty)" if value == "" else str(value) for value in values]
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))
