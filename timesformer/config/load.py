"""Reading a configuration: YAML files with `_BASE_`, then KEY VALUE overrides, over the defaults."""

import ast
import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from fvcore.common.config import BASE_KEY, CfgNode

from timesformer.config.check import check, check_use
from timesformer.config.defaults import get_cfg
from timesformer.config.retired import retired_by
from timesformer.errors import UserError

_logger = logging.getLogger(__name__)

PATHS = frozenset(
    {
        "OUTPUT_DIR",
        "DATA.PATH_TO_DATA_DIR",
        "DATA.SPLITS_DIR",
        "DATA.PATH_PREFIX",
        "TRAIN.CHECKPOINT_FILE_PATH",
        "TEST.CHECKPOINT_FILE_PATH",
        "TEST.SAVE_RESULTS_PATH",
        "TIMESFORMER.PRETRAINED_MODEL",
        "TENSORBOARD.LOG_DIR",
        "TENSORBOARD.CATEGORIES_PATH",
        "TENSORBOARD.CONFUSION_MATRIX.SUBSET_PATH",
        "TENSORBOARD.HISTOGRAM.SUBSET_PATH",
        "TENSORBOARD.WRONG_PRED_VIS.SUBSET_PATH",
    }
)
"""Options that are paths, or may be: `~` at their beginning is the user's home."""

_LIKE_A_KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z][A-Z0-9_]*)*")


