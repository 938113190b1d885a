"""Fonts for text of any script in pictures: what matplotlib's own font lacks is drawn with fonts of the system.

Only for pictures of pixels: the text of an SVG is drawn by the browser, with its fonts.
"""

import logging
import unicodedata
from collections.abc import Callable, Iterable
from functools import cache, cached_property
from pathlib import Path

from matplotlib import font_manager, ft2font
from matplotlib.font_manager import FontProperties
from matplotlib.ft2font import FT2Font

from timesformer.errors import shorten

logger = logging.getLogger(__name__)

_OWN = "DejaVu Sans"  # comes with matplotlib
_WEIGHTS = ("normal", "bold")  # headings are bold
_BLANK = ("lastresort", "adobeblank")  # fonts that have a box for every character
_CAN_SHAPE = hasattr(ft2font, "__libraqm_version__")  # matplotlib 3.11 or later
_SHAPED = {"ARABIC", "HEBREW", "SYRIAC", "THAANA", "NKO", "DEVANAGARI", "BENGALI", "GURMUKHI", "GUJARATI", "ORIYA"}
_SHAPED |= {"TAMIL", "TELUGU", "KANNADA", "MALAYALAM", "SINHALA", "KHMER", "MYANMAR", "TIBETAN", "MONGOLIAN"}
"""Scripts whose letters change their form or order, which older versions of matplotlib do not know about."""


class Fonts:
    """Which characters can be drawn, and with which fonts.

    Args:
        find: gives the paths of the fonts that there are; called once a character is missing.
        can_shape: whether letters that depend on their neighbours, or are written from right to left, can be drawn.

    Attributes:
        families: what matplotlib is to try for each character, in this order; it grows as characters need it.
    """

    def __init__(self, find: Callable[[], Iterable[str]], can_shape: bool = _CAN_SHAPE) -> None:
        self.families = [_OWN]
        self._find, self._can_shape = find, can_shape
        self._known = _drawn_by(_OWN)
        self._missing: set[str] = set()
        self._reported: set[str] = set()

    def drawable(self, text: str, otherwise: str | None = None) -> str:
        """The text if all of it can be drawn, else `otherwise`; without that, with "?" for what cannot.

        Each script that cannot be drawn is reported in the log once.
        """
        undrawable = [character for character in dict.fromkeys(text) if not self._can_draw(character)]
        if not undrawable:
            return text
        if new := sorted({_script(character) for character in undrawable} - self._reported):
            self._reported.update(new)
            logger.warning(
                "no font on this machine can draw %s (%s): pictures show the number of the class, from 0, or ?%s",
                " and ".join(new),
                shorten([text]),
                "" if len(self._reported) > len(new) else self._remedy,
            )
        if otherwise is not None:
            return otherwise
        return "".join("?" if character in undrawable else character for character in text)

    @property
    def _remedy(self) -> str:
        needed = "" if self._can_shape else ", and matplotlib 3.11 for right-to-left and Indic scripts"
        return f". Install fonts that can, such as Noto (Debian, Ubuntu: fonts-noto-core and fonts-noto-cjk){needed}"

    def _can_draw(self, character: str) -> bool:
        if not character.isprintable() or unicodedata.category(character) == "Cf":
            return True  # nothing to be seen
        if not self._can_shape and _script(character) in _SHAPED:
            return False
        if character not in self._known and character not in self._missing:
            self._look_for(character)
        return character in self._known

    def _look_for(self, character: str) -> None:
        for path in self._candidates:
            if character in _characters(path) and (family := _add(path)) and character in _drawn_by(family):
                self.families.append(family)
                self._known = self._known | _drawn_by(family)
                return
        self._missing.add(character)

    @cached_property
    def _candidates(self) -> list[str]:
        """Paths of fonts, in the order in which they are tried: upright and regular ones, Noto and sans first."""

        def rank(path: str) -> tuple[bool, bool, bool, str]:
            name = Path(path).stem.lower()
            special = any(part in name for part in ("bold", "italic", "oblique", "black", "thin", "light", "condensed"))
            return special, "noto" not in name, "sans" not in name, name

        paths = {path for path in self._find() if not Path(path).stem.lower().startswith(_BLANK)}
        return sorted(paths, key=rank)


def _system_fonts() -> list[str]:
    """The fonts that matplotlib has listed, and fonts installed since."""
    return [*(font.fname for font in font_manager.fontManager.ttflist), *font_manager.findSystemFonts()]


@cache
def _characters(path: str) -> frozenset[str]:
    """What a font file has glyphs for; nothing if matplotlib cannot read it, as fonts of colour pictures."""
    try:
        return frozenset(map(chr, FT2Font(path).get_charmap()))
    except (OSError, RuntimeError, ValueError):
        return frozenset()


def _add(path: str) -> str:
    """Makes a font known to matplotlib, and returns its family; "" if it cannot be used."""
    try:
        known = {Path(font.fname): font.name for font in font_manager.fontManager.ttflist}
        if Path(path) not in known:
            font_manager.fontManager.addfont(path)
        return FT2Font(path).family_name
    except (OSError, RuntimeError, ValueError):
        return ""


def _drawn_by(family: str) -> frozenset[str]:
    """What matplotlib draws with a family in each weight: it may take another file of it than the one that was seen."""
    try:
        files = [
            font_manager.findfont(FontProperties(family=family, weight=weight), fallback_to_default=False)
            for weight in _WEIGHTS
        ]
    except ValueError:
        return frozenset()
    return frozenset.intersection(*map(_characters, files))


def _script(character: str) -> str:
    """The script of a letter as Unicode names it, such as DEVANAGARI or CJK; other characters are symbols."""
    if unicodedata.category(character)[0] not in "LM":
        return "symbols"
    return unicodedata.name(character, "an unknown script").split()[0]


# matplotlib reports each time that a family has no bold font.
logging.getLogger("matplotlib.font_manager").addFilter(lambda record: "font weight" not in record.getMessage())
_fonts = Fonts(_system_fonts)


def drawable(text: str, otherwise: str | None = None) -> str:
    """The text, or what takes its place where the fonts of this machine cannot draw it; see `Fonts.drawable`."""
    return _fonts.drawable(text, otherwise)


def families() -> list[str]:
    """Families for matplotlib's `font.family`, with which all that `drawable` let pass so far is drawn."""
    return list(_fonts.families)
