"""Text of any script in pictures, with fonts made here."""

import importlib
import warnings
from collections.abc import Callable, Iterator
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

JAPANESE, THAI, CYRILLIC = "日本語", "ไทย", "кириллица"

Install = Callable[[dict[str, str]], None]


@pytest.fixture(autouse=True)
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Install]:
    """install({name: characters}): makes these the only installed fonts besides matplotlib's own."""
    manager = font_manager.fontManager
    monkeypatch.setattr(manager, "ttflist", [font for font in manager.ttflist if "mpl-data" in font.fname])

    def install(wanted: dict[str, str]) -> None:
        paths = [make_font(tmp_path / f"{name}.ttf", name, characters) for name, characters in wanted.items()]
        monkeypatch.setattr(font_manager, "findSystemFonts", lambda: paths)
        importlib.reload(fonts)

    install({})
    yield install
    monkeypatch.undo()
    importlib.reload(fonts)


def make_font(path: Path, family: str, text: str) -> str:
    """Writes a font with a black square for each character of a text."""
    glyphs, characters = {".notdef": TTGlyphPen(None).glyph()}, sorted(set(text))
    for number in range(len(characters)):
        pen = TTGlyphPen(None)
        pen.moveTo((100, 0))
        for point in ((100, 900), (900, 900), (900, 0)):
            pen.lineTo(point)
        pen.closePath()
        glyphs[f"square{number}"] = pen.glyph()
    font = FontBuilder(1000)
    font.setupGlyphOrder(list(glyphs))
    font.setupCharacterMap({ord(character): f"square{number}" for number, character in enumerate(characters)})
    font.setupGlyf(glyphs)
    font.setupHorizontalMetrics(dict.fromkeys(glyphs, (1000, 0)))
    font.setupHorizontalHeader(ascent=900, descent=-100)
    font.setupNameTable({"familyName": family, "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    font.save(path)
    return str(path)


def test_own_font_is_used_where_it_suffices() -> None:
    assert fonts.drawable(f"wave é {CYRILLIC}\u200d", "class 1") == f"wave é {CYRILLIC}\u200d"
    assert fonts.families() == ["DejaVu Sans"]


def test_font_is_chosen_by_its_characters(install: Install) -> None:
    install({"LastResort": JAPANESE + THAI, "NotoSansOther": "ก", "NotoSansJ": JAPANESE})
    assert fonts.drawable(JAPANESE, "class 3") == JAPANESE
    assert fonts.families() == ["DejaVu Sans", "NotoSansJ"]
    assert fonts.drawable(THAI, "class 4") == "class 4"


def test_missing_script_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    assert fonts.drawable(JAPANESE, "class 3") == "class 3"
    assert fonts.drawable(f"clip {JAPANESE}.mp4") == "clip ???.mp4"
    assert fonts.drawable(THAI, "class 4") == "class 4"
    (first, second) = [record.getMessage() for record in caplog.records]
    assert "CJK" in first
    assert "THAI" in second


def test_pictures_have_no_missing_glyphs(install: Install) -> None:
    names = ["plain", JAPANESE, THAI, CYRILLIC]
    counts, frames = np.arange(16).reshape(4, 4), np.zeros((2, 16, 16, 3), np.uint8)
    clip = SampledClip(torch.zeros(0), frames, (0, 1), (0.0, 0.1), 0)

    def draw() -> list[bytes]:
        top = [(fonts.drawable(name, f"class {number}"), 0.5) for number, name in enumerate(names)]
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # matplotlib warns of missing glyphs
            return [
                charts.png(charts.confusion_matrix(counts, names)),
                charts.png(charts.per_class(names, [50.0] * len(names))),
                charts.png(charts.predicted_as(counts[-1], names, 1, 5, (6, 3))),
                attention_strip(clip, np.ones((2, 2, 2)), top, f"{names[1]}.mp4"),
            ]

    without = draw()
    install({"Noto Sans All": JAPANESE + THAI})
    assert all(one != other for one, other in zip(draw(), without, strict=True))


def test_svg_keeps_text_for_the_browser() -> None:
    lines = [charts.Curve(name, [1, 2], [1.0, 2.0], number) for number, name in enumerate((JAPANESE, THAI))]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = charts.svg(charts.line_chart(lines, "runs"))
    assert JAPANESE in text
    assert THAI in text
