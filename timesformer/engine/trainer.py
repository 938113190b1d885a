"""The training loop: get a batch, forward, backward, step, log; validate; keep the best and the newest."""

import logging
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from signal import Signals
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import nn
from torch.utils.data import DataLoader

from timesformer.atomic import WriteError, report_write_errors, write_text_atomically
from timesformer.datasets.loader import construct_loader, set_epoch
from timesformer.datasets.transforms.spatial import normalize_clips
from timesformer.datasets.workers.dataloader import report_worker_death
from timesformer.engine import checkpoint
from timesformer.engine.class_balance import class_weights, clip_weights, log_classes
from timesformer.engine.compiled import Compiled
from timesformer.engine.evaluate import evaluate
from timesformer.engine.finite import LossWatch, refuse_broken_weights
from timesformer.engine.meters import Pace, TrainingFigures
from timesformer.engine.mixup import ClipMixup, heaviest_labels
from timesformer.engine.optim import batches_per_step, clips_per_step, learning_rate, learning_rate_scale
from timesformer.engine.recompute import recompute_blocks
from timesformer.engine.unreadable import UnreadableClips
from timesformer.engine.update import Update
from timesformer.errors import UserError, shorten
from timesformer.models import build_model
from timesformer.models.complexity import count_multiply_adds, count_parameters
from timesformer.models.parts import freeze, train_mode
from timesformer.models.weights.loading import load_pretrained
from timesformer.runtime import distributed
from timesformer.runtime import signals as interrupts
from timesformer.runtime.device import autocast, choose_device, prefetch_to_device, set_float32_precision
from timesformer.runtime.logging import STEP, MetricsWriter, duration, progress_bar
from timesformer.runtime.ranks import dist_info, is_main_process
from timesformer.runtime.run_folder import (
    best_path,
    checkpoint_folder,
    config_path,
    move_previous_run,
    remove_partial_files,
)

logger = logging.getLogger(__name__)

LOSSES = {"cross_entropy": F.cross_entropy}
"""Training losses by the name that MODEL.LOSS_FUNC gives; called with (scores, labels, reduction, label_smoothing),
where labels are numbers or, mixed, probabilities of all classes."""

_SAVE = 1  # the wish for a checkpoint, among numbers of signals; those that training waits with have others


@dataclass
class Run:
    """What a training run works with.

    Attributes:
        cfg: the configuration.
        model: on the device of the run.
        update: changes the model's weights.
        loader: of the split "train".
        metrics: takes the figures.
        unreadable: takes the clips that cannot be read.
        mixup: mixes the clips of each batch, if not None; top-1 is then that of the label with the larger share.
        progress: how far the run has come.
        figures: of the epoch so far.
        parts: what a checkpoint holds.
        saved: when the last checkpoint was written, or else the run began; seconds of `time.monotonic`.
        saved_position: where the run was then.
        watch: looks at the losses.
        forward: the model's forward pass in training, with gradients averaged over all processes.
        agreement: on when to save and when to stop.
    """

    cfg: CfgNode
    model: nn.Module
    update: Update
    loader: DataLoader
    metrics: MetricsWriter
    unreadable: UnreadableClips
    mixup: ClipMixup | None = None
    progress: checkpoint.Progress = field(default_factory=checkpoint.Progress)
    figures: TrainingFigures = field(default_factory=TrainingFigures)
    parts: dict[str, checkpoint.Part] = field(default_factory=dict)
    saved: float = field(default_factory=time.monotonic)
    saved_position: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self.watch = LossWatch(self.loader.dataset.records.names)
        size = self.loader.batch_sampler.part_size
        forward = Compiled(self.model, size) if self.cfg.TRAIN.COMPILE else self.model
        self.forward = distributed.parallel(self.model, forward)
        self.agreement = distributed.DelayedMax()

    @property
    def position(self) -> tuple[int, ...]:
        """Where the run is: what changes whenever there is something new to save."""
        return *self.progress.position, self.progress.validated


