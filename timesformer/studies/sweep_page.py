"""The sections of a sweep's page: its trials, and charts of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from timesformer.config.options import get_option
from timesformer.runtime.run_folder import best_path
from timesformer.studies.outcomes import outcome_of
from timesformer.studies.sweep_run import SweepRun
from timesformer.studies.sweeps import Range
from timesformer.studies.tables import NOTHING, Picture, Section, show_baselines, show_costs, show_metric
from timesformer.visualization import charts
from timesformer.visualization.charts import GOOD, MUTED, STYLE, Curve, new_chart

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

_ACCURACY = "validation top-1 (%)"


def sweep_sections(run: SweepRun) -> list[Section]:
    """The table of the trials with the best one, and charts, which are also written as PNG, SVG and PDF files."""
    sections, pictures = [_table(run)], []
    folder = run.plan.folder / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in draw_trials(run):
        drawn = Markup(charts.svg(figure))
        charts.save(figure, folder, name)
        pictures.append(Picture(name.replace("_", " "), folder / f"{name}.png", drawn))
    if pictures:
        note = (
            "Crosses are pruned trials, at their last validation. The importance of an option is its share in the "
            "variance of the accuracy of finished trials (fANOVA), from ten of them on. Pruned trials do not count: an "
            "option whose bad values are pruned appears less important."
        )
        sections.append(Section("Trials", note, pictures=pictures, captions=False))
    return sections


def _table(run: SweepRun) -> Section:
    trials, best = run.trials.all(), run.trials.best()
    by_row: dict[str, list[FrozenTrial]] = {}
    for trial in trials:
        by_row.setdefault(run.row_of(trial).row.name, []).append(trial)
    (planned,) = run.plan.tables
    columns, rows, points = planned.table.columns, [], []
    named, outcomes = {row.row.name: row for row in planned.rows}, {}
    for name in dict.fromkeys([*by_row, *named]):  # in the order of the trials
        row = named[name]
        found, outcome = by_row.get(name, []), outcome_of(row.cells)
        outcomes[name] = outcome
        number = ", ".join(str(trial.number + 1) for trial in found) or NOTHING
        accuracy, done = show_metric(outcome.val_top1), len(outcome.cells)
        state = str(done) if done == len(row.cells) else f"{done} of {len(row.cells)}"
        if best in found:
            number += " (best)"
            points.append(
                f"Best by validation: trial {best.number + 1}, {name}: validation top-1 {accuracy}, test top-1 "
                f"{show_metric(outcome.top1)}; {best_path(row.cells[0].cfg)}"
            )
        pruned = [trial for trial in found if trial.state.name == "PRUNED"]
        if pruned:
            accuracy, state = f"{pruned[0].value:.1f}", f"pruned after epoch {pruned[0].last_step}"
        metrics = (accuracy, show_metric(outcome.top1), show_metric(outcome.top5))
        options = [str(get_option(row.cfg, key)) for key in columns.values()]
        rows.append([number, *options, *metrics, state, *show_costs(outcome)])
    header = ["trial", *columns, "validation top-1", "test top-1", "test top-5", "runs", "time", "memory (MiB)"]
    return Section("Sweep", planned.table.note, header, rows, points, show_baselines(outcomes))


def draw_trials(run: SweepRun) -> Iterator[tuple[str, Figure]]:
    """Charts of the trials, each with a name; none without a validation."""
    trials = [trial for trial in run.trials.all() if trial.state.is_finished()]
    if not trials:
        return
    yield "history", _history(trials)
    importance = run.trials.importance()
    if importance:
        (planned,) = run.plan.tables
        names = {key: name for name, key in planned.table.columns.items()}
        shares = [100 * share for share in importance.values()]
        yield (
            "importance",
            charts.bars([names[key] for key in importance], shares, "Importance of options", "share (%)"),
        )
    if figure := _validations(trials, run.trials.best()):
        yield "validations", figure
    for key, values in run.sweep.space.items():
        if len({trial.params[key] for trial in trials}) > 1:
            yield key.lower().replace(".", "_"), _by_value(trials, key, isinstance(values, Range) and values.is_log)


def _validations(trials: list[FrozenTrial], best: FrozenTrial | None) -> Figure | None:
    """Accuracy of every trial by epoch; None if all have a single validation."""
    others = [trial for trial in trials if best is None or trial.number != best.number]
    curves = []
    for trial in [*others, *([best] if best else [])]:
        if len(trial.intermediate_values) > 1:
            epochs, top1 = zip(*sorted(trial.intermediate_values.items()), strict=True)
            if trial is best:
                curves.append(Curve("best trial", epochs, top1))
            else:
                curves.append(Curve("" if curves else "other trials", epochs, top1, 7, faint=True))
    return charts.line_chart(curves, "Validation top-1 (%) of every trial")


@matplotlib.rc_context(STYLE)
def _history(trials: list[FrozenTrial]) -> Figure:
    """Accuracy of the trials in order, and the best so far."""
    figure, axes = new_chart("Trials and the best so far", "trial", _ACCURACY)
    _scatter(axes, trials, [trial.number + 1 for trial in trials])
    best: list[tuple[int, float]] = []
    for trial in trials:
        if trial.state.name == "COMPLETE":
            best.append((trial.number + 1, max(trial.value, best[-1][1] if best else trial.value)))
    axes.plot(*zip(*best, strict=True), drawstyle="steps-post", color=GOOD, linewidth=1.5) if best else None
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return figure


@matplotlib.rc_context(STYLE)
def _by_value(trials: list[FrozenTrial], key: str, is_log: bool) -> Figure:
    """Accuracy of the trials by the value of an option."""
    figure, axes = new_chart(key, key.rpartition(".")[2], _ACCURACY)
    values = [trial.params[key] for trial in trials]
    if isinstance(values[0], str):
        axes.set_xlim(-0.5, len(set(values)) - 0.5)
    elif is_log:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    _scatter(axes, trials, values)
    return figure


def _scatter(axes: Axes, trials: list[FrozenTrial], x: list[float] | list[str]) -> None:
    for state, marker, color in (("COMPLETE", "o", GOOD), ("PRUNED", "x", MUTED)):
        shown = [(one, trial.value) for one, trial in zip(x, trials, strict=True) if trial.state.name == state]
        if shown:
            axes.scatter(*zip(*shown, strict=True), s=22, marker=marker, color=color, zorder=3)
