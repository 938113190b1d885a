"""The folder for what is computed later about the results of a test."""

import logging
from datetime import datetime
from pathlib import Path
from typing import Any

import simplejson

import timesformer
from timesformer.atomic import report_write_errors, write_text_atomically
from timesformer.runtime.run_folder import ANALYSIS, move_aside

logger = logging.getLogger(__name__)

_INDEX = "analysis.json"


def begin_analysis(folder: Path, results: dict[str, Any]) -> Path:
    """The folder for files about the results in `folder`; creates it, and moves one about other results aside."""
    path = folder / ANALYSIS
    with report_write_errors(path, "free some space"):
        if path.exists() and not is_of(folder, results):
            logger.info("%s is about other results and was moved to %s", path, move_aside(folder, [path]))
        path.mkdir(exist_ok=True)
    content = {
        "tested": results.get("finished"),
        "weights": results.get("weights"),
        "finished": datetime.now().astimezone().isoformat(timespec="seconds"),
        "timesformer": timesformer.__version__,
    }
    write_text_atomically(path / _INDEX, simplejson.dumps(content, indent=1) + "\n")
    return path


def find_analysis(folder: Path, results: dict[str, Any]) -> Path | None:
    """The folder with files about the results in `folder`; None if there is none, or it is about other results."""
    return folder / ANALYSIS if results and is_of(folder, results) else None


def is_of(folder: Path, results: dict[str, Any]) -> bool:
    """Whether the analysis in a folder is about these results."""
    try:
        content = simplejson.loads((folder / ANALYSIS / _INDEX).read_text(encoding="utf-8"))
        return all(content[name] == results.get(key) for name, key in (("tested", "finished"), ("weights", "weights")))
    except (OSError, ValueError, KeyError, TypeError):
        return False
