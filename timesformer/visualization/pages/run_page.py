"""The content of the report of one run: tables, charts and text for `templates/run.html`."""

import base64
import math
from typing import Any

import numpy as np

from timesformer.config.options import flatten, get_cfg
from timesformer.errors import counted
from timesformer.runtime.logging import duration
from timesformer.visualization.confusions import count_confusions, most_confused, order_by_similarity
from timesformer.visualization.examples import MAX_EXAMPLES, Strip, least_confident_correct, most_confident_errors
from timesformer.visualization.run_charts import draw_charts
from timesformer.visualization.run_files import FinishedRun
from timesformer.visualization.sections.analysis import analysis_sections
from timesformer.visualization.sections.metrics import (
    baseline_warning,
    calibration_section,
    class_metrics,
    metrics_section,
    show_baselines,
)
from timesformer.visualization.significance import mcnemar, wilson_interval

Content = dict[str, Any]

_FEW_CLASSES = 12  # all can be seen at once, so they are shown in their own order


def run_page(run: FinishedRun, strips: dict[str, Strip]) -> Content:
    """The values that `templates/run.html` shows; `strips` are frames of example videos by name."""
    return {
        "title": run.name,
        "subtitle": _subtitle(run),
        "lead": _lead(run),
        "notes": [*run.notes, *_order_notes(run)],
        "tiles": _tiles(run),
        "training_charts": draw_charts("training", run),
        "training_hint": _training_hint(run),
        "metrics": metrics_section(run),
        "calibration": calibration_section(run),
        "frame_order": _frame_order(run),
        "reference": _reference(run),
        "grid": run.results.get("grid") or [],
        "confusions": _confusions(run),
        "classes": _classes(run),
        "class_charts": draw_charts("classes", run),
        "examples": _examples(run, strips),
        "analysis": analysis_sections(run),
        "unreadable": [
            *((row["video"], "test", row["reason"]) for row in run.results.get("unreadable") or []),
            *((row["name"], row["split"], row["reason"]) for row in run.unreadable if row["split"] != "test"),
        ],
        "timing": _timing(run),
        "changed_options": _changed_options(run),
        "options": [(key, str(value) or "(empty)") for key, value in sorted(run.config.items())],
        "versions": list(run.results.get("versions", {}).items()),
        "tested": bool(run.results),
    }


def show_interval(run: FinishedRun, text: str) -> str:
    """The 95 % interval of the top-1 in percent, formatted; "" if unknown."""
    correct, total = run.num_correct, run.results.get("num_videos")
    return text.format(*wilson_interval(correct, total)) if correct is not None and total else ""


def _subtitle(run: FinishedRun) -> str:
    keys = ("MODEL.MODEL_NAME", "TEST.DATASET" if run.results else "TRAIN.DATASET")
    finished = str(run.results.get("finished") or "")[:16].replace("T", " ")
    return " · ".join(str(x) for x in (*map(run.config.get, keys), run.results.get("checkpoint"), finished) if x)


def _lead(run: FinishedRun) -> str:
    correct, total = run.num_correct, run.results.get("num_videos")
    if correct is None or not total:
        return ""
    text = f"{correct} of {total} test videos are predicted correctly ({100 * correct / total:.1f} %)."
    if warning := baseline_warning(run):
        text += f" {warning}"
    if run.predictions is not None:
        for pair in most_confused(count_confusions(run.predictions, len(run.class_names)), 1):
            true, predicted = run.class_names[pair.true], run.class_names[pair.predicted]
            text += f" The most frequent error: {true} predicted as {predicted} ({pair.count} times)."
    return text


def _tiles(run: FinishedRun) -> list[tuple[str, str, str, str]]:
    """Label, value, unit and explanation of the metrics at the top of the page."""
    results, tiles = run.results, []
    interval = show_interval(run, "95 % interval {:.1f} to {:.1f}")
    num_classes = results.get("num_classes", len(run.class_names))
    for label, name, explanation in (
        ("top-1", "top1", "; ".join(filter(None, (interval, show_baselines(run))))),
        ("top-5", "top5", "true class among the five most probable"),
        ("mean over classes", "mean_class_top1", "each class with equal weight"),
        ("validation top-1", "val_top1", "of the tested checkpoint"),
    ):
        value = run.metric(name)
        if value is not None:
            tiles.append((label, f"{value:.2f}", "%", explanation))
    if (shuffled := run.metric("top1_shuffled")) is not None:
        tiles.insert(1, ("top-1, shuffled", f"{shuffled:.2f}", "%", f"{_lower(run)} than in order"))
    if (loss := run.metric("loss")) is not None:
        tiles.append(("test loss", f"{loss:.4f}", "", "mean cross entropy"))
    if total := results.get("num_videos"):
        details = counted(num_classes, "class")
        details += f", {counted(results['num_views'], 'view')} each" if results.get("num_views") else ""
        details += f", {len(results['unreadable'])} unreadable" if results.get("unreadable") else ""
        tiles.append(("test videos", f"{total:,}", "", details))
    for label, seconds, epochs in _training_times(run)[:1]:
        tiles.append((label, duration(seconds), "", "" if epochs is None else counted(epochs, "epoch")))
    return tiles


