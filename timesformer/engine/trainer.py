"""Training from start to end: the setup, the epoch loop (`fit`) and the step (`train_step`)."""

import logging
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from signal import Signals
from typing import Any

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import nn

from timesformer.atomic import WriteError, report_write_errors, write_text_atomically
from timesformer.datasets.catalog import Splits
from timesformer.datasets.durations import median_seconds
from timesformer.datasets.loader import construct_loader, set_epoch
from timesformer.datasets.transforms.spatial import normalize_clips
from timesformer.datasets.workers.dataloader import report_worker_death
from timesformer.engine import checkpoint, optim
from timesformer.engine.advice import few_clips_advice
from timesformer.engine.distillation import Distillation
from timesformer.engine.evaluate import evaluate
from timesformer.engine.loss import ClassificationLoss, ClipMixup, FiniteCheck, log_class_counts
from timesformer.engine.meters import Throughput, TrainingMetrics
from timesformer.engine.progress import Progress
from timesformer.engine.unreadable import UnreadableClips
from timesformer.errors import counted, shorten
from timesformer.models import build_model
from timesformer.models.complexity import count_multiply_adds, count_parameters, count_trained
from timesformer.models.lora import LowRankState, add_low_rank_updates
from timesformer.models.parts import freeze, train_mode
from timesformer.models.weights.loading import load_pretrained
from timesformer.models.weights.normalization import warn_of_normalization
from timesformer.models.weights.trained_split import warn_of_split
from timesformer.models.wrappers import CompiledForward, checkpoint_activations
from timesformer.runtime import distributed, signals
from timesformer.runtime.device import autocast, choose_device, prefetch_to_device, set_float32_precision
from timesformer.runtime.logging import STEP, MetricsWriter, duration, progress_bar
from timesformer.runtime.ranks import dist_info, is_main_process
from timesformer.runtime.run_folder import best_path, config_path, move_previous_run
from timesformer.runtime.trackers import Trackers

logger = logging.getLogger(__name__)

_SAVE = 1  # a request for a checkpoint; the other requests are numbers of signals that stop the run, all above 1


