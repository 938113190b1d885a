"""What the page about one run shows: figures in words, tables and charts of it."""

import base64
import math
from typing import Any

import numpy as np
import yaml
from markupsafe import Markup

from timesformer.config import get_cfg
from timesformer.runtime.logging import duration
from timesformer.visualization import charts
from timesformer.visualization.charts import Curve
from timesformer.visualization.confusions import count_confusions, most_confused, order_by_likeness
from timesformer.visualization.examples import SHOWN, Strip, least_sure_hits, surest_mistakes
from timesformer.visualization.run_files import FinishedRun, flat
from timesformer.visualization.significance import interval

Content = dict[str, Any]

_PAIRS = 40  # confused pairs in their table
_FEW = 12  # classes that are shown in their own order, because all can be seen at once
_SECTIONS = {
    "curves": "Training",
    "confusions": "Confusions",
    "classes": "Classes",
    "mistakes": "Mistakes",
    "unreadable": "Unreadable",
    "timing": "Timing",
    "changed": "Configuration",
    "versions": "Versions",
}
_ANCHORS = {"confusions": "confusions-part", "mistakes": "examples", "changed": "configuration"}


def run_page(run: FinishedRun, strips: dict[str, Strip]) -> Content:
    """The content of the page about a run.

    Args:
        run: what it left.
        strips: frames of the videos that the page shows, by name; those without are shown without.
    """
    content: Content = {
        "title": run.name,
        "subtitle": _under(run),
        "lead": _lead(run),
        "notes": run.notes,
        "tiles": tiles(run),
        **dict.fromkeys(("curves", "confusions", "classes", "mistakes", "hits")),
        **_training(run),
        **_confusions(run),
        **_classes(run),
        **_examples(run, strips),
        "unreadable": unreadable(run),
        "timing": timing(run),
        "changed": changed_options(run),
        "options": [(key, shown(value)) for key, value in sorted(run.config.items())],
        "versions": [*(run.results.get("versions") or {}).items()] or None,
        "tested": bool(run.results),
    }
    always = ("unreadable", "timing", "changed")
    content["sections"] = [
        (_ANCHORS.get(key, key), title) for key, title in _SECTIONS.items() if content[key] is not None or key in always
    ]
    return content


def percent(value: float | None, digits: int = 2) -> str:
    """A share in percent, as text; a dash for None."""
    return "–" if value is None else f"{value:.{digits}f} %"


def shown(value: Any) -> str:
    """The value of an option as the command line takes it."""
    return "(empty)" if value == "" else str(value)


def count_right(run: FinishedRun) -> int | None:
    """Test videos that were recognised; None where nothing tells."""
    rows = run.results.get("per_class")
    if rows:
        return sum(row.get("correct") or 0 for row in rows)
    return None if run.predictions is None else int(run.predictions.right.sum())


# ---------------------------------------------------------------- head


def _under(run: FinishedRun) -> str:
    config, results = run.config, run.results
    parts = [
        " · ".join(
            str(part)
            for part in (
                config.get("MODEL.MODEL_NAME"),
                config.get("TEST.DATASET" if results else "TRAIN.DATASET"),
                f"{config['DATA.NUM_FRAMES']} frames" if "DATA.NUM_FRAMES" in config else None,
                results.get("checkpoint"),
                _when(results.get("finished")),
            )
            if part
        )
    ]
    return " ".join(parts)


def _when(finished: Any) -> str:
    return f"tested {finished[:16].replace('T', ' ')}" if isinstance(finished, str) else ""


def _lead(run: FinishedRun) -> str:
    right, total = count_right(run), run.results.get("num_videos")
    if right is None or not total:
        return ""
    low, high = interval(right, total)
    text = (
        f"{right} of {total} test videos are recognised: {100 * right / total:.1f} %, with a 95 % interval from "
        f"{low:.1f} to {high:.1f} % for so many videos."
    )
    if run.predictions is None:
        return text
    pairs = most_confused(count_confusions(run.predictions, len(run.class_names)), 1)
    if not pairs:
        return text
    pair, names = pairs[0], run.class_names
    return (
        f"{text} The most frequent mistake: {names[pair.true]} taken for {names[pair.predicted]} "
        f"({pair.count} of {pair.total})."
    )


