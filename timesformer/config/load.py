"""Reading a configuration: YAML files with `_BASE_`, then KEY VALUE overrides, over the defaults."""

import ast
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from fvcore.common.config import BASE_KEY, CfgNode

from timesformer.config.check import Problem, check, check_use
from timesformer.config.differences import changed_defaults
from timesformer.config.imports import import_modules
from timesformer.config.options import OPTIONS, get_cfg, set_option
from timesformer.config.retired import RENAMED, retired_by
from timesformer.config.shipped import find_config
from timesformer.errors import UserError

_logger = logging.getLogger(__name__)


class ConfigError(UserError):
    """Every problem of a configuration; `problems` has a line for each."""

    def __init__(self, problems: Sequence[str | Problem]) -> None:
        self.problems = tuple(map(str, problems))
        count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__("\n  - ".join([f"the configuration has {count}:", *self.problems]))


@dataclass(frozen=True)
class _Setting:
    key: str  # dotted
    value: Any
    text: str | None  # as written, where it is one word
    source: str  # "file:line" or "command line"


def load_config(
    path: str | Path | None,
    overrides: Sequence[str] = (),
    check_values: bool = True,
    check_gpus: bool = True,
    imports: Sequence[str] = (),
) -> CfgNode:
    """Returns the defaults, changed by a YAML file (and its `_BASE_`) and then by overrides, KEY VALUE KEY VALUE ...

    `path` may be the name of a shipped configuration, and so may `_BASE_`.

    Keys that only the original has are accepted with a warning. The modules of IMPORTS are imported first, because they
    may register options.

    Args:
        check_values: also apply `check`, which looks at this machine (data folder, checkpoints, GPUs).
        check_gpus: whether the GPUs have to be on this machine.
        imports: modules to import in addition to those of IMPORTS.

    Raises ConfigError with every problem, and UserError if a module cannot be imported.
    """
    problems: list[str] = []
    settings = [*(_read_yaml(_find(path)) if path else ()), *_read_overrides(overrides, problems)]
    modules = _apply([setting for setting in settings if setting.key == "IMPORTS"]).cfg.IMPORTS
    import_modules([*modules, *imports])
    result = _apply(settings)
    result.cfg.IMPORTS = list(dict.fromkeys([*modules, *imports]))
    problems += [f"{problem} ({setting.source})" for setting, problem in result.problems]
    if check_values:
        problems += result.with_sources(check(result.cfg, check_gpus))
    if problems:
        raise ConfigError(problems)
    _warn(result.cfg, result.retired)
    return result.cfg


def load_for_use(
    saved: str, source: str, path: str | Path | None = None, overrides: Sequence[str] = ()
) -> tuple[CfgNode, list[str]]:
    """Returns the configuration to use a trained model with, and notes on ignored options, a line each.

    `saved` is the YAML text in a checkpoint, from `source`; the file `path` replaces it. Its options that are unknown
    here or of another type are ignored with a note, and values that do not matter for using a model are not checked.
    Raises ConfigError if `saved` is not YAML, or the file, the overrides or the values that matter are not valid.
    """
    problems: list[str] = []
    given = [*(_read_yaml(_find(path)) if path else ()), *_read_overrides(overrides, problems)]
    earlier = [] if path else _with_saved_defaults(_parse(saved, source))
    result = _apply([*earlier, *given])
    ignored = [problem for setting, problem in result.problems if setting in earlier]
    problems += [f"{problem} ({setting.source})" for setting, problem in result.problems if setting not in earlier]
    overridden = {RENAMED.get(key, key) for key in overrides[::2]} & OPTIONS.keys()
    problems += result.with_sources(check_use(result.cfg, overridden))
    if problems:
        raise ConfigError(problems)
    missing = [name for name in result.cfg.IMPORTS if Path(name).name.removesuffix(".py") not in sys.modules]
    modules = " --import ".join(missing)
    notes = [f"its run imported modules that are missing here: give --import {modules}"] if missing else []
    notes += [f"options of its configuration that are ignored: {'; '.join(ignored)}"] if ignored else []
    notes += [f"{', '.join(dict.fromkeys(keys))} without effect: {why}" for why, keys in result.retired.items()]
    return result.cfg, notes


@dataclass
class _Result:
    """The configuration that settings give."""

    cfg: CfgNode
    problems: list[tuple[_Setting, str]] = field(default_factory=list)  # settings that could not be applied, and why
    retired: dict[str, list[str]] = field(default_factory=dict)  # keys that only the original has, by reason
    sources: dict[str, str] = field(default_factory=dict)  # where each key was set

    def with_sources(self, problems: Sequence[Problem]) -> list[str]:
        return [
            f"{problem} ({self.sources[problem.key]})" if problem.key in self.sources else str(problem)
            for problem in problems
        ]


def override(cfg: CfgNode, overrides: Sequence[str]) -> CfgNode:
    """Returns a copy of a configuration, changed by KEY VALUE pairs; the values are not checked together.

    Raises ConfigError if a key is unknown, or a value has another type.
    """
    problems: list[str] = []
    result = _apply([*_read_overrides(overrides, problems)], cfg.clone())
    problems += [problem for _, problem in result.problems]
    if problems:
        raise ConfigError(problems)
    return result.cfg


