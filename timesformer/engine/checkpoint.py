"""Checkpoints of a run: written whole, found again, and told apart from those of another run.

A run is its progress and its parts: objects with `state_dict` and `load_state_dict`, by name. "model" and "optimizer"
are always among them; a part that a checkpoint lacks, because it is older than that part, begins afresh.
"""

import logging
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

import torch
import yaml
from fvcore.common.config import CfgNode
from torch import nn

from timesformer.atomic import report_write_errors, write_atomically
from timesformer.config.differences import differences
from timesformer.errors import UserError, shorten
from timesformer.models.weights.loading import CheckpointError, read_checkpoint
from timesformer.runtime.distributed import from_main_process
from timesformer.runtime.ranks import dist_info, is_main_process
from timesformer.runtime.run_folder import best_path, checkpoint_folder, epoch_checkpoints

logger = logging.getLogger(__name__)

_DIFFERENT_RUN = {"model", "optimizer", "split"}
_MAY_CHANGE = {"evaluation", "rounding", "runtime"}
_FOLDER = 0x10  # a bit of a zip entry's attributes


class Part(Protocol):
    """What a checkpoint keeps a part of."""

    def state_dict(self) -> dict[str, Any]:
        """The part's state, of tensors and plain values."""

    def load_state_dict(self, state: dict[str, Any]) -> object:
        """Goes back to that state."""


@dataclass
class Progress:
    """How far a training run has come.

    Attributes:
        epoch: epochs finished.
        iteration: batches done of the next epoch, all of them in optimizer steps that are done.
        batch_size: clips of such a batch, over all processes.
        validated: epochs finished at the last validation.
        not_better: validations since the best one.
        best_top1: highest validation top-1 so far in percent; None before the first validation.
        best_loss: validation loss at that time, which decides between equal top-1.
        best_epoch: epochs finished at that time.
        last_top1: top-1 of the last validation in percent; None before the first.
        seconds: time spent in training so far, over all interruptions.
        class_names: names of the classes in label order.
    """

    epoch: int = 0
    iteration: int = 0
    batch_size: int = 0
    validated: int = 0
    not_better: int = 0
    best_top1: float | None = None
    best_loss: float = float("inf")
    best_epoch: int = 0
    last_top1: float | None = None
    seconds: float = 0.0
    class_names: list[str] = field(default_factory=list)

    @property
    def position(self) -> tuple[int, int]:
        """Epochs finished, and iterations of the next."""
        return self.epoch, self.iteration

    def describe(self) -> str:
        """The position in words."""
        return f"epoch {self.epoch}" + (f" and {self.iteration} iterations" if self.iteration else "")


def save(cfg: CfgNode, parts: Mapping[str, Part], progress: Progress) -> Path:
    """Writes `checkpoint_epoch_NNNNN.pyth`, or amid an epoch `checkpoint_epoch_NNNNN_iteration_NNNNNNNN.pyth`.

    The numbers are those of finished epochs, and of finished iterations of the next. The keys are the original's:
    `epoch` (the last finished one, from 0), `model_state`, `optimizer_state` and `cfg` (YAML text); and this project's:
    `progress`, and for each other part `<name>_state`. Of several processes, each of which must call this, the lead
    writes.

    Raises:
        UserError: if it cannot be written; what was written before stays.
    """
    amid = f"_iteration_{progress.iteration:08d}" if progress.iteration else ""
    path = checkpoint_folder(cfg) / f"checkpoint_epoch_{progress.epoch:05d}{amid}.pyth"
    _save(path, cfg, parts, progress)
    return path


def save_best(cfg: CfgNode, model: nn.Module, progress: Progress) -> None:
    """Writes `best.pyth`: as an epoch's checkpoint, with the model alone; errors as `save`."""
    _save(best_path(cfg), cfg, {"model": model}, progress)


def _save(path: Path, cfg: CfgNode, parts: Mapping[str, Part], progress: Progress) -> None:
    states = {f"{name}_state": part.state_dict() for name, part in parts.items()}  # some are joined of all processes'
    if not is_main_process():
        return
    content = {
        "epoch": progress.epoch - 1,
        **states,
        "cfg": cfg.dump(),
        "progress": vars(progress),
    }
    with report_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: torch.save(content, file))


