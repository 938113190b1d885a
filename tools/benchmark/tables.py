"""Markdown tables: printed row by row, then written into a page of the documentation."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from timesformer.atomic import write_text_atomically
from timesformer.errors import UserError


def header(columns: Sequence[str], text_columns: int = 1) -> Iterator[str]:
    """The first two lines of a table: columns after the first `text_columns` are aligned right."""
    yield row(columns)
    yield f"|{'---|' * text_columns}{'---:|' * (len(columns) - text_columns)}"


def row(cells: Iterable[object]) -> str:
    """A line of a table."""
    return f"| {' | '.join(map(str, cells))} |"


def show(lines: Iterable[str], page: Path | None = None, name: str = "table") -> None:
    """Prints lines as they come; then writes them between the marks of this name in a page, if one is given.

    Raises:
        UserError: before anything is measured, if the page lacks the marks.
    """
    if page is not None:
        _split_at_marks(page, name)
    shown = []
    for line in lines:
        print(line, flush=True)
        shown.append(line)
    if page is not None:
        before, after = _split_at_marks(page, name)
        write_text_atomically(page, "\n".join([before, *shown, after]))


def marks(name: str) -> tuple[str, str]:
    """The lines around the table of this name in a page."""
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def _split_at_marks(page: Path, name: str) -> tuple[str, str]:
    """The page up to the end of the first mark, and from the second mark on."""
    begin, end = marks(name)
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    before, found, rest = text.partition(begin)
    _, also_found, after = rest.partition(end)
    if not (found and also_found):
        raise UserError(f"{page}: no marks for this table found; add the lines {begin} and {end}")
    return before + begin, end + after