def _apply(settings: Sequence[_Setting], cfg: CfgNode | None = None) -> _Result:
    """Applies settings to `cfg`, by default the defaults; the last one of a key counts."""
    result = _Result(cfg or get_cfg())
    for setting in settings:
        key = RENAMED.get(setting.key, setting.key)
        if key not in OPTIONS:
            if entry := retired_by(key):
                result.retired.setdefault(entry[1], []).append(entry[0])
            elif setting.value is not None or not _is_section(key):  # an empty section changes nothing
                result.problems.append((setting, f"{key} {_unknown(key)}"))
            continue
        option = OPTIONS[key]
        try:
            value = _convert(setting.value, setting.text, option.default, option.item_type())
        except ValueError:
            result.problems.append((setting, f"{key} is {setting.value!r}, expected {option.kind}"))
            continue
        if isinstance(value, str):
            value = option.synonyms.get(value.lower(), value)
            value = os.path.expanduser(value) if option.is_path else value
        set_option(result.cfg, key, value)
        result.sources[key] = setting.source
    return result


def _read_yaml(path: Path, including: tuple[Path, ...] = ()) -> Iterator[_Setting]:
    """Yield the settings of a file in order, those of its `_BASE_` first."""
    if path.resolve() in including:
        raise ConfigError([f"{path} is among its own {BASE_KEY} files"])
    try:
        settings = _parse(path.read_bytes(), str(path))
    except OSError as error:
        raise ConfigError([f"{path} cannot be read: {error.strerror}"]) from error
    for setting in settings:
        if setting.key == BASE_KEY:
            for base in setting.value if isinstance(setting.value, list) else [setting.value]:
                yield from _read_yaml(_find(str(base), path), (*including, path.resolve()))
    yield from (s for s in _with_saved_defaults(settings) if s.key != BASE_KEY)


def _find(name: str | Path, named_by: Path | None = None) -> Path:
    """The file of a configuration, see `find_config`; relative to the file whose `_BASE_` it is."""
    if named_by and (file := named_by.parent / Path(name).expanduser()).exists():
        short = Path(os.path.normpath(file))
        return short if short.exists() and short.samefile(file) else file  # "A/../B" is not "B" if A is a link
    try:
        return find_config(name)
    except UserError as error:
        raise ConfigError([f"{error}{f' ({BASE_KEY} of {named_by})' * bool(named_by)}"]) from error


def _with_saved_defaults(settings: Sequence[_Setting]) -> list[_Setting]:
    changed = changed_defaults({setting.key: setting.value for setting in settings})
    return [replace(s, value=changed[s.key], text=changed[s.key]) if s.key in changed else s for s in settings]


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
    """Whether a word of a command line is an option or looks like one: in a known section, or close to an option."""
    if not re.fullmatch(r"[A-Z][A-Z0-9_]*(\.[A-Z][A-Z0-9_]*)*", word):
        return False
    if "." not in word:
        return word in OPTIONS
    is_known = _is_section(word.partition(".")[0]) or retired_by(word) is not None
    return is_known or bool(get_close_matches(word, OPTIONS, n=1, cutoff=0.7))


def _read_overrides(overrides: Sequence[str], problems: list[str]) -> Iterator[_Setting]:
    if len(overrides) % 2:
        problems.append(f"{overrides[-1]} has no value: after the options, KEY VALUE pairs are expected (command line)")
    for key, text in zip(overrides[::2], overrides[1::2], strict=False):
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
        yield _Setting(key, value, text, "command line")


def _convert(value: Any, text: str | None, default: Any, item: Any = None) -> Any:
    """Return `value` as the type of `default`, items of a list as that of `item`; ValueError if that is ambiguous."""
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
        if text is not None and type(value) is int and type(item) is int:
            value = [value]  # `8` for a list of one number
        if isinstance(value, list | tuple):
            return [_convert(v, None, item) for v in value]
    elif isinstance(default, float):
        if isinstance(value, int | float | str) and not isinstance(value, bool):
            return float(value)  # YAML reads `1e-4` as text
    elif type(value) is int:
        return value
    raise ValueError


def _is_section(key: str) -> bool:
    return any(known.startswith(f"{key}.") for known in OPTIONS)


def _unknown(key: str) -> str:
    if key.startswith("-"):
        return "belongs before the KEY VALUE pairs"
    if _is_section(key):
        return "is a section, not an option: set the options in it"
    name = key.upper().rpartition(".")[2]
    by_name = {known.rpartition(".")[2]: known for known in reversed(OPTIONS)}
    near = get_close_matches(key.upper(), OPTIONS, n=1, cutoff=0.7) if "." in key else []
    near = near or [by_name[n] for n in get_close_matches(name, by_name, n=1)]
    hint = f"the nearest is {near[0]}" if near else "if a module of yours registers it, give --import"
    return f"is not an option; {hint}"


def _warn(cfg: CfgNode, retired: dict[str, list[str]]) -> None:
    if retired:
        lines = [f"{', '.join(dict.fromkeys(keys))}: {reason}" for reason, keys in retired.items()]
        _logger.warning("these options have no effect here:\n  - %s", "\n  - ".join(lines))
    if cfg.TRAIN.ENABLE and cfg.TRAIN.AUTO_RESUME and Path(cfg.OUTPUT_DIR).resolve() == Path.cwd():
        _logger.warning("OUTPUT_DIR is the current folder, and TRAIN.AUTO_RESUME resumes what was trained there")