class Trainer:
    """Trains a model, and resumes from the newest checkpoint in OUTPUT_DIR (TRAIN.AUTO_RESUME).

    Random numbers depend on (RNG_SEED, epoch, iteration, rank) only, so that a resumed run has the same weights as an
    uninterrupted one. Each process of a run has a trainer, with its part of the clips.
    """

    def __init__(self, cfg: CfgNode, splits: Splits, trackers: Trackers | None = None) -> None:
        self.cfg, self.splits, self.trackers, self.device = cfg, splits, trackers, choose_device(cfg)
        self.progress = Progress()
        self.distillation: Distillation | None = None
        self.frozen_for_now: list[nn.Parameter] = []  # until MODEL.UNFREEZE_EPOCH
        self.requests = distributed.DelayedMax()
        self.clips_accumulated = 0  # of this process, since the last optimizer step
        self.saved_at, self.saved_position = time.monotonic(), ()
        self.validation_seconds = 0.0  # of the last validation

    def setup(self) -> None:
        """Prepares data, model, optimizer and loss, and restores the newest checkpoint or loads initial weights."""
        set_float32_precision(self.cfg)
        self.setup_data()
        newest = checkpoint.newest_checkpoint(self.cfg) if self.cfg.TRAIN.AUTO_RESUME else None
        self.setup_model(newest and newest[1])
        self.setup_optimizer()
        self.setup_loss()
        if newest:
            class_names = self.train_loader.dataset.class_names
            self.progress = checkpoint.restore(self.cfg, *newest, class_names, self.state())
        else:
            self.load_initial_weights()
            if advice := few_clips_advice(self.cfg, self.model, len(self.train_loader.dataset.records)):
                logger.warning(advice)
        self.progress.fit_to_batches(self.cfg, self.train_loader.batch_sampler)
        self.unfreeze_if_due()
        self.setup_forward()

    def setup_data(self) -> None:
        rank, world_size = dist_info().rank, dist_info().world_size
        loaders = [construct_loader(self.cfg, s, rank, world_size, self.splits[s]) for s in ("train", "val")]
        self.train_loader, self.val_loader = loaders

    def setup_model(self, saved: dict[str, Any] | None) -> None:
        """Builds the model; `saved` is the content of the checkpoint that will be restored."""
        cfg = self.cfg
        torch.manual_seed(cfg.RNG_SEED)
        config = saved and saved.get("network_config")
        model = build_model(cfg, fresh=saved is not None, network_config=config)  # a checkpoint replaces all weights
        if cfg.LOG_MODEL_INFO:
            size = cfg.DATA.TRAIN_CROP_SIZE
            flops = count_multiply_adds(model, (1, 3, cfg.DATA.NUM_FRAMES, size, size)) / 1e9
            logger.info("%s\n%.2f M parameters, %.2f GFLOPs per view", model, count_parameters(model) / 1e6, flops)
        if cfg.MODEL.LORA_RANK:
            lora = (cfg.MODEL.LORA_RANK, cfg.MODEL.LORA_ALPHA, cfg.MODEL.LORA_LAYERS)
            add_low_rank_updates(model, *lora, cfg.MODEL.UNFROZEN)
        elif not cfg.MODEL.UNFREEZE_EPOCH:
            freeze(model, cfg.MODEL.FREEZE, cfg.MODEL.UNFROZEN)
        checkpoint_activations(model, cfg.MODEL.ACT_CHECKPOINT)
        self.model = model.to(self.device)
        if cfg.DISTILL.TEACHER:
            class_names = self.train_loader.dataset.class_names
            self.distillation = Distillation(cfg, self.model, class_names, self.device)

    def setup_optimizer(self) -> None:
        freezing = self.cfg.MODEL
        if freezing.UNFREEZE_EPOCH:  # the optimizer has them from the start, and skips parameters without a gradient
            self.frozen_for_now = freeze(self.model, freezing.FREEZE, freezing.UNFROZEN)
        self.optimizer = optim.construct_optimizer(self.model, self.cfg, self.frozen_for_now)
        if self.distillation and len(self.distillation.projections):
            self.optimizer.add_param_group({"params": list(self.distillation.projections.parameters())})
        # fp16 gradients underflow, so the loss is scaled up; steps with overflowing gradients are skipped.
        fp16 = self.cfg.TRAIN.MIXED_PRECISION == "fp16"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=fp16)
        self.ema = optim.ModelEma(self.model, self.cfg.EMA.DECAY) if self.cfg.EMA.ENABLED else None

    def setup_loss(self) -> None:
        records = self.train_loader.dataset.records
        self.loss = ClassificationLoss(self.cfg, records.labels, self.device)
        self.mixup = ClipMixup(self.cfg) if self.cfg.MIXUP.ENABLED else None
        self.metrics, self.finite_check = TrainingMetrics(), FiniteCheck(self.model, records.names)
        self.unreadable = UnreadableClips(self.cfg, "train", records)

    def setup_forward(self) -> None:
        forward = self.model
        if self.cfg.TRAIN.COMPILE:
            forward = CompiledForward(self.model, self.train_loader.batch_sampler.part_size)
        trained = self.model
        if self.distillation:
            forward = partial(self.distillation.forward, forward)
            trained = nn.ModuleList([self.model, self.distillation.projections])
        self.forward = distributed.parallel(trained, forward)

    def unfreeze_if_due(self) -> bool:
        """Unfreezes everything after MODEL.UNFREEZE_EPOCH epochs; the forward pass must then be set up again."""
        is_due = bool(self.frozen_for_now) and self.progress.epoch >= self.cfg.MODEL.UNFREEZE_EPOCH
        if is_due:
            for parameter in self.frozen_for_now:
                parameter.requires_grad_(True)
            self.frozen_for_now = []
        return is_due

    def state(self) -> dict[str, checkpoint.Stateful]:
        """What a checkpoint stores besides the progress, by name."""
        state: dict[str, checkpoint.Stateful] = {"model": self.model, "optimizer": self.optimizer}
        if self.cfg.MODEL.LORA_RANK:
            state["lora"] = LowRankState(self.model)  # after the model, whose state has the merged weights
        if self.scaler.is_enabled():
            state["scaler"] = self.scaler
        if self.ema:
            state["ema"] = self.ema
        if self.distillation:
            state["distillation"] = self.distillation
        return state | {"figures": self.metrics, "unreadable": self.unreadable}

    def load_initial_weights(self) -> None:
        """Fine-tunes or continues TRAIN.CHECKPOINT_FILE_PATH, if given."""
        cfg, source = self.cfg, self.cfg.TRAIN.CHECKPOINT_FILE_PATH
        new = getattr(self.model, "new_parameters", [])
        if source and cfg.TRAIN.FINETUNE:
            report = load_pretrained(
                self.model, source, cfg.TIMESFORMER.POS_EMBED_INTERPOLATION, cfg.TRAIN.STRICT_LOADING
            )
            new = report.new
            logger.info("fine-tuning from %s\n%s", source, report.table())
            warn_of_normalization(cfg, source, report.metadata.mean, report.metadata.std)
            warn_of_split(cfg, source, report.rest)
        elif source:
            new, self.progress = [], checkpoint.continue_from(cfg, source, self.state())
        frozen = {name.removeprefix("model.") for name, p in self.model.named_parameters() if not p.requires_grad}
        if not self.frozen_for_now and (untrained := sorted(frozen.intersection(new))):
            logger.warning("frozen parameters are missing in the weights: %s (see MODEL.UNFROZEN)", shorten(untrained))
        distributed.barrier()
        if is_main_process():
            move_previous_run(cfg)  # only now: the weights may be there, and an error so far should move nothing
        self.progress.class_names = list(self.train_loader.dataset.class_names)
        if is_main_process():
            self.progress.clip_seconds = median_seconds(self.train_loader.dataset.records, cfg.DATA.TARGET_FPS)

    def start_logging(self) -> None:
        """Writes the configuration, logs what will be trained, and opens metrics.jsonl and TensorBoard."""
        cfg, progress, loader = self.cfg, self.progress, self.train_loader
        if is_main_process():
            with report_write_errors(Path(cfg.OUTPUT_DIR)):
                Path(cfg.OUTPUT_DIR).mkdir(parents=True, exist_ok=True)
            write_text_atomically(config_path(cfg), cfg.dump())
        dataset, total, trained = loader.dataset, count_parameters(self.model), count_trained(self.model)
        logger.info(
            f"training {cfg.MODEL.MODEL_NAME} ({total / 1e6:.2f} M parameters, {trained / 1e6:.2f} M trained) on "
            f"{self.device}: {counted(len(dataset), 'clip')} of {counted(len(dataset.class_names), 'class')}, "
            f"validation on {len(self.val_loader.dataset)}; epochs {progress.epoch + 1} to {cfg.SOLVER.MAX_EPOCH}"
        )
        self.log_optimization()
        set_epoch(loader, progress.epoch)
        log_class_counts(cfg, loader)
        epoch = progress.epoch + progress.iteration / len(loader)
        self.writer = MetricsWriter(cfg, epoch, len(loader), progress.validated, self.trackers)

    def log_optimization(self) -> None:
        """Logs learning rate and batch size."""
        cfg, scale = self.cfg, optim.learning_rate_scale(self.cfg)
        logger.info(
            f"learning rate {cfg.SOLVER.BASE_LR * scale:g} ({scale:g} x SOLVER.BASE_LR); a step: "
            f"{counted(optim.clips_per_step(cfg), 'clip')} in {counted(optim.batches_per_step(cfg), 'batch')} of "
            f"{cfg.TRAIN.BATCH_SIZE} on {counted(cfg.NUM_SHARDS, 'node')} with "
            f"{counted(dist_info().local_size, 'process')}{' each' if cfg.NUM_SHARDS > 1 else ''}"
        )

    def fit(self) -> Path:
        """Trains, validates and saves checkpoints until the last epoch, early stopping or a signal."""
        cfg, progress = self.cfg, self.progress
        if progress.is_finished(cfg):
            logger.info("nothing left to train: %s", progress.finish_reason(cfg))
            return best_path(cfg)
        self.start_logging()
        try:
            self.unreadable.record_known()
            workers_watched = report_worker_death(self.train_loader, self.val_loader)
            with workers_watched, signals.graceful_shutdown(dist_info().world_size > 1):
                while not progress.is_finished(cfg):
                    if progress.needs_validation(cfg):
                        self.validate()
                    else:
                        self.train_epoch()
                    due = progress.is_due(cfg, cfg.TRAIN.CHECKPOINT_PERIOD) or progress.is_finished(cfg)
                    self.save_or_stop(due)
                self.requests.wait()
                signals.stop_if_requested(distributed.all_reduce_max(signals.requested_signal()))
        except signals.StopRequested as request:
            self.requests.wait()
            self.save()
            distributed.barrier()  # the end of one process would kill rank 0 while it writes
            logger.info("stopped by %s after %s; it is saved", Signals(*request.args).name, progress.describe())
            raise
        finally:
            self.writer.close()
        logger.info(
            f"training done in {duration(progress.seconds)}, {progress.finish_reason(cfg)}; best validation top-1 "
            f"{progress.best_top1:.2f} % after epoch {progress.best_epoch}: {best_path(cfg)}"
        )
        return best_path(cfg)

    def train_epoch(self) -> None:
        """Trains on the remaining batches of an epoch."""
        progress, batches = self.progress, len(self.train_loader)
        if self.unfreeze_if_due():
            self.setup_forward()
            logger.info("from now on, %.2f M parameters are trained", count_trained(self.model) / 1e6)
        train_mode(self.model)
        set_epoch(self.train_loader, progress.epoch, progress.iteration)
        throughput, since = Throughput(batches, progress.iteration), time.perf_counter()

        def may_stop() -> bool:  # while waiting for data: between two steps, and alone
            return dist_info().world_size == 1 and progress.iteration == throughput.done

        loaded = progress_bar(self.train_loader, f"epoch {progress.epoch + 1}", progress.iteration, may_stop)
        for index, batch in enumerate(prefetch_to_device(loaded, self.device), progress.iteration):
            waited = time.perf_counter() - since
            self.unreadable.record_batch(batch)
            has_stepped = self.train_step(batch, index)
            throughput.step(self.clips_in(index, index + 1), waited)
            if throughput.is_due(self.cfg.LOG_PERIOD):
                self.log_step(throughput)
            progress.seconds += time.perf_counter() - since
            if has_stepped and index + 1 < batches:
                progress.iteration = index + 1
                self.save_or_stop()
            since = time.perf_counter()
        self.end_epoch()

    def train_step(self, batch: dict[str, Any], index: int) -> bool:
        """Forward and backward pass of one batch; after the last batch of an accumulation, the optimizer step.

        The gradient is that of the mean loss over all clips of the step, in all processes and batches. Returns whether
        the optimizer has stepped.
        """
        cfg, epoch, batches = self.cfg, self.progress.epoch, len(self.train_loader)
        seed_step(cfg, epoch, index)
        clip, label = normalize_clips(batch["clip"], cfg, self.device), batch["label"]
        if self.mixup:
            clip, label = self.mixup(clip, label, epoch, index)

        num_clips = int((batch["video"] >= 0).sum())
        if num_clips == 0:  # a padding clip must not enter the statistics of batch norms
            self.model.eval()
        first, stop = self.batches_of_step(index)
        clips_in_step = self.clips_in(first, stop)
        with nullcontext() if index + 1 == stop else distributed.no_sync(self.forward):
            with autocast(cfg, self.device):
                logits = self.forward(clip)
            losses = self.loss(logits, label)
            if self.distillation:
                losses = self.distillation.losses(losses, logits, clip, batch["video"])
            losses = losses * batch["present"]
            # DDP averages gradients over the processes; the sum over all clips is wanted.
            self.scaler.scale(losses.sum() * dist_info().world_size / clips_in_step).backward()
        if num_clips == 0:
            train_mode(self.model)

        self.clips_accumulated += num_clips
        if index + 1 == stop:
            distributed.average_batch_norm(self.model, self.clips_accumulated / clips_in_step)
            self.optimizer_step(optim.learning_rate_of_batch(cfg, epoch, index, batches))
            self.clips_accumulated = 0

        target = label.argmax(dim=1) if label.ndim == 2 else label  # of mixed clips, the label of the larger share
        correct = (logits.detach().argmax(dim=1) == target) & batch["present"]
        self.metrics.add(losses.detach().sum(), correct.sum(), num_clips)
        self.finite_check.add(epoch, index, losses, batch["video"])
        return index + 1 == stop

    def optimizer_step(self, lr: float) -> None:
        """Updates the weights from the accumulated gradients, and the moving average from the weights."""
        optim.set_learning_rate(self.optimizer, lr)
        if self.cfg.SOLVER.CLIP_GRAD_L2NORM > 0:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.cfg.SOLVER.CLIP_GRAD_L2NORM)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if self.ema:
            self.ema.update()

    def batches_of_step(self, index: int) -> tuple[int, int]:
        """First and last (exclusive) batch of the optimizer step that batch `index` of an epoch belongs to."""
        accumulate = optim.batches_per_step(self.cfg)
        first = index // accumulate * accumulate
        return first, min(first + accumulate, len(self.train_loader))

    def clips_in(self, start: int, stop: int) -> int:
        """Clips in all processes of the batches from `start` up to `stop`, exclusive."""
        sampler = self.train_loader.batch_sampler
        return min(stop * sampler.batch_size, sampler.num_items) - start * sampler.batch_size

    def log_step(self, throughput: Throughput) -> None:
        """Writes the metrics of the steps since the last report, after checking them."""
        self.finite_check.check_losses()
        self.unreadable.exchange()
        done, batches, recent = throughput.done, throughput.steps, self.metrics.recent_loss
        lr = optim.learning_rate_of_batch(self.cfg, self.progress.epoch, done - 1, batches)
        metrics = {"loss": recent.value(), "lr": lr, **throughput.report()}
        metrics["run_eta_seconds"] = metrics["eta_seconds"] + self.seconds_after_epoch(throughput)
        recent.reset()
        self.writer.write("train_step", self.progress.epoch + done / batches, metrics)
        logger.log(
            STEP,
            f"epoch {self.progress.epoch + 1}: {done}/{batches}, loss {metrics['loss']:.4f}, lr {lr:.3g}, "
            f"{metrics['clips_per_second']:.1f} clips/s, {metrics['data_share']:.0%} waiting for data, "
            f"{duration(metrics['eta_seconds'])} to go, {duration(metrics['run_eta_seconds'])} in the run",
        )

    def seconds_after_epoch(self, throughput: Throughput) -> float:
        """Expected time from the end of this epoch to that of the last, as fast as the last steps and validation."""
        epochs = self.cfg.SOLVER.MAX_EPOCH - self.progress.epoch - 1
        validations = 1 + epochs // self.cfg.TRAIN.EVAL_PERIOD
        return epochs * throughput.steps * throughput.seconds_per_step + validations * self.validation_seconds

    def end_epoch(self) -> None:
        """Writes the metrics of a finished epoch and counts it."""
        self.finite_check.check_losses()
        progress, loss, top1 = self.progress, self.metrics.loss.value(), 100.0 * self.metrics.correct.value()
        self.finite_check.check_weights(f"the end of epoch {progress.epoch + 1}")
        progress.epoch, progress.iteration = progress.epoch + 1, 0
        self.metrics.reset()
        unreadable = len(self.unreadable.reasons)
        self.writer.write("train_epoch", progress.epoch, {"loss": loss, "top1": top1, "unreadable": unreadable})
        logger.info("epoch %d: training loss %.4f, top-1 %.2f %%", progress.epoch, loss, top1)

    def eval_model(self) -> nn.Module:
        """The model to validate and to save as the best: the moving average if there is one."""
        return self.ema.eval_model() if self.ema else self.model

    def validate(self) -> None:
        """Evaluates the validation split, and saves the model if it is the best by top-1, then by loss."""
        progress, start = self.progress, time.perf_counter()
        evaluation = evaluate(self.eval_model(), self.val_loader, self.cfg, "validation")
        self.validation_seconds = time.perf_counter() - start
        metrics = evaluation.metrics() | {"unreadable": len(evaluation.unreadable)}
        self.writer.write("val_epoch", progress.epoch, metrics)
        is_best = progress.update_best(metrics["top1"], metrics["loss"])
        best = " (best so far)" if is_best else ""
        logger.info(f"epoch {progress.epoch}: validation loss {metrics['loss']:.4f}, {evaluation.describe()}{best}")
        if is_best:
            checkpoint.save_best(self.cfg, self.eval_model(), progress)

    def save_or_stop(self, due: bool = False) -> None:
        """Saves a checkpoint if `due` or after TRAIN.CHECKPOINT_MINUTES; StopRequested for a signal of any process.

        Processes learn of each other's requests one call later, so that none waits for another.
        """
        minutes = self.cfg.TRAIN.CHECKPOINT_MINUTES
        time_is_over = 0 < 60 * minutes <= time.monotonic() - self.saved_at
        wanted = signals.requested_signal() or (_SAVE if time_is_over and is_main_process() else 0)
        request = self.requests.exchange(wanted)
        if due:
            self.save()
        elif request == _SAVE:
            try:
                self.save()
            except WriteError as error:
                self.saved_at = time.monotonic()
                logger.warning("%s. Training continues, and tries again in %g minutes", error.problem, minutes)
        signals.stop_if_requested(0 if request == _SAVE else request)

    def save(self) -> None:
        """Saves a checkpoint, unless nothing has changed since the last one; refuses weights that are not finite."""
        position = (*self.progress.position, self.progress.validated)
        if distributed.from_main_process(lambda: self.saved_position == position):
            return
        self.finite_check.check_losses()
        self.unreadable.exchange()
        self.finite_check.check_weights(f"the end of {self.progress.describe()}")
        checkpoint.save(self.cfg, self.state(), self.progress)
        checkpoint.remove_superseded(self.cfg, self.progress, self.progress.is_finished(self.cfg))
        self.saved_at, self.saved_position = time.monotonic(), position


def seed_step(cfg: CfgNode, epoch: int, iteration: int) -> None:
    """Seeds PyTorch on all devices from (RNG_SEED, epoch, iteration, rank)."""
    key = [cfg.RNG_SEED, epoch, iteration, dist_info().rank]
    torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