def train(cfg: CfgNode) -> Path:
    """Trains as configured, going on from the newest checkpoint in OUTPUT_DIR if there is one (TRAIN.AUTO_RESUME).

    What is random depends on RNG_SEED, epoch, iteration and rank, so a run that was interrupted ends as one that was
    not. Of several processes, each calls this with its part of the clips, and all end with the same weights.

    Returns:
        The best checkpoint by validation top-1.

    Raises:
        UserError: if data, checkpoints or options are not as they must be, the loss is not finite, more than
            DATA.MAX_UNREADABLE_FRACTION of the training clips cannot be read, or a loading process dies.
        KeyboardInterrupt: if a signal stops the run; it was saved before, unless that was a second signal.
    """
    train_loader, val_loader = (
        construct_loader(cfg, split, dist_info().rank, dist_info().world_size) for split in ("train", "val")
    )
    mixup = ClipMixup(cfg) if cfg.MIXUP.ENABLED else None
    records, class_names = train_loader.dataset.records, train_loader.dataset.class_names
    device = choose_device(cfg)
    set_float32_precision(cfg)
    if is_main_process():
        remove_partial_files(cfg)
    newest = checkpoint.newest_checkpoint(cfg) if cfg.TRAIN.AUTO_RESUME else None
    torch.manual_seed(cfg.RNG_SEED)
    model = build_model(cfg, fresh=newest is not None)  # to resume, a run needs its checkpoint and no other weights
    freeze(model, cfg.MODEL.FREEZE)
    if cfg.LOG_MODEL_INFO:
        log_model_info(cfg, model)
    recompute_blocks(model, cfg.MODEL.ACT_CHECKPOINT)
    model = model.to(device)
    update, figures, unreadable = Update(cfg, model), TrainingFigures(), UnreadableClips(cfg, "train", records)
    parts = {"model": model, **update.parts, "figures": figures, "unreadable": unreadable}
    progress = start_or_resume(cfg, newest, parts, class_names)
    del newest  # its tensors have been copied
    if is_finished(cfg, progress):
        logger.info("nothing left to train: %s", why_finished(cfg, progress))
        return best_path(cfg)
    if is_main_process():
        with report_write_errors(Path(cfg.OUTPUT_DIR)):
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
    progress.iteration = iteration_now(cfg, train_loader, progress)
    progress.batch_size = train_loader.batch_sampler.batch_size
    log_step_size(cfg)
    set_epoch(train_loader, progress.epoch)
    log_classes(cfg, train_loader)
    batches = len(train_loader)
    metrics = MetricsWriter(cfg, progress.epoch + progress.iteration / batches, batches, progress.validated)
    run = Run(cfg, model, update, train_loader, metrics, unreadable, mixup, progress, figures, parts)
    try:
        unreadable.note({video: f"{records[video].path}: {problem}" for video, problem in records.problems.items()})
        unreadable.exchange()
        with report_worker_death(train_loader, val_loader), interrupts.graceful_shutdown(dist_info().world_size > 1):
            while not is_finished(cfg, progress):
                if is_validation_due(cfg, progress):
                    validate(run, val_loader)
                else:
                    train_epoch(run)
                due = is_due(progress.epoch, cfg.TRAIN.CHECKPOINT_PERIOD, cfg.SOLVER.MAX_EPOCH)
                save_and_stop_where_due(run, due or is_finished(cfg, progress))
            run.agreement.wait()
            interrupts.stop_if_requested(distributed.all_reduce_max(interrupts.requested_signal()))
    except interrupts.StopRequested as request:
        run.agreement.wait()
        save(run)
        distributed.barrier()  # or the end of one process would have the lead killed while it writes
        logger.info("stopped by %s after %s; it is saved", Signals(*request.args).name, progress.describe())
        raise
    finally:
        metrics.close()
    best = best_path(cfg)
    logger.info(
        "training done in %s, %s; best validation top-1 %.2f %% after epoch %d: %s",
        duration(progress.seconds),
        why_finished(cfg, progress),
        progress.best_top1,
        progress.best_epoch,
        best,
    )
    return best


