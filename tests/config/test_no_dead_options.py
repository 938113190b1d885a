"""Every option is read by code outside the configuration's own."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fvcore.common.config import CfgNode

from timesformer.config import get_cfg

ROOT = Path(__file__).parents[2]
# Accepted for the sake of old files: one value is possible, and the check of the configuration says so.
ONLY_CHECKED = {"DATA.INPUT_CHANNEL_NUM"}


def options(node: CfgNode, prefix: str = "") -> Iterator[str]:
    for name, value in node.items():
        if isinstance(value, CfgNode):
            yield from options(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


@pytest.fixture(scope="module")
def sources() -> list[str]:
    files = [path for folder in ("timesformer", "tools") for path in sorted((ROOT / folder).rglob("*.py"))]
    return [path.read_text() for path in files if path.parent.name != "config"]


def reads(source: str, option: str) -> bool:
    """Whether `cfg.SECTION.NAME` stands in the source, or `short.NAME` beside a bare `cfg.SECTION`."""
    section, _, name = option.rpartition(".")
    if re.search(rf"\bcfg\.{re.escape(option)}\b", source):
        return True
    by_short_name = re.search(rf"(?<![\w.])[a-z_]+\.{name}\b(?!\.)", source)
    return bool(
        section and by_short_name and re.search(rf"\b[a-z_]+\.(\w+\.)?{section.split('.')[-1]}\b(?!\.)", source)
    )


@pytest.mark.parametrize("option", sorted(set(options(get_cfg())) - ONLY_CHECKED))
def test_an_option_is_read(option: str, sources: list[str]) -> None:
    assert any(reads(source, option) for source in sources), f"nothing reads {option}: use it or remove it"


def test_an_option_in_a_message_is_not_taken_for_read() -> None:
    assert not reads('raise UserError("DATA.MEAN has two numbers")', "DATA.MEAN")
    assert reads("mean = cfg.DATA.MEAN", "DATA.MEAN")
    assert reads("data = cfg.DATA\nmean = data.MEAN", "DATA.MEAN")
    assert not reads("data = cfg.DATA\nmean = data.MEANING", "DATA.MEAN")