def _lower(run: FinishedRun) -> str:
    difference = run.shuffled["difference"]
    return f"{abs(difference):.1f} points {'higher' if difference < 0 else 'lower'}"


def _order_notes(run: FinishedRun) -> list[str]:
    order = run.config.get("TEST.FRAME_ORDER", "original")
    shown = "the examples show them as they are in the video"
    return [] if order == "original" else [f"The test was with {order} frames (TEST.FRAME_ORDER {order}); {shown}."]


def _frame_order(run: FinishedRun) -> Content | None:
    """Accuracy with shuffled frames next to that in order, and what the difference means."""
    shuffled, total = run.shuffled, run.results.get("num_videos")
    if not shuffled or not total:
        return None
    test = mcnemar(shuffled["only_original"], shuffled["only_shuffled"], total)
    readable = total - len(run.results.get("unreadable") or [])
    details = f"In order compared with shuffled: {test}. "
    details += "Videos correct only in order: {only_original:,}, only with shuffled frames: {only_shuffled:,}."
    if shuffled["same_prediction"] == readable:
        text = "Every prediction is the same with shuffled frames: the model does not use their order."
    elif test.is_significant and test.difference > 0:
        text = f"The model uses the order of the frames. {details}"
    elif test.is_significant:
        text = f"The model is more accurate with shuffled frames. {details}"
    else:
        text = f"The difference is not significant. {details}"
    return {
        "text": text.format(**shuffled),
        "rows": [("in order", run.metric("top1")), ("shuffled", run.metric("top1_shuffled"))],
    }


def _training_times(run: FinishedRun) -> list[tuple[str, float, float | None]]:
    """Name, seconds and epochs of the training, whole (not in results of version 1) and up to the checkpoint."""
    names = {
        "training": ("total_train_seconds", "total_epochs"),
        "training up to the tested checkpoint": ("train_seconds", "checkpoint_epochs"),
    }
    times = [(name, *map(run.metric, keys)) for name, keys in names.items()]
    return [(name, seconds, epochs) for name, seconds, epochs in times if seconds is not None]


def _training_hint(run: FinishedRun) -> str:
    hint = "The training loss is measured on augmented clips, so it may be above the validation loss."
    losses = dict(zip(*run.series("val_epoch", "loss"), strict=True))
    tested = zip(*run.series("val_epoch", "top1"), strict=True)
    # Ties go to the lowest loss, as for best.pyth.
    epochs = [(top1, -losses.get(epoch, math.inf), -epoch) for epoch, top1 in tested if math.isfinite(top1)]
    if epochs:
        if run.config.get("FEATURES.ENABLED"):  # whose heads are compared after the last epoch
            last = min(epochs, key=lambda found: found[2])[0]
            text = f"The validation top-1 after the last epoch is {last:.2f} %; its head is tested."
        else:
            best, _, epoch = max(epochs)
            text = f"The best validation top-1 is {best:.2f} %, after epoch {-epoch:g}."
        hint = f"{text} {hint}"
    missing = sum(not math.isfinite(value) for value in run.series("train_step", "loss")[1])
    return f"{hint} Loss values that are not finite, and interrupt the line: {missing}." if missing else hint


def _reference(run: FinishedRun) -> list[tuple[str, str, str]]:
    """Method, validation and test top-1 of the run and of other classifiers of its features; empty without them."""
    rows = [(f"{r['method']} ({r['parameter']} {r['value']:g})", r) for r in run.results.get("reference") or []]
    rows = [(f"{run.config.get('MODEL.HEAD')} head", run.results), *rows] if rows else []
    return [(name, *(f"{row[key]:.2f}" for key in ("val_top1", "top1"))) for name, row in rows]


def _confusions(run: FinishedRun) -> Content | None:
    if run.predictions is None or not run.predictions.videos:
        return None
    names = run.class_names
    counts = count_confusions(run.predictions, len(names))
    totals, cells = counts.sum(axis=1), np.argwhere(counts)
    return {
        "order": "labels" if len(names) <= _FEW_CLASSES else "similarity",
        "pairs": most_confused(counts, 40),
        "num_errors": int(counts.sum() - counts.diagonal().sum()),
        "matrix": {
            "names": names,
            "counts": np.column_stack([cells, counts[tuple(cells.T)]]).tolist(),
            "totals": totals.tolist(),
            "orders": {
                "labels": [*range(len(names))],
                "accuracy": np.argsort(counts.diagonal() / np.maximum(totals, 1), kind="stable").tolist(),
                "similarity": order_by_similarity(counts),
            },
        },
    }


