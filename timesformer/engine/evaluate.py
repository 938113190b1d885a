"""Evaluation of a split, and the test of a checkpoint."""

import logging
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch.utils.data import DataLoader

from timesformer.config.differences import changes_since
from timesformer.datasets.catalog import Splits
from timesformer.datasets.loader import construct_loader
from timesformer.datasets.transforms.frame_order import FrameOrder, reorder_frames
from timesformer.datasets.transforms.sampling import sampler_change
from timesformer.datasets.transforms.spatial import normalize_clips
from timesformer.datasets.workers.dataloader import report_worker_death
from timesformer.engine.calibration import calibrate, save_temperature
from timesformer.engine.checkpoint import is_undamaged, newest_checkpoint
from timesformer.engine.meters import Average, Throughput
from timesformer.engine.probing.data import feature_loader, load_features, score_features
from timesformer.engine.probing.reference import reference_results
from timesformer.engine.results import folder_for_results, write_results
from timesformer.engine.unreadable import UnreadableClips
from timesformer.errors import UserError, counted, shorten
from timesformer.metrics.evaluation import Evaluation, logits_of
from timesformer.metrics.view_ensemble import ViewEnsemble
from timesformer.models import build_model
from timesformer.models.parts import output_names
from timesformer.models.weights.download import local_path
from timesformer.models.weights.loading import (
    Checkpoint,
    CheckpointError,
    LoadReport,
    fingerprint,
    load_pretrained,
    read_checkpoint,
)
from timesformer.models.weights.normalization import warn_of_normalization
from timesformer.runtime import distributed
from timesformer.runtime.device import autocast, choose_device, clips_at_once, prefetch_to_device, set_float32_precision
from timesformer.runtime.logging import STEP, duration, progress_bar
from timesformer.runtime.ranks import dist_info, is_main_process
from timesformer.runtime.run_folder import best_path, results_path, with_output_dir
from timesformer.runtime.signals import requested_signal, stop_if_requested

logger = logging.getLogger(__name__)


Score = Callable[[nn.Module, Tensor, CfgNode, torch.device], Tensor]


@torch.no_grad()
def score_views(model: nn.Module, clips: Tensor, cfg: CfgNode, device: torch.device) -> Tensor:
    """Logits, float32 [batch, classes], of uint8 clips [batch, 3, frames, height, width]."""
    if getattr(model, "includes_normalization", False):  # an exported model
        return model(clips)
    with autocast(cfg, device):
        return torch.cat([model(part) for part in clips_at_once(normalize_clips(clips, cfg, device))]).float()


