"""Temperature scaling of a tested model: fitted on validation, saved in its checkpoint, used in predictions.

A checkpoint has a list `calibration` of objects of `temperature` and `options`, the options of the views that it was
fitted on.
"""

import logging
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from fvcore.common.config import CfgNode

from timesformer.atomic import report_write_errors, write_atomically
from timesformer.config.differences import affecting, changes_since
from timesformer.config.options import get_option
from timesformer.datasets.catalog import Splits
from timesformer.errors import UserError, shorten
from timesformer.metrics.calibration import TEMPERATURES, Calibration, fit_temperature, is_at_limit
from timesformer.metrics.evaluation import Evaluation
from timesformer.models.weights.exported import exported_format
from timesformer.runtime import distributed
from timesformer.runtime.run_folder import checkpoint_folder

logger = logging.getLogger(__name__)

KEY = "calibration"
_OF_VIEWS = (
    "TEST.NUM_ENSEMBLE_VIEWS",
    "TEST.NUM_SPATIAL_CROPS",
    "DATA.ENSEMBLE_METHOD",
    "DATA.TEST_CROP_SIZE",
)


def calibrate(
    cfg: CfgNode, splits: Splits, content: dict[str, Any], evaluate_validation: Callable[[], Evaluation]
) -> Calibration:
    """Fits a temperature on the validation split with the views of the test; logs the reason if that is not possible.

    `content` are the entries of the tested checkpoint besides the weights. All processes must call this together.
    """
    reason, count = distributed.from_main_process(lambda: _obstacle(cfg, splits, content)), 0
    if not reason:
        evaluation = evaluate_validation()
        usable = evaluation.readable & evaluation.logits.isfinite().all(dim=1)
        logits, labels, count = evaluation.logits[usable], evaluation.labels[usable], int(usable.sum())
        if not count:
            reason = "no validation video can be scored"
        elif (logits.argmax(dim=1) == labels).all():
            reason = f"all {count} validation videos are predicted correctly"
    if reason:
        logger.info("the probabilities are not calibrated: %s", reason)
        return Calibration(None, count, reason)
    temperature, _ = fit_temperature(logits, labels)
    logger.info("calibration: temperature %.3f, fitted on %d validation videos", temperature, count)
    if is_at_limit(temperature):
        logger.warning(
            "the calibration temperature %.2f is at the limit of its range, %g to %g: %d validation videos do not "
            "determine it. Use more validation videos, or TEST.CALIBRATE False for probabilities without a temperature",
            temperature,
            *TEMPERATURES,
            count,
        )
    return Calibration(temperature, count)


def _obstacle(cfg: CfgNode, splits: Splits, content: dict[str, Any]) -> str:
    """Why no temperature can be fitted; empty if it can."""
    if not cfg.TEST.CALIBRATE:
        return "TEST.CALIBRATE is False"
    if cfg.TEST.FRAME_ORDER != "original":
        return f"TEST.FRAME_ORDER is {cfg.TEST.FRAME_ORDER}"
    try:
        validation, tested = splits["val"], splits["test"]
    except UserError as error:
        return f"there is no validation split ({str(error).splitlines()[0]})"
    if validation.class_names != tested.class_names:
        return "validation and test have other classes"
    paths, test_paths = ({os.path.abspath(path) for path in found.records.paths()} for found in (validation, tested))
    if shared := len(paths & test_paths):
        return f"{shared} of {len(paths)} validation videos are in the test split"
    if changed := [str(change) for change in changes_since(cfg, content)[1] if "split" in change.effects]:
        return f"the checkpoint was trained with another split: {shorten(changed, '; ', 3)}"
    return ""


class FittedTemperature(NamedTuple):
    """A temperature, and the options of the views that it was fitted on, by key."""

    temperature: float
    options: dict[str, Any]


def save_temperature(cfg: CfgNode, calibration: Calibration, path: Path) -> None:
    """Adds the temperature to a checkpoint of the run; other files, such as exported models, are not changed."""
    if calibration.temperature is None or exported_format(path):
        return
    if path.resolve().parent != checkpoint_folder(cfg).resolve():
        logger.info("the temperature is not saved in %s, which is not in %s", path, checkpoint_folder(cfg))
        return
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    options, fitted = _options_of_views(cfg), saved_temperatures(content)
    others = [entry for entry in fitted if entry.options != options]
    updated = [*others, FittedTemperature(calibration.temperature, options)]
    if updated != fitted:
        content[KEY] = [entry._asdict() for entry in updated]
        with report_write_errors(path):
            write_atomically(path, lambda file: torch.save(content, file))


def saved_temperatures(content: dict[str, Any]) -> list[FittedTemperature]:
    """The valid temperatures in the content of a checkpoint."""
    entries = content.get(KEY)
    entries = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    fitted = [FittedTemperature(entry.get("temperature"), entry.get("options")) for entry in entries]
    return [
        entry
        for entry in fitted
        if isinstance(entry.temperature, float) and 0 < entry.temperature < math.inf and isinstance(entry.options, dict)
    ]


def temperature_of(fitted: Sequence[FittedTemperature], cfg: CfgNode) -> float:
    """The temperature whose views differ from those of `cfg` in the fewest options.

    1 if none was fitted, or with TEST.CALIBRATE False.
    """
    if not fitted or not cfg.TEST.CALIBRATE:
        return 1.0
    wanted = _options_of_views(cfg)
    return min(fitted, key=lambda entry: sum(entry.options.get(key) != wanted[key] for key in wanted)).temperature


def _options_of_views(cfg: CfgNode) -> dict[str, Any]:
    return {**affecting(cfg, "clips"), **{key: get_option(cfg, key) for key in _OF_VIEWS}}
