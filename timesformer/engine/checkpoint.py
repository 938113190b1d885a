"""Checkpoints of a run: saving, finding and restoring them.

A checkpoint holds the progress of the run and the states of its objects by name ("model", "optimizer", ...). An object
without a state in the checkpoint keeps its initial one.
"""

import logging
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
import yaml
from fvcore.common.config import CfgNode
from torch import nn

from timesformer.atomic import report_write_errors, write_atomically
from timesformer.config.differences import differences
from timesformer.engine.progress import Progress
from timesformer.errors import UserError, shorten
from timesformer.models.parts import inner_model
from timesformer.models.weights.loading import CheckpointError, read_checkpoint
from timesformer.models.weights.normalization import warn_of_normalization
from timesformer.models.weights.trained_split import warn_of_split
from timesformer.runtime.distributed import from_main_process
from timesformer.runtime.ranks import dist_info, is_main_process
from timesformer.runtime.run_folder import best_path, checkpoint_folder, epoch_checkpoints

logger = logging.getLogger(__name__)

_DIFFERENT_RUN = {"model", "optimizer", "split"}
_MAY_CHANGE = {"evaluation", "rounding", "runtime"}
_RETRAIN = {"clips", "start", "training"}
_REMEDY = "Set another OUTPUT_DIR, or TRAIN.AUTO_RESUME False to start again (existing files are moved aside)"
_FOLDER = 0x10  # a bit of a zip entry's attributes


class Stateful(Protocol):
    """An object that a checkpoint stores."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> object: ...


def save(cfg: CfgNode, objects: Mapping[str, Stateful], progress: Progress, path: Path | None = None) -> Path:
    """Writes `path`, `checkpoint_epoch_NNNNN.pyth`, or mid-epoch `checkpoint_epoch_NNNNN_iteration_NNNNNNNN.pyth`.

    The keys are the original's (`epoch`, from 0, `model_state`, `optimizer_state`, `cfg` as YAML), `progress`,
    `<name>_state` of each other object, and `network_config` of a model of transformers. All processes must call this
    together; the main process writes.
    """
    iteration = f"_iteration_{progress.iteration:08d}" if progress.iteration else ""
    path = path or checkpoint_folder(cfg) / f"checkpoint_epoch_{progress.epoch:05d}{iteration}.pyth"
    states = {f"{name}_state": item.state_dict() for name, item in objects.items()}  # some gather from all processes
    if is_main_process():
        content = {"epoch": progress.epoch - 1, **states, "cfg": cfg.dump(), "progress": vars(progress)}
        if config := getattr(objects["model"], "network_config", None):
            content["network_config"] = config
        with report_write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, lambda file: torch.save(content, file))
    return path


def save_best(cfg: CfgNode, model: nn.Module, progress: Progress) -> None:
    """Writes `best.pyth`: like an epoch's checkpoint, with the model only."""
    save(cfg, {"model": model}, progress, best_path(cfg))


def newest_checkpoint(cfg: CfgNode) -> tuple[Path, dict[str, Any]] | None:
    """The newest undamaged checkpoint in OUTPUT_DIR and its content; None if there are no checkpoints.

    All processes must call this together, and get what the main process has found. UserError if all are damaged.
    """
    found = _newest_checkpoint(cfg) if is_main_process() else None
    path = from_main_process(lambda: found and found[0])
    if is_main_process() or path is None:
        return found
    try:
        return path, torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(
            f"{path} is not visible to process {dist_info().rank}: set OUTPUT_DIR to a disk shared by all nodes"
        ) from error


def _newest_checkpoint(cfg: CfgNode) -> tuple[Path, dict[str, Any]] | None:
    paths = [path for _, path in sorted(epoch_checkpoints(checkpoint_folder(cfg)), reverse=True)]
    for path in paths:
        try:
            if not is_undamaged(path):
                logger.warning("%s is damaged and skipped", path)
                continue
            content = torch.load(path, map_location="cpu", weights_only=True)
            if {"epoch", "model_state", "optimizer_state", "cfg"} <= content.keys():
                return path, content
            logger.warning("%s lacks epoch, model_state, optimizer_state or cfg, and is skipped", path)
        except Exception as error:  # torch.load raises many types
            logger.warning("%s cannot be read (%s), and is skipped", path, _one_line(error))
    if paths:
        raise UserError(
            f"no checkpoint in {checkpoint_folder(cfg)} can be used (see the warnings above): "
            f"{shorten(path.name for path in paths)}. {_REMEDY}"
        )
    return None


