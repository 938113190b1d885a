"""Checkpoints of a run: written whole, found again, and told apart from those of another run."""

import logging
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from fvcore.common.config import CfgNode
from torch import nn

from timesformer.atomic import explained_failure, write_atomically
from timesformer.config import get_cfg
from timesformer.engine.run_folder import best_path, checkpoint_folder
from timesformer.errors import UserError, shorten
from timesformer.models.weights import CheckpointError, read_checkpoint

logger = logging.getLogger(__name__)

_MAKE_ANOTHER_RUN = (
    "MODEL.",
    "TIMESFORMER.",
    "VIVIT.",
    "TRAIN.DATASET ",
    "DATA.SPLIT ",  # one would be tested on clips that it was trained on
    "DATA.SPLIT_",
    "DATA.TEST_SHARE ",
    "DATA.VAL_SHARE ",
    "DATA.PROTOCOL ",
    "DATA.TEST_SUBJECTS ",
    "DATA.VAL_SUBJECTS ",
    "DATA.TEST_SCENES ",
    "DATA.NUM_FRAMES ",
    "DATA.TRAIN_CROP_SIZE ",
    "SOLVER.OPTIMIZING_METHOD ",
    "SOLVER.ZERO_WEIGHT_DECAY_1D ",
    "SOLVER.LAYER_DECAY ",
)
_MAY_CHANGE = {"OUTPUT_DIR", "LOG_PERIOD", "LOG_MODEL_INFO", "NUM_GPUS", "TEST", "TENSORBOARD", "DATA_LOADER"}
_NAME = re.compile(r"checkpoint_epoch_(\d{5,})\.pyth")


@dataclass
class Progress:
    """How far a training run has come.

    Attributes:
        epoch: epochs finished.
        best_top1: highest validation top-1 so far in percent; -1 before the first validation.
        best_loss: validation loss at that time, which decides between equal top-1.
        best_epoch: epochs finished at that time.
        seconds: time spent in training so far, over all interruptions.
        class_names: names of the classes in label order.
    """

    epoch: int = 0
    best_top1: float = -1.0
    best_loss: float = float("inf")
    best_epoch: int = 0
    seconds: float = 0.0
    class_names: list[str] = field(default_factory=list)