def tiles(run: FinishedRun) -> list[Content]:
    """The figures at the top of the page."""
    results = run.results
    right, total = count_right(run), results.get("num_videos")
    spread = ""
    if right is not None and total:
        low, high = interval(right, total)
        spread = f"95 % interval {low:.1f} to {high:.1f}"
    views = results.get("num_views")
    unreadable_ones = len(results.get("unreadable") or [])
    best = _best_epoch(run)
    found = [
        ("top-1", run.figure("top1"), "%", spread),
        ("top-5", run.figure("top5"), "%", "true class among the first five"),
        ("mean over classes", run.figure("mean_class_top1"), "%", "each class counts alike"),
        ("validation top-1", run.val_top1, "%", "of the checkpoint that was tested"),
    ]
    made = [
        {"label": label, "value": f"{value:.2f}", "unit": unit, "more": more}
        for label, value, unit, more in found
        if value is not None
    ]
    if not results and best:
        made.append(
            {"label": "best validation top-1", "value": f"{best[1]:.2f}", "unit": "%", "more": f"epoch {best[0]:g}"}
        )
    if (loss := run.figure("loss")) is not None:
        made.append({"label": "test loss", "value": f"{loss:.4f}", "unit": "", "more": "mean cross entropy"})
    if total:
        parts = [f"of {results.get('num_classes', len(run.class_names))} classes"]
        parts += [f"{views} view{'s' * (views != 1)} each"] if views else []
        parts += [f"{unreadable_ones} unreadable"] if unreadable_ones else []
        made.append({"label": "test videos", "value": f"{total:,}", "unit": "", "more": ", ".join(parts)})
    for label, seconds, epochs in training_times(run)[:1]:
        more = "hours, minutes, seconds" + (f"; {epochs:g} epochs" if epochs is not None else "")
        made.append({"label": label, "value": duration(seconds), "unit": "", "more": more})
    if (seconds := run.figure("seconds")) is not None:
        made.append({"label": "test", "value": duration(seconds), "unit": "", "more": _rate(run)})
    return made


def training_times(run: FinishedRun) -> list[tuple[str, float, float | None]]:
    """What is known of the time of training: its name, seconds, and the epochs trained in it.

    That of the whole run comes first, which results of version 1 do not have, then that up to the tested checkpoint.
    """
    known = (
        ("training", run.figure("total_train_seconds"), run.figure("total_epochs")),
        ("training up to the tested checkpoint", run.figure("train_seconds"), run.figure("checkpoint_epochs")),
    )
    return [(name, seconds, epochs) for name, seconds, epochs in known if seconds is not None]


def _rate(run: FinishedRun) -> str:
    seconds, videos, views = (run.figure(name) for name in ("seconds", "num_videos", "num_views"))
    return f"{videos * (views or 1) / seconds:.1f} clips/s" if seconds and videos else ""


def _best_epoch(run: FinishedRun) -> tuple[float, float] | None:
    """Epoch and value of the best validation top-1; of equal ones, that of the lowest loss, as for best.pyth."""
    epochs, values = run.series("val_epoch", "top1")
    losses = dict(zip(*run.series("val_epoch", "loss"), strict=True))
    known = [
        (value, -losses.get(epoch, math.inf), -epoch)
        for epoch, value in zip(epochs, values, strict=True)
        if math.isfinite(value)
    ]
    return (-max(known)[2], max(known)[0]) if known else None


# ---------------------------------------------------------------- sections


def _training(run: FinishedRun) -> Content:
    if not run.metrics:
        return {}
    val, mean = run.series("val_epoch", "top1"), run.series("val_epoch", "mean_class_top1")
    alike = len(val[1]) == len(mean[1]) and np.allclose(val[1], mean[1], atol=0.5, equal_nan=True)
    lr, rate, waiting = (run.series("train_step", name) for name in ("lr", "clips_per_second", "data_share"))
    hint = "The loss of training is on augmented clips, and so may lie above that of validation."
    if best := _best_epoch(run):
        hint = f"The best validation top-1 is {best[1]:.2f} %, after epoch {best[0]:g}. {hint}"
    broken = sum(not math.isfinite(value) for value in run.series("train_step", "loss")[1])
    if broken:
        hint += f" {broken} of the losses are not finite, and interrupt the line."
    figures = [
        charts.curves(
            [
                Curve("", *run.series("train_step", "loss"), 0, faint=True),
                Curve("training", *run.series("train_epoch", "loss"), 0),
                Curve("validation", *run.series("val_epoch", "loss"), 1, dots=True),
            ],
            "Loss",
        ),
        charts.curves(
            [
                Curve("training top-1", *run.series("train_epoch", "top1"), 0),
                Curve("validation top-1", *val, 1, dots=True),
                Curve("mean over classes", *(([], []) if alike else mean), 2, dashed=True),
                Curve("validation top-5", *run.series("val_epoch", "top5"), 1, faint=True),
            ],
            "Accuracy (%)",
        ),
        charts.curves([Curve("", *lr, 3)], "Learning rate"),
        charts.curves([Curve("", *rate, 6)], "Training clips per second"),
        charts.curves(
            [Curve("", waiting[0], [100 * share for share in waiting[1]], 4)], "Waiting for data (% of the time)"
        ),
    ]
    return {"curves": [Markup(charts.svg(figure)) for figure in figures], "curves_hint": hint}


