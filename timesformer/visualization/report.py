"""The report of a run, and of several beside each other: one HTML file each, which needs nothing else."""

import html
import json
import logging
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from fvcore.common.config import CfgNode

from timesformer.atomic import report_write_errors, write_atomically
from timesformer.errors import UserError, shorten
from timesformer.runtime.run_folder import report_frames_path, report_path, with_output_dir
from timesformer.visualization.comparison_page import comparison_page
from timesformer.visualization.examples import (
    clips_of,
    keep_strips,
    kept_strips,
    least_sure_hits,
    strip,
    surest_mistakes,
)
from timesformer.visualization.page import render_page
from timesformer.visualization.run_files import FinishedRun, read_run
from timesformer.visualization.run_page import run_page

logger = logging.getLogger(__name__)

_ELSEWHERE = "choose another place with --output"
_RUNS_SHOWN = re.compile(r'<meta name="timesformer-runs" content="([^"]*)">')


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
        content = run_page(runs[0], kept_strips(runs[0].folder / "report_frames.zip"))
    else:
        content = comparison_page(runs)
    content["runs_shown"] = [run.name for run in runs]
    text = render_page("run.html" if len(runs) == 1 else "comparison.html", **content)
    with report_write_errors(path, _ELSEWHERE):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: file.write(text.encode()))
    return path


def refuse_to_replace(path: Path, run_dirs: Sequence[Path]) -> None:
    """Raises a UserError if a file is there that is no page about these runs."""
    if not path.exists():
        return
    with report_write_errors(path, _ELSEWHERE):
        text = path.read_text(encoding="utf-8", errors="replace")
    names = _RUNS_SHOWN.search(text)
    if names is None:
        problem = "is no report"
    else:
        shown = json.loads(html.unescape(names[1]))
        if shown == [run.name for run in named_apart([read_run(folder) for folder in run_dirs])]:
            return
        problem = f"is a report about {shorten(shown)}"
    raise UserError(f"{path} {problem}: {_ELSEWHERE}, or --overwrite to replace what is there")


def report_after_test(cfg: CfgNode, folder: Path) -> None:
    """Writes the report of a test that is done, with frames of its examples, and its pictures for TensorBoard.

    What fails is told in a warning and raises nothing: the results are there, and the report can be made again.

    Args:
        cfg: the configuration.
        folder: of the test's results.
    """
    cfg = with_output_dir(cfg, folder)
    path, clips = report_path(cfg), {}
    start = time.perf_counter()
    with _no_fault_of("frames of examples for the report"):
        clips = dict(clips_of(cfg, _videos_shown(read_run(folder))))
        keep_strips(report_frames_path(cfg), {name: strip(clip) for name, clip in clips.items()})
    with _no_fault_of("the report", f"; `python tools/report.py {folder}` makes it again"):
        write_report([folder], path)
        logger.info("report: %s (%.1f s)", path, time.perf_counter() - start)
    if cfg.TENSORBOARD.ENABLE:
        with _no_fault_of("the pictures for TensorBoard"):
            from timesformer.visualization.board import write_pictures  # late: TensorBoard takes seconds to import

            write_pictures(cfg, read_run(folder), clips)


def compare_after_splits(cfg: CfgNode, splits: Sequence[int]) -> None:
    """Writes the page that compares the runs of official splits as OUTPUT_DIR/report.html; failures as above."""
    folder, path = Path(cfg.OUTPUT_DIR), report_path(cfg)
    with _no_fault_of("the report on the splits", f"; `python tools/report.py {folder}` makes it again"):
        write_report([folder / f"split_{split}" for split in splits], path)
        logger.info("report: %s", path)


@contextmanager
def _no_fault_of(what: str, remedy: str = "") -> Iterator[None]:
    """Makes a warning of whatever is raised in the block: what is an extra may not cost a run its success."""
    try:
        yield
    except Exception as error:
        logger.warning("%s could not be made, the results are whole: %s%s", what, error, remedy, exc_info=True)


def _videos_shown(run: FinishedRun) -> list[str]:
    if run.predictions is None:
        return []
    numbers = [*surest_mistakes(run.predictions), *least_sure_hits(run.predictions)]
    return [run.predictions.videos[number] for number in numbers]


def named_apart(runs: list[FinishedRun]) -> list[FinishedRun]:
    """The runs, with names that differ: of their folders, with as many folders above as that takes."""
    parts = [run.folder.resolve().parts for run in runs]
    names: list[str] = []
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            break
    return [replace(run, name=name) for run, name in zip(runs, names, strict=True)]
