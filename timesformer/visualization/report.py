"""The report of a run, and of several beside each other: one HTML file each, which needs nothing else."""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import jinja2
from fvcore.common.config import CfgNode
from markupsafe import Markup

import timesformer
from timesformer.atomic import explained_failure, write_atomically
from timesformer.engine.run_folder import pictures_path, report_path
from timesformer.visualization.comparison_page import comparison_page
from timesformer.visualization.examples import (
    clips_of,
    keep_strips,
    kept_strips,
    least_sure_hits,
    strip,
    surest_mistakes,
)
from timesformer.visualization.run_files import FinishedRun, read_run
from timesformer.visualization.run_page import Content, run_page

logger = logging.getLogger(__name__)


def write_report(run_dirs: Sequence[Path], path: Path) -> Path:
    """Writes the page about a run, or about several compared.

    Args:
        run_dirs: OUTPUT_DIR of each run.
        path: the HTML file.

    Returns:
        `path`.

    Raises:
        UserError: if one of the folders has nothing of a run in it, its results are damaged, or the page cannot be
            written.
    """
    runs = named_apart([read_run(folder) for folder in run_dirs])
    if len(runs) == 1:
        text = _render("run.html", run_page(runs[0], kept_strips(runs[0].folder / "report_frames.zip")))
    else:
        text = _render("comparison.html", comparison_page(runs))
    with explained_failure(path, "choose another place with --output"):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Names of files that are no UTF-8 are shown with their bytes as escapes.
        write_atomically(path, lambda file: file.write(text.encode("utf-8", "backslashreplace")))
    return path


def report_after_test(cfg: CfgNode) -> None:
    """Writes the report of a run whose test is done, with frames of its examples, into OUTPUT_DIR.

    A failure is told in a warning and raises nothing: the results are there, and the report can be made again.
    """
    folder, path = Path(cfg.OUTPUT_DIR), report_path(cfg)
    start = time.perf_counter()
    try:
        try:
            keep_frames(cfg, read_run(folder))
        except Exception as error:  # whatever a video makes a decoder raise: the report is worth having without frames
            logger.warning("the report is without frames of its examples: %s", error, exc_info=True)
        write_report([folder], path)
        logger.info("report: %s (%.1f s)", path, time.perf_counter() - start)
    except Exception as error:  # the report is an extra: no fault of it may cost a finished run its success
        logger.warning(
            "the report could not be written, the results are whole: %s\n`python tools/report.py %s` makes it again",
            error,
            folder,
            exc_info=True,
        )


def compare_after_splits(cfg: CfgNode, splits: Sequence[int]) -> None:
    """Writes the page that compares the runs of official splits as OUTPUT_DIR/report.html; failures as above."""
    folders, path = [Path(cfg.OUTPUT_DIR) / f"split_{split}" for split in splits], report_path(cfg)
    try:
        write_report(folders, path)
        logger.info("report: %s", path)
    except Exception as error:
        logger.warning("the report on the splits could not be written: %s", error, exc_info=True)


def keep_frames(cfg: CfgNode, run: FinishedRun) -> None:
    """Decodes the videos that the report shows, and keeps their frames beside it."""
    if run.predictions is None:
        return
    shown = [*surest_mistakes(run.predictions), *least_sure_hits(run.predictions)]
    videos = [run.predictions.videos[number] for number in shown]
    keep_strips(pictures_path(cfg), {name: strip(frames) for name, frames in clips_of(cfg, videos).items()})


def named_apart(runs: list[FinishedRun]) -> list[FinishedRun]:
    """The runs, with names that differ: of their folders, with as many folders above as that takes."""
    parts = [run.folder.resolve().parts for run in runs]
    names: list[str] = []
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            break
    return [replace(run, name=name) for run, name in zip(runs, names, strict=True)]


def _render(template: str, content: Content) -> str:
    made = f"Made by timesformer {timesformer.__version__} from the files of the run."
    environment = _environment()
    return environment.get_template(template).render(
        page={**content, "made": made},
        style=Markup(_text("style.css")),
        script=Markup(_text("page.js")),
    )


@cache
def _environment() -> jinja2.Environment:
    loader = jinja2.PackageLoader("timesformer.visualization", "templates")
    return jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def _text(name: str) -> str:
    """A file of the templates, as it is."""
    environment = _environment()
    return environment.loader.get_source(environment, name)[0]