def _confusions(run: FinishedRun) -> Content:
    if run.predictions is None or not len(run.predictions.videos):
        return {}
    names = run.class_names
    counts = count_confusions(run.predictions, len(names))
    totals = counts.sum(axis=1)
    accuracy = counts.diagonal() / np.maximum(totals, 1)
    pairs = most_confused(counts, _PAIRS)
    in_all = int(counts.sum() - counts.diagonal().sum())
    listed = sum(pair.count for pair in pairs)
    hint = (
        f"These are {listed} of all {in_all} confusions." if listed < in_all else f"These are all {in_all} confusions."
    )
    rows, columns = np.nonzero(counts)
    return {
        "confusions": {
            "names": [_legible(name) for name in names],
            "counts": [
                [int(row), int(column), int(counts[row, column])] for row, column in zip(rows, columns, strict=True)
            ],
            "totals": totals.tolist(),
            "orders": {
                "labels": list(range(len(names))),
                "accuracy": np.argsort(accuracy, kind="stable").tolist(),
                "likeness": order_by_likeness(counts),
            },
        },
        "orders": [("labels", "of the labels"), ("likeness", "alike side by side"), ("accuracy", "by accuracy")],
        "order": "labels" if len(names) <= _FEW else "likeness",
        "most_confused": [
            {
                "true": names[pair.true],
                "predicted": names[pair.predicted],
                "count": pair.count,
                "share": pair.share,
                "back": pair.back,
            }
            for pair in pairs
        ],
        "confused_hint": hint,
    }


def class_rows(run: FinishedRun) -> list[Content]:
    """The table of classes, those of the lowest accuracy first; those without videos last."""
    counted = run.results.get("class_counts") or {}
    counts = None if run.predictions is None else count_confusions(run.predictions, len(run.class_names))
    rows = []
    for number, row in enumerate(run.results.get("per_class") or []):
        correct, predicted, top1 = row.get("correct"), row.get("predicted"), row.get("top1")
        taken_for = ""
        if counts is not None and number < len(counts):
            wrong = counts[number].copy()
            wrong[number] = 0
            if most := int(wrong.max(initial=0)):
                taken_for = f"{run.class_names[int(wrong.argmax())]} ({most})"
        rows.append(
            {
                "name": row.get("class", f"class {number}"),
                "top1": top1,
                "correct": correct,
                "test": row.get("num_videos"),
                "train": _at(counted.get("train"), number),
                "val": _at(counted.get("val"), number),
                "predicted": predicted,
                "precision": 100 * correct / predicted if predicted and correct is not None else None,
                "taken_for": taken_for,
            }
        )
    return sorted(rows, key=lambda row: (row["top1"] is None, row["top1"] or 0.0))


def _classes(run: FinishedRun) -> Content:
    rows = class_rows(run)
    if not rows:
        return {}
    known = [row["top1"] for row in rows if row["top1"] is not None]
    absent = len(rows) - len(known)
    hint = "A click on a heading sorts by it."
    if absent:
        hint += f" Without a test video, and so without accuracy: {absent} of {len(rows)}."
    figures = []
    if known and len(rows) > _FEW:
        figures.append(charts.spread(known, "Classes by top-1"))
    if run.predictions is not None and run.predictions.readable.any():
        readable = run.predictions.readable & np.isfinite(run.predictions.confidence)
        figures.append(charts.reliability(run.predictions.confidence[readable], run.predictions.right[readable]))
    sizes = [(row["train"], row["top1"]) for row in rows if row["train"] is not None and row["top1"] is not None]
    if len({size for size, _ in sizes}) > 1:
        figures.append(charts.dots(*zip(*sizes, strict=True), "Top-1 (%), by size of the class", "training clips"))
    return {"classes": rows, "classes_hint": hint, "class_charts": [Markup(charts.svg(figure)) for figure in figures]}


