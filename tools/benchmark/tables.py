"""Tables of measurements: on the screen as they grow, and then in a page of the documentation."""

from collections.abc import Iterable
from pathlib import Path

from timesformer.atomic import write_text_atomically
from timesformer.errors import UserError


def show(lines: Iterable[str], page: Path | None = None, name: str = "table") -> None:
    """Print `lines` as they come; with `page`, replace by them what stands between the marks of `name` there.

    Raises UserError, before anything is measured, when the page does not have the marks.
    """
    if page is not None:
        _around(page, name)
    shown = []
    for line in lines:
        print(line, flush=True)
        shown.append(line)
    if page is not None:
        before, after = _around(page, name)
        write_text_atomically(page, "\n".join([before, *shown, after]))


def marks(name: str) -> tuple[str, str]:
    """Lines before and after the table of this name in a page."""
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def _around(page: Path, name: str) -> tuple[str, str]:
    """The page up to and with the first mark, and from the second on."""
    begin, end = marks(name)
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    before, found, rest = text.partition(begin)
    _, also_found, after = rest.partition(end)
    if not (found and also_found):
        raise UserError(f"{page} has no place for the table; put {begin} and {end} around it")
    return before + begin, end + after
