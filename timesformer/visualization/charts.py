"""Charts of a run, drawn with matplotlib: as SVG that takes the colours of the page around it, as PNG or as pixels."""

import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from timesformer.visualization import fonts

INK, MUTED, LINE, GOOD, BAD = "#1d2126", "#68707a", "#dfe2e6", "#2563eb", "#d9480f"
SERIES = ("#2563ec", "#d9480e", "#0f8a5f", "#8a3ffc", "#b7791f", "#c2255c", "#0b7f9e", "#5c6470")
"""Colours of lines, told apart by people with any colour vision in the first four; then they begin again."""

_BY_PAGE = {INK: "ink", MUTED: "muted", LINE: "line", GOOD: "good", BAD: "bad"}
_BY_PAGE |= {color: f"series-{number}" for number, color in enumerate(SERIES, 1)}
_STYLE = {
    "font.size": 9,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "legend.fontsize": 8,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "svg.fonttype": "none",
    "svg.hashsalt": "timesformer",
}
_DOTS_PER_INCH = 100
_NAMED = 60  # classes whose names still find room along a confusion matrix
_NUMBERED = 30  # classes up to which its cells have numbers
_MOST_POINTS = 400  # of a line: more cannot be told apart on a screen


@dataclass(frozen=True)
class Curve:
    """A line of a chart.

    Attributes:
        label: in the legend; empty: not there.
        x, y: float (points,); where y is not finite, the line is interrupted.
        color: number of the colour, from 0.
        faint: drawn thin and pale, behind the others.
        dashed: drawn dashed.
        dots: each point is drawn as a dot, too.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    color: int = 0
    faint: bool = False
    dashed: bool = False
    dots: bool = False


def curves(
    lines: Sequence[Curve],
    title: str,
    y_label: str = "",
    x_label: str = "epoch",
    log: bool = False,
    size: tuple[float, float] = (4.4, 2.9),
) -> Figure:
    """Lines over a common axis.

    Args:
        lines: those without a finite point are left out.
        title, x_label, y_label: texts.
        log: logarithmic y axis, where all finite values are above 0.
        size: width and height in inches of 100 pixels.
    """
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(size)
        drawn = [line for line in lines if np.isfinite(np.asarray(line.y, float)).any()]
        for line in drawn:
            x, y = _thinned(np.asarray(line.x, float), np.asarray(line.y, float))
            single = len(x) == 1
            axes.plot(
                x,
                y,
                color=SERIES[line.color % len(SERIES)],
                linewidth=0.9 if line.faint else 1.7,
                alpha=0.4 if line.faint else 1.0,
                linestyle="--" if line.dashed else "-",
                marker="o" if line.dots or single else None,
                markersize=3.2,
                label=line.label or None,
                zorder=2 if line.faint else 3,
            )
        values = np.concatenate([np.asarray(line.y, float) for line in drawn]) if drawn else np.zeros(0)
        if log and (values[np.isfinite(values)] > 0).all() and len(drawn):
            axes.set_yscale("log")
        axes.set_title(title)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if not drawn:
            axes.text(0.5, 0.5, "no figures", transform=axes.transAxes, ha="center", color=MUTED)
            axes.set_yticks([])
        labelled = [line for line in drawn if line.label]
        if len(labelled) > 1:
            axes.legend(loc="best", ncols=1 if len(labelled) <= 5 else 2)
    return figure


def reliability(confidence: np.ndarray, right: np.ndarray, bins: int = 10) -> Figure:
    """How often predictions of a given confidence are right, beside how often they would be if it were a promise.

    Args:
        confidence: probability of the predicted class, float (videos,) from 0 to 1.
        right: whether it is the true one, bool (videos,).
        bins: of confidence, equally wide.
    """
    number = np.clip((confidence * bins).astype(int), 0, bins - 1)
    counts = np.bincount(number, minlength=bins)
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure((4.4, 2.9))
        axes.plot([0, 100], [0, 100], color=MUTED, linewidth=1, linestyle="--", label="as promised")
        for bin_number in np.flatnonzero(counts):
            share = 100 * right[number == bin_number].mean()
            axes.bar(
                100 * (bin_number + 0.5) / bins,
                share,
                width=92 / bins,
                color=SERIES[0],
                alpha=0.85,
                label="right" if bin_number == np.flatnonzero(counts)[0] else None,
            )
            axes.annotate(
                str(counts[bin_number]),
                (100 * (bin_number + 0.5) / bins, share),
                xytext=(0, 2),
                textcoords="offset points",
                ha="center",
                fontsize=7,
                color=MUTED,
            )
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 109)
        axes.set_title("Right, by confidence")
        axes.set_xlabel("confidence (%), with the number of videos")
        axes.set_ylabel("right (%)")
        axes.legend(loc="upper left")
    return figure


def spread(accuracy: Sequence[float], title: str) -> Figure:
    """How many classes have which accuracy, in percent: a histogram in steps of 5."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure((4.4, 2.9))
        axes.hist(accuracy, bins=np.arange(0, 105, 5), color=SERIES[0], rwidth=0.92)
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set_xlim(0, 100)
        axes.set_title(title)
        axes.set_xlabel("top-1 (%)")
        axes.set_ylabel("classes")
    return figure