class ConfigError(UserError):
    """Everything that is wrong with a configuration; `problems` has one line for each."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__("\n  - ".join([f"the configuration has {count}:", *problems]))


@dataclass(frozen=True)
class _Setting:
    key: str  # dotted
    value: Any
    text: str | None  # as written, where it is one word
    where: str  # "file:line" or "command line"


def load_config(
    path: str | Path | None, overrides: Sequence[str] = (), check_values: bool = True, check_gpus: bool = True
) -> CfgNode:
    """Return the defaults, changed by a YAML file and then by overrides.

    Args:
        path: YAML file; None for the defaults. Its `_BASE_` (a path relative to it, or a list) is read first.
        overrides: KEY VALUE KEY VALUE ...; values are Python literals, or else text.
        check_values: also apply `check`, which looks at this machine (data folder, checkpoints, GPUs).
        check_gpus: whether the GPUs must be on this machine, where the run may not be.

    Keys that only the original had are accepted, with one warning for all of them.

    Raises:
        ConfigError: with every problem found: unknown keys, values of another type, values that make no sense. A file
            that is missing or not YAML is reported alone.
    """
    problems: list[str] = []
    settings = [*(_read_yaml(Path(path)) if path else ()), *_read_overrides(overrides, problems)]
    read = _settle(settings)
    problems += [f"{problem} ({setting.where})" for setting, problem in read.problems]
    if check_values:
        problems += read.placed(check(read.cfg, check_gpus))
    if problems:
        raise ConfigError(problems)
    _warn(read.cfg, read.retired)
    return read.cfg


def load_for_use(
    saved: str, source: str, path: str | Path | None = None, overrides: Sequence[str] = ()
) -> tuple[CfgNode, list[str]]:
    """Return the configuration that a trained model is used with, and notes on what of it was left out, a line each.

    A checkpoint may be older than this version, or the original's: of what it says, options that are unknown here or
    of another type are left out with a note, and values that have no part in using a model are not looked at.

    Args:
        saved: the configuration as YAML, as a checkpoint carries it; may be empty.
        source: where it is from, for messages.
        path: YAML file that takes its place.
        overrides: KEY VALUE KEY VALUE ...

    Raises:
        ConfigError: if `saved` is not YAML, a file or an override is wrong, or values that count make no sense.
    """
    problems: list[str] = []
    given = [*(_read_yaml(Path(path)) if path else ()), *_read_overrides(overrides, problems)]
    then = [] if path else _with_saved_defaults(_parse(saved, source))
    read = _settle([*then, *given])
    left_out = [problem for setting, problem in read.problems if setting in then]
    problems += [f"{problem} ({setting.where})" for setting, problem in read.problems if setting not in then]
    problems += read.placed(check_use(read.cfg))
    if problems:
        raise ConfigError(problems)
    notes = [f"left out of its configuration: {'; '.join(left_out)}"] if left_out else []
    notes += [f"{', '.join(dict.fromkeys(keys))}: without effect, as {why}" for why, keys in read.retired.items()]
    return read.cfg, notes


@dataclass
class _Settled:
    """What settings amount to: the configuration, and of which settings it could not be made.

    retired: keys that only the original had, by the reason.
    where: the place of each key that was set.
    """

    cfg: CfgNode
    problems: list[tuple[_Setting, str]]
    retired: dict[str, list[str]]
    where: dict[str, str]

    def placed(self, problems: Sequence[str]) -> Iterator[str]:
        """Problems that begin with a key, with the place where it was set."""
        for problem in problems:
            key = problem.split(" ", 1)[0]
            yield f"{problem} ({self.where[key]})" if key in self.where else problem


def _settle(settings: Sequence[_Setting]) -> _Settled:
    """Change the defaults by settings, of which the last of a key counts."""
    cfg = get_cfg()
    defaults = dict(_options(cfg))
    read = _Settled(cfg, [], {}, {})
    for setting in settings:
        key = setting.key
        if key not in defaults:
            if entry := retired_by(key):
                read.retired.setdefault(entry[1], []).append(entry[0])
            elif setting.value is not None or not _is_section(key, defaults):  # an empty section says nothing
                read.problems.append((setting, f"{key} {_unknown(key, defaults)}"))
            continue
        try:
            value = _convert(setting.value, setting.text, defaults[key])
        except ValueError:
            expected = _kind(defaults[key])
            read.problems.append((setting, f"{key} is {setting.value!r}, expected {expected}"))
            continue
        section, _, name = key.rpartition(".")
        node = cfg
        for part in section.split(".") if section else ():
            node = node[part]
        node[name] = os.path.expanduser(value) if key in PATHS else value
        read.where[key] = setting.where
    return read


def _read_yaml(path: Path, including: tuple[Path, ...] = ()) -> Iterator[_Setting]:
    """Yield the settings of a file in order, those of its `_BASE_` first."""
    if path.resolve() in including:
        raise ConfigError([f"{path} is among its own {BASE_KEY} files"])
    try:
        settings = _parse(path.expanduser().read_bytes(), str(path))
    except OSError as error:
        named = f", named by {BASE_KEY} of another" if including else ""
        raise ConfigError([f"{path} cannot be read{named}: {error.strerror}"]) from error
    for setting in settings:
        if setting.key == BASE_KEY:
            for base in setting.value if isinstance(setting.value, list) else [setting.value]:
                yield from _read_yaml(path.parent / Path(str(base)).expanduser(), (*including, path.resolve()))
    yield from (s for s in _with_saved_defaults(settings) if s.key != BASE_KEY)


def with_saved_defaults(config: dict[str, Any]) -> dict[str, Any]:
    """Return a saved configuration with the defaults of its version where these have changed since.

    Such a configuration has all options of its version. An empty DATA.SAMPLER was `segment` for ssv2 and `uniform` for
    all others before there was DATA.SAMPLER_WINDOW.

    Args:
        config: its sections and options, as YAML has them.
    """
    data, train = config.get("DATA"), config.get("TRAIN")
    if not isinstance(data, dict) or not _has_earlier_sampler(data):
        return config
    dataset = train.get("DATASET") if isinstance(train, dict) else None
    return {**config, "DATA": {**data, "SAMPLER": earlier_sampler(dataset)}}


def _with_saved_defaults(settings: Sequence[_Setting]) -> list[_Setting]:
    values = {setting.key: setting.value for setting in settings}
    data = {key.removeprefix("DATA."): value for key, value in values.items() if key.startswith("DATA.")}
    if not _has_earlier_sampler(data):
        return [*settings]
    sampler = earlier_sampler(values.get("TRAIN.DATASET"))
    return [replace(s, value=sampler, text=sampler) if s.key == "DATA.SAMPLER" else s for s in settings]


def _has_earlier_sampler(data: dict[str, Any]) -> bool:
    return "SAMPLER_WINDOW" not in data and "SAMPLER_ORDERED" in data and data.get("SAMPLER") == ""


def earlier_sampler(dataset: str | None) -> str:
    """What an empty DATA.SAMPLER was for a dataset before there was DATA.SAMPLER_WINDOW."""
    return "segment" if dataset == "ssv2" else "uniform"


def _parse(text: str | bytes, source: str) -> list[_Setting]:
    """The settings of a YAML text, in order; bytes may be UTF-8, or UTF-16 with a byte order mark."""
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is not None and not isinstance(root, yaml.MappingNode):
            raise ConfigError([f"{source} is not a configuration: expected a YAML mapping such as `DATA: ...`"])
        return list(_walk(loader, root, "", source)) if root else []
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError([f"{source}{line} is not valid YAML: {error.problem}"]) from error
    except yaml.reader.ReaderError as error:
        raise ConfigError([f"{source} is not a text file, or not UTF-8 ({error.reason})"]) from error
    except yaml.YAMLError as error:
        raise ConfigError([f"{source} is not valid YAML: {error}"]) from error


def _walk(loader: yaml.SafeLoader, node: yaml.MappingNode, prefix: str, source: str) -> Iterator[_Setting]:
    """Yield the leaves of a YAML mapping; the nodes are used, not the plain dict, because they know their lines."""
    seen: set[str] = set()
    for name_node, _ in node.value:
        if name_node.value in seen:
            problem = f"{prefix}{name_node.value} is given twice"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=name_node.start_mark)
        seen.add(name_node.value)
    loader.flatten_mapping(node)
    for name_node, value_node in node.value:
        key = f"{prefix}{name_node.value}"
        if isinstance(value_node, yaml.MappingNode):
            yield from _walk(loader, value_node, f"{key}.", source)
        else:
            text = value_node.value if isinstance(value_node, yaml.ScalarNode) else None
            value = loader.construct_object(value_node, deep=True)
            yield _Setting(key, value, text, f"{source}:{name_node.start_mark.line + 1}")


def resembles_key(word: str) -> bool:
    """Whether a word of a command line is an option, or is meant as one: it is in a section, or close to an option."""
    if not _LIKE_A_KEY.fullmatch(word):
        return False
    known = dict(_options(get_cfg()))
    section, dot, _ = word.partition(".")
    if not dot:
        return word in known
    return (
        _is_section(section, known)
        or retired_by(word) is not None
        or bool(get_close_matches(word, known, n=1, cutoff=0.7))
    )


def _read_overrides(overrides: Sequence[str], problems: list[str]) -> Iterator[_Setting]:
    if len(overrides) % 2:
        problems.append(f"{overrides[-1]} has no value: after the options, KEY VALUE pairs are expected (command line)")
    for key, text in zip(overrides[::2], overrides[1::2], strict=False):
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
        yield _Setting(key, value, text, "command line")


def _convert(value: Any, text: str | None, default: Any) -> Any:
    """Return `value` as the type of `default`; ValueError where that would be a guess."""
    if isinstance(default, str):
        if not isinstance(value, str) and value is not None and text is not None:
            return text  # YAML reads `off` as false and `2024` as a number
        if isinstance(value, str):
            return value
    elif isinstance(default, bool):
        if isinstance(value, bool):
            return value
        if text is not None and text.lower() in ("true", "false"):
            return text.lower() == "true"
    elif isinstance(default, list):
        if value is None:
            return []  # how the original says that there is none
        if text is not None and type(value) is int and default and type(default[0]) is int:
            value = [value]  # `8` for a list of one number
        if isinstance(value, list | tuple):
            return [_convert(v, None, default[0] if default else 0.0) for v in value]
    elif isinstance(default, float):
        if isinstance(value, int | float | str) and not isinstance(value, bool):
            return float(value)  # YAML reads `1e-4` as text
    elif type(value) is int:
        return value
    raise ValueError


def _kind(default: Any) -> str:
    if isinstance(default, list):
        return f"a list, each {_kind(default[0] if default else 0.0)}"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "text"}[type(default)]


def _options(node: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        if isinstance(value, CfgNode):
            yield from _options(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _is_section(key: str, defaults: dict[str, Any]) -> bool:
    return any(known.startswith(f"{key}.") for known in defaults)


def _unknown(key: str, defaults: dict[str, Any]) -> str:
    if key.startswith("-"):
        return "belongs before the KEY VALUE pairs"
    if _is_section(key, defaults):
        return "is a section, not an option: set the options in it"
    name = key.upper().rpartition(".")[2]
    by_name = {known.rpartition(".")[2]: known for known in reversed(defaults)}
    near = get_close_matches(key.upper(), defaults, n=1, cutoff=0.7) if "." in key else []
    near = near or [by_name[n] for n in get_close_matches(name, by_name, n=1)]
    return f"is not an option; the nearest is {near[0]}" if near else "is not an option"


def _warn(cfg: CfgNode, retired: dict[str, list[str]]) -> None:
    if cfg.DATA.DECODING_BACKEND == "torchcodec":
        _logger.warning("DATA.DECODING_BACKEND torchcodec was removed: pyav decodes the same frames")
    if retired:
        lines = [f"{', '.join(dict.fromkeys(keys))}: {reason}" for reason, keys in retired.items()]
        _logger.warning("these options have no effect here:\n  - %s", "\n  - ".join(lines))
    if cfg.TRAIN.ENABLE and cfg.TRAIN.AUTO_RESUME and Path(cfg.OUTPUT_DIR).resolve() == Path.cwd():
        _logger.warning(
            "OUTPUT_DIR is the current folder: with TRAIN.AUTO_RESUME, every run started here resumes "
            "the one before; give each run a folder of its own"
        )