def remove_superseded(cfg: CfgNode, progress: Progress, finished: bool) -> None:
    """Deletes the checkpoints that the one just written at `progress` supersedes; never best.pyth.

    The newest TRAIN.KEEP_CHECKPOINTS of finished epochs stay (0: all). A mid-epoch checkpoint stays if it is the newest
    or the one before (the newest may get damaged), unless the run is `finished`. Damaged ones ahead of `progress` stay.
    """
    if not is_main_process():
        return
    found = sorted(epoch_checkpoints(checkpoint_folder(cfg)), reverse=True)
    newest_first = [item for item in found if item[0] <= progress.position]
    of_epochs = [path for (_, iteration), path in newest_first if iteration == 0]
    superseded = of_epochs[keep:] if (keep := cfg.TRAIN.KEEP_CHECKPOINTS) else []
    superseded += [path for (_, iteration), path in newest_first[1 if finished else 2 :] if iteration > 0]
    for path in superseded:
        path.unlink(missing_ok=True)


def newest_progress(path: Path, progress: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the newest progress next to `path`; empty if of another run, or not as far as `progress`."""
    for _, newest in sorted(epoch_checkpoints(path.parent), reverse=True):
        try:
            found = torch.load(newest, map_location="cpu", weights_only=True, mmap=True)["progress"]
            same = found["class_names"] == progress["class_names"] and found["epoch"] >= progress["epoch"]
        except Exception as error:  # torch.load raises many types
            logger.debug("the progress of %s cannot be read: %s", newest, error)
        else:
            return dict(found) if same else {}
    return {}


def is_undamaged(path: Path) -> bool:
    """Whether the CRC-32 checksums of a checkpoint, a zip archive, are correct; torch.load does not verify them."""
    try:
        with zipfile.ZipFile(path) as archive:
            # The checksums do not cover the folder attribute, which makes torch.load read wrong tensors.
            has_folder = any(entry.external_attr & _FOLDER for entry in archive.infolist())
            return not has_folder and archive.testzip() is None
    except Exception:  # zipfile raises many types
        return False


def restore(
    cfg: CfgNode, path: Path, content: dict[str, Any], class_names: tuple[str, ...], objects: Mapping[str, Stateful]
) -> Progress:
    """Restores the objects of a run from a checkpoint, and returns its progress; UserError if it is of another run."""
    changes = differences(yaml.safe_load(content["cfg"]), cfg)
    changed = [change for change in changes if not change.effects or change.effects - _MAY_CHANGE]
    if different := [str(change) for change in changed if change.effects & _DIFFERENT_RUN]:
        raise UserError(f"{path} is of a run with other options: {'; '.join(different)}. {_REMEDY}")
    saved = {"epoch": content["epoch"] + 1, "class_names": [*class_names], **(content.get("progress") or {})}
    saved.setdefault("validated", saved["epoch"])  # older versions saved after the validation
    if unknown := saved.keys() - vars(Progress()).keys():
        logger.warning("%s has fields of progress that are ignored: %s", path.name, ", ".join(sorted(unknown)))
    progress = Progress(**{name: value for name, value in saved.items() if name not in unknown})
    if progress.class_names != list(class_names):
        raise UserError(
            f"{path} is of a run with {len(progress.class_names)} other classes ({shorten(progress.class_names)}) than "
            f"the {len(class_names)} of the data ({shorten(class_names)}). {_REMEDY}"
        )
    try:
        for name, item in objects.items():
            state = content.get(f"{name}_state")
            if name == "optimizer":
                _load_optimizer(item, state)
            elif state is not None:
                item.load_state_dict(state)
    except (RuntimeError, ValueError, KeyError) as error:
        raise UserError(f"{path} does not fit this run: {_one_line(error)}. {_REMEDY}") from error
    if unused := sorted(key for key in content if key.endswith("_state") and key.removesuffix("_state") not in objects):
        logger.warning("%s has states that this run does not use: %s", path.name, ", ".join(unused))
    if changed:
        logger.warning("options changed since %s was written: %s", path.name, "; ".join(map(str, changed)))
    if any("start" in change.effects for change in changed):
        logger.warning("these options name other weights than those of %s. %s", path.name, _REMEDY)
    logger.info("resuming from %s, after %s of %d", path, progress.describe(), cfg.SOLVER.MAX_EPOCH)
    return progress


def has_result(cfg: CfgNode, path: Path, class_names: tuple[str, ...], name: str, ignored: Collection[str]) -> bool:
    """Whether a checkpoint has the state `name`, which is saved at the end, of a run with the same options and classes.

    The options `ignored` may differ. Never with TRAIN.AUTO_RESUME False; UserError if it is of a different run.
    """
    if not cfg.TRAIN.AUTO_RESUME or not path.is_file() or not is_undamaged(path):
        return False
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    if f"{name}_state" not in content:
        return False
    changes = [change for change in differences(yaml.safe_load(content["cfg"]), cfg) if change.key not in ignored]
    if different := [str(change) for change in changes if change.effects & _DIFFERENT_RUN]:
        raise UserError(f"{path} is of a run with other options: {'; '.join(different)}. {_REMEDY}")
    if retrain := [str(change) for change in changes if change.effects & _RETRAIN]:
        logger.info("%s is of other options, so the run is repeated: %s", path, "; ".join(retrain))
    return not retrain and list(class_names) == list(content["progress"]["class_names"])


def continue_from(cfg: CfgNode, path: str, objects: Mapping[str, Stateful]) -> Progress:
    """Loads the objects and the epoch of another run (TRAIN.FINETUNE False); CheckpointError if they do not fit.

    Of `objects`, these are the model, the optimizer and, if there are any, the low-rank updates ("lora").
    """
    given = read_checkpoint(path)
    rest = given.rest
    wanted = ["optimizer_state", "epoch", *(["lora_state"] if "lora" in objects else [])]
    problem = ", ".join(f"it has no {key}" for key in wanted if key not in rest)
    try:
        if not problem:
            inner_model(objects["model"]).load_state_dict(given.state)
            _load_optimizer(objects["optimizer"], rest["optimizer_state"])
            if "lora" in objects:
                objects["lora"].load_state_dict(rest["lora_state"])
            epoch = 0 if cfg.TRAIN.CHECKPOINT_EPOCH_RESET else int(rest["epoch"]) + 1
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        problem = _one_line(error)
    if problem:
        raise CheckpointError(
            f"{given.source} cannot be continued: {problem}. Set TRAIN.FINETUNE True to start from its weights only"
        )
    if epoch >= cfg.SOLVER.MAX_EPOCH:
        raise CheckpointError(
            f"{path} has {epoch} epochs of training, and SOLVER.MAX_EPOCH is {cfg.SOLVER.MAX_EPOCH}: raise it, or set "
            "TRAIN.CHECKPOINT_EPOCH_RESET or TRAIN.FINETUNE True"
        )
    logger.info("continuing %s after epoch %d", path, epoch)
    warn_of_normalization(cfg, path, given.metadata.mean, given.metadata.std)
    warn_of_split(cfg, path, rest)
    return Progress(epoch=epoch, validated=epoch)


def _load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Loads the moments of a saved optimizer; weight decay, momentum etc. stay as configured now."""
    configured = [{k: v for k, v in group.items() if k not in ("params", "lr")} for group in optimizer.param_groups]
    saved = state["param_groups"]
    if any(("betas" in now) != ("betas" in then) for now, then in zip(configured, saved, strict=False)):
        raise ValueError("it has another kind of optimizer than SOLVER.OPTIMIZING_METHOD")
    # Whether the optimizer is fused decides on which device step counts are.
    groups = [{**then, "fused": now["fused"]} for now, then in zip(configured, saved, strict=False)]
    optimizer.load_state_dict({**state, "param_groups": groups})
    for group, options in zip(optimizer.param_groups, configured, strict=True):
        group.update(options)


def _one_line(error: Exception, limit: int = 300) -> str:
    text = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
    return text if len(text) <= limit else f"{text[:limit]} ..."