def dots(x: Sequence[float], y: Sequence[float], title: str, x_label: str) -> Figure:
    """A dot for each pair of values."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure((4.4, 2.9))
        axes.scatter(x, y, s=16, color=SERIES[0], alpha=0.55, linewidths=0)
        axes.set_title(title)
        axes.set_xlabel(x_label)
    return figure


def per_class(names: Sequence[str], accuracy: Sequence[float], title: str = "Top-1 by class") -> Figure:
    """Accuracy of each class in percent, as bars sorted from the lowest; NaN for a class without videos is left out.

    Past 60 classes the bars have no names, and the figure does not grow further.
    """
    values = np.asarray(accuracy, float)
    order = [int(number) for number in np.argsort(values, kind="stable") if np.isfinite(values[number])]
    named = len(order) <= _NAMED
    labels = [_label(names, number) for number in order] if named else []
    with matplotlib.rc_context(_style()):
        height = 0.9 + 0.19 * max(len(order), 4) if named else 6.0
        figure, axes = _figure((6.4, height))
        places = np.arange(len(order))
        axes.barh(places, values[order], height=0.72 if named else 1.0, color=SERIES[0])
        axes.set_yticks(places if named else [], labels)
        axes.set_ylim(len(order) - 0.5, -0.5)
        axes.set_xlim(0, 100)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("top-1 (%)" if named else f"top-1 (%) of {len(order)} classes")
        axes.set_title(title)
    return figure


def confusion_matrix(
    counts: np.ndarray, names: Sequence[str], title: str = "Confusion matrix", size: tuple[float, float] = (8, 8)
) -> Figure:
    """What the videos of each class (rows) were taken for (columns), in shares of the row.

    Args:
        counts: int (classes, classes).
        names: of the classes; they are shown up to 60.
        title: above it.
        size: width and height in inches of 100 pixels.
    """
    counts = np.asarray(counts)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    labels = [_label(names, number) for number in range(len(names))] if len(names) <= _NAMED else []
    title = fonts.drawable(title)
    with matplotlib.rc_context({**_style(), "axes.grid": False}):
        figure, axes = _figure(size)
        # The square root lets a few mistakes among many hits be seen.
        image = axes.imshow(shares, cmap=_SHARES, norm=matplotlib.colors.PowerNorm(0.5, 0, 1), aspect="equal")
        bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02, ticks=[0, 0.1, 0.25, 0.5, 1])
        bar.ax.set_yticklabels(["0 %", "10 %", "25 %", "50 %", "100 %"])
        bar.outline.set_visible(False)
        axes.set_xlabel("predicted class")
        axes.set_ylabel("true class")
        axes.set_title(title)
        if labels:
            font = 8 if len(names) <= _NUMBERED else 6
            axes.set_xticks(range(len(names)), labels, rotation=90, fontsize=font)
            axes.set_yticks(range(len(names)), labels, fontsize=font)
        if len(names) <= _NUMBERED:
            for row, column in zip(*np.nonzero(counts), strict=True):
                color = "white" if shares[row, column] > 0.4 else INK
                axes.text(column, row, counts[row, column], ha="center", va="center", fontsize=7, color=color)
    return figure


def predicted_as(
    counts: np.ndarray, names: Sequence[str], true_class: str, top: int, size: tuple[float, float]
) -> Figure:
    """Bars of what the videos of one class were most often taken for.

    Args:
        counts: of its videos by predicted class, int (classes,).
        names: of the classes.
        true_class: its name.
        top: bars shown at most.
        size: width and height in inches of 100 pixels.
    """
    order = [int(number) for number in np.argsort(-counts, kind="stable")[:top] if counts[number]]
    labels = [_label(names, number) for number in order]
    title = _label(names, list(names).index(true_class))
    with matplotlib.rc_context(_style()):
        figure, axes = _figure(size)
        colors = [GOOD if names[number] == true_class else BAD for number in order]
        axes.barh(range(len(order)), counts[order], color=colors, height=0.72)
        axes.set_yticks(range(len(order)), labels)
        axes.set_ylim(max(len(order), 3) - 0.5, -0.5)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("videos")
        axes.set_title(f"{title}, predicted as")
    return figure


def svg(figure: Figure) -> str:
    """An `<svg>` element for a page.

    Where the page defines the CSS variables --ink, --muted, --line, --good, --bad and --series-1 to --series-8, they
    are the chart's colours; elsewhere it has its own. The font is that of the page.
    """
    file = io.StringIO()
    with matplotlib.rc_context(_style()), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # missing here, but the browser draws the text
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # Its rule for all elements would be one for the whole page.
    text = re.sub(r"<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)
    for color, name in _BY_PAGE.items():
        text = text.replace(color, f"var(--{name}, {color})")
    text = re.sub(r" font-family: [^;\"]*;", "", text)
    text = re.sub(r"<g id=\"[^\"]*\"", "<g", text)  # all charts of a page would have the same ones
    opening = re.sub(r" (width|height)=\"[^\"]*\"", "", text[: text.index(">")])
    return f'{opening} stroke-linejoin="round"{text[text.index(">") :]}'


def png(figure: Figure) -> bytes:
    """The figure as a PNG file, on white."""
    file = io.BytesIO()
    with matplotlib.rc_context(_style()):
        figure.savefig(file, format="png", dpi=_DOTS_PER_INCH)
    return file.getvalue()


def pixels(figure: Figure) -> np.ndarray:
    """The figure as uint8 (height, width, 3) RGB, on white."""
    with matplotlib.rc_context(_style()):
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


_SHARES = LinearSegmentedColormap.from_list("shares", ["#ffffff", "#cfe0fb", "#7fb0f5", "#2563eb", "#12357f"])


def _figure(size: tuple[float, float]) -> tuple[Figure, matplotlib.axes.Axes]:
    figure = Figure(figsize=size, dpi=_DOTS_PER_INCH, layout="constrained")
    return figure, figure.add_subplot()


def _thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The means of so many neighbouring points that few enough are left."""
    together = -(-len(x) // _MOST_POINTS)
    if together <= 1:
        return x, y
    starts = np.arange(0, len(x), together)
    lengths = np.diff([*starts, len(x)])
    return np.add.reduceat(x, starts) / lengths, np.add.reduceat(y, starts) / lengths


def _style() -> dict[str, object]:
    """The style, with the fonts that the labels made so far need."""
    return {**_STYLE, "font.family": fonts.families()}


def _label(names: Sequence[str], number: int, length: int = 28) -> str:
    """The name of a class, shortened to leave room for the chart; its number where no font can draw it."""
    name = fonts.drawable(names[number].encode("utf-8", "replace").decode(), f"class {number}")
    return name if len(name) <= length else f"{name[: length - 1]}…"
