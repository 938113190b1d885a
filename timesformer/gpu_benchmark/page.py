"""The Markdown page of `timesformer benchmark gpu`, from its JSON file."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from timesformer.benchmarks.tables import header, row
from timesformer.benchmarks.training import HUGGING_FACE, ORIGINAL, OURS

Row = dict[str, Any]
_PASSES = {True: 3, False: 1}  # a backward pass has the operations of two forward passes


def page(results: dict[str, Any]) -> Iterator[str]:
    """The whole page."""
    yield from ["## Results on one GPU", "", *summary(results)]
    for part in results["parts"]:
        yield from ["", *section(part)]


def summary(results: dict[str, Any]) -> Iterator[str]:
    """The machine, the targets, and what happened to each part."""
    yield f"{results['machine'] or 'no part has started'}; `{results['command']}`"
    if results["tiny"]:
        yield from ["", "A dry run with tiny models and clips: its times mean nothing."]
    yield from ["", *header("", ["target", "expected", "found"])]
    rows = [one for part in results["parts"] for one in part["rows"] if "implementation" in one]
    yield from (row(cells) for cells in targets(rows))
    yield from ["", *header("", ["part", "status", "seconds", "limit (s)"], text_columns=2)]
    for part in results["parts"]:
        reason = f": {one_line(part['error'])}" if part.get("error") else ""
        status = part["status"] or "running"
        yield row([part["title"], status + reason, part.get("seconds", "-"), f"{part['limit']:.0f}"])


def targets(rows: Sequence[Row]) -> Iterator[tuple[str, str, str]]:
    """Each target, the expected and the found value, the best of all batch sizes."""
    measured = [one for one in rows if "seconds" in one]
    ours = [one for one in measured if one["implementation"] == OURS and one["precision"] == "bf16"]
    standard = [one for one in ours if one["frames"] == min(other["frames"] for other in ours)]

    def best(values: Sequence[float | None], form: str) -> str:
        found = [value for value in values if value is not None]
        return form.format(max(found)) if found else "not measured"

    steps = [one for one in standard if one["training"]]
    yield "utilisation in training, bf16", "50 %", best([utilisation(one) for one in steps], "{:.0%}")
    passes = [one for one in standard if not one["training"]]
    yield "utilisation in inference, bf16", "60 %", best([utilisation(one) for one in passes], "{:.0%}")
    over_original = [speedup(one, baseline(one, measured, ORIGINAL, "fp32")) for one in steps]
    yield "training in bf16, times the original in fp32", "3", best(over_original, "{:.2f}")
    over_best = [speedup(one, baseline(one, measured, HUGGING_FACE)) for one in steps]
    yield "training in bf16, times the best of Hugging Face", "1.5", best(over_best, "{:.2f}")
    least = {key: min((other[key] for other in rows), default=0) for key in ("frames", "crop")}
    for title, key in (("96 frames", "frames"), ("448 pixels", "crop")):
        others = [one for one in rows if all((one[name] > least[name]) == (name == key) for name in least)]
        fits = [one["setting"] or "without recomputing" for one in others if "seconds" in one]
        found = ", ".join(fits) or "out of memory" if others else "not measured"
        yield f"a training step of {title}, batch size 8", "fits", found


def section(part: dict[str, Any]) -> Iterator[str]:
    """Heading, status and table of a part."""
    yield from [f"### {part['title']}", ""]
    if part.get("error"):
        yield from [f"{part['status'].capitalize()}: {one_line(part['error'])}", ""]
    if part["rows"]:
        first = next(table for key, table in TABLES.items() if key in part["rows"][0])
        yield from first(part["rows"])


def test_lines(rows: Sequence[Row]) -> Iterator[str]:
    counts = {outcome: sum(one["outcome"] == outcome for one in rows) for outcome in ("passed", "failed", "skipped")}
    yield ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
    if counts["passed"] < len(rows):
        yield from ["", *header("", ["test", "outcome", "reason"], text_columns=3)]
        others = (one for one in rows if one["outcome"] != "passed")
        yield from (row([one["test"], one["outcome"], one_line(one["message"])[-200:]]) for one in others)


def contender_lines(rows: Sequence[Row]) -> Iterator[str]:
    one = rows[0]
    peak = one["bf16_product_per_second"]
    yield (
        f"{one['frames']} frames of {one['crop']} pixels; a model of width {one['width']} and depth {one['depth']}. "
        f"A product of large bf16 matrices runs at {peak / 1e12:.3g} TFLOP/s here, the 100 % of utilisation."
    )
    columns = ["clips", "ms", "clips/s", "times the original, fp32", "times the best of Hugging Face"]
    yield from ["", *header("", ["", *columns, "memory (GB)", "TFLOP/s", "utilisation", "first run (s)"])]
    for one in rows:
        name = ", ".join(filter(None, [one["implementation"], one["precision"], one["setting"]]))
        name += " (its own code)" * bool(one.get("original_code"))
        if "seconds" not in one:
            yield row([name, one["batch_size"], one["error"], *["-"] * 7])
            continue
        ratios = (baseline(one, rows, ORIGINAL, "fp32"), baseline(one, rows, HUGGING_FACE))
        cells = [f"{1e3 * one['seconds']:.1f}", f"{one['batch_size'] / one['seconds']:.1f}"]
        cells += ["-" if (ratio := speedup(one, other)) is None else f"{ratio:.2f}" for other in ratios]
        cells += [f"{one['memory'] / 1e9:.2f}", f"{operations_per_second(one) / 1e12:.3g}", f"{utilisation(one):.1%}"]
        yield row([name, one["batch_size"], *cells, f"{one['first_seconds']:.1f}"])


def demo_lines(rows: Sequence[Row]) -> Iterator[str]:
    yield from header(
        "", ["precision", "epochs", "seconds of training", "validation top-1", "test top-1", "test clips"]
    )
    for one in rows:
        accuracies = [f"{one[key]:.1f} %" for key in ("val_top1", "top1")]
        precision = one["precision"].replace("off", "float32")
        yield row([precision, one["epochs"], f"{one['seconds']:.1f}", *accuracies, one["test_clips"]])


def kernel_lines(rows: Sequence[Row]) -> Iterator[str]:
    yield "8 clips, bf16; GB/s: three tensors read and one written, in the forward pass."
    columns = ["frames", "forward (ms)", "both passes (ms)", "GB/s", "memory (GB)", "difference from float32"]
    yield from ["", *header("", ["kernel", *columns])]
    for one in rows:
        if "seconds_forward" not in one:
            yield row([one["kernel"], one["frames"], one_line(one["error"])[:100], *["-"] * 4])
            continue
        cells = [f"{1e3 * one[key]:.3f}" for key in ("seconds_forward", "seconds_both")]
        cells += [f"{one['bytes'] / one['seconds_forward'] / 1e9:.0f}", f"{one['memory'] / 1e9:.2f}"]
        yield row([one["kernel"], one["frames"], *cells, f"{one['difference']:.1e}"])


def profile_lines(rows: Sequence[Row]) -> Iterator[str]:
    yield from header("", ["operator", "calls", "ms", "share"])
    for one in rows:
        name = one_line(one["operator"])[:90]
        yield row([f"`{name}`", one["calls"], f"{1e3 * one['seconds']:.2f}", f"{one['share']:.1%}"])


TABLES: dict[str, Callable[[Sequence[Row]], Iterator[str]]] = {
    "test": test_lines,
    "implementation": contender_lines,
    "epochs": demo_lines,
    "kernel": kernel_lines,
    "operator": profile_lines,
}
"""How rows with this key are shown."""


def operations_per_second(one: Row) -> float:
    """Operations of the implementation's own matrix products per second."""
    return _PASSES[one["training"]] * one["operations_per_clip"] * one["batch_size"] / one["seconds"]


def utilisation(one: Row) -> float:
    """Operations per second as a fraction of those of a large bf16 product."""
    return operations_per_second(one) / one["bf16_product_per_second"]


def baseline(one: Row, rows: Sequence[Row], implementation: str, precision: str = "") -> Row | None:
    """The fastest row of an implementation, in this precision if given, that computes the same clips."""
    same = ("batch_size", "frames", "crop", "training")
    others = [
        other
        for other in rows
        if other["implementation"].startswith(implementation)
        and "seconds" in other
        and precision in ("", other["precision"])
        and all(other[key] == one[key] for key in same)
    ]
    return min(others, key=lambda other: other["seconds"], default=None)


def speedup(one: Row, other: Row | None) -> float | None:
    """How many times as fast as the other row."""
    return other["seconds"] / one["seconds"] if other else None


def one_line(text: str) -> str:
    """The text on one line of a table."""
    return " ".join(text.split()).replace("|", "/")
