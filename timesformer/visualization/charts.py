"""Charts in the style of the report, as SVG that takes the colors of the page around it, or as PNG."""

import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from timesformer.visualization import fonts

INK, MUTED, LINE, GOOD, BAD = "#1d2126", "#68707a", "#dfe2e6", "#2563eb", "#d9480f"
SERIES = ("#2563ec", "#d9480e", "#0f8a5f", "#8a3ffc", "#b7791f", "#c2255c", "#0b7f9e", "#5c6470")
"""Colors of lines. The first four can be distinguished with any color vision."""

STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": LINE,
    "axes.grid": True,
    "axes.labelcolor": MUTED,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "figure.dpi": 100,
    "font.size": 9,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "legend.labelcolor": INK,
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
_SHARES = LinearSegmentedColormap.from_list("shares", ["#ffffff", "#cfe0fb", "#7fb0f5", "#2563eb", "#12357f"])
_MAX_NAMES = 60  # classes that have their names along an axis
_MAX_NUMBERS = 30  # classes up to which the cells of a confusion matrix have numbers
_MAX_POINTS = 400  # of a line


@dataclass(frozen=True)
class Curve:
    """A line of a chart, interrupted where y is not finite.

    `color` is an index into SERIES, modulo its length. A faint line is thin and pale, and `dots` marks the points.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    color: int = 0
    faint: bool = False
    dots: bool = False


def new_chart(
    title: str, xlabel: str = "", ylabel: str = "", size: tuple[float, float] = (4.4, 2.9)
) -> tuple[Figure, Axes]:
    """An empty figure with one set of axes; `size` is in inches of 100 pixels."""
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.set_title(title, family=fonts.families())
    return figure, axes


@matplotlib.rc_context(STYLE)
def line_chart(curves: Sequence[Curve], title: str, xlabel: str = "epoch") -> Figure | None:
    """Lines over a common axis of integers; None if no curve has a finite value."""
    drawn = [curve for curve in curves if np.isfinite(np.asarray(curve.y, float)).any()]
    if not drawn:
        return None
    figure, axes = new_chart(title, xlabel)
    for curve in drawn:
        x, y = _thin_out(np.asarray(curve.x, float), np.asarray(curve.y, float))
        axes.plot(
            x,
            y,
            color=SERIES[curve.color % len(SERIES)],
            linewidth=0.9 if curve.faint else 1.7,
            alpha=0.4 if curve.faint else 1.0,
            marker="o" if curve.dots or len(x) == 1 else None,
            markersize=3.2,
            label=curve.label or None,
            zorder=2 if curve.faint else 3,
        )
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if len(epochs := {float(x) for curve in drawn for x in curve.x}) == 1:
        axes.set_xlim(min(epochs) - 1, max(epochs) + 1)
    if sum(bool(curve.label) for curve in drawn) > 1:
        axes.legend(ncols=1 if len(drawn) <= 5 else 2)
    return figure


@matplotlib.rc_context(STYLE)
def confusion_matrix(
    counts: np.ndarray, names: Sequence[str], title: str = "Confusion matrix", size: tuple[float, float] = (8, 8)
) -> Figure:
    """Counts, int (classes, classes), of true classes (rows) and predicted ones, colored by their share of the row.

    Names are shown for up to 60 classes; `size` is in inches of 100 pixels.
    """
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, axes = new_chart(fonts.drawable(title), "predicted class", "true class", size)
    axes.grid(visible=False)
    # The square root makes a few errors among many correct predictions visible.
    image = axes.imshow(shares, cmap=_SHARES, norm=PowerNorm(0.5, 0, 1))
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02, ticks=[0, 0.1, 0.25, 0.5, 1])
    bar.ax.set_yticklabels(["0 %", "10 %", "25 %", "50 %", "100 %"])
    bar.outline.set_visible(False)
    if len(names) <= _MAX_NAMES:
        labels = [_short_name(names, number) for number in range(len(names))]
        text = {"fontsize": 8 if len(names) <= _MAX_NUMBERS else 6, "family": fonts.families()}
        axes.set_xticks(range(len(names)), labels, rotation=90, **text)
        axes.set_yticks(range(len(names)), labels, **text)
    if len(names) <= _MAX_NUMBERS:
        for row, column in zip(*np.nonzero(counts), strict=True):
            color = "white" if shares[row, column] > 0.4 else INK
            axes.text(column, row, counts[row, column], ha="center", va="center", fontsize=7, color=color)
    return figure


@matplotlib.rc_context(STYLE)
def per_class(names: Sequence[str], accuracy: Sequence[float], title: str = "Top-1 by class") -> Figure:
    """Accuracy of each class in percent, as bars sorted from the lowest. Classes with NaN are left out.

    Above 60 classes the bars have no names.
    """
    values = np.asarray(accuracy, float)
    order = [int(number) for number in np.argsort(values, kind="stable") if np.isfinite(values[number])]
    named = len(order) <= _MAX_NAMES
    labels = [_short_name(names, number) for number in order] if named else None
    height = 0.9 + 0.19 * max(len(order), 4) if named else 6.0
    figure, axes = new_chart(title, "top-1 (%)" if named else f"top-1 (%) of {len(order)} classes", size=(6.4, height))
    _draw_bars(axes, values[order], labels, [SERIES[0]] * len(order))
    axes.set_xlim(0, 100)
    return figure


@matplotlib.rc_context(STYLE)
def predicted_as(
    counts: np.ndarray, names: Sequence[str], true_class: int, top: int, size: tuple[float, float]
) -> Figure:
    """The `top` most frequent predictions for the videos of class number `true_class`, as bars.

    `counts` are the videos of the class by predicted class, int (classes,); `size` is in inches of 100 pixels.
    """
    order = [int(number) for number in np.argsort(-counts, kind="stable")[:top] if counts[number]]
    labels = [_short_name(names, number) for number in order]
    figure, axes = new_chart(f"{_short_name(names, true_class)}, predicted as", "videos", size=size)
    _draw_bars(axes, counts[order], labels, [GOOD if number == true_class else BAD for number in order])
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    return figure


@matplotlib.rc_context(STYLE)
def svg(figure: Figure) -> str:
    """An `<svg>` element for a page, with the font of the page and the colors in its CSS variables (style.css)."""
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


def _draw_bars(axes: Axes, values: np.ndarray, labels: Sequence[str] | None, colors: Sequence[str]) -> None:
    """Horizontal bars from top to bottom, without gaps if they have no labels."""
    rows = range(len(values))
    axes.barh(rows, values, height=1.0 if labels is None else 0.72, color=colors)
    axes.set_yticks(rows if labels else [], labels or [], family=fonts.families())
    axes.set_ylim(max(len(values), 3) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)


def _thin_out(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of neighboring points, 400 at most."""
    step = -(-len(x) // _MAX_POINTS)
    starts = np.arange(0, len(x), step)
    lengths = np.diff([*starts, len(x)])
    return np.add.reduceat(x, starts) / lengths, np.add.reduceat(y, starts) / lengths


def _short_name(names: Sequence[str], number: int, length: int = 28) -> str:
    """The name of a class, shortened to leave room for the chart; its number if no font can draw it."""
    name = fonts.drawable(names[number], f"class {number}")
    return name if len(name) <= length else f"{name[: length - 1]}…"
