"""Figures and tables of a run, a comparison, a study, a robustness test or a data report as files for a paper."""

import base64
import io
import logging
import math
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image, UnidentifiedImageError

from timesformer.analysis import robustness
from timesformer.analysis.analysis_folder import find_analysis
from timesformer.atomic import report_write_errors, write_text_atomically
from timesformer.errors import UserError
from timesformer.preparation import findings
from timesformer.preparation.findings import read_summaries
from timesformer.progress import Progress
from timesformer.runtime.subcommands import suggest_command
from timesformer.visualization.charts import FORMATS, collect_figures, save
from timesformer.visualization.confusions import count_confusions
from timesformer.visualization.examples import least_confident_correct, most_confident_errors, read_strips
from timesformer.visualization.pages import data_page
from timesformer.visualization.pages.page import render_page
from timesformer.visualization.pages.page_tables import Cell, PageTable, distinct, file_name, tables_of
from timesformer.visualization.pages.robustness_page import render_robustness_page
from timesformer.visualization.pictures import draw_examples, draw_picture
from timesformer.visualization.report import names_shown, read_runs, render_report
from timesformer.visualization.run_charts import draw_figures
from timesformer.visualization.run_files import FinishedRun
from timesformer.visualization.sections.attention import ATTENTION, weakest_classes

logger = logging.getLogger(__name__)

STUDY_PAGE = "tables.html"  # the page of a study, next to its pictures in figures/
_INDEX = "index.html"
_EXAMPLES = 5  # videos of a figure
_PREVIEW = 640  # pixels, width
_RESULTS = {
    "top1": "top-1 (%)",
    "top5": "top-5 (%)",
    "mean_class_top1": "mean over classes (%)",
    "shuffled.top1": "top-1 with shuffled frames (%)",
    "metrics.chance": "chance (%)",
    "metrics.majority": "most frequent class (%)",
    "metrics.macro.precision": "precision, macro (%)",
    "metrics.macro.recall": "recall, macro (%)",
    "metrics.macro.f1": "F1, macro (%)",
    "metrics.weighted.precision": "precision, weighted (%)",
    "metrics.weighted.recall": "recall, weighted (%)",
    "metrics.weighted.f1": "F1, weighted (%)",
    "metrics.mean_average_precision": "mean average precision (%)",
    "metrics.calibration.ece": "expected calibration error (%)",
    "metrics.calibration.ece_calibrated": "expected calibration error, calibrated (%)",
    "metrics.calibration.temperature": "temperature",
    "loss": "test loss",
    "val_top1": "validation top-1 (%)",
    "num_videos": "test videos",
    "num_classes": "classes",
    "total_epochs": "epochs",
}
"""Entries of results.json in the table of a run, with their names."""
_EPOCHS = {
    f"{title} {metric}": (kind, name)
    for title, kind in (("training", "train_epoch"), ("validation", "val_epoch"))
    for metric, name in (("loss", "loss"), ("top-1", "top1"), ("top-5", "top5"))
}


@dataclass(frozen=True)
class _Picture:
    """A figure to draw, or files that have it already; `path` without them is a PNG or JPEG."""

    name: str
    title: str
    figure: Figure | None = None
    path: Path | None = None


