"""Charts in the style of the report: as SVG that takes the colors of the page around it, or as files for a paper."""

import io
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from timesformer.atomic import report_write_errors, write_atomically
from timesformer.visualization import fonts

Size = tuple[float, float]  # inches of 100 pixels
PAGE_SIZE = (4.4, 2.9)  # of the charts of a page

INK, MUTED, LINE, GOOD, BAD = "#1d2126", "#68707a", "#dfe2e6", "#2563eb", "#d9480f"
# Lines. The first four can be distinguished with any color vision.
SERIES = ("#2563ec", "#d9480e", "#0f8a5f", "#8a3ffc", "#b7791f", "#c2255c", "#0b7f9e", "#5c6470")

STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": LINE,
    "axes.grid": True,
    "axes.labelcolor": MUTED,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "font.size": 9,
    "grid.color": LINE,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "timesformer",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.color": MUTED,
    "ytick.major.size": 0,
}
"""Matplotlib settings of all charts: draw them within `matplotlib.rc_context(STYLE)`."""

_CSS_VARIABLES = {INK: "ink", MUTED: "muted", LINE: "line", GOOD: "good", BAD: "bad"}
_CSS_VARIABLES |= {color: f"series-{number}" for number, color in enumerate(SERIES, 1)}
# Of correct and incorrect predictions, from a share of 0 to 1. A single video is visible.
_SHARES = (
    LinearSegmentedColormap.from_list("correct", ["#dbe6fc", GOOD]),
    LinearSegmentedColormap.from_list("incorrect", ["#f9e2da", BAD]),
)
FORMATS = (".png", ".svg", ".pdf")
_DPI, _MAX_SIDE = 300, 4800  # of PNG files; pixels that tiny text needs
_COLUMN = 3.5  # inches; charts of the page are made to fit a column of a paper
_MAX_NAMES, _MAX_NUMBERS = 60, 30  # classes with names along an axis, and with numbers in a confusion matrix
_MAX_POINTS = 400  # of a line
_COLLECTED: ContextVar[list[Figure] | None] = ContextVar("collected", default=None)


