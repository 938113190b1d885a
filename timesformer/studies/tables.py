"""The tables of a study, published figures beside ours: tables.md, tables.html and tables.csv."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from timesformer.atomic import write_text_atomically
from timesformer.runtime.logging import duration
from timesformer.runtime.run_folder import move_aside
from timesformer.studies.cells import Cell, PlannedRow, PlannedTable
from timesformer.studies.outcomes import Figure, Outcome, judge, memory_of, outcome_of
from timesformer.studies.pages import Page, Picture, Section, as_html, as_markdown
from timesformer.studies.study import Study
from timesformer.studies.unequal import classes_seen

NOTHING = "-"
DEMO = (
    "These are demo numbers: small models on made clips of moving shapes. They show that each part of the study works "
    "and which way its comparisons point there, and say nothing about the published figures beside them."
)


def write_tables(
    study: Study,
    tables: Sequence[PlannedTable],
    folder: Path,
    is_demo: bool,
    data: Path,
    pictures: Sequence[Picture] = (),
) -> list[str]:
    """Writes tables.md, tables.html and tables.csv of what is finished into a folder.

    Returns:
        The findings, a sentence each.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sections = [_section(table, "demo" if is_demo else "our") for table in tables]
    findings = [point for section in sections for point in section.points]
    if pictures:
        sections.append(Section("Figures", pictures=list(pictures)))
    sections.append(_cells_section(tables))
    page = Page(study.title + (" (demo)" if is_demo else ""), _paragraphs(study, tables, is_demo, data), sections)
    write_text_atomically(folder / "tables.md", as_markdown(page))
    write_text_atomically(folder / "tables.html", as_html(page))
    write_text_atomically(folder / "tables.csv", _csv(study, tables, is_demo))
    return findings


def keep_other_tables(folder: Path, tables: Sequence[PlannedTable]) -> Path | None:
    """Moves tables and figures of an earlier command to `previous_N` in their folder, if these tables lack its cells.

    So it is with other options or fewer seeds.

    Returns:
        Where they are now; None if nothing was moved.
    """
    path = folder / "tables.csv"
    if not path.is_file():
        return None
    with path.open(newline="", encoding="utf-8") as file:
        before = {key for row in csv.DictReader(file) for key in (row.get("folders") or "").split()}
    if before <= {cell.key for row in _rows(tables) for cell in row.cells}:
        return None
    return move_aside(folder, [*(folder / f"tables.{kind}" for kind in ("md", "html", "csv")), folder / "figures"])


def _paragraphs(study: Study, tables: Sequence[PlannedTable], is_demo: bool, data: Path) -> list[str]:
    results = next((results for row in _rows(tables) for _, results in outcome_of(row).cells), None)
    ours = f"Ours: on {data.name}"
    if results:
        versions = results["versions"]
        ours += (
            f", {results['num_videos']} test videos of {results['num_classes']} classes; timesformer "
            f"{versions['timesformer']}, PyTorch {versions['torch']}"
        )
    how = (
        "Accuracies are in percent, mean ± standard deviation over the training seeds. Time is the mean of the whole "
        "training, of which the best epoch is tested; memory is the highest peak, of the GPU if there is one, else of "
        "the main process. A finding is decided where the difference is significant (p < 0.05): by a paired test where "
        "the videos are the same, which with several seeds has to hold for other seeds, too. With one seed it compares "
        "two trained models, and another seed may decide otherwise."
    )
    return [*([DEMO, study.demo.note] if is_demo else []), study.note, f"Published: {study.source}.", f"{ours}.", how]


def _rows(tables: Sequence[PlannedTable]) -> list[PlannedRow]:
    return [row for table in tables for row in table.rows]


def _section(table: PlannedTable, ours: str) -> Section:
    title = f"Table {table.number}: {table.title}" if table.number else table.title
    if table.processes:
        return _seen_section(table, title)
    facts = list(dict.fromkeys(name for row in table.rows for name in row.row.facts))
    columns = table.columns
    by_validation = not table.number  # a sweep is chosen from
    rows = []
    for row in table.rows:
        outcome = outcome_of(row)
        shown = [_option(row.cfg, key) for key in columns.values()]
        known = [row.row.facts.get(name, NOTHING) for name in facts]
        published = [NOTHING if value is None else _as_published(value) for value in row.row.published]
        validation = [_figure(outcome.val_top1)] if by_validation else []
        own = [_figure(outcome.top1), _figure(outcome.top5)] if row.row.setting else ["as published", NOTHING]
        rows.append(
            [row.row.name, *shown, *known, *published, *validation, *own, _count(row, outcome), *_costs(outcome)]
        )
    header = ["", *columns, *facts, "published top-1", "published top-5"]
    header += [f"{ours} validation top-1"] * by_validation
    header += [f"{ours} top-1", f"{ours} top-5", "seeds", "time", "memory (MiB)"]
    points = [judge(finding, table).text for finding in table.findings]
    return Section(title, table.note, header, rows, 1, points)


