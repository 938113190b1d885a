"""Scoring every video of a split, and testing a checkpoint."""

import logging
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch.utils.data import DataLoader

from timesformer.config.differences import differences, read_saved
from timesformer.datasets.loader import construct_loader
from timesformer.datasets.transforms.sampling import sampler_change
from timesformer.datasets.transforms.spatial import normalize_clips
from timesformer.datasets.workers.dataloader import report_worker_death
from timesformer.engine.checkpoint import is_undamaged, newest_checkpoint
from timesformer.engine.meters import Average, Pace, ViewEnsemble
from timesformer.engine.result_folder import folder_for_results
from timesformer.engine.results import Evaluation, probabilities_of, write_results
from timesformer.engine.unreadable import UnreadableClips
from timesformer.errors import UserError, shorten
from timesformer.models import build_model
from timesformer.models.parts import head_names
from timesformer.models.weights.download import local_path
from timesformer.models.weights.loading import (
    Checkpoint,
    CheckpointError,
    LoadReport,
    fingerprint,
    load_pretrained,
    read_checkpoint,
)
from timesformer.runtime import distributed
from timesformer.runtime.device import autocast, choose_device, prefetch_to_device, set_float32_precision
from timesformer.runtime.logging import STEP, duration, progress_bar
from timesformer.runtime.ranks import dist_info, is_main_process
from timesformer.runtime.run_folder import best_path, results_path, with_output_dir
from timesformer.runtime.signals import requested_signal, stop_if_requested

logger = logging.getLogger(__name__)


@torch.no_grad()
def evaluate(model: nn.Module, loader: DataLoader, cfg: CfgNode, description: str) -> Evaluation:
    """Scores every view of every video of a loader's split with the model in evaluation mode.

    Args:
        model: on the device of the run; left in the mode it came in.
        loader: of the split "val" or "test".
        cfg: the configuration.
        description: what the progress is called.

    Raises:
        UserError: if a clip cannot be read and DATA.ON_UNREADABLE is error.
        StopRequested: if a signal waits to be obeyed; it then leaves the model in evaluation mode.

    Of several processes, each of which must call this, each scores the views that its loader has, and all get the whole
    outcome.
    """
    training, device = model.training, choose_device(cfg)
    model.eval()
    dataset = loader.dataset
    ensemble = ViewEnsemble(len(dataset.records), dataset.num_views, cfg.MODEL.NUM_CLASSES, cfg.DATA.ENSEMBLE_METHOD)
    losses, unreadable = Average(), UnreadableClips(cfg, dataset.split, dataset.records)
    start, pace, since = time.perf_counter(), Pace(len(loader)), time.perf_counter()
    agreement, common = distributed.DelayedMax(), -distributed.all_reduce_max(-len(loader))
    loaded = progress_bar(loader, description, may_stop=lambda: dist_info().world_size == 1)
    for index, batch in enumerate(prefetch_to_device(loaded, device)):
        waited = time.perf_counter() - since
        if index < common:
            stop_if_requested(agreement.exchange(requested_signal()))
        unreadable.note(batch["errors"])
        scores = score_views(model, batch["clip"], cfg, device)
        ensemble.update(scores, batch["video"], batch["view"])
        loss = F.cross_entropy(scores, batch["label"], reduction="none").cpu()
        losses.add(loss[batch["readable"]].double().sum(), int(batch["readable"].sum()))
        pace.step(len(scores), waited)
        if pace.is_due(cfg.LOG_PERIOD):
            figures = pace.report()
            logger.log(
                STEP,
                "%s: %d/%d, %.1f clips/s, %s to go",
                description,
                pace.done,
                pace.steps,
                figures["clips_per_second"] * dist_info().world_size,
                duration(figures["eta_seconds"]),
            )
        since = time.perf_counter()
    model.train(training)
    agreement.wait()
    unreadable.exchange()
    joined = ensemble.complete()
    return Evaluation(
        names=list(dataset.records.names),
        labels=torch.from_numpy(dataset.records.labels),
        scores=joined,
        probabilities=probabilities_of(joined, dataset.num_views, ensemble.method),
        unreadable=unreadable.reasons,
        loss=losses.value(),
        num_views=dataset.num_views,
        seconds=time.perf_counter() - start,
    )


@torch.no_grad()
def score_views(model: nn.Module, clips: Tensor, cfg: CfgNode, device: torch.device) -> Tensor:
    """Logits, float32 [batch, classes], of uint8 clips [batch, 3, frames, height, width]."""
    with autocast(cfg, device):
        return model(normalize_clips(clips, cfg, device)).float()


