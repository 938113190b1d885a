"""The table of options, and what derives from it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from timesformer.config import get_cfg, register_option
from timesformer.config.differences import differences
from timesformer.config.options import OPTIONS, effects_of
from timesformer.config.options_page import options_page

PAGE = Path(__file__).parents[2] / "docs" / "options.md"


@pytest.fixture(autouse=True)
def restore_options() -> Iterator[None]:
    options = dict(OPTIONS)
    yield
    OPTIONS.clear()
    OPTIONS.update(options)


def test_page_is_up_to_date() -> None:
    """Made by `python -m timesformer.config.options_page > docs/options.md`."""
    assert PAGE.read_text() == options_page()


def test_registered_option_has_a_default_and_is_documented() -> None:
    register_option("SOLVER.MY_FACTOR", 0.5, "training", "A factor", above=0, read_by="SOLVER.LR_POLICY cosine")
    cfg = get_cfg()
    assert cfg.SOLVER.MY_FACTOR == 0.5
    assert OPTIONS["SOLVER.MY_FACTOR"].problem(0.0)
    assert not OPTIONS["SOLVER.MY_FACTOR"].problem(0.1)
    assert OPTIONS["SOLVER.MY_FACTOR"].is_read(cfg)
    cfg.SOLVER.LR_POLICY = "steps_with_relative_lrs"
    assert not OPTIONS["SOLVER.MY_FACTOR"].is_read(cfg)
    assert "SOLVER.MY_FACTOR" in options_page()


def test_option_is_read_in_any_of_several_cases() -> None:
    option, cfg = OPTIONS["DATA.SPLIT_SEED"], get_cfg()
    read = {(name, rule) for name in ("folder", "ssv2") for rule in ("auto", "files", "folds")}
    for cfg.TRAIN.DATASET, cfg.DATA.SPLIT_RULE in tuple(read):
        if not option.is_read(cfg):
            read.remove((cfg.TRAIN.DATASET, cfg.DATA.SPLIT_RULE))
    assert read == {("folder", "auto"), ("folder", "folds"), ("ssv2", "folds")}


@pytest.mark.parametrize(
    ("key", "default", "affects", "rules"),
    [
        ("SOLVER.BASE_LR", 0.5, "training", {}),  # another definition
        ("SOLVER.BASE_LR.X", 0.5, "training", {}),
        ("SOLVER", 0.5, "training", {}),
        ("MY.OPTION", 1, "everything", {}),
        ("MY.OPTION", 1, "training", {"low": 2}),
        ("MY.OPTION", "c", "training", {"choices": "a b"}),
    ],
)
def test_invalid_registration(key: str, default: object, affects: str, rules: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=key):
        register_option(key, default, affects, "An option", **rules)


@pytest.mark.parametrize(
    ("key", "effects"),
    [
        ("TIMESFORMER.DEPTH", {"model"}),
        ("DATA.NUM_FRAMES", {"model", "clips"}),
        ("TRAIN.CHECKPOINT_FILE_PATH", {"start"}),
        ("OUTPUT_DIR", {"runtime"}),
        ("NO.SUCH_OPTION", set()),
    ],
)
def test_effects(key: str, effects: set[str]) -> None:
    assert effects_of(key) == effects


def test_differences() -> None:
    before = {"DATA": {"NUM_FRAMES": 8, "OLD": 1}, "SOLVER": {"CLIP_GRADIENT": 1.0}}
    after = get_cfg()
    after.DATA.NUM_FRAMES = 16
    after.LOG_PERIOD = 5  # not saved: its default was used
    found = {change.key: (change.before, change.after) for change in differences(before, after)}
    assert found == {
        "DATA.NUM_FRAMES": (8, 16),
        "DATA.OLD": (1, None),
        "LOG_PERIOD": (10, 5),
        "SOLVER.CLIP_GRAD_L2NORM": (1.0, 0.0),
    }
