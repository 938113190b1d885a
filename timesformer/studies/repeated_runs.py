"""Runs the unfinished repeats of a configuration, and writes the statistics of all (docs/results.md)."""

import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import simplejson
from fvcore.common.config import CfgNode

from timesformer.atomic import write_text_atomically
from timesformer.config import ConfigError, check
from timesformer.config.differences import differences
from timesformer.datasets.catalog import Splits
from timesformer.datasets.records import SPLITS
from timesformer.errors import UserError
from timesformer.preparation.download import download_if_asked
from timesformer.runtime.distributed import from_main_process
from timesformer.runtime.logging import set_up_logging
from timesformer.runtime.ranks import is_main_process
from timesformer.runtime.run_folder import (
    move_aside,
    move_previous_run,
    report_path,
    result_files,
    results_path,
)
from timesformer.studies.cells import Cell
from timesformer.studies.repeats import Repeats
from timesformer.studies.running import Launcher, run_cells
from timesformer.visualization.report import compare_runs
from timesformer.visualization.run_files import read_results
from timesformer.visualization.sections.repeats import Summary, summarize

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
METRICS = ("top1", "top5", "mean_class_top1", "val_top1")
_NEEDS_TEST_ONLY = {"evaluation", "inputs", "rounding", "runtime"}


def run_here(cfg: CfgNode, repeats: Repeats, run: Callable[[CfgNode, Splits], object]) -> None:
    """Runs the repeats one after the other in this process group; all processes must call this together.

    `run` trains and tests a configuration, and leaves `results.json` in its OUTPUT_DIR. Finished repeats are not run
    again, unless TRAIN.AUTO_RESUME is False, and interrupted ones resume.
    """
    cells, data = _prepare(cfg, repeats)
    finished = from_main_process(lambda: _set_aside(cells))
    for number, cell in enumerate(cells):
        if number in finished:
            logger.info("%s is finished: %s", cell.name, results_path(cell.cfg))
            continue
        logger.info("%s runs in %s", cell.name, cell.folder)
        run(cell.cfg, data[_data_key(cell)])
        set_up_logging(Path(cfg.OUTPUT_DIR))
    if is_main_process():
        _finish(cfg, repeats, cells)


def run_as_jobs(cfg: CfgNode, repeats: Repeats, launcher: Launcher) -> int:
    """Runs the repeats as processes or jobs, several at a time; returns the exit code, 1 if one of them failed."""
    cells, _ = _prepare(cfg, repeats)
    _set_aside(cells)
    failed = run_cells(cells, launcher)
    for cell, error in failed.items():
        print(f"failed: {cell.name}: {error}", file=sys.stderr)
    if failed:
        print(f"{len(failed)} of {len(cells)} runs failed; the same command runs them again", file=sys.stderr)
        return 1
    _finish(cfg, repeats, cells)
    return 0


def _prepare(cfg: CfgNode, repeats: Repeats) -> tuple[list[Cell], dict[tuple[int, int], Splits]]:
    """The runs and their data, all checked before the first run begins. Raises UserError."""
    repeats.check(cfg)
    set_up_logging(Path(cfg.OUTPUT_DIR))
    download_if_asked(cfg)
    cells, data = repeats.cells(cfg), {}
    for cell in cells:
        if problems := check(cell.cfg, gpus=False):
            raise ConfigError(problems)
        if _data_key(cell) not in data:
            splits = data[_data_key(cell)] = Splits(cell.cfg)
            for name in SPLITS if cfg.TRAIN.ENABLE else ("test",):
                splits[name]
    return cells, data


def _data_key(cell: Cell) -> tuple[int, int]:
    return cell.cfg.DATA.SPLIT, cell.cfg.DATA.FOLD


def _set_aside(cells: Sequence[Cell]) -> list[int]:
    """Moves results of other tests, or with TRAIN.AUTO_RESUME False all files, to `previous_N` of each run's folder.

    Returns the numbers of the finished runs. Raises UserError for results of options that need training again.
    """
    finished = [number for number, cell in enumerate(cells) if cell.cfg.TRAIN.AUTO_RESUME and _is_finished(cell.cfg)]
    for number, cell in enumerate(cells):
        if number in finished:
            continue
        if cell.cfg.TRAIN.ENABLE and not cell.cfg.TRAIN.AUTO_RESUME:
            move_previous_run(cell.cfg)
        elif results_path(cell.cfg).exists():
            target = move_aside(cell.folder, result_files(cell.cfg))
            logger.info("the results of another test were moved to %s", target)
    return finished


def _is_finished(cfg: CfgNode) -> bool:
    """Whether there are results with these options; UserError for other options that need training again."""
    path = results_path(cfg)
    if not path.is_file():
        return False
    try:
        saved = simplejson.loads(path.read_text())["config"]
    except (ValueError, KeyError, TypeError):
        logger.warning("%s is damaged; the run is tested again", path)
        return False
    changed = [change for change in differences(saved, cfg) if change.effects != {"runtime"}]
    if different := [str(c) for c in changed if not c.effects or c.effects - _NEEDS_TEST_ONLY]:
        raise UserError(
            f"{path} has results of other options: {'; '.join(different)}. Set another OUTPUT_DIR, or "
            "TRAIN.AUTO_RESUME False to run everything again (existing files are moved aside)"
        )
    return not changed


