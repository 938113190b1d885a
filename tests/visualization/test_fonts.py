"""Text of any script in pictures. The only installed fonts are those of matplotlib."""

import importlib
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from matplotlib import font_manager

from timesformer.datasets.clips import SampledClip
from timesformer.visualization import charts, fonts
from timesformer.visualization.attention_strip import attention_strip

CIRCLED, JAPANESE = "ⒶⒷ", "日本語"  # STIXGeneral has the first, no font the other


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    manager = font_manager.fontManager
    monkeypatch.setattr(manager, "ttflist", [font for font in manager.ttflist if "mpl-data" in font.fname])
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [])
    importlib.reload(fonts)
    yield
    monkeypatch.undo()
    importlib.reload(fonts)


def test_pictures_have_no_missing_glyphs(caplog: pytest.LogCaptureFixture) -> None:
    names, counts = ["plain", CIRCLED, JAPANESE], np.arange(9).reshape(3, 3)
    clip = SampledClip(torch.zeros(0), np.zeros((2, 16, 16, 3), np.uint8), (0, 1), (0.0, 0.1), 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of missing glyphs
        figure = charts.confusion_matrix(counts, names)
        charts.png(figure)
        charts.png(charts.per_class(names, [50.0] * 3))
        charts.png(charts.predicted_as(counts[-1], names, 1, 5, (6, 3)))
        attention_strip(clip, np.ones((2, 2, 2)), [(fonts.drawable(CIRCLED), 0.5)], f"{JAPANESE}.mp4")
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["plain", CIRCLED, "class 2"]
    assert caplog.text.count("CJK") == 1  # the missing script is reported once
