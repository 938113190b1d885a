"""The picture of an attended clip: its frames, where the model looked in them, what it took the video for."""

import io
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator
from PIL import Image

from timesformer.datasets.clips import SampledClip
from timesformer.visualization import fonts
from timesformer.visualization.attention import COLOURS, colour_scale, overlay
from timesformer.visualization.charts import INK, LINE, MUTED, SERIES

_DOTS = 100  # pixels per inch
_MARGIN, _GAP, _SPACE = 0.25, 0.05, 0.2  # inches: around the page, between frames, between parts
_TITLE, _TIME, _HEAD, _BAR, _CURVES = 0.8, 0.24, 0.3, 0.26, 2.6  # inches: heights of parts
_TIMES = "#2a0a5e", "#b5367a", "#fb9a3c"  # colours from the first to the last frame's line


@dataclass(frozen=True)
class PatchCurves:
    """How much a patch attends to each frame, for the picture.

    Attributes:
        place: row and column of the patch, which is marked in the frames; None where all have the same.
        weights: [steps, steps], from the patch in each frame (or tubelet) to each.
        label: what was computed.
    """

    place: tuple[int, int] | None
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
        curves: drawn beside the predictions, or below where the page is narrow.
    """
    total = len(clip.frames)
    shown = np.unique(np.linspace(0, total - 1, min(total, most_frames)).round().astype(int))
    if len(shown) < total:
        subtitle += f"{'; ' if subtitle else ''}{len(shown)} of {total} frames shown"
    across = min(len(shown), 8)
    cell = min(12.4 / across - _GAP, 2.4)
    tall = cell * clip.frames.shape[1] / clip.frames.shape[2]
    block = _TIME + 2 * tall + 2 * _GAP + _SPACE / 2
    below = _TITLE + -(-len(shown) // across) * block + 0.5
    bars_tall = _HEAD + _BAR * len(top)
    wide = max(across * (cell + _GAP) - _GAP, 7.5)
    beside = wide > 10
    if curves and not beside:
        page = _Page(wide, below + bars_tall + _SPACE + _CURVES)
    else:
        page = _Page(wide, below + max(bars_tall, _CURVES if curves else 0))

    heading = page.place(0, 0, wide, _TITLE)
    heading.axis("off")
    _fit(_write(heading, 0, 0.95, title, size=13, weight="bold", va="top"), wide)
    _write(heading, 0, 0.58, textwrap.fill(subtitle, round(wide * 13)), size=9, color=MUTED, va="top")
    size = round(cell * _DOTS), round(tall * _DOTS)
    frames = np.stack([_resized(clip.frames[number], size) for number in shown])
    # Colours of all frames, not only of those shown: they are the moving picture's.
    over = overlay(frames, maps[shown], colour_scale(maps))
    for index, number in enumerate(shown):
        left, start = index % across * (cell + _GAP), _TITLE + index // across * block + _TIME
        for picture, down in ((frames, 0), (over, tall + _GAP)):
            axes = page.place(left, start + down, cell, tall)
            axes.imshow(picture[index], aspect="auto")
            axes.axis("off")
            if curves and curves.place:
                _mark(axes, curves.place, maps.shape[1:], size)
            if picture is frames:
                _write(axes, 0.5, 1.04, _when(clip, number), size=9, ha="center", va="bottom")
    _colour_bar(page.place(0, below - 0.5, 3, 0.1), maps)
    bars_wide = wide * 0.45 if beside else wide
    _bars(page.place(0, below, bars_wide, bars_tall), top, bars_wide)
    if curves:
        left, down = (wide * 0.5, below) if beside else (0, below + bars_tall + _SPACE)
        # Around the axes there is room for their labels and the legend.
        _curves(page.place(left + 0.55, down + 0.3, wide - left - 1.5, _CURVES - 0.8), clip, curves)
    return page.png()


class _Page:
    """A white page of so many inches, with margins around it."""

    def __init__(self, wide: float, high: float) -> None:
        self._wide, self._high = wide + 2 * _MARGIN, high + 2 * _MARGIN
        self._figure = Figure((self._wide, self._high), dpi=_DOTS, facecolor="white")
        FigureCanvasAgg(self._figure)

    def place(self, left: float, down: float, wide: float, high: float) -> Axes:
        """Axes at inches from the left and the top, within the margins."""
        bottom = self._high - _MARGIN - down - high
        w, h = self._wide, self._high
        return self._figure.add_axes(((_MARGIN + left) / w, bottom / h, wide / w, high / h))

    def png(self) -> bytes:
        file = io.BytesIO()
        self._figure.savefig(file, format="png", dpi=_DOTS, pil_kwargs={"optimize": True})
        return file.getvalue()


def _resized(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS))


def _fit(text: Text, inches: float) -> None:
    """Leaves of a name what has room on one line; what cannot be drawn becomes question marks."""
    name = fonts.drawable(" ".join(text.get_text().encode("utf-8", "replace").decode().split()))
    text.set_family(fonts.families())
    text.set_text(name)
    while name and text.get_window_extent().width > inches * _DOTS:
        name = name[: -1 - len(name) // 20]
        text.set_text(f"{name}…")


def _mark(axes: Axes, place: tuple[int, int], grid: tuple[int, int], size: tuple[int, int]) -> None:
    """A frame around a patch, white and dark by turns, to be seen on any picture; `size` is width and height."""
    wide, high = size[0] / grid[1], size[1] / grid[0]
    corner = place[1] * wide - 0.5, place[0] * high - 0.5
    for color, style in (("white", "-"), (INK, (0, (3, 3)))):
        axes.add_patch(Rectangle(corner, wide, high, fill=False, edgecolor=color, linestyle=style, linewidth=1.5))


def _when(clip: SampledClip, index: int) -> str:
    seconds = clip.times[index]
    if math.isnan(seconds):
        return f"frame {clip.numbers[index]}"
    return f"{seconds:.2f} s" if seconds < 100 else f"{seconds:.1f} s"


def _write(axes: Axes, x: float, y: float, text: str, size: float, **options: object) -> Text:
    """Text at fractions of the axes; a $ in it is a $."""
    options = {"color": INK, **options}
    return axes.text(x, y, text, fontsize=size, transform=axes.transAxes, parse_math=False, **options)


def _colour_bar(axes: Axes, maps: np.ndarray) -> None:
    mean = max(float(maps.mean()), 1e-12)
    bar = axes.figure.colorbar(
        ScalarMappable(colour_scale(maps / mean), COLOURS), cax=axes, orientation="horizontal", drawedges=False
    )
    bar.outline.set_visible(False)
    low, high = bar.norm.vmin, bar.norm.vmax
    ticks = [low, high]
    for value in (1.0, high / 2):
        if all(abs(bar.norm(value) - bar.norm(tick)) > 0.15 for tick in ticks):
            ticks.append(value)
    bar.set_ticks(ticks, labels=[f"{tick:.2g}" if tick >= 0.01 else "0" for tick in ticks])
    axes.tick_params(labelsize=8, colors=MUTED, length=0)
    for label, side in zip(axes.get_xticklabels(), ("left", "right"), strict=False):  # at the ends
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
        text = {"fontsize": 9, "color": INK, "va": "center", "parse_math": False}
        _fit(axes.text(start - 0.1, middle, name, ha="right", **text), start - 0.1)
        axes.text(start + full + 0.08, middle, f"{100 * score:.1f} %", **text)


def _curves(axes: Axes, clip: SampledClip, curves: PatchCurves) -> None:
    steps = len(curves.weights)
    times, unit = np.asarray(clip.times), "at (s)"
    if np.isnan(times).any():
        times, unit = np.asarray(clip.numbers, float), ""
    if not (np.diff(times) > 0).all():  # frames may come again, or backwards
        times, unit = np.arange(len(times)), "of the clip"
    if unit != "at (s)":
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    times = times.reshape(steps, -1).mean(axis=1)  # of a tubelet's frames
    colours = LinearSegmentedColormap.from_list("", _TIMES)
    axes.axhline(100 / steps, color=MUTED, linewidth=1, linestyle=":", label="even")
    most = 8 if steps <= 16 else 4
    for number in np.unique(np.linspace(0, steps - 1, min(steps, most)).round().astype(int)):
        axes.plot(
            times,
            100 * curves.weights[number],
            color=colours(number / max(steps - 1, 1)),
            marker="o" if steps <= 16 else None,
            markersize=3.5,
            linewidth=1.5,
            label=f"{times[number]:.2f} s" if unit == "at (s)" else f"{times[number]:g}",
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
        title="from the frame at" if unit == "at (s)" else "from frame",
        fontsize=8,
        title_fontsize=8,
        frameon=False,
        labelcolor=INK,
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        alignment="left",
    )
