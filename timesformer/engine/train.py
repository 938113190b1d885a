"""The training loop: get a batch, forward, backward, step, log; validate; keep the best and the newest."""

import logging
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import nn
from torch.utils.data import DataLoader

from timesformer.atomic import explained_failure, write_text_atomically
from timesformer.datasets.loader import construct_loader, set_epoch
from timesformer.datasets.workers import explained_death
from timesformer.engine import checkpoint
from timesformer.engine.balance import class_weights, clip_weights, log_classes
from timesformer.engine.device import autocast, choose_device, normalized
from timesformer.engine.evaluate import evaluate
from timesformer.engine.logs import STEP, MetricsWriter, duration, progress_bar
from timesformer.engine.meters import Average, Pace
from timesformer.engine.mixup import ClipMixup, heaviest_labels
from timesformer.engine.optim import construct_optimizer, learning_rate, set_learning_rate
from timesformer.engine.run_folder import best_path, config_path, remove_partial_files, set_aside
from timesformer.engine.unreadable import UnreadableClips
from timesformer.errors import UserError, shorten
from timesformer.models import build_model
from timesformer.models.complexity import count_multiply_adds, count_parameters
from timesformer.models.parts import freeze, train_mode
from timesformer.models.weights import load_pretrained

logger = logging.getLogger(__name__)

LOSSES = {"cross_entropy": F.cross_entropy}
"""Training losses by the name that MODEL.LOSS_FUNC gives; called with (scores, labels, reduction, label_smoothing),
where labels are numbers or, mixed, probabilities of all classes."""


def train(cfg: CfgNode) -> Path:
    """Trains as configured, going on from the newest checkpoint in OUTPUT_DIR if there is one (TRAIN.AUTO_RESUME).

    What is random depends on RNG_SEED and the epoch, so a run that was interrupted ends as one that was not.

    Returns:
        The best checkpoint by validation top-1.

    Raises:
        UserError: if data, checkpoints or options are not as they must be, the loss is not finite, more than
            DATA.MAX_UNREADABLE of the training clips cannot be read, or a loading process dies.
    """
    train_loader, val_loader = construct_loader(cfg, "train"), construct_loader(cfg, "val")
    mixup = ClipMixup(cfg) if cfg.MIXUP.ENABLED else None
    class_names = train_loader.dataset.class_names
    device = choose_device(cfg)
    torch.manual_seed(cfg.RNG_SEED)
    model = build_model(cfg)
    freeze(model, cfg.MODEL.FREEZE)
    if cfg.LOG_MODEL_INFO:
        log_model_info(cfg, model)
    model = model.to(device)
    optimizer = construct_optimizer(model, cfg)
    progress = start_or_resume(cfg, model, optimizer, class_names)
    if progress.epoch >= cfg.SOLVER.MAX_EPOCH:
        logger.info("nothing left to train: SOLVER.MAX_EPOCH is %d", cfg.SOLVER.MAX_EPOCH)
        return best_path(cfg)
    with explained_failure(Path(cfg.OUTPUT_DIR)):
        Path(cfg.OUTPUT_DIR).mkdir(parents=True, exist_ok=True)
    write_text_atomically(config_path(cfg), cfg.dump())
    if cfg.MODEL.FREEZE != "none":
        trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        logger.info("MODEL.FREEZE %s: training %d of %d parameters", cfg.MODEL.FREEZE, trained, count_parameters(model))
    logger.info(
        "training %s (%.2f M parameters) on %s: %d clips of %d classes, validating on %d; epochs %d to %d",
        cfg.MODEL.MODEL_NAME,
        count_parameters(model) / 1e6,
        device,
        len(train_loader.dataset),
        len(class_names),
        len(val_loader.dataset),
        progress.epoch + 1,
        cfg.SOLVER.MAX_EPOCH,
    )
    set_epoch(train_loader, progress.epoch)
    log_classes(cfg, train_loader)
    metrics = MetricsWriter(cfg, progress.epoch, len(train_loader))
    try:
        records = train_loader.dataset.records
        unreadable = UnreadableClips(cfg, "train", records)
        unreadable.note({video: f"{records[video].path}: {problem}" for video, problem in records.problems.items()})
        with explained_death(train_loader, val_loader):
            for epoch in range(progress.epoch, cfg.SOLVER.MAX_EPOCH):
                start = time.perf_counter()
                train_epoch(cfg, model, optimizer, train_loader, epoch, metrics, unreadable, mixup)
                progress.epoch = epoch + 1
                progress.seconds += time.perf_counter() - start
                if is_due(progress.epoch, cfg.TRAIN.EVAL_PERIOD, cfg.SOLVER.MAX_EPOCH):
                    validate(cfg, model, val_loader, progress, metrics)
                if is_due(progress.epoch, cfg.TRAIN.CHECKPOINT_PERIOD, cfg.SOLVER.MAX_EPOCH):
                    checkpoint.save_epoch(cfg, model, optimizer, progress)
    finally:
        metrics.close()
    best = best_path(cfg)
    logger.info(
        "training done in %s; best validation top-1 %.2f %% after epoch %d: %s",
        duration(progress.seconds),
        progress.best_top1,
        progress.best_epoch,
        best,
    )
    return best