def newest_checkpoint(cfg: CfgNode) -> tuple[Path, dict[str, Any]] | None:
    """The whole checkpoint of OUTPUT_DIR that is furthest, and its content; None where there is none.

    A damaged file is passed over with a warning. Of several processes, each of which must call this, all get the one
    that the lead has found.

    Raises:
        UserError: if it is not there for this process.
    """
    found = _newest_checkpoint(cfg) if is_main_process() else None
    path = from_main_process(lambda: found and found[0])
    if is_main_process() or path is None:
        return found
    try:
        return path, torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(
            f"{path} is not on this machine, where process {dist_info().rank} needs it: give an OUTPUT_DIR on a "
            "disk that all machines see"
        ) from error


def _newest_checkpoint(cfg: CfgNode) -> tuple[Path, dict[str, Any]] | None:
    for _, path in sorted(epoch_checkpoints(checkpoint_folder(cfg)), reverse=True):
        try:
            if not is_undamaged(path):
                logger.warning("%s is damaged or cut short; it is passed over", path)
                continue
            content = torch.load(path, map_location="cpu", weights_only=True)
            if {"epoch", "model_state", "optimizer_state", "cfg"} <= content.keys():
                return path, content
            problem = "does not hold what a run continues from (epoch, model_state, optimizer_state, cfg)"
        except Exception as error:  # torch raises whatever a file that is none of its leads to
            problem = f"cannot be read ({type(error).__name__}: {_one_line(error)})"
        logger.warning("%s %s; it is passed over", path, problem)
    return None


def remove_superseded(cfg: CfgNode, progress: Progress, finished: bool) -> None:
    """Deletes checkpoints that the one just written at `progress` makes superfluous; best.pyth is never one of them.

    TRAIN.KEEP_CHECKPOINTS of those after whole epochs stay (0: all), the newest. One from amid an epoch stays as long
    as it is the newest or, lest the newest be damaged, the one before, unless the run is `finished`. Those further
    ahead were passed over as damaged, and are left alone.
    """
    if not is_main_process():
        return
    newest_first = sorted(
        (found for found in epoch_checkpoints(checkpoint_folder(cfg)) if found[0] <= progress.position), reverse=True
    )
    of_epochs = [path for (_, iteration), path in newest_first if iteration == 0]
    superfluous = of_epochs[keep:] if (keep := cfg.TRAIN.KEEP_CHECKPOINTS) else []
    superfluous += [path for (_, iteration), path in newest_first[1 if finished else 2 :] if iteration > 0]
    for path in superfluous:
        path.unlink(missing_ok=True)


def newest_progress(path: Path, progress: Mapping[str, Any]) -> dict[str, Any]:
    """How far the run of a checkpoint has come in all: the progress of the newest checkpoint in its folder.

    Args:
        path: the checkpoint.
        progress: its own.

    Returns:
        As `vars` of a `Progress`; empty where the folder has none of the same run that is as far as the checkpoint.
    """
    for _, newest in sorted(epoch_checkpoints(path.parent), reverse=True):
        try:
            found = torch.load(newest, map_location="cpu", weights_only=True, mmap=True)["progress"]
            same = found["class_names"] == progress["class_names"] and found["epoch"] >= progress["epoch"]
        except Exception as error:  # torch raises whatever a file that is none of its leads to
            logger.debug("%s does not say how far training has come: %s", newest, error)
        else:
            return dict(found) if same else {}
    return {}


def names(cfg: CfgNode) -> list[str]:
    """Names of the run's checkpoints in their order, damaged ones too, without best.pyth."""
    return [path.name for _, path in sorted(epoch_checkpoints(checkpoint_folder(cfg)))]


def is_undamaged(path: Path) -> bool:
    """Whether all that a checkpoint holds is as it was written.

    What torch.save writes is a zip archive with a CRC-32 of each tensor and of all else, at which torch.load does not
    look. Files of its older format have none, and count as undamaged.
    """
    try:
        with path.open("rb") as file:
            if file.read(2) != b"PK":
                return True
        with zipfile.ZipFile(path) as archive:
            # The sums do not cover the mark of a folder, and torch.load reads nothing where it stands.
            marked = any(entry.external_attr & _FOLDER for entry in archive.infolist())
            return not marked and archive.testzip() is None
    except Exception:  # zipfile, too, raises whatever the broken bytes lead to
        return False


