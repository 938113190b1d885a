"""Text of any script in pictures: installed fonts draw what matplotlib's own font lacks.

Only for pixels. The text of an SVG is drawn by the browser.
"""

import logging
import unicodedata
from functools import cache
from pathlib import Path

from matplotlib import font_manager, ft2font

logger = logging.getLogger(__name__)

_CAN_SHAPE = hasattr(ft2font, "__libraqm_version__")  # matplotlib 3.11 or later
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
    missing = {character for character in text if not _can_draw(character)}
    for script in sorted({_script(character) for character in missing}):
        _warn(script)
    if missing and otherwise is not None:
        return otherwise
    return "".join("?" if character in missing else character for character in text)


@cache
def _can_draw(character: str) -> bool:
    """Whether a font has the character. Adds its family to those of `families`."""
    if not character.isprintable() or unicodedata.category(character) == "Cf":
        return True  # invisible
    # Letters written from right to left, or with vowel signs of changing position, as in Indic scripts.
    needs_shaping = unicodedata.bidirectional(character) in ("R", "AL") or _script(character) in _indic_scripts()
    if needs_shaping and not _CAN_SHAPE:
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
    """Paths of fonts, regular sans-serif Noto fonts first."""

    def rank(path: str) -> tuple[bool, bool, bool, str]:
        name = Path(path).stem.lower()
        special = any(part in name for part in ("bold", "italic", "oblique", "black", "thin", "light", "condensed"))
        return special, "noto" not in name, "sans" not in name, name

    paths = {*(font.fname for font in font_manager.fontManager.ttflist), *font_manager.findSystemFonts()}
    boxes_only = ("lastresort", "adobeblank")  # have a box for every character
    return sorted((path for path in paths if not Path(path).stem.lower().startswith(boxes_only)), key=rank)


@cache
def _characters(path: str) -> frozenset[int]:
    """Code points that a font file has glyphs for; none if matplotlib cannot read it."""
    try:
        return frozenset(ft2font.FT2Font(path).get_charmap())
    except (OSError, RuntimeError, ValueError):
        return frozenset()


@cache
def _indic_scripts() -> frozenset[str]:
    """Scripts with spacing vowel signs, such as DEVANAGARI and TAMIL."""
    return frozenset(_script(chr(code)) for code in range(0x900, 0x1900) if unicodedata.category(chr(code)) == "Mc")


def _script(character: str) -> str:
    """The script of a letter as Unicode names it, such as DEVANAGARI or CJK."""
    is_letter = unicodedata.category(character)[0] in "LM"
    return unicodedata.name(character, "UNKNOWN").split()[0] if is_letter else "symbols"


@cache
def _warn(script: str) -> None:
    logger.warning(
        "no installed font can draw %s: pictures show the number of the class or ?. Install Noto fonts (on Debian and "
        "Ubuntu fonts-noto-core and fonts-noto-cjk)%s",
        script,
        "" if _CAN_SHAPE else "; right-to-left and Indic scripts need matplotlib 3.11",
    )