def start_or_resume(
    cfg: CfgNode, model: nn.Module, optimizer: torch.optim.Optimizer, class_names: tuple[str, ...]
) -> checkpoint.Progress:
    """Brings model and optimizer to where training begins: this run's newest checkpoint, given weights, or fresh."""
    remove_partial_files(cfg)
    if cfg.TRAIN.AUTO_RESUME and (newest := checkpoint.newest_checkpoint(cfg)):
        path, content = newest
        progress = checkpoint.restore(cfg, path, content, class_names, model, optimizer)
        logger.info("going on from %s, after epoch %d of %d", path, progress.epoch, cfg.SOLVER.MAX_EPOCH)
        return progress
    source = cfg.TRAIN.CHECKPOINT_FILE_PATH
    progress = checkpoint.Progress()
    if source and cfg.TRAIN.FINETUNE:
        report = load_pretrained(model, source, cfg.TIMESFORMER.POS_EMBED_INTERPOLATION, cfg.TRAIN.STRICT_LOADING)
        logger.info("fine-tuning from %s\n%s", source, report.table())
        frozen = {name.removeprefix("model.") for name, p in model.named_parameters() if not p.requires_grad}
        if untrained := sorted(frozen.intersection(report.new)):
            logger.warning("MODEL.FREEZE keeps parts that are not in the checkpoint: %s", shorten(untrained))
    elif source:
        progress = checkpoint.continue_from(source, model, optimizer, cfg.TRAIN.CHECKPOINT_EPOCH_RESET)
        if progress.epoch >= cfg.SOLVER.MAX_EPOCH:
            raise UserError(
                f"{source} has {progress.epoch} epochs of training already, and SOLVER.MAX_EPOCH is "
                f"{cfg.SOLVER.MAX_EPOCH}: raise it, or set TRAIN.CHECKPOINT_EPOCH_RESET or TRAIN.FINETUNE True"
            )
        logger.info("continuing %s after epoch %d", source, progress.epoch)
    set_aside(cfg)  # only now: what is to be read may lie there, and a mistake so far should move nothing
    progress.class_names = list(class_names)
    return progress