def _finish(cfg: CfgNode, repeats: Repeats, cells: Sequence[Cell]) -> None:
    """Writes repeats.json, splits.json for official splits, and the comparison report; logs a table."""
    output, results = Path(cfg.OUTPUT_DIR), [read_results(results_path(cell.cfg)) for cell in cells]
    summary = summarize_repeats(cfg, repeats, cells, results)
    contents = {"repeats.json": summary}
    if repeats.splits and not repeats.seeds:
        columns = {name: summary[name] for name in ("mean", "std")}
        contents["splits.json"] = summarize_splits(cfg.TEST.DATASET, summary["runs"], **columns)
    texts = {
        output / name: simplejson.dumps(value, indent=2, ignore_nan=True) + "\n" for name, value in contents.items()
    }
    if any(path.exists() and path.read_text() != text for path, text in texts.items()):
        target = move_aside(output, [output / "repeats.json", output / "splits.json", report_path(cfg)])
        logger.info("other results in %s were moved to %s", output, target)
    for path, text in texts.items():
        write_text_atomically(path, text)
    logger.info("results of the runs in percent:\n%s\n%s", _table(summary), ", ".join(map(str, texts)))
    if cfg.TEST.REPORT:
        compare_runs(cfg, [cell.folder for cell in cells])


def summarize_repeats(
    cfg: CfgNode, repeats: Repeats, cells: Sequence[Cell], results: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """The content of repeats.json (docs/results.md), from that of results.json of each run."""
    part = "fold" if repeats.folds else "split" if repeats.splits else None
    runs = []
    for cell, result in zip(cells, results, strict=True):
        numbers = {"fold": cell.cfg.DATA.FOLD, "split": cell.cfg.DATA.SPLIT, "seed": cell.cfg.RNG_SEED}
        row = {name: number for name, number in numbers.items() if name in (part, "seed")}
        keys = [key for key in (*METRICS, "num_videos") if key in result or key != "top5"]
        runs.append({"folder": cell.name, **row, **{key: result.get(key) for key in keys}})
    parts = [run.get(part) for run in runs]
    known = [name for name in METRICS if all(run.get(name) is not None for run in runs)]
    statistics = {name: summarize([run[name] for run in runs], parts) for name in known}
    unit = part if part and len(set(parts)) > 1 else "seed"
    return {
        "schema_version": SCHEMA_VERSION,
        "dataset": cfg.TEST.DATASET,
        "repeats": {name: value for name, value in asdict(repeats).items() if value},
        "runs": runs,
        "mean": _column(statistics, "mean"),
        "std": _column(statistics, "std"),
        "interval": {
            "level": 0.95,
            "method": "Student's t",
            "unit": unit,
            "count": statistics["top1"].count,
            "low": _column(statistics, "low"),
            "high": _column(statistics, "high"),
        },
    }


def _column(statistics: dict[str, Summary], name: str) -> dict[str, float | None]:
    values = {metric: getattr(summary, name) for metric, summary in statistics.items()}
    return {metric: value if value is None else round(value, 4) for metric, value in values.items()}


def summarize_splits(dataset: str, runs: Sequence[dict[str, Any]], **columns: dict[str, Any]) -> dict[str, Any]:
    """The content of splits.json, from `runs` and the columns `mean` and `std` of repeats.json."""
    keys = ("split", "top1", "top5", "val_top1", "num_videos")
    rows = [{key: run[key] for key in keys if key in run} for run in runs]
    kept = {name: {key: column[key] for key in ("top1", "top5") if key in column} for name, column in columns.items()}
    return {"schema_version": SCHEMA_VERSION, "dataset": dataset, "splits": rows, **kept}


def _table(content: dict[str, Any]) -> str:
    """The runs and their statistics in aligned columns."""
    names = [name for name in METRICS if name in content["mean"]]
    rows = [["run", *names, "videos"]]
    for run in content["runs"]:
        rows.append([run["folder"], *(f"{run[name]:.2f}" for name in names), str(run["num_videos"])])
    several, interval = len(content["runs"]) > 1, content["interval"]
    rows.append(["mean", *(f"{content['mean'][name]:.2f}" for name in names), ""])
    if several:
        rows.append(["standard deviation", *(f"{content['std'][name]:.2f}" for name in names), ""])
        ends = (f"{interval['low'][name]:.1f} to {interval['high'][name]:.1f}" for name in names)
        rows.append([f"95 % interval (t, {interval['count']} {interval['unit']}s)", *ends, ""])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [[f"{cell:{'<' if not n else '>'}{widths[n]}}" for n, cell in enumerate(row)] for row in rows]
    return "\n".join("  ".join(line).rstrip() for line in lines)