def load_whole(cfg: CfgNode, checkpoint: Checkpoint) -> tuple[nn.Module, LoadReport]:
    """The model of a configuration with all its weights from a checkpoint, on the CPU, and what became of those.

    Raises:
        UserError: if they do not fit, or any is missing or left over.
    """
    model = build_model(cfg, fresh=True)
    report = load_pretrained(model, checkpoint, cfg.TIMESFORMER.POS_EMBED_INTERPOLATION)
    heads = (checkpoint.state.get(f"{head}.weight") for head in head_names(model))
    classes = next((len(head) for head in heads if head is not None), cfg.MODEL.NUM_CLASSES)
    if classes != cfg.MODEL.NUM_CLASSES:
        names = shorten(map(str, checkpoint.metadata.class_names))
        raise CheckpointError(
            f"{checkpoint.source} does not fit: it is of {classes} classes{names and f' ({names})'}, and "
            f"MODEL.NUM_CLASSES is {cfg.MODEL.NUM_CLASSES}. Give a checkpoint of these classes, or train from it first"
        )
    if misfits := report.new or report.unused:
        problem = "lacks" if report.new else "has, where this model has not,"
        raise CheckpointError(
            f"{checkpoint.source} does not fit: it {problem} {shorten(misfits)}. Check MODEL.NUM_CLASSES "
            f"({cfg.MODEL.NUM_CLASSES}) and TIMESFORMER.ATTENTION_TYPE ({cfg.TIMESFORMER.ATTENTION_TYPE})"
        )
    return model, report


def test(cfg: CfgNode) -> Path:
    """Tests the checkpoint that the configuration means, and writes the results.

    That is TEST.CHECKPOINT_FILE_PATH; else the best checkpoint of OUTPUT_DIR, else its newest; else, where nothing was
    trained, TRAIN.CHECKPOINT_FILE_PATH. The results go into OUTPUT_DIR; where those of another test lie there, see
    `folder_for_results`.

    Returns:
        The path of `results.json`.

    Raises:
        UserError: if there is none, it does not fit the model, the data cannot be found, a clip cannot be read and
            DATA.ON_UNREADABLE is error, or a loading process dies.
    """
    set_float32_precision(cfg)
    loader = construct_loader(cfg, "test", dist_info().rank, dist_info().world_size)
    path = _checkpoint_to_test(cfg)
    model, report = load_whole(cfg, read_checkpoint(path))
    logger.info("testing %s\n%s", path, report.table())
    if changed := clip_differences(cfg, report.rest):
        logger.warning("%s was trained on other clips: %s", path, "; ".join(changed))
    dataset, weights = loader.dataset, fingerprint(model, loader.dataset.class_names)
    folder = distributed.from_main_process(lambda: folder_for_results(cfg, weights, dataset.records.names))
    with report_worker_death(loader):
        evaluation = evaluate(model.to(choose_device(cfg)), loader, cfg, "test")
    cfg = with_output_dir(cfg, folder)
    if is_main_process():
        write_results(cfg, evaluation, dataset.class_names, path, report.rest, weights)
    distributed.barrier()
    return results_path(cfg)


def clip_differences(cfg: CfgNode, content: dict[str, Any]) -> list[str]:
    """How the clips of a configuration differ from those a checkpoint was trained on, where its content tells them."""
    text = content.get("cfg")
    then = yaml.safe_load(text) if isinstance(text, str) else {}
    if not isinstance(then, dict) or not then.get("DATA"):
        return []
    saved = read_saved(then)
    changes = [
        str(change)
        for change in differences(then, cfg)
        if change.key in saved and change.effects & {"split", "clips"} and "SAMPLER" not in change.key
    ]
    return [*changes, *filter(None, [sampler_change(then, cfg)])]


def _checkpoint_to_test(cfg: CfgNode) -> Path:
    if cfg.TEST.CHECKPOINT_FILE_PATH:
        return local_path(cfg.TEST.CHECKPOINT_FILE_PATH)
    best = best_path(cfg)
    if distributed.from_main_process(best.is_file):
        if is_main_process() and not is_undamaged(best):
            raise UserError(
                f"{best} is damaged: test another checkpoint with TEST.CHECKPOINT_FILE_PATH, or delete it to have the "
                "newest of the run tested"
            )
        return best
    if newest := newest_checkpoint(cfg):
        return newest[0]
    if cfg.TRAIN.CHECKPOINT_FILE_PATH and not cfg.TRAIN.ENABLE:
        return local_path(cfg.TRAIN.CHECKPOINT_FILE_PATH)
    raise UserError(
        f"there is no checkpoint to test: none in {best_path(cfg).parent}; give TEST.CHECKPOINT_FILE_PATH, "
        "or train first (TRAIN.ENABLE True)"
    )
