"""The page about a dataset, data_report.html: its classes, duplicates, frozen clips and leakage between splits."""

import base64
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from timesformer.atomic import write_text_atomically
from timesformer.errors import counted
from timesformer.preparation.duplicates import Pair
from timesformer.preparation.findings import GROUPS, ClassSummary, Findings, summarize
from timesformer.preparation.strips import Strip, read_strips
from timesformer.visualization import fonts
from timesformer.visualization.charts import BAD, PAGE_SIZE, SERIES, STYLE, new_chart, svg
from timesformer.visualization.pages.page import render_page
from timesformer.visualization.significance import wilson_interval

HTML = "data_report.html"
_SHOWN, _LISTED = 24, 1000  # pairs or clips of a section with pictures, and in its table
_FRAMES = 5  # of a strip
_MAX_BARS = 40  # classes with names in a chart


def write_data_page(findings: Findings, folder: Path, workers: int) -> Path:
    """Writes data_report.html to a folder, with pictures that `workers` processes read; returns its path."""
    page = data_page(findings, workers) | {"groups_path": folder / GROUPS}
    write_text_atomically(folder / HTML, render_page("data.html", **page))
    return folder / HTML


def data_page(findings: Findings, workers: int) -> dict[str, Any]:
    """The values that `templates/data.html` shows."""
    classes = summarize(findings)
    leaks = sorted(findings.leaks, key=lambda leak: (leak.split != "test", -leak.pair.similarity))
    leaking = {leak.pair for leak in leaks}
    others = sorted((pair for pair in findings.pairs if pair not in leaking), key=lambda pair: -pair.similarity)
    frozen = sorted(findings.frozen, key=lambda freeze: -freeze.frames)
    lengths = {clip.row.path: len(clip.fingerprint) for clip in findings.clips if clip.fingerprint is not None}
    shown_pairs = [leak.pair for leak in leaks[:_SHOWN]] + others[:_SHOWN]
    strips = [strip for pair in shown_pairs for strip in _strips(findings, pair)]
    strips += [(freeze.clip, _spread(0, lengths[freeze.clip])) for freeze in frozen[:_SHOWN]]
    images = read_strips(findings.root, strips, workers) if strips else {}
    pictures = {strip: f"data:image/jpeg;base64,{base64.b64encode(image).decode()}" for strip, image in images.items()}

    def show(pair: Pair) -> dict[str, Any]:
        rows = [findings.clips[number].row for number in (pair.first, pair.second)]
        sides = zip(rows, _strips(findings, pair), strict=True)
        return {
            "kind": _kind(pair),
            "overlap": _overlap(findings, pair),
            "sides": [
                {
                    "clip": row.path,
                    "split": findings.splits.split_of.get(row.path, ""),
                    "image": pictures.get(strip),
                }
                for row, strip in sides
            ],
        }

    return {
        "title": findings.root.resolve().name,
        "subtitle": f"data report · {findings.dataset} · {findings.root.resolve()}",
        "lead": _lead(findings, len(classes)),
        "notes": [f"No split: {problem}" for problem in findings.splits.problems],
        "tiles": _tiles(findings, classes),
        "charts": [Markup(svg(figure)) for figure in draw_classes(classes)],
        "classes": [_class_row(summary) for summary in classes],
        "searched": findings.threshold is not None,
        "threshold": findings.threshold,
        "splits": _split_counts(findings),
        "leaks": [show(leak.pair) for leak in leaks[:_SHOWN]],
        "leak_rows": [
            (leak.clip, leak.split, leak.of, leak.other, *_pair_cells(leak.pair)) for leak in leaks[:_LISTED]
        ],
        "num_leaks": len(leaks),
        "accuracy": _accuracy(findings),
        "groups": len(set(findings.groups.values())),
        "grouped": len(findings.groups),
        "groups_file": GROUPS,
        "joined": bool(findings.splits.grouped),
        "duplicates": [show(pair) for pair in others[:_SHOWN]],
        "duplicate_rows": [
            (findings.name(pair.first), findings.name(pair.second), *_pair_cells(pair)) for pair in others[:_LISTED]
        ],
        "num_duplicates": len(others),
        "frozen": [
            {
                "clip": freeze.clip,
                "text": f"{freeze.frames} of {lengths[freeze.clip]} frames from frame {freeze.start}",
                "image": pictures.get((freeze.clip, _spread(0, lengths[freeze.clip]))),
            }
            for freeze in frozen[:_SHOWN]
        ],
        "frozen_rows": [
            (freeze.clip, freeze.start, freeze.frames, lengths[freeze.clip]) for freeze in frozen[:_LISTED]
        ],
        "num_frozen": len(frozen),
        "unreadable": [(clip.row.path, clip.row.problem) for clip in findings.clips if clip.row.problem],
    }