def _as_published(value: float) -> str:
    return f"{value:.2f}".removesuffix("0")


def _option(cfg: CfgNode | None, key: str) -> str:
    if cfg is None:
        return NOTHING
    value: Any = cfg
    for name in key.split("."):
        value = value[name]
    return str(value)


def _figure(figure: Figure | None) -> str:
    if figure is None:
        return NOTHING
    return f"{figure.mean:.1f}" + (f" ± {figure.spread:.1f}" if figure.spread is not None else "")


def _count(row: PlannedRow, outcome: Outcome) -> str:
    if row.row.setting is None:
        return NOTHING
    done, wanted = len(outcome.cells), len(row.cells)
    return str(done) if done == wanted else f"{done} of {wanted}"


def _costs(outcome: Outcome) -> list[str]:
    seconds = None if outcome.seconds is None else outcome.seconds.mean
    return [_time(seconds), NOTHING if outcome.memory is None else f"{outcome.memory:.0f}"]


def _time(seconds: float | None) -> str:
    return NOTHING if seconds is None else duration(seconds)


def _seen_section(table: PlannedTable, title: str) -> Section:
    """What data-parallel processes see of the classes; nothing is trained for it."""
    rows = []
    for row in table.rows:
        for processes in table.processes:
            names, seen = classes_seen(row.cfg, processes)
            of_a_class = f"{seen.counts.min()} to {seen.counts.max()}"
            clips = f"{seen.clips[0]}" if len(set(seen.clips)) == 1 else f"{seen.clips[0]} to {seen.clips[1]}"
            absent = f"{seen.absent} of {len(names)}"
            rows.append([row.row.name, str(processes), clips, of_a_class, f"{seen.furthest:.1f}", absent])
    header = ["", "processes", "clips of a process", "clips of a class", "furthest from all (points)", "classes missed"]
    return Section(title, table.note, header, rows)


def _cells_section(tables: Sequence[PlannedTable]) -> Section:
    """Every cell once, with its time and memory."""
    cells: dict[Cell, None] = {}
    for row in _rows(tables):
        for cell in row.cells:
            if cell.parent is not None:
                cells.setdefault(cell.parent)
            cells.setdefault(cell)
    rows = []
    for cell in cells:
        results = cell.results()
        if results:
            memory = memory_of(results)
            rows.append(
                [
                    cell.name,
                    f"{results['top1']:.2f}",
                    f"{results['top5']:.2f}",
                    NOTHING if results["val_top1"] is None else f"{results['val_top1']:.2f}",
                    _time(results.get("total_train_seconds")),
                    duration(results["seconds"]),
                    NOTHING if memory is None else f"{memory:.0f}",
                    cell.key,
                ]
            )
    header = ["", "top-1", "top-5", "validation top-1", "training", "test", "memory (MiB)", "folder under cells/"]
    return Section("Cells", "A row of several tables is run once, and named after the first.", header, rows)


def _csv(study: Study, tables: Sequence[PlannedTable], is_demo: bool) -> str:
    text = io.StringIO()
    figures = ("top1", "top5", "val_top1", "train_seconds")
    columns = ["study", "demo", "table", "title", "row", "published_top1", "published_top5", "seeds"]
    columns += [f"{name}_{part}" for name in figures for part in ("mean", "std")]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*columns, "peak_memory_mib", "test_videos", "folders"])
    for table in tables:
        for row in table.rows if not table.processes else ():
            outcome = outcome_of(row)
            values = []
            for figure in (outcome.top1, outcome.top5, outcome.val_top1, outcome.seconds):
                values += ["", ""] if figure is None else [_number(figure.mean), _number(figure.spread)]
            writer.writerow(
                [
                    *(study.name, int(is_demo), table.number or "", table.title, row.row.name),
                    *("" if value is None else value for value in row.row.published),
                    len(outcome.cells),
                    *values,
                    _number(outcome.memory),
                    outcome.num_videos or "",
                    " ".join(cell.key for cell, _ in outcome.cells),
                ]
            )
    return text.getvalue()


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