def write_figures(folders: Sequence[Path], target: Path, overwrite: bool = False) -> Path:
    """Writes all figures (PNG, SVG, PDF) and tables (CSV, LaTeX), and a page that shows them; returns the page.

    Args:
        folders: OUTPUT_DIR of a run, those of runs to compare, or the folder of a study, of a robustness test or of a
            data report.
        target: folder to write into; created if it is missing.
        overwrite: also replace files in a folder with other content.

    Raises:
        UserError: a folder has no results, or `target` has files that are not figures of these runs.
        WriteError: a file cannot be written.
    """
    is_run = len(folders) > 1 or (folders[0] / "results.json").is_file()
    read = next((read for file, read in _READERS.items() if not is_run and (folders[0] / file).is_file()), None)
    if read:
        names, (tables, pictures) = [folders[0].resolve().name], read(folders[0])
    else:
        runs = read_runs(folders)
        names, (tables, pictures) = [run.name for run in runs], _read_runs(runs)
    if not overwrite and target.is_dir() and any(target.iterdir()) and names_shown(target / _INDEX) != names:
        raise UserError(
            f"--figures {target} is not empty, and {_INDEX} there is not about {', '.join(names)}: choose another "
            "folder, or add --overwrite to replace files with the same names"
        )
    with report_write_errors(target, "choose another folder with --figures"):
        target.mkdir(parents=True, exist_ok=True)
    for table, name in zip(tables, distinct([_table_name(table) for table in tables]), strict=True):
        table.name = name
        write_text_atomically(target / f"{name}.csv", table.csv())
        title = re.sub(r"^\d+\. ", "", table.title)  # LaTeX numbers tables itself
        caption = f"{title[:1].upper()}{title[1:]}: {', '.join(names)}"
        label = f"tab:{file_name(names[0] if len(names) == 1 else 'comparison')}-{name}"
        write_text_atomically(target / f"{name}.tex", table.latex(caption, label))
    shown = []
    with Progress("figures", len(pictures), "figure") as progress:
        for picture, name in _numbered(pictures):
            shown.append((*_write(picture, name, target), picture.title))
            progress.advance()
    page = render_page(
        "figures.html",
        title=f"Figures of {names[0]}" if len(names) == 1 else f"Figures of {len(names)} runs",
        subtitle=" · ".join(names) if len(names) > 1 else "",
        runs_shown=names,
        pictures=shown,
        tables=[(table.name, table.title, len(table.rows)) for table in tables],
        formats=FORMATS,
    )
    write_text_atomically(target / _INDEX, page)
    return target / _INDEX


_Content = tuple[list[PageTable], list[_Picture]]


def _read_runs(runs: Sequence[FinishedRun]) -> _Content:
    """Of a run, or of several compared."""
    with collect_figures() as charts:
        tables = tables_of(render_report(runs))
    pictures = [_named(figure) for figure in charts]
    if len(runs) == 1:
        tables += _tables_of_run(runs[0])
        pictures += _pictures_of_run(runs[0])
    return tables, pictures


def _read_study(folder: Path) -> _Content:
    return tables_of((folder / STUDY_PAGE).read_text(encoding="utf-8")), _pictures_in(folder / "figures")


def _read_robustness(folder: Path) -> _Content:
    with collect_figures() as charts:
        tables = tables_of(render_robustness_page(folder))
    frames = [
        _Picture(f"frames_{picture.name}", f"Corrupted frames: {picture.title}", path=picture.path)
        for picture in _pictures_in(folder / robustness.EXAMPLES)
    ]
    return tables, [*map(_named, charts), *frames]


def _read_data_report(folder: Path) -> _Content:
    """The charts are of data_report.json, the tables of data_report.html."""
    path = folder / data_page.HTML
    if not path.is_file():
        check = suggest_command("prepare", "folder", "...", "--check")
        raise UserError(f"{path} is missing, and has the tables of the data report: run `{check}` again")
    charts = data_page.draw_classes(read_summaries(folder))
    return tables_of(path.read_text(encoding="utf-8")), [*map(_named, charts)]


_READERS = {STUDY_PAGE: _read_study, robustness.JSON: _read_robustness, findings.JSON: _read_data_report}
"""Functions for folders that are not of a run, by a file that they have."""


def _table_name(table: PageTable) -> str:
    return f"table_{table.name}" if table.name[0].isdigit() else table.name


def _numbered(pictures: Sequence[_Picture]) -> Iterable[tuple[_Picture, str]]:
    return zip(pictures, distinct([picture.name for picture in pictures]), strict=True)


