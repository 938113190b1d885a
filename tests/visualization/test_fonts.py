"""Text of any script in pictures, with fonts made here: what a machine has installed does not matter."""

import logging
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager

from timesformer.datasets.clips import SampledClip
from timesformer.visualization import charts, fonts
from timesformer.visualization.attention_strip import attention_strip
from timesformer.visualization.fonts import Fonts

JAPANESE, HINDI, ARABIC, CYRILLIC = "日本語", "हिन्दी", "العربية", "кириллица"


@pytest.fixture(autouse=True)
def known_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has matplotlib know its own fonts alone, and forgets afterwards what was added."""
    manager = font_manager.fontManager
    monkeypatch.setattr(manager, "ttflist", [font for font in manager.ttflist if "mpl-data" in font.fname])


def make_font(path: Path, family: str, text: str, style: str = "Regular") -> str:
    """Writes a font that has a full black square for each character of a text."""
    characters = sorted(set(text))
    glyphs = {".notdef": TTGlyphPen(None).glyph()}
    for number in range(len(characters)):
        pen = TTGlyphPen(None)
        for place, point in enumerate(((100, 0), (100, 900), (900, 900), (900, 0))):
            (pen.lineTo if place else pen.moveTo)(point)
        pen.closePath()
        glyphs[f"square{number}"] = pen.glyph()
    font = FontBuilder(1000)
    font.setupGlyphOrder(list(glyphs))
    font.setupCharacterMap({ord(character): f"square{number}" for number, character in enumerate(characters)})
    font.setupGlyf(glyphs)
    font.setupHorizontalMetrics(dict.fromkeys(glyphs, (1000, 0)))
    font.setupHorizontalHeader(ascent=900, descent=-100)
    font.setupNameTable({"familyName": family, "styleName": style})
    font.setupOS2()
    font.setupPost()
    font.save(path)
    return str(path)


def test_text_that_matplotlib_s_own_font_has_needs_no_other(tmp_path: Path) -> None:
    def find() -> list[str]:
        raise AssertionError("no font is looked for")

    known = Fonts(find, can_shape=True)
    assert known.drawable(f"wave é {CYRILLIC} {ARABIC}\u200d") == f"wave é {CYRILLIC} {ARABIC}\u200d"
    assert known.families == ["DejaVu Sans"]


def test_a_font_of_the_system_is_chosen_by_the_characters_that_it_has(tmp_path: Path) -> None:
    found = [
        make_font(tmp_path / "LastResort.ttf", "Last Resort", JAPANESE + HINDI),
        make_font(tmp_path / "NotoSansOther.ttf", "Noto Sans Other", "ไทย"),
        make_font(tmp_path / "Some-Bold.ttf", "Some", JAPANESE, "Bold"),
        make_font(tmp_path / "NotoSansJ.ttf", "Noto Sans J", JAPANESE),
        str(tmp_path / "gone.ttf"),
    ]
    (tmp_path / "torn.ttf").write_bytes(b"no font")
    known = Fonts(lambda: [*found, str(tmp_path / "torn.ttf")], can_shape=True)
    assert known.drawable(JAPANESE, "class 3") == JAPANESE
    assert known.families == ["DejaVu Sans", "Noto Sans J"]
    assert known.drawable(HINDI, "class 4") == "class 4"


def test_what_no_font_has_is_replaced_and_reported_once_for_each_script(
    caplog: pytest.LogCaptureFixture,
) -> None:
    known = Fonts(lambda: [], can_shape=True)
    assert known.drawable(JAPANESE, "class 3") == "class 3"
    assert known.drawable(f"clip {JAPANESE}.mp4") == "clip ???.mp4"
    assert known.drawable(HINDI, "class 4") == "class 4"
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert "CJK" in said[0]
    assert "Noto" in said[0]
    assert "DEVANAGARI" in said[1]


def test_without_shaping_scripts_that_need_it_are_not_drawn(tmp_path: Path) -> None:
    path = make_font(tmp_path / "NotoSansD.ttf", "Noto Sans D", HINDI)
    assert Fonts(lambda: [path], can_shape=True).drawable(HINDI, "class 1") == HINDI
    known = Fonts(lambda: [path], can_shape=False)
    assert [known.drawable(name, "class 1") for name in (HINDI, ARABIC)] == ["class 1"] * 2
    assert known.drawable(CYRILLIC, "class 1") == CYRILLIC


def drawn(names: list[str]) -> dict[str, bytes]:
    """Every picture that has names of classes; a missing glyph, which would be an empty box, is an error."""
    counts = np.arange(len(names) ** 2).reshape(len(names), -1)
    frames = np.zeros((2, 16, 16, 3), np.uint8)
    clip = SampledClip(torch.zeros(0), frames, (0, 1), (0.0, 0.1), 0)
    top = [(fonts.drawable(name, f"class {number}"), 0.5) for number, name in enumerate(names)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return {
            "confusion_matrix": charts.png(charts.confusion_matrix(counts, names)),
            "per_class": charts.png(charts.per_class(names, [50.0] * len(names))),
            "predicted_as": charts.png(charts.predicted_as(counts[-1], names, names[0], 5, (6, 3))),
            "attention_strip": attention_strip(clip, np.ones((2, 2, 2)), top, f"{names[1]}.mp4"),
        }


def test_no_picture_has_an_empty_box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["plain", JAPANESE, HINDI, ARABIC, CYRILLIC]
    monkeypatch.setattr(fonts, "_fonts", Fonts(lambda: []))
    without = drawn(names)
    labels = charts.confusion_matrix(np.eye(5, dtype=int), names).axes[0].get_yticklabels()
    assert [label.get_text() for label in labels][:3] == ["plain", "class 1", "class 2"]
    path = make_font(tmp_path / "NotoSansAll.ttf", "Noto Sans All", JAPANESE + HINDI)
    monkeypatch.setattr(fonts, "_fonts", Fonts(lambda: [path], can_shape=True))
    with_font = drawn(names)
    labels = charts.confusion_matrix(np.eye(5, dtype=int), names).axes[0].get_yticklabels()
    assert [label.get_text() for label in labels][:3] == names[:3]
    assert all(with_font[name] != without[name] for name in without)


def test_a_page_keeps_names_that_only_the_browser_can_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_fonts", Fonts(lambda: []))
    lines = [charts.Curve(name, [1, 2], [1.0, 2.0], number) for number, name in enumerate((JAPANESE, HINDI))]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = charts.svg(charts.curves(lines, "runs"))
    assert JAPANESE in text
    assert HINDI in text


def test_matplotlib_s_note_on_weights_does_not_reach_the_screen(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("matplotlib.font_manager")
    logger.warning("findfont: Failed to find font weight bold for Noto Sans J, now using 400.")
    logger.warning("something else")
    assert [record.getMessage() for record in caplog.records] == ["something else"]