def _examples(run: FinishedRun, strips: dict[str, Strip]) -> Content:
    if run.predictions is None or not run.predictions.readable.any():
        return {}
    one = next(iter(strips.values()), None)
    hint = f"At most {SHOWN} of each kind are shown."
    if one:
        shown_frames = len(one.numbers)
        frames = "Frames" if shown_frames == one.sampled else f"{shown_frames} of the {one.sampled} frames"
        hint = f"{frames} as the model saw them: those sampled, cropped, at its size. {hint}"
    return {
        "mistakes": [_example(run, number, strips) for number in surest_mistakes(run.predictions)],
        "hits": [_example(run, number, strips) for number in least_sure_hits(run.predictions)],
        "examples_hint": hint,
    }


def _example(run: FinishedRun, number: int, strips: dict[str, Strip]) -> Content:
    predictions, names = run.predictions, run.class_names
    assert predictions is not None
    video = predictions.videos[number]
    ranked = list(zip(predictions.classes[number].tolist(), predictions.probabilities[number].tolist(), strict=True))
    others = [f"{names[index]} {100 * value:.1f} %" for index, value in ranked[1:3] if index >= 0]
    kept = strips.get(video)
    times = [] if kept is None or None in kept.times else [f"{seconds:.2f}" for seconds in kept.times]
    return {
        "video": video,
        "label": names[predictions.labels[number]],
        "predicted": names[ranked[0][0]],
        "confidence": f"{100 * ranked[0][1]:.1f} %" if math.isfinite(ranked[0][1]) else "unknown probability",
        "right": bool(predictions.right[number]),
        "others": ", ".join(others),
        "times": f"at {', '.join(times)} s" if times else "",
        "picture": Markup(f"data:image/jpeg;base64,{base64.b64encode(kept.jpeg).decode()}") if kept else None,
    }


def unreadable(run: FinishedRun) -> list[Content]:
    """The clips that could not be read: in the test, then in training and validation."""
    listed = [
        {"video": row.get("name") or "", "split": row.get("split") or "", "reason": row.get("reason") or ""}
        for row in run.unreadable
    ]
    known = {row["video"] for row in listed if row["split"] == "test"}
    tested = [
        {"video": row.get("video", ""), "split": "test", "reason": row.get("reason", "")}
        for row in run.results.get("unreadable") or []
        if row.get("video") not in known
    ]
    return sorted(tested + listed, key=lambda row: row["split"] != "test")


def timing(run: FinishedRun) -> list[tuple[str, str]]:
    """What took how long, where that is known."""
    rows: list[tuple[str, str]] = []
    for name, seconds, epochs in training_times(run):
        per_epoch = f" ({seconds / epochs:.1f} s for each of {epochs:g} epochs)" if epochs else ""
        rows.append((name, f"{duration(seconds)}{per_epoch}"))
    for name, title, factor, unit in (
        ("clips_per_second", "training speed of all processes, median", 1, "clips/s"),
        ("data_share", "time that the main process waits for data, median", 100, "%"),
    ):
        values = [value for value in run.series("train_step", name)[1] if math.isfinite(value)]
        if values:
            rows.append((title, f"{factor * float(np.median(values)):.1f} {unit}"))
    if (seconds := run.figure("seconds")) is not None:
        rate = _rate(run)
        rows.append(("test", f"{seconds:.1f} s" + (f" ({rate})" if rate else "")))
    if (memory := run.figure("peak_memory_bytes")) is not None:
        rows.append(("peak memory of the main process", f"{memory / 2**30:.2f} GiB"))
    rows += [("device", str(run.results["device"]))] if run.results.get("device") else []
    rows += [("finished", str(run.results["finished"]))] if run.results.get("finished") else []
    return rows or [("", "no times were noted")]


def changed_options(run: FinishedRun) -> list[Content]:
    """The options of the run that differ from their defaults, or have none any more."""
    defaults = default_options()
    return [
        {
            "key": key,
            "value": shown(value),
            "default": shown(defaults[key]) if key in defaults else "(no such option now)",
        }
        for key, value in sorted(run.config.items())
        if key not in defaults or defaults[key] != value
    ]


def default_options() -> dict[str, Any]:
    """The options as they are when nothing is given, by their keys with dots."""
    return dict(flat(yaml.safe_load(get_cfg().dump())))


def _at(counts: Any, number: int) -> int | None:
    return counts[number] if isinstance(counts, list) and number < len(counts) else None


def _legible(text: str) -> str:
    """Text that can be written as UTF-8, whatever the name of a file was."""
    return text.encode("utf-8", "replace").decode()