def _write(picture: _Picture, name: str, target: Path) -> tuple[str, str]:
    """Writes the files of a picture; returns its name, and a preview as a data URL."""
    if picture.figure is not None:
        save(picture.figure, target, name)
    elif all(picture.path.with_suffix(suffix).is_file() for suffix in FORMATS):
        for suffix in FORMATS:
            path = target / f"{name}{suffix}"
            if path.resolve() != picture.path.with_suffix(suffix).resolve():
                with report_write_errors(path, "choose another folder with --figures"):
                    shutil.copyfile(picture.path.with_suffix(suffix), path)
    else:
        with Image.open(picture.path) as image:
            save(draw_picture(image), target, name)
    with Image.open(target / f"{name}.png") as image:
        image.thumbnail((_PREVIEW, 2 * _PREVIEW))
        file = io.BytesIO()
        image.convert("RGB").save(file, "PNG", optimize=True)
    return name, f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _named(figure: Figure) -> _Picture:
    """A chart, named after its section of the page and its title."""
    title = next((text for axes in figure.axes for at in ("left", "center") if (text := axes.get_title(at))), "")
    section = figure.get_label()
    prefix = "" if title.lower().startswith(section) else f"{section} "
    return _Picture(
        file_name(prefix + re.sub(r" \d+\.\d+(?: %)?", "", title)), title, figure
    )  # values may be in titles


def _pictures_of_run(run: FinishedRun) -> list[_Picture]:
    found = [_named(figure) for figure in draw_figures("files", run)]
    if run.predictions is not None:
        strips = read_strips(run.folder / "report_frames.zip")
        chosen = {
            "Incorrect examples": (strips, most_confident_errors(run.predictions)),
            "Correct examples": (strips, least_confident_correct(run.predictions)),
        }
        if folder := find_analysis(run.folder, run.results):
            attention, weakest = read_strips(folder / ATTENTION), weakest_classes(run)
            chosen["Attention of incorrect examples"] = (attention, [n for weak in weakest for n in weak.incorrect])
            chosen["Attention of correct examples"] = (attention, [n for weak in weakest for n in weak.correct])
        for title, (frames, numbers) in chosen.items():
            if figure := draw_examples(run, frames, numbers[:_EXAMPLES]):
                found.append(_Picture(file_name(title), title, figure))
    return found + _pictures_in(run.folder)


def _pictures_in(folder: Path) -> list[_Picture]:
    """PNG and JPEG files of a folder, such as attention maps."""
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.suffix.lower() in (".png", ".jpg", ".jpeg") and not any(path.stem == other.name for other in found):
            try:
                with Image.open(path) as image:
                    image.verify()
            except (OSError, SyntaxError, UnidentifiedImageError) as error:
                logger.warning("%s is left out: %s", path, error)
            else:
                found.append(_Picture(path.stem, path.stem.replace("_", " "), path=path))
    return found


def _tables_of_run(run: FinishedRun) -> list[PageTable]:
    """Tiles and charts of the page as tables: single values, metrics by epoch, the confusion matrix."""
    tables = []
    if values := list(_single_values(run)):
        rows = [[Cell(name), _number(value, 2 if "%" in name else 4)] for name, value in values]
        tables.append(PageTable("results", "Results", [Cell("metric"), Cell("value", is_number=True)], rows))
    series = {title: dict(zip(*run.series(*source), strict=True)) for title, source in _EPOCHS.items()}
    series = {title: values for title, values in series.items() if values}
    if epochs := sorted({epoch for values in series.values() for epoch in values}):
        header = [Cell(title, is_number=True) for title in ("epoch", *series)]
        rows = [[_number(e), *(_number(values.get(e)) for values in series.values())] for e in epochs]
        tables.append(PageTable("epochs", "Loss and accuracy by epoch", header, rows))
    if run.predictions is not None and run.predictions.readable.any():
        counts, names = count_confusions(run.predictions, len(run.class_names)), run.class_names
        header = [Cell("true class"), *(Cell(name, is_number=True) for name in names)]
        rows = [[Cell(name), *map(_number, row)] for name, row in zip(names, counts.tolist(), strict=True)]
        tables.append(PageTable("confusion_matrix", "Confusion matrix", header, rows))
    return tables


def _single_values(run: FinishedRun) -> Iterable[tuple[str, float]]:
    """The metrics of results.json by their names in `_RESULTS`."""
    for path, name in _RESULTS.items():
        value = run.results
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, int | float):
            yield name, value


def _number(value: float | None, digits: int = 4) -> Cell:
    if value is None or math.isnan(value):
        return Cell("–", "", True)
    return Cell(f"{value:.{digits}f}".rstrip("0").rstrip("."), repr(value), True)
