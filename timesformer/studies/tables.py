"""The page of a study, published results next to ours: tables.md, tables.html and tables.csv."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from markupsafe import Markup

from timesformer.atomic import write_text_atomically
from timesformer.config.options import get_option
from timesformer.metrics.baselines import describe_baselines
from timesformer.runtime.logging import duration
from timesformer.runtime.run_folder import move_aside
from timesformer.studies.class_counts import count_classes
from timesformer.studies.outcomes import Outcome, Statistic, judge, outcome_of
from timesformer.studies.plan import Plan, PlannedTable
from timesformer.visualization.pages.page import render_page

FILES = ("tables.md", "tables.html", "tables.csv")
NOTHING = "-"
_WORD = re.compile(r"[^\W\d_]{3}")  # "1 of 2" and "1e-05" are numbers
DEMO = (
    "These are demo numbers: small models on generated clips of moving shapes. They show that each part of the study "
    "works and which way its comparisons point there, and say nothing about the published results next to them."
)
METHOD = (
    "Accuracies are in percent, mean ± standard deviation over the runs: training seeds, and folds of a "
    "cross-validation. Time is the mean of the whole training, whose best epoch is tested. Memory is the highest peak, "
    "of the GPU if there is one, otherwise of the main process."
)
FINDINGS = (
    "A finding is decided where the difference is significant (p < 0.05), by a paired test where the videos are the "
    "same. With several seeds the difference has to hold for other seeds, too. With one seed the test "
    "compares two trained models, and another seed may decide otherwise."
)


@dataclass(frozen=True)
class Picture:
    """A figure of the study: its PNG file, next to SVG and PDF with the same name, and the `<svg>` of the page."""

    title: str
    path: Path
    svg: Markup


@dataclass
class Section:
    """A titled part of the page, in which all is optional but the title."""

    title: str
    note: str = ""
    header: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    points: list[str] = field(default_factory=list)
    remark: str = ""  # below the table
    pictures: Sequence[Picture] = ()
    captions: bool = True  # below the pictures; without them they are charts in rows

    @property
    def numbers(self) -> list[int]:
        """Columns with more numbers than words, which are aligned to the right."""
        columns = zip(*self.rows, strict=True)
        words = [sum(bool(_WORD.search(cell)) for cell in column) for column in columns]
        return [index for index, count in enumerate(words) if index and 2 * count < len(self.rows)]


def write_tables(plan: Plan, pictures: Sequence[Picture] = (), sections: Sequence[Section] | None = None) -> list[str]:
    """Writes the page of what is finished, with these figures; returns the findings, a sentence each.

    `sections` replace those of the plan's tables.
    """
    plan.folder.mkdir(parents=True, exist_ok=True)
    is_demo = plan.choices.is_demo
    if sections is None:
        ours = "demo" if is_demo else "our"
        sections = [
            _count_section(table) if table.table.processes else _result_section(table, ours) for table in plan.tables
        ]
    sections = list(sections)
    findings = [point for section in sections for point in section.points]
    if pictures:
        sections.append(Section("Figures", pictures=pictures))
    sections.append(_cells_section(plan))
    title, paragraphs = plan.study.title + " (demo)" * is_demo, _paragraphs(plan)
    html = render_page(
        "study.html",
        title=title,
        paragraphs=[text for text in paragraphs if text != DEMO],
        notes=[DEMO] * is_demo,
        parts=sections,
    )
    texts = (_markdown(title, paragraphs, sections, plan.folder), html, _csv(plan))
    for name, text in zip(FILES, texts, strict=True):
        write_text_atomically(plan.folder / name, text)
    return findings


def move_other_tables(plan: Plan) -> Path | None:
    """Moves a page with cells that the plan lacks to `previous_N`; returns that folder, or None."""
    path = plan.folder / "tables.csv"
    if not path.is_file():
        return None
    with path.open(newline="", encoding="utf-8") as file:
        before = {key for row in csv.DictReader(file) for key in (row.get("folders") or "").split()}
    if before <= {cell.key for row in plan.rows for cell in row.cells}:
        return None
    return move_aside(plan.folder, [plan.folder / name for name in (*FILES, "figures")])


def _paragraphs(plan: Plan) -> list[str]:
    results = next((results for row in plan.rows for _, results in outcome_of(row.cells).cells), None)
    ours = f"Ours: on {plan.data.name}"
    if results:
        ours += (
            f", {results['num_videos']} test videos of {results['num_classes']} classes; timesformer "
            f"{results['versions']['timesformer']}, PyTorch {results['versions']['torch']}"
        )
    study = plan.study
    demo = [DEMO, study.demo.note] if plan.choices.is_demo else []
    return [
        text for text in (*demo, study.note, study.source and f"Published: {study.source}.", f"{ours}.", METHOD) if text
    ]


def _title(table: PlannedTable) -> str:
    return f"{table.number}. {table.table.title}" if table.number else table.table.title


def _result_section(table: PlannedTable, ours: str) -> Section:
    facts = list(dict.fromkeys(name for row in table.rows for name in row.row.facts))
    columns, rows, outcomes = table.table.columns, [], {}
    for row in table.rows:
        outcome = outcome_of(row.cells, row.row.reference)
        options = [NOTHING if row.cfg is None else str(get_option(row.cfg, key)) for key in columns.values()]
        cells = [row.row.name, *options]
        cells += [str(row.row.facts.get(name, NOTHING)) for name in facts]
        cells += [NOTHING if value is None else f"{value:.2f}".removesuffix("0") for value in row.row.published]
        if row.cfg is not None:
            cells += [show_metric(outcome.top1), show_metric(outcome.top5)]
            done, planned = len(outcome.cells), len(row.cells)
            cells += [str(done) if done == planned else f"{done} of {planned}", *show_costs(outcome)]
        else:
            cells += ["not in the demo" if row.row.run else "as published", *[NOTHING] * 4]
        rows.append(cells)
        outcomes[row.row.name] = outcome
    header = ["", *columns, *facts, "published top-1", "published top-5"]
    header += [f"{ours} top-1", f"{ours} top-5", "runs", "time", "memory (MiB)"]
    points = [judge(finding, table).text for finding in table.table.findings]
    notes = [table.table.note, *(f"{row.name}: {row.note}" for row in table.table.rows if row.note)]
    return Section(_title(table), " ".join(filter(None, notes)), header, rows, points, show_baselines(outcomes))


def show_baselines(outcomes: Mapping[str, Outcome]) -> str:
    """A sentence about the accuracies of trivial predictions; `outcomes` are those of rows, by name. "" if unknown."""
    rows_of: dict[str, list[str]] = {}
    for name, outcome in outcomes.items():
        if outcome.chance is not None and outcome.majority is not None:
            rows_of.setdefault(describe_baselines(outcome.chance, outcome.majority), []).append(name)
    if len(rows_of) == 1:
        return f"Test top-1 without a model: {next(iter(rows_of))}."
    parts = [f"{text} ({', '.join(names)})" for text, names in rows_of.items()]
    return f"Test top-1 without a model: {'; '.join(parts)}." if parts else ""


def show_metric(statistic: Statistic | None) -> str:
    """Mean and standard deviation."""
    if statistic is None:
        return NOTHING
    return f"{statistic.mean:.1f}" + (f" ± {statistic.std:.1f}" if statistic.std is not None else "")


def show_costs(outcome: Outcome) -> list[str]:
    """Time of the training, and peak memory in MiB."""
    seconds, memory = outcome.seconds, outcome.memory
    return [duration(seconds.mean) if seconds else NOTHING, NOTHING if memory is None else f"{memory:.0f}"]


def _count_section(table: PlannedTable) -> Section:
    """The classes that data-parallel processes see; nothing is trained."""
    rows = []
    for row in table.rows:
        for processes in table.table.processes:
            counts = count_classes(row.cfg, processes)
            sums = counts.sum(axis=1)
            furthest = np.abs(counts / np.maximum(1, sums)[:, None] - counts.sum(axis=0) / counts.sum()).max()
            missed = (counts == 0).sum(axis=1).max()
            clips = f"{sums.min()} to {sums.max()}" if np.ptp(sums) else str(sums[0])
            cells = [row.row.name, str(processes), clips, f"{counts.min()} to {counts.max()}"]
            rows.append([*cells, f"{100 * furthest:.1f}", f"{missed} of {counts.shape[1]}"])
    header = ["", "processes", "clips of a process", "clips of a class", "furthest from all (points)", "classes missed"]
    return Section(_title(table), table.table.note, header, rows)


def _cells_section(plan: Plan) -> Section:
    """Every finished cell once, with its time and memory."""
    cells = dict.fromkeys(one for row in plan.rows for cell in row.cells for one in (cell.parent, cell) if one)
    rows = []
    for cell in cells:
        outcome = outcome_of([cell])
        if outcome.top1 is None:
            continue
        metrics = (outcome.top1, outcome.top5, outcome.val_top1)
        time, memory = show_costs(outcome)
        values = [NOTHING if metric is None else f"{metric.mean:.2f}" for metric in metrics]
        rows.append([cell.name, *values, time, duration(outcome.cells[0][1]["seconds"]), memory, cell.key])
    header = ["", "top-1", "top-5", "validation top-1", "training", "test", "memory (MiB)", "folder under cells/"]
    return Section("Cells", "A row of several tables is run once, and named after the first.", header, rows)


def _markdown(title: str, paragraphs: Sequence[str], sections: Sequence[Section], folder: Path) -> str:
    """The page in GitHub's Markdown."""
    blocks = [f"# {title}", *paragraphs]
    for section in sections:
        blocks += [f"## {section.title}", section.note]
        if section.rows:
            marks = ["---", *["---:"] * (len(section.header) - 1)]
            lines = [section.header, marks, *section.rows]
            blocks.append("\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines))
        blocks.append(section.remark)
        blocks.append("\n".join(f"* {point}" for point in section.points))
        blocks += [f"![{one.title}]({one.path.relative_to(folder).as_posix()})" for one in section.pictures]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _csv(plan: Plan) -> str:
    text = io.StringIO()
    columns = ["study", "demo", "table", "title", "row", "published_top1", "published_top5", "seeds"]
    columns += [f"{name}_{part}" for name in ("top1", "top5", "val_top1", "train_seconds") for part in ("mean", "std")]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*columns, "peak_memory_mib", "chance", "majority", "test_videos", "folders"])
    for table in plan.tables:
        for row in table.rows if not table.table.processes else ():
            outcome = outcome_of(row.cells, row.row.reference)
            values: list[float | None] = []
            for statistic in (outcome.top1, outcome.top5, outcome.val_top1, outcome.seconds):
                values += [None, None] if statistic is None else [statistic.mean, statistic.std]
            cells = [plan.study.name, int(plan.choices.is_demo), table.number or "", table.table.title, row.row.name]
            cells += ["" if value is None else value for value in row.row.published]
            cells.append(len(outcome.cells))
            single = (outcome.memory, outcome.chance, outcome.majority)
            cells += ["" if value is None else f"{value:.4f}" for value in (*values, *single)]
            videos = outcome.cells[0][1]["num_videos"] if outcome.cells else ""
            writer.writerow([*cells, videos, " ".join(cell.key for cell, _ in outcome.cells)])
    return text.getvalue()