def start_or_resume(
    cfg: CfgNode,
    newest: tuple[Path, dict[str, Any]] | None,
    parts: dict[str, checkpoint.Part],
    class_names: tuple[str, ...],
) -> checkpoint.Progress:
    """Brings a run's parts to where training begins: its `newest` checkpoint if any, given weights, or fresh."""
    model, optimizer = parts["model"], parts["optimizer"]
    if newest:
        path, content = newest
        progress = checkpoint.restore(cfg, path, content, class_names, parts)
        logger.info("going on from %s, after %s of %d", path, progress.describe(), cfg.SOLVER.MAX_EPOCH)
        return progress
    if cfg.TRAIN.AUTO_RESUME and is_main_process() and (unusable := checkpoint.names(cfg)):
        raise UserError(
            f"none of the checkpoints in {checkpoint_folder(cfg)} can be used: {shorten(unusable)} (the warnings above "
            "say why). Restore one of them, or set TRAIN.AUTO_RESUME False to train from the beginning (they are moved "
            "aside)"
        )
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
    distributed.barrier()
    if is_main_process():
        move_previous_run(cfg)  # only now: what is to be read may lie there, and a mistake so far should move nothing
    progress.class_names = list(class_names)
    return progress


def train_epoch(run: Run) -> None:
    """One pass over the training clips, or what is left of it.

    Gradients accumulate over as many batches as GLOBAL_BATCH_SIZE takes, and are those of the mean loss of all clips in
    them, also where the last batches of the epoch are fewer or smaller. The model is put in training mode, except for
    what is frozen. A process without a clip of the last batch computes the zero gradients that the others wait for in
    evaluation mode, so that the padding clip does not enter the statistics of batch norms.
    """
    cfg, progress, loader = run.cfg, run.progress, run.loader
    device, epoch, batches = choose_device(cfg), progress.epoch, len(loader)
    train_mode(run.model)
    set_epoch(loader, epoch, progress.iteration)
    loss_func, smoothing = LOSSES[cfg.MODEL.LOSS_FUNC], 0.0 if run.mixup else cfg.SOLVER.LABEL_SMOOTHING
    weights = class_weights(cfg, loader.dataset.records.labels).to(device)
    accumulate = batches_per_step(cfg)
    pace, since, number_in_step = Pace(batches, progress.iteration), time.perf_counter(), 0
    upcoming = progress.iteration

    def is_between_steps() -> bool:  # several processes stop together, after a step
        return dist_info().world_size == 1 and progress.iteration == upcoming

    loaded = progress_bar(loader, f"epoch {epoch + 1}", progress.iteration, is_between_steps)
    for index, batch in enumerate(prefetch_to_device(loaded, device), progress.iteration):
        waited = time.perf_counter() - since
        run.unreadable.take(batch)
        seed_step(cfg, epoch, index)
        clip, label, counted = normalize_clips(batch["clip"], cfg, device), batch["label"], batch["present"]
        number = int((batch["video"] >= 0).sum())
        number_in_step += number
        if number == 0:
            run.model.eval()
        if run.mixup:
            clip, label = run.mixup(clip, label, epoch, index)

        stepped = (index + 1) % accumulate == 0 or index + 1 == batches
        with nullcontext() if stepped else distributed.no_sync(run.forward):
            with autocast(cfg, device):
                scores = run.forward(clip)
            losses = loss_func(scores.float(), label, reduction="none", label_smoothing=smoothing)
            losses = losses * clip_weights(label, weights) * counted
            # What the processes' gradients are averaged to is that of the mean over all clips of the step.
            run.update.backward(losses.sum() * dist_info().world_size / clips_in_step(cfg, loader, index))

        if number == 0:
            train_mode(run.model)
        rate = learning_rate(cfg, epoch + index / batches)
        if stepped:
            distributed.average_batch_norm(run.model, number_in_step / clips_in_step(cfg, loader, index))
            run.update.step(rate)
            number_in_step = 0

        right = ((scores.detach().argmax(dim=1) == heaviest_labels(label)) & counted).sum()
        run.figures.add(losses.detach().sum(), right, number)
        run.watch.add(epoch, index, losses, batch["video"])
        pace.step(clips_in_batch(loader, index), waited)
        if pace.is_due(cfg.LOG_PERIOD):
            run.watch.check()
            run.unreadable.exchange()
            log_step(run, pace, rate)
        progress.seconds, upcoming = progress.seconds + time.perf_counter() - since, index + 1
        if stepped and index + 1 < batches:
            progress.iteration = index + 1
            save_and_stop_where_due(run)
        since = time.perf_counter()
    run.watch.check()
    end_epoch(run)


