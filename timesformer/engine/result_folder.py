"""Where the results of a test go, so that those of another test that lie there are kept."""

import csv
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import simplejson
from fvcore.common.config import CfgNode

from timesformer.config.differences import differences
from timesformer.errors import shorten
from timesformer.runtime.run_folder import TEST_FOLDER, move_aside, result_files, results_path, with_output_dir

logger = logging.getLogger(__name__)

_AFFECTS_RESULTS = {"model", "clips", "evaluation"}  # weights and videos are compared themselves


def folder_for_results(cfg: CfgNode, weights: str, videos: Sequence[str]) -> Path:
    """The folder for the results of a test, in which there are none of another test any more.

    That is OUTPUT_DIR, unless a test of other weights, options or videos has left its results there. A run that trains
    (TRAIN.ENABLE) then moves those to `previous_1`, `previous_2`, ...; a mere test leaves them and goes into a folder
    of its own, `test_<clips>x<crops>` of each video, with a number behind where that is another test's. What is done is
    said in a line of the log. The same test repeated replaces its own results.

    Args:
        cfg: the configuration.
        weights: fingerprint of the tested weights (`models.weights.fingerprint`).
        videos: names of the videos.
    """
    output = Path(cfg.OUTPUT_DIR)
    if not results_path(cfg).exists() or not (changed := _differences(output, cfg, weights, videos)):
        return output
    reason = shorten(changed, "; ", 3)
    if cfg.TRAIN.ENABLE or not _read(output):
        target = move_aside(output, result_files(cfg))
        logger.info("the results in %s are of another test (%s); they are now in %s", output, reason, target)
        return output
    name = f"{TEST_FOLDER}{cfg.TEST.NUM_ENSEMBLE_VIEWS}x{cfg.TEST.NUM_SPATIAL_CROPS}"
    folder, number = output / name, 1
    while results_path(with_output_dir(cfg, folder)).exists() and _differences(folder, cfg, weights, videos):
        number += 1
        folder = output / f"{name}_{number}"
    logger.info("the results in %s are of another test (%s); this one's go to %s", output, reason, folder)
    return folder


def _differences(folder: Path, cfg: CfgNode, weights: str, videos: Sequence[str]) -> list[str]:
    """How a test differs from that whose results lie in a folder; empty: it is the same."""
    results = _read(folder)
    if not results:
        return ["results.json is damaged"]
    changes = differences(results["config"], cfg)
    changed = [str(change) for change in changes if change.effects & _AFFECTS_RESULTS]
    if "weights" not in results:
        changed.append("an older version did not record their weights")
    elif results["weights"] != weights:
        changed.append(f"other weights of {results.get('checkpoint')}")
    if sorted(_videos(folder)) != sorted(videos):
        changed.append("other videos")
    return changed


def _read(folder: Path) -> dict[str, Any]:
    """What results.json says; empty where it is damaged."""
    try:
        results = simplejson.loads((folder / "results.json").read_text(encoding="utf-8"))
        return results if isinstance(results["config"], dict) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _videos(folder: Path) -> list[str]:
    try:
        with (folder / "predictions.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            return [row["video"] for row in csv.DictReader(file)]
    except (OSError, KeyError, csv.Error):
        return []