def restore(
    cfg: CfgNode, path: Path, content: dict[str, Any], class_names: tuple[str, ...], parts: Mapping[str, Part]
) -> Progress:
    """Puts a run back to where its checkpoint was written.

    Raises:
        UserError: if the checkpoint is of another model or other classes.
    """
    changes = differences(yaml.safe_load(content["cfg"]), cfg)
    changed = [change for change in changes if not change.effects or change.effects - _MAY_CHANGE]
    ways_out = "choose another OUTPUT_DIR, or set TRAIN.AUTO_RESUME False to begin anew (what is there is kept aside)"
    if different := [str(change) for change in changed if change.effects & _DIFFERENT_RUN]:
        raise UserError(f"{path} is of another run, with other options: {'; '.join(different)}. To go on, {ways_out}")
    told = {"epoch": content["epoch"] + 1, "class_names": [*class_names], **saved_progress(content)}
    progress = Progress(**{"validated": told["epoch"], **told})  # those that do not tell were written after it
    if progress.class_names != list(class_names):
        raise UserError(
            f"{path} is of a run with other classes: {len(progress.class_names)} ({shorten(progress.class_names)}), "
            f"where the data has {len(class_names)} ({shorten(class_names)}). To go on, {ways_out}"
        )
    try:
        for name, part in parts.items():
            state = content.get(f"{name}_state")
            if name == "optimizer":
                _take_over(part, state)
            elif state is not None:
                part.load_state_dict(state)
    except (RuntimeError, ValueError, KeyError) as error:
        raise UserError(f"{path} does not fit this run: {_one_line(error)}. To go on, {ways_out}") from error
    if unknown := sorted(name for name in content if name.endswith("_state") and name[: -len("_state")] not in parts):
        logger.warning("%s holds %s, which this run does not have; ignored", path.name, ", ".join(unknown))
    if changed:
        logger.warning("options changed since %s was written: %s", path.name, "; ".join(map(str, changed)))
    if any("start" in change.effects for change in changed):
        logger.warning(
            "the run resumes with the weights of %s and reads no others; to start from other weights, %s",
            path.name,
            ways_out,
        )
    return progress


def saved_progress(content: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `Progress` that the content of a checkpoint has; empty for a checkpoint of another program.

    Fields of a newer version are ignored with a warning.
    """
    saved = content.get("progress")
    if not isinstance(saved, Mapping):
        return {}
    known = {name: value for name, value in saved.items() if name in {field.name for field in fields(Progress)}}
    if unknown := sorted(map(str, saved.keys() - known.keys())):
        logger.warning("the checkpoint is of a newer version: its progress has %s; ignored", ", ".join(unknown))
    if known.get("best_top1") == -1.0:  # older versions wrote this before the first validation
        known["best_top1"] = None
    return known


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
            epoch = 0 if epoch_reset else int(rest["epoch"]) + 1
            return Progress(epoch=epoch, validated=epoch)
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        reason = _one_line(error)
    raise CheckpointError(
        f"{given.source} cannot be continued: {reason}. To start from its weights alone, set TRAIN.FINETUNE True"
    )


def _take_over(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Loads the moments of a saved optimizer; momentum, weight decay and the like stay as configured now.

    The learning rate is that of the last step, which the next step replaces.
    """
    configured = [{k: v for k, v in group.items() if k not in ("params", "lr")} for group in optimizer.param_groups]
    saved = state["param_groups"]
    if any(("betas" in mine) != ("betas" in theirs) for mine, theirs in zip(configured, saved, strict=False)):
        raise ValueError("its optimizer is of another kind than SOLVER.OPTIMIZING_METHOD")
    # Where the counts of steps are kept, on the device or not, depends on whether the optimizer is a fused one now.
    groups = [{**theirs, "fused": mine["fused"]} for mine, theirs in zip(configured, saved, strict=False)]
    optimizer.load_state_dict({**state, "param_groups": groups})
    for group, options in zip(optimizer.param_groups, configured, strict=True):
        group.update(options)


def _one_line(error: Exception, limit: int = 300) -> str:
    text = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
    return text if len(text) <= limit else f"{text[:limit]} ..."
