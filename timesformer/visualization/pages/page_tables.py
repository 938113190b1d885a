"""The tables of a rendered page as data, CSV and LaTeX, so that the files have what the page shows."""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser

_LONG = 45  # rows from which a table continues on the next page
_WIDE = 6  # columns from which it is set in a smaller font
_LATEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "–": "--",
    "−": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "…": r"\ldots{}",
}


@dataclass
class Cell:
    """The text that a page shows, and the full value where the page rounds it."""

    text: str = ""
    value: str | None = None
    is_number: bool = False
    is_bold: bool = False


@dataclass
class PageTable:
    """A table of a page; `name` is its file, `title` the heading above it."""

    name: str
    title: str
    header: list[Cell] = field(default_factory=list)
    rows: list[list[Cell]] = field(default_factory=list)
    footer: list[list[Cell]] = field(default_factory=list)

    def csv(self) -> str:
        """With full values, without the footer; missing values are empty."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        for row in ([self.header] if self.header else []) + self.rows:
            writer.writerow([_missing_as_empty(cell.text if cell.value is None else cell.value) for cell in row])
        return text.getvalue()

    def latex(self, caption: str, label: str) -> str:
        """For booktabs, with the text of the page; over several pages (longtable) if there are many rows."""
        first = self.header or self.rows[0]
        columns = "".join("r" if cell.is_number else "l" for cell in first)
        is_long = len(self.rows) > _LONG
        size = r"\footnotesize" if len(columns) > _WIDE else r"\small"
        title = rf"\caption{{{escape_latex(caption)}}}", rf"\label{{{label}}}"
        head = [_latex_row(self.header), r"\midrule"] if self.header else []
        body = [_latex_row(row) for row in self.rows]
        body += [r"\midrule", *map(_latex_row, self.footer)] if self.footer else []
        if is_long:
            lines = [
                "% \\usepackage{booktabs,longtable}",
                "{",
                size,
                rf"\begin{{longtable}}{{{columns}}}",
                *title,
                r"\\",
            ]
            lines += [r"\toprule", *head, r"\endfirsthead", r"\toprule", *head, r"\endhead", r"\bottomrule"]
            lines += [r"\endfoot", *body, r"\end{longtable}", "}"]
        else:
            lines = ["% \\usepackage{booktabs}", r"\begin{table}", r"\centering", size, *title]
            lines += [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", *head, *body, r"\bottomrule"]
            lines += [r"\end{tabular}", r"\end{table}"]
        return "\n".join(lines) + "\n"


def escape_latex(text: str) -> str:
    """The text as LaTeX source, without commands in it."""
    return "".join(_LATEX.get(character, character) for character in text)


def file_name(title: str) -> str:
    """A title as the name of a file, without its parts in brackets, in lower-case letters, digits and underscores."""
    return re.sub(r"\W+", "_", re.sub(r"\([^)]*\)", "", title.lower())).strip("_") or "untitled"


def tables_of(html: str) -> list[PageTable]:
    """All tables of a page with rows, each named after the closest heading before it; names differ."""
    reader = _Reader()
    reader.feed(html)
    tables = [table for table in reader.tables if table.rows]
    for name, table in zip(distinct([table.name for table in tables]), tables, strict=True):
        table.name = name
    return tables


def distinct(names: Sequence[str]) -> list[str]:
    """The names, with a number after each repeated one."""
    found: list[str] = []
    for name in names:
        number, candidate = 1, name
        while candidate in found:
            number += 1
            candidate = f"{name}_{number}"
        found.append(candidate)
    return found


class _Reader(HTMLParser):
    """Collects the tables of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[PageTable] = []
        self._heading = ""
        self._part = ""  # the open element that text belongs to: a heading, a row's part of the table
        self._cell: Cell | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if tag in ("h1", "h2", "h3"):
            self._heading, self._part = "", "heading"
        elif tag == "table":
            self.tables.append(PageTable(file_name(self._heading), self._heading.strip()))
        elif tag in ("thead", "tbody", "tfoot"):
            self._part = tag
        elif tag == "tr" and self._part != "thead":
            (self.tables[-1].footer if self._part == "tfoot" else self.tables[-1].rows).append([])
        elif tag in ("td", "th"):
            classes = (attributes.get("class") or "").split()
            self._cell = Cell(value=attributes.get("data-v"), is_number="n" in classes)
            self._row().append(self._cell)
        elif tag == "b" and self._cell is not None:
            self._cell.is_bold = True
        elif tag == "small" and self._cell is not None:
            self._cell.text += " ("

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th") and self._cell is not None:
            self._cell.text, self._cell = " ".join(self._cell.text.split()), None
        elif tag == "small" and self._cell is not None:
            self._cell.text += ")"
        elif tag in ("h1", "h2", "h3", "table"):
            self._part = ""

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell.text += data
        elif self._part == "heading":
            self._heading += data

    def _row(self) -> list[Cell]:
        table = self.tables[-1]
        if self._part == "thead":
            return table.header
        return table.footer[-1] if self._part == "tfoot" else table.rows[-1]


def _missing_as_empty(text: str) -> str:
    return "" if text in ("–", "-") else text


def _latex_row(row: Sequence[Cell]) -> str:
    cells = [escape_latex(cell.text) for cell in row]
    return " & ".join(rf"\textbf{{{c}}}" if cell.is_bold else c for c, cell in zip(cells, row, strict=True)) + r" \\"