def train_epoch(
    cfg: CfgNode,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loader: DataLoader,
    epoch: int,
    metrics: MetricsWriter,
    unreadable: UnreadableClips,
    mixup: ClipMixup | None = None,
) -> None:
    """One pass over the training clips.

    Gradients accumulate over as many batches as GLOBAL_BATCH_SIZE takes, and are those of the mean loss of all clips in
    them, also where the last batches of the epoch are fewer or smaller.

    Args:
        cfg: the configuration.
        model: on the device of the run; put in training mode, except for what is frozen.
        optimizer: of the model's parameters.
        loader: of the split "train".
        epoch: from 0.
        metrics: takes the figures.
        unreadable: takes the clips that cannot be read.
        mixup: mixes the clips of each batch; top-1 is then that of the label with the larger share.
    """
    device = choose_device(cfg)
    train_mode(model)
    set_epoch(loader, epoch)
    torch.manual_seed(int(np.random.SeedSequence([cfg.RNG_SEED, epoch]).generate_state(1)[0]))
    loss_func, smoothing = LOSSES[cfg.MODEL.LOSS_FUNC], 0.0 if mixup else cfg.SOLVER.LABEL_SMOOTHING
    weights = class_weights(cfg, loader.dataset.records.labels).to(device)
    num_clips, batches = loader.batch_sampler.num_items, len(loader)
    accumulate = max(1, cfg.GLOBAL_BATCH_SIZE // cfg.TRAIN.BATCH_SIZE)
    clips_per_step = accumulate * cfg.TRAIN.BATCH_SIZE
    loss_of_epoch, right_of_epoch, loss_of_period = Average(), Average(), Average()
    pace, since = Pace(batches), time.perf_counter()
    for index, batch in enumerate(progress_bar(loader, f"epoch {epoch + 1}")):
        waited = time.perf_counter() - since
        unreadable.note(batch["errors"])
        present = batch["video"] >= 0  # the others stand for no clip (construct_loader)
        if (lost := batch["video"][present & ~batch["readable"]]).numel():
            unreadable.refuse_unreplaced(int(lost[0]))
        rate = learning_rate(cfg, epoch + index / batches)
        set_learning_rate(optimizer, rate)
        clip, label = normalized(batch["clip"], cfg, device), batch["label"].to(device, non_blocking=True)
        counted, number = present.to(device, non_blocking=True), int(present.sum())
        if mixup:
            clip, label = mixup(clip, label, epoch, index)
        with autocast(cfg, device):
            scores = model(clip)
        losses = loss_func(scores.float(), label, reduction="none", label_smoothing=smoothing)
        loss = (losses * clip_weights(label, weights) * counted).sum()
        done = index // accumulate * clips_per_step
        (loss / min(clips_per_step, num_clips - done)).backward()
        if (index + 1) % accumulate == 0 or index + 1 == batches:
            if cfg.SOLVER.CLIP_GRADIENT > 0:
                nn.utils.clip_grad_norm_(model.parameters(), cfg.SOLVER.CLIP_GRADIENT)
            optimizer.step()
            optimizer.zero_grad()

        loss_of_epoch.add(loss.detach(), number)
        loss_of_period.add(loss.detach(), number)
        right_of_epoch.add(((scores.detach().argmax(dim=1) == heaviest_labels(label)) & counted).sum(), number)
        pace.step(number, waited)
        if pace.is_due(cfg.LOG_PERIOD):
            log_step(epoch, pace, loss_of_period, rate, metrics)
            loss_of_period = Average()
        since = time.perf_counter()
    figures = {
        "loss": loss_of_epoch.value(),
        "top1": 100.0 * right_of_epoch.value(),
        "unreadable": len(unreadable.reasons),
    }
    metrics.write("train_epoch", epoch + 1, figures)
    logger.info("epoch %d: training loss %.4f, top-1 %.2f %%", epoch + 1, figures["loss"], figures["top1"])


def log_step(epoch: int, pace: Pace, loss: Average, rate: float, metrics: MetricsWriter) -> None:
    """Writes the figures of the last steps, and stops a run whose loss is not finite."""
    figures: dict[str, Any] = {"loss": loss.value(), "lr": rate, **pace.report()}
    if not math.isfinite(figures["loss"]):
        raise UserError(
            f"the training loss became {figures['loss']} in epoch {epoch + 1}, iteration {pace.done}; the checkpoints "
            "before are as they were. Lower SOLVER.BASE_LR, add SOLVER.WARMUP_EPOCHS, or set SOLVER.CLIP_GRADIENT"
        )
    metrics.write("train_step", epoch + pace.done / pace.steps, figures)
    logger.log(
        STEP,
        "epoch %d: %d/%d, loss %.4f, lr %.3g, %.1f clips/s, %.0f %% waiting for data, %s to go",
        epoch + 1,
        pace.done,
        pace.steps,
        figures["loss"],
        rate,
        figures["clips_per_second"],
        100 * figures["data_share"],
        duration(figures["eta_seconds"]),
    )


def validate(
    cfg: CfgNode, model: nn.Module, loader: DataLoader, progress: checkpoint.Progress, metrics: MetricsWriter
) -> None:
    """Scores the validation split and keeps the model if it is the best so far (by top-1, then by loss)."""
    evaluation = evaluate(model, loader, cfg, "validation")
    top1, top5 = evaluation.topk(1, 5)
    figures = {
        "loss": evaluation.loss,
        "top1": top1,
        "top5": top5,
        "mean_class_top1": evaluation.mean_class_top1(),
        "unreadable": len(evaluation.unreadable),
    }
    metrics.write("val_epoch", progress.epoch, figures)
    is_best = (top1, -evaluation.loss) > (progress.best_top1, -progress.best_loss)
    logger.info(
        "epoch %d: validation loss %.4f, top-1 %.2f %%, top-5 %.2f %%, mean over classes %.2f %%%s",
        progress.epoch,
        evaluation.loss,
        top1,
        top5,
        figures["mean_class_top1"],
        " (best so far)" if is_best else "",
    )
    if is_best:
        progress.best_top1, progress.best_loss, progress.best_epoch = top1, evaluation.loss, progress.epoch
        checkpoint.save_best(cfg, model, progress)


def is_due(epoch: int, period: int, last: int) -> bool:
    """Whether something done every `period` epochs, and after the last, is due when `epoch` are finished."""
    return epoch % period == 0 or epoch == last


def log_model_info(cfg: CfgNode, model: nn.Module) -> None:
    """Logs the model's modules, its number of parameters and the multiply-adds of a view."""
    size = cfg.DATA.TRAIN_CROP_SIZE
    operations = count_multiply_adds(model, (1, 3, cfg.DATA.NUM_FRAMES, size, size))
    logger.info("%s\n%.2f M parameters, %.2f GFLOPs per view", model, count_parameters(model) / 1e6, operations / 1e9)
