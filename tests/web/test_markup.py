"""Pieces of the page: what visitors or checkpoints name is shown as text, whatever is in it."""

import numpy as np

from timesformer.web import markup

EVIL = "<img src=http://example.com/x onerror=alert(1)>&\"'"


def test_names_are_escaped_wherever_they_are_shown() -> None:
    pictures = np.zeros((1, 4, 4, 3), np.uint8)
    for html in (
        markup.headline(EVIL, EVIL),
        markup.note(EVIL),
        markup.answer(EVIL, 0.5),
        markup.bars([(EVIL, 0.5)]),
        markup.names([EVIL]),
        markup.facts([(EVIL, EVIL)]),
        markup.frames(pictures, [EVIL], "frames"),
    ):
        assert "&lt;img src=http" in html
        assert "<img src=http" not in html
        assert 'alt="<' not in html


def test_a_confidence_is_never_rounded_to_certainty_or_nothing() -> None:
    shown = [markup.percent(p) for p in (1.0, 0.99999, 0.9994, 0.1234, 0.0001, 0.0)]
    assert shown == ["100.0 %", "> 99.9 %", "99.9 %", "12.3 %", "< 0.1 %", "0.0 %"]


def test_markdown_of_a_file_name_is_shown_as_it_is() -> None:
    assert markup.plain("![x](y) *z*.mp4") == r"\!\[x\]\(y\) \*z\*\.mp4"