@torch.no_grad()
def evaluate(
    model: nn.Module, loader: DataLoader, cfg: CfgNode, description: str, score: Score = score_views
) -> Evaluation:
    """Scores every view of every video of a split in evaluation mode; in a test with the frames in TEST.FRAME_ORDER.

    `score` gives the logits of a batch. All processes must call this together; each scores the views of its loader and
    gets the whole result. Raises UserError for an unreadable clip if DATA.ON_UNREADABLE is error, and StopRequested to
    obey a signal.
    """
    training, device, dataset = model.training, next(chain(model.parameters(), model.buffers())).device, loader.dataset
    model.eval()
    orders = _frame_orders(cfg) if dataset.split == "test" else ["original"]
    size = (len(dataset.records), dataset.num_views, cfg.MODEL.NUM_CLASSES)
    ensembles = [ViewEnsemble(*size, cfg.DATA.ENSEMBLE_METHOD) for _ in orders]
    losses, unreadable = Average(), UnreadableClips(cfg, dataset.split, dataset.records)
    start, throughput, since = time.perf_counter(), Throughput(len(loader)), time.perf_counter()
    requests, common_batches = distributed.DelayedMax(), -distributed.all_reduce_max(-len(loader))
    loaded = progress_bar(loader, description, may_stop=lambda: dist_info().world_size == 1)
    for index, batch in enumerate(prefetch_to_device(loaded, device)):
        waited = time.perf_counter() - since
        if index < common_batches:  # a process may have one batch less
            stop_if_requested(requests.exchange(requested_signal()))
        unreadable.record(batch["errors"])
        views = (batch["video"], batch["view"])
        clips = (reorder_frames(batch["clip"], order, cfg.RNG_SEED, *views) for order in orders)
        scores, *others = [score(model, clip, cfg, device) for clip in clips]
        for ensemble, part in zip(ensembles, (scores, *others), strict=True):
            ensemble.update(part, *views)
        loss = F.cross_entropy(scores, batch["label"], reduction="none").cpu()
        losses.add(loss[batch["readable"]].double().sum(), int(batch["readable"].sum()))
        throughput.step(len(scores), waited)
        if throughput.is_due(cfg.LOG_PERIOD):
            metrics = throughput.report()
            logger.log(
                STEP,
                f"{description}: {throughput.done}/{throughput.steps}, "
                f"{metrics['clips_per_second'] * dist_info().world_size:.1f} clips/s, "
                f"{duration(metrics['eta_seconds'])} to go",
            )
        since = time.perf_counter()
    model.train(training)
    requests.wait()
    unreadable.exchange()
    scores, *others = [ensemble.complete() for ensemble in ensembles]
    return Evaluation(
        names=list(dataset.records.names),
        labels=torch.from_numpy(dataset.records.labels),
        scores=scores,
        logits=logits_of(scores, dataset.num_views, cfg.DATA.ENSEMBLE_METHOD),
        unreadable=unreadable.reasons,
        loss=losses.value(),
        num_views=dataset.num_views,
        seconds=time.perf_counter() - start,
        shuffled_scores=others[0] if others else None,
    )


def _frame_orders(cfg: CfgNode) -> list[FrameOrder]:
    """Orders of the frames in which a test scores its clips; the first is that of the results."""
    first = cfg.TEST.FRAME_ORDER
    measures = cfg.TEST.MEASURE_ORDER and first == "original" and cfg.DATA.NUM_FRAMES > 1
    return [first, "shuffled"] if measures else [first]


def build_from_checkpoint(cfg: CfgNode, checkpoint: Checkpoint) -> tuple[nn.Module, LoadReport]:
    """The model of a configuration on the CPU, with all its weights from a checkpoint, or CheckpointError.

    An exported model is returned as it is, if it takes the clips of the configuration.
    """
    if checkpoint.network is not None:
        checkpoint.network.check(cfg)
        return checkpoint.network, LoadReport(rest=checkpoint.rest, metadata=checkpoint.metadata)
    model = build_model(cfg, fresh=True, network_config=checkpoint.rest.get("network_config"))
    report = load_pretrained(model, checkpoint, cfg.TIMESFORMER.POS_EMBED_INTERPOLATION)
    outputs = (checkpoint.state.get(f"{name}.weight") for name in output_names(model))
    classes = next((len(weight) for weight in outputs if weight is not None), cfg.MODEL.NUM_CLASSES)
    if classes != cfg.MODEL.NUM_CLASSES:
        names = shorten(map(str, checkpoint.metadata.class_names))
        raise CheckpointError(
            f"{checkpoint.source} has {counted(classes, 'class')}{names and f' ({names})'}, and MODEL.NUM_CLASSES is "
            f"{cfg.MODEL.NUM_CLASSES}: use a checkpoint of these classes, or train from it first"
        )
    if misfits := report.new or report.unused:
        problem = "lacks" if report.new else "has weights that this model does not have:"
        raise CheckpointError(
            f"{checkpoint.source} {problem} {shorten(misfits)}. Check MODEL.NUM_CLASSES ({cfg.MODEL.NUM_CLASSES}), "
            f"MODEL.HEAD ({cfg.MODEL.HEAD}) and TIMESFORMER.ATTENTION_TYPE ({cfg.TIMESFORMER.ATTENTION_TYPE})"
        )
    return model, report


