"""Text of any script in pictures: installed fonts draw what matplotlib's own font lacks."""

import logging
import unicodedata
from functools import cache, lru_cache

import numpy as np
from matplotlib import font_manager, ft2font

logger = logging.getLogger(__name__)

_families = ["DejaVu Sans"]  # comes with matplotlib

# matplotlib logs a warning each time a family has no bold font.
logging.getLogger("matplotlib.font_manager").addFilter(lambda record: "font weight" not in record.getMessage())


def families() -> list[str]:
    """Values for matplotlib's `family`, with which all text that `drawable` has returned so far can be drawn."""
    return list(_families)


def drawable(text: str, otherwise: str | None = None) -> str:
    """The text if installed fonts have all its characters, else `otherwise`, or the text with "?" for the missing ones.

    Missing scripts are logged once.
    """
    text = text.encode("utf-8", "replace").decode()
    missing = {character for character in text if not _find_font(character)}
    for character in missing:
        _warn(unicodedata.name(character, "UNKNOWN").split()[0])
    if missing and otherwise is not None:
        return otherwise
    return "".join("?" if character in missing else character for character in text)


@lru_cache(maxsize=2048)
def draw_line(text: str, size: int) -> tuple[np.ndarray, int]:
    """Draws one line of text without a figure, for frames of videos. Missing characters become "?".

    Args:
        text: line breaks are drawn as spaces.
        size: of the font, in pixels.

    Returns:
        The opacity of its pixels, uint8 [height, width], and how many of the rows are below the baseline.
    """
    text = drawable(" ".join(text.split()))
    if not text:
        return np.zeros((0, 0), np.uint8), 0
    font = font_manager.get_font([font_manager.findfont(family) for family in families()])
    font.set_size(size, 72)
    font.set_text(text, 0.0)
    font.draw_glyphs_to_bitmap(antialiased=True)
    return np.array(font.get_image()), round(font.get_descent() / 64)


@cache
def _find_font(character: str) -> bool:
    """Whether a font has the character. Adds its family to those of `families`."""
    if not character.isprintable() or unicodedata.category(character) == "Cf":
        return True  # invisible
    for path in _font_paths():
        if ord(character) in _characters(path):
            if (family := ft2font.FT2Font(path).family_name) not in _families:
                font_manager.fontManager.addfont(path)
                _families.append(family)
            return True
    return False


@cache
def _font_paths() -> list[str]:
    """Matplotlib's font first, then Noto Sans; without fonts that have a box for every character."""
    paths = {*(font.fname for font in font_manager.fontManager.ttflist), *font_manager.findSystemFonts()}
    usable = (path for path in paths if "LastResort" not in path and "AdobeBlank" not in path)
    return sorted(usable, key=lambda path: ("DejaVuSans.ttf" not in path, "NotoSans" not in path, path))


@cache
def _characters(path: str) -> frozenset[int]:
    """Code points of a font file; none if matplotlib cannot read it."""
    try:
        return frozenset(ft2font.FT2Font(path).get_charmap())
    except (OSError, RuntimeError, ValueError):
        return frozenset()


@cache
def _warn(script: str) -> None:
    fonts = "Noto fonts (on Debian and Ubuntu fonts-noto-core and fonts-noto-cjk)"
    logger.warning("no font for %s, pictures show the number of the class or ?: install %s", script, fonts)
