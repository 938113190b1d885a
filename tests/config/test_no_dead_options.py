"""Every option is read by code outside timesformer/config."""

import re
from pathlib import Path

import pytest

from timesformer.config.options import OPTIONS

ROOT = Path(__file__).parents[2]
ONLY_CHECKED = {"DATA.INPUT_CHANNEL_NUM"}  # for files of the original; its values mean the same


@pytest.fixture(scope="module")
def sources() -> list[str]:
    files = [path for folder in ("timesformer", "tools") for path in sorted((ROOT / folder).rglob("*.py"))]
    return [path.read_text() for path in files if path.parent.name != "config"]


def is_read(source: str, option: str) -> bool:
    """Whether the source has `cfg.SECTION.NAME`, or `short.NAME` together with a bare `cfg.SECTION`."""
    section, _, name = option.rpartition(".")
    if re.search(rf"\bcfg\.{re.escape(option)}\b", source):
        return True
    by_short_name = re.search(rf"(?<![\w.])(self\.)?[a-z_]+\.{name}\b(?!\.)", source)
    bare_section = rf"\b[a-z_]+\.(\w+\.)?{section.split('.')[-1]}\b(?!\.)"
    return bool(section and by_short_name and re.search(bare_section, source))


@pytest.mark.parametrize("option", sorted(OPTIONS.keys() - ONLY_CHECKED))
def test_option_is_read(option: str, sources: list[str]) -> None:
    assert any(is_read(source, option) for source in sources), f"nothing reads {option}: use it or remove it"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('raise UserError("DATA.MEAN has two numbers")', False),
        ("mean = cfg.DATA.MEAN", True),
        ("data = cfg.DATA\nmean = data.MEAN", True),
        ("data = cfg.DATA\nmean = data.MEANING", False),
    ],
)
def test_option_in_a_message_is_not_read(source: str, expected: bool) -> None:
    assert is_read(source, "DATA.MEAN") == expected
