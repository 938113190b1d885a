"""Markdown tables: printed row by row, then written into a page of the documentation."""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from timesformer.atomic import write_text_atomically
from timesformer.errors import UserError


def header(caption: str, columns: Sequence[str], text_columns: int = 1) -> Iterator[str]:
    """The first lines of a table: a caption, the columns (those after the first `text_columns` aligned right)."""
    yield from ([caption, ""] if caption else [])
    yield row(columns)
    yield f"|{'---|' * text_columns}{'---:|' * (len(columns) - text_columns)}"


def row(cells: Iterable[object]) -> str:
    """A line of a table."""
    return f"| {' | '.join(map(str, cells))} |"


def show(lines: Iterable[str], page: Path | None, name: str) -> None:
    """Prints lines as they come, then writes them between the marks of this name in the page, if one is given."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    table = re.compile(f"{begin}.*{end}", re.DOTALL)
    if page and not (page.is_file() and table.search(page.read_text(encoding="utf-8"))):
        raise UserError(f"{page}: no marks for this table found; add the lines {begin} and {end}")
    shown = [begin]
    for line in lines:
        print(line, flush=True)
        shown.append(line)
    if page:
        text = "\n".join([*shown, end])
        write_text_atomically(page, table.sub(lambda _: text, page.read_text(encoding="utf-8"), count=1))
