"""Pages of tables and pictures, as Markdown and as HTML."""

import html
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Picture:
    """A picture file beside the page."""

    title: str
    path: str


@dataclass
class Section:
    """A titled part of a page: a note, a table of text, points, pictures; each may be missing.

    numbers: columns from this one on hold numbers, and are set to the right.
    """

    title: str
    note: str = ""
    header: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    numbers: int = 1
    points: list[str] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)


@dataclass
class Page:
    """A title, paragraphs and sections."""

    title: str
    paragraphs: list[str]
    sections: list[Section]


def as_markdown(page: Page) -> str:
    """The page in GitHub's Markdown."""
    blocks = [f"# {page.title}", *page.paragraphs]
    for section in page.sections:
        blocks += [f"## {section.title}", section.note]
        if section.rows:
            marks = ["---" if column < section.numbers else "---:" for column in range(len(section.header))]
            lines = [section.header, marks, *section.rows]
            blocks.append("\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines))
        blocks.append("\n".join(f"* {point}" for point in section.points))
        blocks += [f"![{picture.title}]({picture.path})" for picture in section.pictures]
    return "\n\n".join(block for block in blocks if block) + "\n"


_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 75rem; margin: 2rem auto;
       padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; }
th { border-bottom: 2px solid #888; }
.n { text-align: right; font-variant-numeric: tabular-nums; }
td { white-space: nowrap; }
tbody tr:hover { background: #f4f6f8; }
img { max-width: 100%; display: block; margin: .5rem 0 1.5rem; }
figcaption { color: #555; }
"""


def as_html(page: Page) -> str:
    """The page as one HTML file, which needs nothing but its pictures."""
    body = [f"<h1>{html.escape(page.title)}</h1>", *(f"<p>{html.escape(text)}</p>" for text in page.paragraphs if text)]
    for section in page.sections:
        body.append(f"<h2>{html.escape(section.title)}</h2>")
        if section.note:
            body.append(f"<p>{html.escape(section.note)}</p>")
        if section.rows:
            head, *lines = (_line(cells, tag, section.numbers) for cells, tag in _tagged(section))
            table = f"<table><thead>{head}</thead><tbody>{''.join(lines)}</tbody></table>"
            body.append(f'<div class="scroll">{table}</div>')
        if section.points:
            body.append(f"<ul>{''.join(f'<li>{html.escape(point)}</li>' for point in section.points)}</ul>")
        for picture in section.pictures:
            title = html.escape(picture.title)
            image = f'<img src="{html.escape(picture.path)}" alt="{title}">'
            body.append(f"<figure><figcaption>{title}</figcaption>{image}</figure>")
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{html.escape(page.title)}'
    return f'<!doctype html>\n<html lang="en"><head>{head}</title><style>{_STYLE}</style></head><body>\n' + (
        "\n".join(body) + "\n</body></html>\n"
    )


def _tagged(section: Section) -> list[tuple[list[str], str]]:
    return [(section.header, "th"), *((row, "td") for row in section.rows)]


def _line(cells: list[str], tag: str, numbers: int) -> str:
    marked = (
        f"<{tag}{' class=n' if column >= numbers else ''}>{html.escape(cell)}</{tag}>"
        for column, cell in enumerate(cells)
    )
    return f"<tr>{''.join(marked)}</tr>"