@dataclass(frozen=True)
class Curve:
    """A line of a chart, interrupted where y is not finite."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    color: int = 0  # index into SERIES, modulo its length
    faint: bool = False
    dots: bool = False


def new_chart(title: str, xlabel: str = "", ylabel: str = "", size: Size = PAGE_SIZE) -> tuple[Figure, Axes]:
    """An empty figure."""
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.set_title(title, family=fonts.families())
    return figure, axes


@matplotlib.rc_context(STYLE)
def line_chart(curves: Sequence[Curve], title: str, xlabel: str = "epoch") -> Figure | None:
    """Lines over a common axis of integers, with a legend for up to 8; None if no curve has a finite value."""
    drawn = [curve for curve in curves if np.isfinite(np.asarray(curve.y, float)).any()]
    if not drawn:
        return None
    figure, axes = new_chart(title, xlabel)
    for curve in drawn:
        x, y = _thin_out(curve.x), _thin_out(curve.y)
        (line,) = axes.plot(x, y, color=SERIES[curve.color % len(SERIES)], label=curve.label or None, markersize=3.2)
        line.set_marker("o" if curve.dots or len(x) == 1 else "")
        line.set(**{"linewidth": 0.9, "alpha": 0.4, "zorder": 2} if curve.faint else {"linewidth": 1.7, "zorder": 3})
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if len(epochs := {float(x) for curve in drawn for x in curve.x}) == 1:
        axes.set_xlim(min(epochs) - 1, max(epochs) + 1)
    if 1 < sum(bool(curve.label) for curve in drawn) <= len(SERIES):  # more have no colors of their own
        axes.legend(ncols=1 if len(drawn) <= 5 else 2)
    return figure


@matplotlib.rc_context(STYLE)
def confusion_matrix(
    counts: np.ndarray,
    names: Sequence[str],
    title: str = "Confusion matrix",
    size: Size | None = None,
    percent: bool = False,
) -> Figure:
    """Counts, int (classes, classes), of true classes (rows) and predicted ones, colored by their share of the row.

    Args:
        counts: videos by true and predicted class.
        names: of the classes. Without `size` all are drawn, else up to 60.
        title: of the figure.
        size: by default as large as a page needs it.
        percent: write the share of the row instead of the count, where there is space for numbers.
    """
    total = len(names)
    side = min(8.0, 2.2 + 0.3 * total)
    figure, axes = new_chart(fonts.drawable(title), "predicted class", "true class", size or (side + 0.7, side))
    axes.grid(visible=False)
    axes.set(xlim=(-0.5, total - 0.5), ylim=(total - 0.5, -0.5), aspect="equal")
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    norm, cells = PowerNorm(0.5, 0, 1), np.argwhere(counts)  # the root makes a few errors among many videos visible
    corners = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)])
    for is_error, (label, colors) in reversed([*enumerate(zip(("correct", "incorrect"), _SHARES, strict=True))]):
        chosen = cells[(cells[:, 0] != cells[:, 1]) == is_error]
        faces = colors(norm(shares[tuple(chosen.T)]))
        axes.add_collection(PolyCollection(chosen[:, None, ::-1] + corners, facecolors=faces, linewidths=0))
        bar = figure.colorbar(ScalarMappable(norm, colors), ax=axes, fraction=0.03, pad=0.02, shrink=0.6, anchor=(0, 1))
        bar.set_ticks([0, 0.1, 0.25, 0.5, 1], labels=["0 %", "10 %", "25 %", "50 %", "100 %"] if is_error else [""] * 5)
        bar.ax.set_xlabel(label, fontsize=7, rotation=90)
        bar.outline.set_visible(False)
    if size is None or total <= _MAX_NAMES:
        labels = _short_names(names, range(total))
        text = {"fontsize": min(8.0, 50 * (side - 2) / max(total, 1)), "family": fonts.families()}
        axes.set_xticks(range(total), labels, rotation=90, **text)
        axes.set_yticks(range(total), labels, **text)
    if total <= _MAX_NUMBERS:
        for row, column in cells:
            color = "white" if shares[row, column] > 0.4 else INK
            text = f"{100 * shares[row, column]:.0f}" if percent else counts[row, column]
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color=color)
    return figure


@matplotlib.rc_context(STYLE)
def per_class(names: Sequence[str], accuracy: Sequence[float], title: str = "Top-1 by class") -> Figure:
    """Accuracy of each class in percent, as bars sorted from the lowest. Classes with NaN are left out."""
    values = np.asarray(accuracy, float)
    order = [int(number) for number in np.argsort(values, kind="stable") if np.isfinite(values[number])]
    named = len(order) <= _MAX_NAMES
    labels = _short_names(names, order) if named else None
    height = 0.9 + 0.19 * max(len(order), 4) if named else 6.0
    figure, axes = new_chart(
        title, "top-1 (%)" if named else f"top-1 (%) of {len(order)} classes", size=(PAGE_SIZE[0], height)
    )
    _draw_bars(axes, values[order], labels, [SERIES[0]] * len(order))
    axes.set_xlim(0, 100)
    return figure


@matplotlib.rc_context(STYLE)
def bars(names: Sequence[str], values: Sequence[float], title: str, xlabel: str) -> Figure:
    """Named values, from 0 to 100, as bars in the given order."""
    figure, axes = new_chart(title, xlabel)
    _draw_bars(axes, np.asarray(values, float), _short_names(names, range(len(names))), [SERIES[0]] * len(names))
    axes.set_xlim(0, 100)
    return figure


@matplotlib.rc_context(STYLE)
def predicted_as(counts: np.ndarray, names: Sequence[str], label: int, top: int, size: Size) -> Figure:
    """The `top` most frequent predictions for class number `label`, from its `counts`, int (classes,), as bars."""
    order = [int(number) for number in np.argsort(-counts, kind="stable")[:top] if counts[number]]
    title, *labels = _short_names(names, [label, *order])
    figure, axes = new_chart(f"{title}, predicted as", "videos", size=size)
    _draw_bars(axes, counts[order], labels, [GOOD if number == label else BAD for number in order])
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    return figure


@contextmanager
def collect_figures() -> Iterator[list[Figure]]:
    """Gives a list of the figures that `svg` receives, which is complete at the end."""
    token = _COLLECTED.set([])
    try:
        yield _COLLECTED.get()
    finally:
        _COLLECTED.reset(token)


@matplotlib.rc_context(STYLE)
def svg(figure: Figure) -> str:
    """An `<svg>` element for a page, with the font of the page and the colors in its CSS variables (style.css)."""
    if (collected := _COLLECTED.get()) is not None:
        collected.append(figure)
    file = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # missing here, but the browser has fonts of its own
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    # Styles and ids would apply to the whole page.
    text = re.sub(r"<(metadata|style)[^>]*>.*?</\1>| font-family: [^;\"]*;", "", text, flags=re.DOTALL)
    text = re.sub(r"<g id=\"[^\"]*\"", "<g", text)
    for color, name in _CSS_VARIABLES.items():
        text = text.replace(color, f"var(--{name}, {color})")
    return re.sub(r" (width|height)=\"[^\"]*\"", "", text, count=2)  # the page decides about the size


@matplotlib.rc_context({**STYLE, "savefig.facecolor": "white"})
def png(figure: Figure) -> bytes:
    """The figure as a PNG file, on white."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