def test(cfg: CfgNode, splits: Splits | None = None) -> Path:  # noqa: PT028
    """Tests a checkpoint, and returns the path of `results.json` (see `folder_for_results`).

    The checkpoint is TEST.CHECKPOINT_FILE_PATH, else the best of OUTPUT_DIR, else its newest, else (without training)
    TRAIN.CHECKPOINT_FILE_PATH. `splits` are those of the run, if some have been loaded before.
    """
    set_float32_precision(cfg)
    splits = splits or Splits(cfg)
    loader = construct_loader(cfg, "test", dist_info().rank, dist_info().world_size, splits["test"])
    path = _checkpoint_to_test(cfg)
    model, report = build_from_checkpoint(cfg, read_checkpoint(path))
    logger.info("testing %s\n%s", path, report.table())
    warn_of_normalization(cfg, path, report.metadata.mean, report.metadata.std)
    if changed := clip_differences(cfg, report.rest):
        logger.warning("%s was trained on other clips: %s", path, "; ".join(changed))
    videos, weights = loader.dataset.records.names, fingerprint(model, loader.dataset.class_names)
    folder = distributed.from_main_process(lambda: folder_for_results(cfg, weights, videos))
    model, reference, start = model.to(choose_device(cfg)), [], time.perf_counter()
    score: Score = score_views
    if cfg.FEATURES.ENABLED:
        unreadable = UnreadableClips(cfg, "test", loader.dataset.records)
        features = load_features(cfg, model, "test", splits["test"], unreadable)
        reference = reference_results(cfg, model, splits, features)
        if _frame_orders(cfg) == ["original"]:
            loader = feature_loader(cfg, features, dist_info().rank, dist_info().world_size)
            score = score_features
    with report_worker_death(loader):
        evaluation = evaluate(model, loader, cfg, "test", score)
    evaluation.seconds = time.perf_counter() - start
    calibration = calibrate(cfg, splits, report.rest, lambda: _evaluate_validation(cfg, model, splits))
    if is_main_process():
        results_cfg = with_output_dir(cfg, folder)
        write_results(results_cfg, evaluation, calibration, splits, path, report.rest, weights, reference)
        save_temperature(cfg, calibration, path)
    distributed.barrier()
    return folder / results_path(cfg).name


def _evaluate_validation(cfg: CfgNode, model: nn.Module, splits: Splits) -> Evaluation:
    """Scores of the validation split, with the views of a test."""
    found, score = splits["val"], score_views
    loader = construct_loader(cfg, "test", dist_info().rank, dist_info().world_size, found)
    if cfg.FEATURES.ENABLED:
        features = load_features(cfg, model, "test", found, UnreadableClips(cfg, "val", found.records))
        loader, score = feature_loader(cfg, features, dist_info().rank, dist_info().world_size), score_features
    loader.dataset.split = "val"  # in the list of unreadable clips
    with report_worker_death(loader):
        return evaluate(model, loader, cfg, "calibration", score)


def clip_differences(cfg: CfgNode, content: dict[str, Any]) -> list[str]:
    """How clips and splits of a configuration differ from those of a checkpoint's training, if it has them.

    The normalization is not among them, see `normalization_problem`.
    """
    saved, changes = changes_since(cfg, content)
    changes = [c for c in changes if c.effects & {"split", "clips"} and "SAMPLER" not in c.key]
    changes = [c for c in changes if c.key not in ("DATA.MEAN", "DATA.STD")]
    return [*map(str, changes), *filter(None, [saved and sampler_change(saved, cfg)])]


def _checkpoint_to_test(cfg: CfgNode) -> Path:
    if cfg.TEST.CHECKPOINT_FILE_PATH:
        return local_path(cfg.TEST.CHECKPOINT_FILE_PATH)
    best = best_path(cfg)
    if distributed.from_main_process(best.is_file):
        if is_main_process() and not is_undamaged(best):
            raise UserError(f"{best} is damaged: set TEST.CHECKPOINT_FILE_PATH, or delete it to test the newest")
        return best
    if newest := newest_checkpoint(cfg):
        return newest[0]
    if cfg.TRAIN.CHECKPOINT_FILE_PATH and not cfg.TRAIN.ENABLE:
        return local_path(cfg.TRAIN.CHECKPOINT_FILE_PATH)
    raise UserError(f"there is no checkpoint in {best.parent} to test: set TEST.CHECKPOINT_FILE_PATH, or train first")