def _lead(findings: Findings, num_classes: int) -> str:
    hours = sum(clip.row.seconds for clip in findings.clips) / 3600
    text = f"{counted(len(findings.clips), 'clip')} of {counted(num_classes, 'class')}, {hours:.2f} hours."
    if findings.threshold is None:
        return f"{text} Duplicates were not searched."
    text += f" {counted(len(findings.duplicated), 'clip')} with duplicates."
    if findings.splits.split_of:
        text += f" {counted(len(findings.leaked('test')), 'test clip')} with a duplicate in training or validation."
    return text


def _tiles(findings: Findings, classes: Sequence[ClassSummary]) -> list[tuple[str, str, str, str]]:
    frames, repeated = sum(row.frames for row in classes), sum(row.repeated_frames for row in classes)
    unreadable, clips = sum(row.unreadable for row in classes), len(findings.clips)
    tiles = [
        ("clips", f"{clips:,}", "", f"{counted(len(classes), 'class')}, {unreadable:,} unreadable"),
        ("frames", f"{frames:,}", "", f"{repeated:,} equal an earlier frame of their clip"),
        ("frozen clips", f"{len(findings.frozen):,}", "", "with one picture for a part of their frames"),
    ]
    if findings.threshold is not None:
        exact = sum(pair.exact for pair in findings.pairs)
        tiles.append(("duplicate pairs", f"{len(findings.pairs):,}", "", f"{exact:,} of equal frames"))
    if findings.threshold is not None and findings.splits.split_of:
        tested = max(1, sum(split == "test" for split in findings.splits.split_of.values()))
        leaked = len(findings.leaked("test"))
        tiles.insert(0, ("leaked test clips", f"{leaked:,}", "", f"{100 * leaked / tested:.1f} % of {tested:,}"))
    return tiles


def _split_counts(findings: Findings) -> list[tuple[str, int, int]]:
    """Name, clips and leaked clips of each split."""
    counts = Counter(findings.splits.split_of.values())
    return [(name, counts[name], len(findings.leaked(name))) for name in ("train", "val", "test") if counts[name]]


def _accuracy(findings: Findings) -> list[tuple[str, str, str, str]]:
    """Clips, correct predictions, top-1 in percent and its interval: of all test clips, and without leaked ones."""
    if findings.accuracy is None:
        return []
    correct, clips, correct_without, clips_without = findings.accuracy
    parts = {
        "all test clips": (correct, clips),
        "without leaked clips": (correct_without, clips_without),
        "leaked clips only": (correct - correct_without, clips - clips_without),
    }
    rows = [
        (name, correct, total, *wilson_interval(correct, total)) for name, (correct, total) in parts.items() if total
    ]
    return [
        (name, f"{correct:,} of {total:,}", f"{100 * correct / total:.2f}", f"{low:.1f} to {high:.1f}")
        for name, correct, total, low, high in rows
    ]


def _kind(pair: Pair) -> str:
    return "equal frames" if pair.exact else "mirrored" if pair.mirrored else "similar frames"


def _pair_cells(pair: Pair) -> tuple[str, str, int, int]:
    return _kind(pair), f"{pair.similarity:.3f}", pair.overlap, pair.equal_frames


def _overlap(findings: Findings, pair: Pair) -> str:
    """Where in each clip the frames of a pair are."""
    places = []
    for number, frames in zip((pair.first, pair.second), _overlapping(findings, pair, 2), strict=True):
        places.append(f"{frames[0]}–{frames[-1]} of {findings.clips[number].row.frames}")
    return f"similarity {pair.similarity:.3f}, frames {places[0]} and {places[1]}"


