"""Text of any script in PNG files: installed fonts draw what matplotlib's own font lacks."""

import logging
import unicodedata
from functools import cache
from pathlib import Path

from matplotlib import font_manager, ft2font

logger = logging.getLogger(__name__)

_CAN_SHAPE = hasattr(ft2font, "__libraqm_version__")  # matplotlib 3.11 or later draws Arabic and Indic scripts
_families = ["DejaVu Sans"]  # comes with matplotlib

# matplotlib logs a warning each time a family has no bold font.
logging.getLogger("matplotlib.font_manager").addFilter(lambda record: "font weight" not in record.getMessage())


def families() -> list[str]:
    """Values for matplotlib's `family`, with which all text that `drawable` has returned so far can be drawn."""
    return list(_families)


def drawable(text: str, otherwise: str | None = None) -> str:
    """The text if an installed font can draw all of it.

    Else `otherwise`, or the text with "?" for the missing characters, and a warning once for each script.
    """
    text = text.encode("utf-8", "replace").decode()
    missing = {character for character in text if not _find_family(character)}
    for character in missing:
        _warn(unicodedata.name(character, "UNKNOWN").split()[0])
    if missing and otherwise is not None:
        return otherwise
    return "".join("?" if character in missing else character for character in text)


@cache
def _find_family(character: str) -> bool:
    """Whether a font has the character. Adds its family to those of `families`."""
    if not character.isprintable() or unicodedata.category(character) == "Cf":
        return True  # invisible
    if not _CAN_SHAPE and (
        unicodedata.bidirectional(character) in ("R", "AL") or unicodedata.category(character) == "Mc"
    ):
        return False
    if any(ord(character) in _characters(font_manager.findfont(family)) for family in _families):
        return True
    for path in _installed_fonts():
        if ord(character) in _characters(path):
            font_manager.fontManager.addfont(path)
            _families.append(ft2font.FT2Font(path).family_name)
            return True
    return False


@cache
def _installed_fonts() -> list[str]:
    """Paths of fonts, Noto Sans first, except fonts with a box for every character."""
    paths = {*(font.fname for font in font_manager.fontManager.ttflist), *font_manager.findSystemFonts()}
    usable = (path for path in paths if not Path(path).stem.lower().startswith(("lastresort", "adobeblank")))
    return sorted(usable, key=lambda path: ("NotoSans" not in path, "Regular" not in path, path))


@cache
def _characters(path: str) -> frozenset[int]:
    """Code points that a font file has glyphs for; none if matplotlib cannot read it."""
    try:
        return frozenset(ft2font.FT2Font(path).get_charmap())
    except (OSError, RuntimeError, ValueError):
        return frozenset()


@cache
def _warn(script: str) -> None:
    logger.warning(
        "no installed font can draw %s: pictures show the number of the class or ?. Install Noto fonts (on Debian and "
        "Ubuntu fonts-noto-core and fonts-noto-cjk)%s",
        script,
        "" if _CAN_SHAPE else "; Arabic, Hebrew and Indic scripts need matplotlib 3.11",
    )
