"""Writes report.html: the page about a run, or the page that compares several runs."""

import html
import json
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from fvcore.common.config import CfgNode

from timesformer.atomic import report_write_errors, write_atomically
from timesformer.datasets.catalog import Splits
from timesformer.errors import UserError, shorten
from timesformer.runtime.run_folder import report_frames_path, report_path, with_output_dir
from timesformer.runtime.subcommands import suggest_command
from timesformer.visualization.examples import (
    least_confident_correct,
    load_clips,
    make_strip,
    most_confident_errors,
    read_strips,
    write_strips,
)
from timesformer.visualization.pages.comparison_page import comparison_page
from timesformer.visualization.pages.page import render_page
from timesformer.visualization.pages.run_page import run_page
from timesformer.visualization.run_files import FinishedRun, read_run

logger = logging.getLogger(__name__)

_RUNS_SHOWN = re.compile(r'<meta name="timesformer-runs" content="([^"]*)">')


def write_report(run_dirs: Sequence[Path], path: Path) -> Path:
    """Writes the page about a run, or about several compared, from their OUTPUT_DIRs; returns `path`."""
    text = render_report(read_runs(run_dirs))
    with report_write_errors(path, "choose another file with --output"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: file.write(text.encode()))
    return path


def render_report(runs: Sequence[FinishedRun]) -> str:
    """The page about a run, or about several compared, as HTML text."""
    if len(runs) == 1:
        template, content = "run.html", run_page(runs[0], read_strips(runs[0].folder / "report_frames.zip"))
    else:
        template, content = "comparison.html", comparison_page(runs)
    return render_page(template, **content, runs_shown=[run.name for run in runs])


def names_shown(path: Path) -> list[str]:
    """The names of the runs that a page in this file is about; empty if it is not such a page."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    names = _RUNS_SHOWN.search(text)
    return json.loads(html.unescape(names[1])) if names else []


def check_overwrite(path: Path, run_dirs: Sequence[Path]) -> None:
    """Raises a UserError if `path` exists and is not a report about these runs."""
    if path.exists() and (shown := names_shown(path)) != [run.name for run in read_runs(run_dirs)]:
        found = f"a report about {shorten(shown)}" if shown else "not a report"
        raise UserError(f"{path} is {found}: choose another file with --output, or add --overwrite to replace it")


def report_after_test(cfg: CfgNode, folder: Path, splits: Splits | None = None) -> None:
    """Writes report, frames of examples and TensorBoard charts of the test in `folder`; failures are only logged."""
    cfg = with_output_dir(cfg, folder)
    path, clips = report_path(cfg), {}
    with _warn_on_failure("frames for the report"):
        if (predictions := read_run(folder).predictions) is not None:
            numbers = [*most_confident_errors(predictions), *least_confident_correct(predictions)]
            clips = dict(load_clips(cfg, [predictions.videos[number] for number in numbers], splits))
            write_strips(report_frames_path(cfg), {name: make_strip(clip) for name, clip in clips.items()})
    imports = [word for module in cfg.IMPORTS for word in ("--import", module)]
    with _warn_on_failure("the report", f"; `{suggest_command('report', *imports, str(folder))}` tries again"):
        write_report([folder], path)
        logger.info("report: %s", path)
    if cfg.TENSORBOARD.ENABLE:
        with _warn_on_failure("charts for TensorBoard"):
            from timesformer.visualization.board import write_charts  # late: TensorBoard takes seconds to import

            write_charts(cfg, read_run(folder), clips, splits)


def compare_runs(cfg: CfgNode, folders: Sequence[Path]) -> None:
    """Writes OUTPUT_DIR/report.html, which compares the runs in `folders`; failures are logged as warnings."""
    path = report_path(cfg)
    with _warn_on_failure("the report", f"; `{suggest_command('report', *map(str, folders))}` tries again"):
        write_report(folders, path)
        logger.info("report: %s", path)


@contextmanager
def _warn_on_failure(what: str, remedy: str = "") -> Iterator[None]:
    try:
        yield
    except Exception as error:
        logger.warning("could not write %s (the results are safe): %s%s", what, error, remedy, exc_info=True)


def read_runs(folders: Sequence[Path]) -> list[FinishedRun]:
    """The runs, with as many parent folders in their names as it takes to make these different."""
    runs = [read_run(folder) for folder in folders]
    parts = [run.folder.resolve().parts for run in runs]
    names: list[str] = []
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            break
    return [replace(run, name=name) for run, name in zip(runs, names, strict=True)]