def save_epoch(cfg: CfgNode, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> Path:
    """Writes `checkpoint_epoch_NNNNN.pyth`, numbered by finished epochs, with the original's keys.

    These are `epoch` (the last finished one, from 0), `model_state`, `optimizer_state` and `cfg` (YAML text);
    `progress` is this project's own.
    """
    path = checkpoint_folder(cfg) / f"checkpoint_epoch_{progress.epoch:05d}.pyth"
    _save(path, cfg, model, progress, {"optimizer_state": optimizer.state_dict()})
    return path


def save_best(cfg: CfgNode, model: nn.Module, progress: Progress) -> None:
    """Writes `best.pyth`: as an epoch's checkpoint, without the optimizer."""
    _save(best_path(cfg), cfg, model, progress, {})


def _save(path: Path, cfg: CfgNode, model: nn.Module, progress: Progress, more: dict[str, Any]) -> None:
    content = {
        "epoch": progress.epoch - 1,
        "model_state": model.state_dict(),
        **more,
        "cfg": cfg.dump(),
        "progress": vars(progress),
    }
    with explained_failure(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: torch.save(content, file))


def newest_checkpoint(cfg: CfgNode) -> tuple[Path, dict[str, Any]] | None:
    """The whole checkpoint of OUTPUT_DIR with the most epochs, and its content; None where there is none.

    A damaged file is passed over with a warning.
    """
    folder = checkpoint_folder(cfg)
    found = [(int(match[1]), path) for path in folder.glob("*.pyth") if (match := _NAME.fullmatch(path.name))]
    for _, path in sorted(found, reverse=True):
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            if {"epoch", "model_state", "optimizer_state", "cfg"} <= content.keys():
                return path, content
            problem = "does not hold what a run continues from (epoch, model_state, optimizer_state, cfg)"
        except Exception as error:  # torch raises whatever the broken bytes lead to
            problem = f"is damaged or cut short ({type(error).__name__})"
        logger.warning("%s %s; it is passed over", path, problem)
    return None


def restore(
    cfg: CfgNode,
    path: Path,
    content: dict[str, Any],
    class_names: tuple[str, ...],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> Progress:
    """Puts a run back to where its checkpoint was written.

    Raises:
        UserError: if the checkpoint is of another model or other classes.
    """
    then = yaml.safe_load(content["cfg"])
    now = yaml.safe_load(cfg.dump())
    defaults = yaml.safe_load(get_cfg().dump())  # an option younger than the checkpoint was as it is by default
    changed = sorted(differences(then, now, defaults, _MAY_CHANGE))
    ways_out = "choose another OUTPUT_DIR, or set TRAIN.AUTO_RESUME False to begin anew (what is there is kept aside)"
    alien = [change for change in changed if change.startswith(_MAKE_ANOTHER_RUN)]
    if alien:
        raise UserError(f"{path} is of another run, with other options: {'; '.join(alien)}. To go on, {ways_out}")
    progress = Progress(**content.get("progress") or {"epoch": content["epoch"] + 1, "class_names": [*class_names]})
    if progress.class_names != list(class_names):
        raise UserError(
            f"{path} is of a run with other classes: {len(progress.class_names)} ({shorten(progress.class_names)}), "
            f"where the data has {len(class_names)} ({shorten(class_names)}). To go on, {ways_out}"
        )
    try:
        model.load_state_dict(content["model_state"])
        _take_over(optimizer, content["optimizer_state"])
    except (RuntimeError, ValueError, KeyError) as error:
        raise UserError(f"{path} does not fit this run: {_one_line(error)}. To go on, {ways_out}") from error
    if changed:
        logger.warning("options changed since %s was written: %s", path.name, "; ".join(changed))
    return progress


def continue_from(path: str, model: nn.Module, optimizer: torch.optim.Optimizer, epoch_reset: bool) -> Progress:
    """Takes over weights, optimizer and epoch of a checkpoint that lies elsewhere (TRAIN.FINETUNE False).

    Raises:
        CheckpointError: if it is no checkpoint; if it lacks one of them or does not fit, with TRAIN.FINETUNE named as
            the way to take the weights only.
    """
    given = read_checkpoint(path)
    rest = given.rest
    reason = ", ".join(f"it has no {key}" for key in ("optimizer_state", "epoch") if key not in rest)
    try:
        if not reason:
            getattr(model, "model", model).load_state_dict(given.state)
            _take_over(optimizer, rest["optimizer_state"])
            return Progress(epoch=0 if epoch_reset else int(rest["epoch"]) + 1)
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        reason = _one_line(error)
    raise CheckpointError(
        f"{path} cannot be continued: {reason}. To start from its weights alone, set TRAIN.FINETUNE True"
    )


def _take_over(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Loads the moments of a saved optimizer; momentum, weight decay and the like stay as configured now."""
    configured = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    saved = state["param_groups"]
    if any(("betas" in mine) != ("betas" in theirs) for mine, theirs in zip(configured, saved, strict=False)):
        raise ValueError("its optimizer is of another kind than SOLVER.OPTIMIZING_METHOD")
    optimizer.load_state_dict(state)
    for group, options in zip(optimizer.param_groups, configured, strict=True):
        group.update(options)


def _one_line(error: Exception, limit: int = 300) -> str:
    text = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
    return text if len(text) <= limit else f"{text[:limit]} ..."


def differences(
    then: dict[str, Any], now: dict[str, Any], defaults: dict[str, Any], ignored: Collection[str], prefix: str = ""
) -> list[str]:
    """How a configuration differs from an earlier one: a line for each option, that begins with its key and a blank.

    Args:
        then: the earlier configuration, as sections and keys.
        now: the present one.
        defaults: values of options that the earlier one does not have yet.
        ignored: keys and sections that are left out, such as "TEST" and "TRAIN.AUTO_RESUME".
        prefix: the section that the three are of, with a dot; empty for the whole.
    """
    lines = []
    for key in sorted(key for key in {*then, *now} if f"{prefix}{key}" not in ignored):
        before, after = then.get(key, defaults.get(key)), now.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            lines += differences(before, after, defaults.get(key, {}), ignored, f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key} was {before}, is {after}")
    return lines