@matplotlib.rc_context({**STYLE, "savefig.facecolor": "white", "pdf.fonttype": 42, "svg.fonttype": "path"})
def save(figure: Figure, folder: Path, name: str) -> None:
    """Writes the figure as PNG (300 dpi), SVG (text as outlines) and PDF (fonts embedded); WriteError if that fails.

    Charts of the size of the page's charts are made 3.5 inches wide, a column of a paper.
    """
    width, height = figure.get_size_inches()
    if width == PAGE_SIZE[0]:
        figure.set_size_inches(_COLUMN, height * _COLUMN / width)
    smallest = min((text.get_fontsize() for axes in figure.axes for text in axes.get_yticklabels()), default=9.0)
    dpi = _DPI if smallest >= 4 else _MAX_SIDE / max(figure.get_size_inches())
    for suffix in FORMATS:
        path, file = folder / f"{name}{suffix}", io.BytesIO()
        metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(suffix)
        figure.savefig(file, format=suffix[1:], dpi=dpi, metadata=metadata)
        with report_write_errors(path, "choose another folder"):
            write_atomically(path, lambda target, file=file: target.write(file.getvalue()))


def _draw_bars(axes: Axes, values: np.ndarray, labels: Sequence[str] | None, colors: Sequence[str]) -> None:
    rows = range(len(values))
    axes.barh(rows, values, height=1.0 if labels is None else 0.72, color=colors)
    axes.set_yticks(rows if labels else [], labels or [], family=fonts.families())
    axes.set_ylim(max(len(values), 3) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)


def _thin_out(values: Sequence[float]) -> np.ndarray:
    """Means of neighboring values, 400 at most."""
    starts = np.arange(0, len(values), -(-len(values) // _MAX_POINTS))
    return np.add.reduceat(np.asarray(values, float), starts) / np.diff([*starts, len(values)])


def _short_names(names: Sequence[str], numbers: Iterable[int]) -> list[str]:
    """Names of classes, shortened to leave room for the chart; numbers where no font can draw them."""
    drawn = [fonts.drawable(names[number], f"class {number}") for number in numbers]
    return [name if len(name) <= 28 else f"{name[:27]}…" for name in drawn]
