"""How two configurations differ, and what the differences affect."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import yaml
from fvcore.common.config import CfgNode

from timesformer.config.options import OPTIONS, effects_of, flatten, get_cfg
from timesformer.config.retired import RENAMED, retired_by


class Change(NamedTuple):
    """An option with two values; `after` is None if the present version does not have it."""

    key: str
    before: Any
    after: Any

    @property
    def effects(self) -> set[str]:
        """What it affects (`options.EFFECTS`); empty for an option that the present version does not have."""
        return effects_of(self.key)

    def __str__(self) -> str:
        before, after = ("''" if value == "" else value for value in (self.before, self.after))
        return f"{self.key} was {before}, {f'is {after}' if self.key in OPTIONS else 'is unknown to this version'}"


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """The options whose values differ, by key; options missing in the saved configuration `before` have defaults."""
    then, now, defaults = read_saved(before), flatten(after), flatten(get_cfg())
    changes = [Change(key, then.get(key, defaults.get(key)), now.get(key)) for key in sorted({*then, *now})]
    return [change for change in changes if change.before != change.after]


def changes_since(cfg: CfgNode, content: Mapping[str, Any]) -> tuple[dict[str, Any], list[Change]]:
    """Options of the training of a checkpoint by key, and the differences to today's; empty if it has none.

    `content` is that of the checkpoint besides its weights, with its configuration as YAML under `cfg`.
    """
    then = yaml.safe_load(content["cfg"]) if isinstance(content.get("cfg"), str) else {}
    if not isinstance(then, dict) or not then.get("DATA"):
        return {}, []
    saved = read_saved(then)
    return saved, [change for change in differences(then, cfg) if change.key in saved]


def affecting(cfg: CfgNode, *effects: str) -> dict[str, Any]:
    """The options of a configuration that have one of these effects, by key."""
    return {key: value for key, value in flatten(cfg).items() if effects_of(key).intersection(effects)}


def read_saved(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a saved configuration (sections and options, as in YAML) by their present keys."""
    saved = {RENAMED.get(key, key): value for key, value in flatten(config).items() if not retired_by(key)}
    return saved | changed_defaults(saved)


def changed_defaults(saved: Mapping[str, Any]) -> dict[str, Any]:
    """The values of saved options, by dotted key, whose default had another meaning.

    An empty DATA.SAMPLER was `segment` for ssv2 and `uniform` for other datasets before DATA.SAMPLER_WINDOW was added.
    """
    is_earlier = "DATA.SAMPLER_ORDERED" in saved and "DATA.SAMPLER_WINDOW" not in saved
    if is_earlier and saved.get("DATA.SAMPLER") == "":
        return {"DATA.SAMPLER": "segment" if saved.get("TRAIN.DATASET") == "ssv2" else "uniform"}
    return {}