def iteration_now(cfg: CfgNode, loader: DataLoader, progress: checkpoint.Progress) -> int:
    """The iteration to go on from amid an epoch, in the batches of this loader.

    Where they are of another size than before, or make other steps, it is the last step that leaves no clip out.
    """
    sampler, accumulate = loader.batch_sampler, batches_per_step(cfg)
    done = min(progress.iteration * progress.batch_size, sampler.num_items - 1)
    iteration = done // (sampler.batch_size * accumulate) * accumulate
    if again := done - iteration * sampler.batch_size:
        logger.warning("batches have changed since the checkpoint was written: %d clips come again in its epoch", again)
    return iteration


def seed_step(cfg: CfgNode, epoch: int, iteration: int) -> None:
    """Makes all that is drawn on any device in a step a function of (RNG_SEED, epoch, iteration, rank)."""
    key = [cfg.RNG_SEED, epoch, iteration, dist_info().rank]
    torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))


def clips_in_step(cfg: CfgNode, loader: DataLoader, index: int) -> int:
    """Clips, over all processes, of the optimizer step that the batch `index` of an epoch, from 0, belongs to."""
    size = clips_per_step(cfg)
    return min(size, loader.batch_sampler.num_items - index // batches_per_step(cfg) * size)


def clips_in_batch(loader: DataLoader, index: int) -> int:
    """Clips, over all processes, of the batch `index` of an epoch, from 0."""
    sampler = loader.batch_sampler
    return min(sampler.batch_size, sampler.num_items - index * sampler.batch_size)


def log_step_size(cfg: CfgNode) -> None:
    """Logs how many clips are a step, where they are computed, and the learning rate that goes with that."""
    scale, base = learning_rate_scale(cfg), cfg.SOLVER.BASE_LR
    logger.info(
        "a step: %d clips in %d batch(es) of %d on %d machine(s) with %d process(es); learning rate %s",
        clips_per_step(cfg),
        batches_per_step(cfg),
        cfg.TRAIN.BATCH_SIZE,
        cfg.NUM_SHARDS,
        dist_info().local_size,
        f"{base:g}" if scale == 1 else f"{base * scale:g}, {scale:g} times SOLVER.BASE_LR {base:g}",
    )


def log_step(run: Run, pace: Pace, rate: float) -> None:
    """Writes the figures of the last steps."""
    epoch, recent = run.progress.epoch, run.figures.recent_loss
    figures: dict[str, Any] = {"loss": recent.value(), "lr": rate, **pace.report()}
    recent.clear()
    run.metrics.write("train_step", epoch + pace.done / pace.steps, figures)
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


def end_epoch(run: Run) -> None:
    """Writes the figures of an epoch that is done, and counts it."""
    progress = run.progress
    figures = {
        "loss": run.figures.loss.value(),
        "top1": 100.0 * run.figures.right.value(),
        "unreadable": len(run.unreadable.reasons),
    }
    refuse_broken_weights(run.model, f"the end of epoch {progress.epoch + 1}")
    progress.epoch, progress.iteration = progress.epoch + 1, 0
    run.figures.clear()
    run.metrics.write("train_epoch", progress.epoch, figures)
    logger.info("epoch %d: training loss %.4f, top-1 %.2f %%", progress.epoch, figures["loss"], figures["top1"])


def save_and_stop_where_due(run: Run, due: bool = False) -> None:
    """Writes a checkpoint if it is due, or TRAIN.CHECKPOINT_MINUTES have passed since the last; obeys a signal.

    One that is written for the minutes' sake alone and fails is a warning: the run goes on. Of several processes, all
    do so when one got a signal, or the lead's minutes are over: a step later, when they know.

    Raises:
        StopRequested: to obey a signal.
    """
    minutes = run.cfg.TRAIN.CHECKPOINT_MINUTES
    waited_long = 0 < 60 * minutes <= time.monotonic() - run.saved
    wish = run.agreement.exchange(interrupts.requested_signal() or (_SAVE if waited_long and is_main_process() else 0))
    if due:
        save(run)
    elif wish == _SAVE:
        try:
            save(run)
        except WriteError as error:
            run.saved = time.monotonic()
            logger.warning("%s. The run goes on, and tries again in %g minutes", error.problem, minutes)
    interrupts.stop_if_requested(0 if wish == _SAVE else wish)


def save(run: Run) -> None:
    """Writes a checkpoint of where the run is, unless there is one, or the losses or the weights are broken."""
    if distributed.from_main_process(lambda: run.saved_position == run.position):
        return
    run.watch.check()
    run.unreadable.exchange()
    refuse_broken_weights(run.model, f"the end of {run.progress.describe()}")
    checkpoint.save(run.cfg, run.parts, run.progress)
    checkpoint.remove_superseded(run.cfg, run.progress, is_finished(run.cfg, run.progress))
    run.saved, run.saved_position = time.monotonic(), run.position


def validate(run: Run, loader: DataLoader) -> None:
    """Scores the validation split and keeps the model if it is the best so far (by top-1, then by loss)."""
    progress = run.progress
    evaluation = evaluate(run.update.outcome(), loader, run.cfg, "validation")
    top1, top5 = evaluation.topk(1, 5)
    figures = {
        "loss": evaluation.loss,
        "top1": top1,
        "top5": top5,
        "mean_class_top1": evaluation.mean_class_top1(),
        "unreadable": len(evaluation.unreadable),
    }
    run.metrics.write("val_epoch", progress.epoch, figures)
    best = progress.best_top1
    is_best = best is None or (top1, -evaluation.loss) > (best, -progress.best_loss)
    logger.info(
        "epoch %d: validation loss %.4f, top-1 %.2f %%, top-5 %.2f %%, mean over classes %.2f %%%s",
        progress.epoch,
        evaluation.loss,
        top1,
        top5,
        figures["mean_class_top1"],
        " (best so far)" if is_best else "",
    )
    progress.validated, progress.last_top1 = progress.epoch, top1
    progress.not_better = 0 if is_best else progress.not_better + 1
    if is_best:
        progress.best_top1, progress.best_loss, progress.best_epoch = top1, evaluation.loss, progress.epoch
        checkpoint.save_best(run.cfg, run.update.outcome(), progress)


def is_validation_due(cfg: CfgNode, progress: checkpoint.Progress) -> bool:
    """Whether the epochs that are done are to be followed by a validation that is not done yet."""
    due = is_due(progress.epoch, cfg.TRAIN.EVAL_PERIOD, cfg.SOLVER.MAX_EPOCH)
    return due and progress.iteration == 0 and progress.validated < progress.epoch


def is_finished(cfg: CfgNode, progress: checkpoint.Progress) -> bool:
    """Whether nothing is left to train or validate."""
    ended = progress.epoch >= cfg.SOLVER.MAX_EPOCH or should_stop_early(cfg, progress)
    return ended and not is_validation_due(cfg, progress)


def should_stop_early(cfg: CfgNode, progress: checkpoint.Progress) -> bool:
    """Whether TRAIN.EARLY_STOP_PATIENCE validations in a row were no better than the best."""
    return 0 < cfg.TRAIN.EARLY_STOP_PATIENCE <= progress.not_better


def why_finished(cfg: CfgNode, progress: checkpoint.Progress) -> str:
    """The end that a run has come to, in words."""
    if should_stop_early(cfg, progress):
        return (
            f"stopped early after epoch {progress.epoch} of {cfg.SOLVER.MAX_EPOCH}, as {progress.not_better} "
            f"validations were no better than that after epoch {progress.best_epoch} (TRAIN.EARLY_STOP_PATIENCE)"
        )
    return f"SOLVER.MAX_EPOCH is {cfg.SOLVER.MAX_EPOCH}"


def is_due(epoch: int, period: int, last: int) -> bool:
    """Whether something done every `period` epochs, and after the last, is due when `epoch` are finished."""
    return epoch % period == 0 or epoch == last


def log_model_info(cfg: CfgNode, model: nn.Module) -> None:
    """Logs the model's modules, its number of parameters and the multiply-adds of a view."""
    size = cfg.DATA.TRAIN_CROP_SIZE
    operations = count_multiply_adds(model, (1, 3, cfg.DATA.NUM_FRAMES, size, size))
    logger.info("%s\n%.2f M parameters, %.2f GFLOPs per view", model, count_parameters(model) / 1e6, operations / 1e9)
