"""The wording of numbers in messages."""

import re

import pytest

from tests.conftest import ROOT
from timesformer.errors import counted


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (1, "batch", "1 batch"),
        (2, "batch", "2 batches"),
        (0, "process", "0 processes"),
        (1250, "clip", "1,250 clips"),
        (1.0, "epoch", "1 epoch"),
        (0.5, "epoch", "0.5 epochs"),
    ],
)
def test_the_noun_agrees_with_the_number(number: float, noun: str, text: str) -> None:
    assert counted(number, noun) == text


def test_no_text_leaves_the_plural_to_the_reader() -> None:
    """None has `clip(s)` or `batch(es)`, except for `http(s)://`."""
    files = [*(ROOT / "timesformer").rglob("*.py"), *(ROOT / "timesformer").rglob("*.html"), *ROOT.glob("docs/*.md")]
    texts = {file: file.read_text(encoding="utf-8") for file in files}
    assert [(file, found) for file, text in texts.items() for found in re.findall(r"\w+\((?:s|es)\)(?!:)", text)] == []