def _classes(run: FinishedRun) -> list[Content]:
    """Rows of the table of classes, the lowest accuracy first, classes without videos last."""
    sizes, worst, rows = run.results.get("class_counts") or {}, {}, []
    shuffled = run.shuffled.get("correct_by_class")
    if run.predictions is not None:
        counts = count_confusions(run.predictions, len(run.class_names))
        for pair in reversed(most_confused(counts, counts.size)):  # the most frequent last
            worst[pair.true] = f"{run.class_names[pair.predicted]} ({pair.count})"
    for number, row in enumerate(run.results.get("per_class") or []):
        correct, predicted = row.get("correct"), row.get("predicted")
        content = {
            "name": row.get("class", f"class {number}"),
            "top1": row.get("top1"),
            "shuffled": 100 * shuffled[number] / row["num_videos"] if shuffled and row["num_videos"] else None,
            "correct": correct,
            "test": row.get("num_videos"),
            **{split: sizes[split][number] if sizes.get(split) else None for split in ("train", "val")},
            "predicted": predicted,
            "precision": 100 * correct / predicted if predicted and correct is not None else None,
            "f1": class_metrics(run, "f1", number),
            "average_precision": class_metrics(run, "average_precision", number),
            "worst": worst.get(number, ""),
        }
        rows.append(content)
    return sorted(rows, key=lambda row: (row["top1"] is None, row["top1"] or 0.0))


def _examples(run: FinishedRun, strips: dict[str, Strip]) -> Content | None:
    if run.predictions is None or not run.predictions.readable.any():
        return None
    hint = f"At most {MAX_EXAMPLES} videos."
    if strip := next(iter(strips.values()), None):
        shown = "Frames" if len(strip.numbers) == strip.sampled else f"{len(strip.numbers)} of {strip.sampled} frames"
        hint = f"{shown} of a clip as the model saw it, cropped and resized. {hint}"
    return {
        "hint": hint,
        "errors": [_example(run, number, strips) for number in most_confident_errors(run.predictions)],
        "correct": [_example(run, number, strips) for number in least_confident_correct(run.predictions)],
    }


def _example(run: FinishedRun, number: int, strips: dict[str, Strip]) -> Content:
    predictions, names = run.predictions, run.class_names
    strip = strips.get(predictions.videos[number])
    ranked = [(names[label], f"{100 * p:.1f} %") for label, p in predictions.ranked(number)]
    times = [] if strip is None or None in strip.times else [f"{seconds:.2f}" for seconds in strip.times]
    return {
        "video": predictions.videos[number],
        "label": names[predictions.labels[number]],
        "predicted": ranked[0][0],
        "confidence": ranked[0][1],
        "correct": bool(predictions.correct[number]),
        "others": ", ".join(map(" ".join, ranked[1:3])),
        "times": f"at {', '.join(times)} s" if times else "",
        "image": strip and f"data:image/jpeg;base64,{base64.b64encode(strip.jpeg).decode()}",
    }


def _timing(run: FinishedRun) -> list[tuple[str, str]]:
    rows = []
    for name, seconds, epochs in _training_times(run):
        per_epoch = f" ({counted(epochs, 'epoch')}, {seconds / epochs:.1f} s each)" if epochs else ""
        rows.append((name, f"{duration(seconds)}{per_epoch}"))
    if speeds := run.series("train_step", "clips_per_second")[1]:
        rows.append(("training speed of all processes, median", f"{np.nanmedian(speeds):.1f} clips/s"))
    if shares := run.series("train_step", "data_share")[1]:
        rows.append(("time that the main process waits for data, median", f"{100 * np.nanmedian(shares):.1f} %"))
    if (seconds := run.metric("seconds")) is not None:
        rows.append(("test", duration(seconds)))
    if memory := run.metric("peak_memory_bytes"):
        rows.append(("peak memory of the main process", f"{memory / 2**30:.2f} GiB"))
    return rows + ([("device", str(run.results["device"]))] if run.results.get("device") else [])


def _changed_options(run: FinishedRun) -> list[tuple[str, str, str]]:
    """Key, value and default of the options that differ from their default or no longer exist."""
    defaults = flatten(get_cfg())
    return [
        (key, str(value) or "(empty)", str(defaults.get(key, "(no longer exists)")) or "(empty)")
        for key, value in sorted(run.config.items())
        if key not in defaults or defaults[key] != value
    ]
