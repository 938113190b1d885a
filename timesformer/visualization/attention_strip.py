"""The picture of an attended clip: its frames, where the model looked in them, what it took the video for."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from PIL import Image

from timesformer.datasets.clips import SampledClip
from timesformer.visualization.attention import COLOURS, colour_scale, overlay
from timesformer.visualization.charts import INK, LINE, MUTED, SERIES

_DOTS = 100  # pixels per inch
_MARGIN, _GAP = 0.25, 0.05  # inches
_HEAD, _BAR = 0.3, 0.26  # inches: the word above the bars, and each of them
_CURVES = 2.6  # inches
_SPACE = 0.2
_TIMES = "#2a0a5e", "#b5367a", "#fb9a3c"  # colours from the first to the last frame's line


@dataclass(frozen=True)
class PatchCurves:
    """How much a patch attends to each frame, for the picture.

    Attributes:
        row, column: of the patch.
        weights: [steps, steps], from the patch in each frame (or tubelet) to each.
        label: what was computed.
    """

    row: int
    column: int
    weights: np.ndarray
    label: str


def attention_strip(
    clip: SampledClip,
    maps: np.ndarray,
    top: Sequence[tuple[str, float]],
    title: str,
    subtitle: str = "",
    most_frames: int = 16,
    curves: PatchCurves | None = None,
) -> bytes:
    """A PNG of sampled frames with their times above, the same with attention over them below, and the predictions.

    Args:
        clip: what the model saw.
        maps: float [frames, rows, columns], as `maps_of` gives them.
        top: predicted classes and their scores from 0 to 1, the best first.
        title: first line.
        subtitle: second line.
        most_frames: of more frames, so many are shown, evenly chosen from the first to the last; 1 or more.
        curves: drawn beside the predictions; their patch is marked in the frames.
    """
    total, (rows, columns) = len(clip.frames), maps.shape[1:]
    shown = np.unique(np.linspace(0, total - 1, min(total, most_frames)).round().astype(int))
    if len(shown) < total:
        subtitle += f"{'; ' if subtitle else ''}{len(shown)} of {total} frames shown"
    across = min(len(shown), 8)
    lines = -(-len(shown) // across)
    height, width = clip.frames.shape[1:3]
    cell = min(12.4 / across - _GAP, 2.4)  # inches
    tall = cell * height / width
    page = max(across * (cell + _GAP) - _GAP, 7.5)
    block = 0.24 + 2 * tall + _GAP
    below = 0.75 + lines * (block + 0.12) + 0.55
    bars_tall = _HEAD + _BAR * len(top)
    beside = page > 10
    parts = [bars_tall, *([_CURVES] if curves else [])]
    body = below + (max(parts) if beside else sum(parts) + _SPACE * bool(curves))
    figure = Figure((page + 2 * _MARGIN, body + 2 * _MARGIN), dpi=_DOTS, facecolor="white")
    FigureCanvasAgg(figure)

    def place(left: float, top_: float, wide: float, high: float) -> Axes:
        """Axes at inches from the left and the top of the page."""
        full_wide, full_high = figure.get_size_inches()
        box = (
            (_MARGIN + left) / full_wide,
            1 - (_MARGIN + top_ + high) / full_high,
            wide / full_wide,
            high / full_high,
        )
        return figure.add_axes(box)

    heading = place(0, 0, page, 0.7)
    heading.axis("off")
    _write(heading, 0, 0.95, title, size=13, weight="bold", va="top")
    _write(heading, 0, 0.5, subtitle, size=9, color=MUTED, va="top")

    size = round(cell * _DOTS), round(tall * _DOTS)
    frames = np.stack(
        [np.asarray(Image.fromarray(clip.frames[number]).resize(size, Image.Resampling.LANCZOS)) for number in shown]
    )
    # Colours of all frames, not only of those shown: they are the moving picture's.
    over = overlay(frames, maps[shown], colour_scale(maps))
    for line in range(lines):
        part = range(line * across, min((line + 1) * across, len(shown)))
        start = 0.75 + line * (block + 0.12)
        for column, index in enumerate(part):
            left = column * (cell + _GAP)
            for picture, down in ((frames, 0.24), (over, 0.24 + tall + _GAP)):
                axes = place(left, start + down, cell, tall)
                axes.imshow(picture[index], aspect="auto")
                axes.axis("off")
                if curves:
                    corner = curves.column * size[0] / columns - 0.5, curves.row * size[1] / rows - 0.5
                    edge = {"fill": False, "edgecolor": "white", "linewidth": 1.5}
                    axes.add_patch(Rectangle(corner, size[0] / columns, size[1] / rows, **edge))
                    edge = {**edge, "edgecolor": INK, "linestyle": (0, (3, 3))}
                    axes.add_patch(Rectangle(corner, size[0] / columns, size[1] / rows, **edge))
                if picture is frames:
                    _write(axes, 0.5, 1.04, _when(clip, shown[index]), size=9, ha="center", va="bottom")
    _colour_bar(place(0, below - 0.55, 3, 0.1), maps)

    wide = page * 0.45 if beside else page
    _bars(place(0, below, wide, bars_tall), top, wide)
    if curves:
        left, down = (page * 0.5, below) if beside else (0, below + bars_tall + _SPACE)
        room = 0.55, 0.3, 0.95, 0.5  # for what stands around the axes
        axes = place(left + room[0], down + room[1], page - left - room[0] - room[2], _CURVES - room[1] - room[3])
        _curves(axes, clip, curves)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=_DOTS, pil_kwargs={"optimize": True})
    return file.getvalue()


def _when(clip: SampledClip, index: int) -> str:
    seconds = clip.times[index]
    if math.isnan(seconds):
        return f"frame {clip.numbers[index]}"
    return f"{seconds:.2f} s" if seconds < 100 else f"{seconds:.1f} s"


def _write(axes: Axes, x: float, y: float, text: str, size: float, **options: object) -> None:
    """Text at fractions of the axes; a $ in it is a $."""
    options = {"color": INK, **options}
    axes.text(x, y, text, fontsize=size, transform=axes.transAxes, parse_math=False, **options)


def _colour_bar(axes: Axes, maps: np.ndarray) -> None:
    mean = max(float(maps.mean()), 1e-12)
    bar = axes.figure.colorbar(
        ScalarMappable(colour_scale(maps / mean), COLOURS), cax=axes, orientation="horizontal", drawedges=False
    )
    bar.outline.set_visible(False)
    low, high = bar.norm.vmin, bar.norm.vmax
    ticks = [low, *(value for value in (1.0, high / 2) if low < value < high), high]
    bar.set_ticks(ticks, labels=[f"{tick:.2g}" if tick >= 0.01 else "0" for tick in ticks])
    axes.tick_params(labelsize=8, colors=MUTED, length=0)
    for label, side in zip(axes.get_xticklabels()[:: len(ticks) - 1], ("left", "right"), strict=True):
        label.set_horizontalalignment(side)
    _write(axes, 1.04, 0.5, "attention to a patch; the mean of all is 1", size=8, color=MUTED, va="center")


def _bars(axes: Axes, top: Sequence[tuple[str, float]], wide: float) -> None:
    """Names, bars and scores, in inches from the top left of the axes, which are so many inches wide."""
    axes.axis("off")
    axes.set(xlim=(0, wide), ylim=(_HEAD + _BAR * len(top), 0))
    axes.text(0, 0, "predicted", fontsize=9, fontweight="bold", color=INK, va="top")
    start, full = 1.9, wide - 1.9 - 0.6
    for number, (name, score) in enumerate(top):
        middle, high = _HEAD + (number + 0.5) * _BAR, 0.7 * _BAR
        axes.add_patch(Rectangle((start, middle - high / 2), full, high, color=LINE, linewidth=0))
        color = SERIES[0] if number == 0 else MUTED
        axes.add_patch(Rectangle((start, middle - high / 2), full * score, high, color=color, linewidth=0))
        label = name if len(name) <= 26 else f"{name[:25]}…"
        text = {"fontsize": 9, "color": INK, "va": "center", "parse_math": False}
        axes.text(start - 0.1, middle, label, ha="right", **text)
        axes.text(start + full + 0.08, middle, f"{100 * score:.1f} %", **text)


def _curves(axes: Axes, clip: SampledClip, curves: PatchCurves) -> None:
    steps = len(curves.weights)
    times, unit = np.asarray(clip.times), "at (s)"
    if np.isnan(times).any():
        times, unit = np.asarray(clip.numbers, float), ""
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    times = times.reshape(steps, -1).mean(axis=1)  # of a tubelet's frames
    order = np.argsort(times, kind="stable")
    colours = LinearSegmentedColormap.from_list("", _TIMES)
    axes.axhline(100 / steps, color=MUTED, linewidth=1, linestyle=":", label="even")
    most = 8 if steps <= 16 else 4
    for number in np.unique(np.linspace(0, steps - 1, min(steps, most)).round().astype(int)):
        axes.plot(
            times[order],
            100 * curves.weights[number][order],
            color=colours(number / max(steps - 1, 1)),
            marker="o" if steps <= 16 else None,
            markersize=3.5,
            linewidth=1.5,
            label=f"{times[number]:.2f} s" if unit else f"{times[number]:g}",
        )
    axes.set_title(curves.label, fontsize=9, fontweight="bold", loc="left", color=INK)
    axes.set_xlabel(f"to the frame {unit}", fontsize=8, color=MUTED)
    axes.set_ylabel("attention (%)", fontsize=8, color=MUTED)
    axes.set_ylim(bottom=0)
    axes.grid(color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    axes.tick_params(labelsize=8, colors=MUTED, length=0)
    axes.legend(
        title="from the frame" + (" at" if unit else ""),
        fontsize=8,
        title_fontsize=8,
        frameon=False,
        labelcolor=INK,
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        alignment="left",
    )