def _overlapping(findings: Findings, pair: Pair, count: int) -> list[tuple[int, ...]]:
    """Numbers of up to `count` evenly spaced frames that both clips share, in each of them."""
    rates = [findings.clips[number].row.fps for number in (pair.first, pair.second)]
    lower = min(rates)
    steps = [rate / lower if lower else 1.0 for rate in rates]
    start = max(0, -pair.offset)
    common = np.array(_spread(start, start + pair.overlap, count))
    numbers = [
        np.rint(frames * step).astype(int) for frames, step in zip((common, common + pair.offset), steps, strict=True)
    ]
    return [tuple(frames.tolist()) for frames in numbers]


def _strips(findings: Findings, pair: Pair) -> list[Strip]:
    names = findings.name(pair.first), findings.name(pair.second)
    return list(zip(names, _overlapping(findings, pair, _FRAMES), strict=True))


def _spread(start: int, stop: int, count: int = _FRAMES) -> tuple[int, ...]:
    """Up to `count` evenly spaced numbers from `start` to `stop` - 1."""
    return tuple(np.linspace(start, stop - 1, min(count, stop - start)).round().astype(int).tolist())


@matplotlib.rc_context(STYLE)
def draw_classes(classes: Sequence[ClassSummary]) -> list[Figure]:
    """The charts of the page: clips, seconds, frames and frame sizes."""
    repeated = [row.repeated_frames for row in classes]
    figures = [
        _bars("Clips by class", classes, [row.clips for row in classes]),
        _bars("Seconds by class", classes, [row.seconds for row in classes]),
        _bars("Frames by class", classes, [row.frames for row in classes], repeated),
        _sizes(classes),
    ]
    return [figure for figure in figures if figure]


def _bars(
    title: str, classes: Sequence[ClassSummary], values: Sequence[float], marked: Sequence[float] = ()
) -> Figure | None:
    """Bars of the classes, sorted; `marked` parts of them in another color."""
    if not any(values):
        return None
    order = np.argsort(values, kind="stable")[::-1]
    named = len(order) <= _MAX_BARS
    figure, axes = new_chart(title, size=(PAGE_SIZE[0], 0.8 + 0.2 * max(6, len(order)) if named else PAGE_SIZE[1]))
    rows = range(len(order))
    axes.barh(rows, np.asarray(values)[order], height=0.72 if named else 1.0, color=SERIES[0])
    if any(marked):
        axes.barh(rows, np.asarray(marked)[order], height=0.72 if named else 1.0, color=BAD)
        axes.set_xlabel("repeated frames in orange")
    labels = [fonts.drawable(classes[number].label or "(none)", f"class {number}")[:24] for number in order]
    axes.set_yticks(rows if named else [], labels if named else [], family=fonts.families())
    axes.set_ylim(max(len(order), 3) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    return figure


def _sizes(classes: Sequence[ClassSummary]) -> Figure | None:
    """Frame sizes, with the number of clips as the area of a point."""
    counts = sum((Counter(row.sizes) for row in classes), Counter())
    if not counts:
        return None
    figure, axes = new_chart("Frame sizes", "width (pixels)", "height (pixels)")
    sizes, numbers = np.array([*counts]), np.array([*counts.values()])
    axes.scatter(*sizes.T, s=20 + 220 * numbers / numbers.max(), color=SERIES[0], alpha=0.5, linewidths=0)
    (width, height), number = counts.most_common(1)[0]
    axes.annotate(
        f"{width} x {height}: {counted(number, 'clip')}",
        (width, height),
        fontsize=8,
        xytext=(6, 6),
        textcoords="offset points",
    )
    axes.set_xlim(0, 1.25 * sizes[:, 0].max())
    axes.set_ylim(0, 1.25 * sizes[:, 1].max())
    return figure


def _class_row(summary: ClassSummary) -> dict[str, Any]:
    sizes = Counter(summary.sizes).most_common()
    text = ", ".join(f"{width} x {height}" for (width, height), _ in sizes[:2])
    return summary._asdict() | {"sizes": text + (f" and {len(sizes) - 2} more" if len(sizes) > 2 else "")}
