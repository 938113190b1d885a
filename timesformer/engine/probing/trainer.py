"""Training of heads on cached features: a grid of learning rates and weight decays in one pass over the batches."""

import copy
import itertools
import logging
import time
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from signal import Signals
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from timesformer.engine import checkpoint, optim
from timesformer.engine.probing.data import feature_loader, load_features
from timesformer.engine.trainer import Trainer, seed_step
from timesformer.engine.unreadable import UnreadableClips
from timesformer.errors import UserError
from timesformer.metrics.calibration import fit_temperature
from timesformer.metrics.evaluation import Evaluation
from timesformer.models.parts import train_mode
from timesformer.runtime import distributed, signals
from timesformer.runtime.device import prefetch_to_device, set_float32_precision
from timesformer.runtime.logging import STEP, duration
from timesformer.runtime.ranks import dist_info, is_main_process
from timesformer.runtime.run_folder import best_path

logger = logging.getLogger(__name__)


@dataclass
class Candidate:
    """A head that is trained with one learning rate and weight decay."""

    cfg: CfgNode  # with SOLVER.BASE_LR and SOLVER.WEIGHT_DECAY of the head
    model: nn.Module  # a copy that shares the frozen parameters
    optimizer: torch.optim.Optimizer
    train: list[tuple[int, dict[str, float]]] = field(default_factory=list)  # finished epochs, metrics
    val: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    rank: tuple[float, float] = (-np.inf, -np.inf)  # of the last validation, higher is better

    @cached_property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The trained parameters by name."""
        return {name: value for name, value in self.model.named_parameters() if value.requires_grad}

    def describe(self) -> str:
        return f"SOLVER.BASE_LR {self.cfg.SOLVER.BASE_LR:g}, SOLVER.WEIGHT_DECAY {self.cfg.SOLVER.WEIGHT_DECAY:g}"


class HeadOnly(nn.Module):
    """The head of a model, from features to logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: Tensor) -> Tensor:
        return self.model.forward_head(features)


@dataclass(frozen=True)
class _Grid:
    """What best.pyth has about the whole grid; `seconds` and `epoch` are those of the whole training."""

    rows: list[dict[str, float]]
    seconds: float
    epoch: int

    def state_dict(self) -> dict[str, Any]:
        return {"grid": self.rows, "seconds": self.seconds, "epoch": self.epoch}


class ProbeTrainer(Trainer):
    """Trains a head for each pair of FEATURES.LEARNING_RATES and WEIGHT_DECAYS, and saves the best on validation.

    The heads are compared after the last epoch: with a few dozen validation clips, the best validation is often that of
    an early epoch, with a head that is hardly trained. Each is trained as if alone, with the batches and random numbers
    of a run with this SOLVER.BASE_LR and WEIGHT_DECAY.

    The main process trains; all compute features. An interrupted run starts again from the cached features.
    """

    def setup(self) -> None:
        """Prepares data, model and loss, unless the run is finished."""
        set_float32_precision(self.cfg)
        self.setup_data()
        ignored = {
            key
            for key, values in (
                ("SOLVER.BASE_LR", self.cfg.FEATURES.LEARNING_RATES),
                ("SOLVER.WEIGHT_DECAY", self.cfg.FEATURES.WEIGHT_DECAYS),
            )
            if values
        }
        class_names = self.train_loader.dataset.class_names
        self.is_done = distributed.from_main_process(
            lambda: checkpoint.has_result(self.cfg, best_path(self.cfg), class_names, "probe", ignored)
        )
        if not self.is_done:
            self.setup_model(None)
            self.load_initial_weights()
            self.setup_loss()

    def fit(self) -> Path:
        """Computes the features that are not cached, trains the heads, and saves the best."""
        cfg, start = self.cfg, time.monotonic()
        if self.is_done:
            logger.info("nothing left to train: %s is of the same options", best_path(cfg))
            return best_path(cfg)
        try:
            with signals.graceful_shutdown(dist_info().world_size > 1):
                self.setup_features()
                self.setup_heads()
                self.start_logging()
                while not self.progress.is_finished(cfg):
                    if is_main_process():
                        self.train_epoch()
                        self.validate()
                    self.progress = distributed.from_main_process(lambda: self.progress)
                    signals.stop_if_requested(distributed.all_reduce_max(signals.requested_signal()))
                self.progress.seconds = time.monotonic() - start
                if is_main_process():
                    self.finish()
        except signals.StopRequested as request:
            name = Signals(*request.args).name
            logger.info("stopped by %s; the features computed so far are cached", name)
            raise
        finally:
            if hasattr(self, "writer"):
                self.writer.close()
        distributed.barrier()
        return best_path(cfg)

    def setup_features(self) -> None:
        """Replaces the loaders of clips by loaders of their features."""
        cfg, splits, model = self.cfg, self.splits, self.model
        val_unreadable = UnreadableClips(cfg, "val", splits["val"].records)
        val = load_features(cfg, model, "val", splits["val"], val_unreadable)
        train = load_features(cfg, model, "train", splits["train"], self.unreadable)
        self.train_loader, self.val_loader = feature_loader(cfg, train), feature_loader(cfg, val)
        self.progress.batch_size = self.train_loader.batch_sampler.batch_size

    def setup_heads(self) -> None:
        """Copies the head for each learning rate and weight decay."""
        cfg, solver = self.cfg, self.cfg.SOLVER
        frozen = [p for p in self.model.parameters() if not p.requires_grad] + list(self.model.buffers())
        self.candidates = []
        rates, decays = cfg.FEATURES.LEARNING_RATES, cfg.FEATURES.WEIGHT_DECAYS
        for rate, decay in itertools.product(rates or [solver.BASE_LR], decays or [solver.WEIGHT_DECAY]):
            chosen, model = cfg.clone(), copy.deepcopy(self.model, {id(tensor): tensor for tensor in frozen})
            chosen.SOLVER.BASE_LR, chosen.SOLVER.WEIGHT_DECAY = rate, decay
            self.candidates.append(Candidate(chosen, model, optim.construct_optimizer(model, chosen)))
        self.head = HeadOnly(self.model)
        dataset = self.val_loader.dataset
        unreadable = {dataset.records.names[video]: reason for video, reason in dataset.features.problems.items()}
        labels, names = torch.from_numpy(dataset.records.labels), list(dataset.records.names)
        self.evaluation = Evaluation(names, labels, Tensor(), Tensor(), unreadable, 0.0, 1, 0.0)

    def log_optimization(self) -> None:
        """Logs the grid."""
        features, solver = self.cfg.FEATURES, self.cfg.SOLVER
        logger.info(
            f"{len(self.candidates)} heads: learning rates {features.LEARNING_RATES or [solver.BASE_LR]}, weight "
            f"decays {features.WEIGHT_DECAYS or [solver.WEIGHT_DECAY]}; a step: {optim.clips_per_step(self.cfg)} clips"
        )

    def logits(self, features: Tensor) -> Tensor:
        """Logits of all heads, [heads, batch, classes], of features [batch, *shape]."""
        parameters = [candidate.parameters for candidate in self.candidates]
        stacked = {f"model.{name}": torch.stack([of[name] for of in parameters]) for name in parameters[0]}
        features = features.float()
        with sdpa_kernel(SDPBackend.MATH):  # the others have no batching rule
            # The same dropout for all heads, so that a head does not depend on the others.
            return torch.vmap(
                lambda values: torch.func.functional_call(self.head, values, (features,)), randomness="same"
            )(stacked)

    def train_epoch(self) -> None:
        """Trains all heads on an epoch."""
        epoch, batches, count = self.progress.epoch, len(self.train_loader), 0
        self.train_loader.batch_sampler.set_epoch(epoch)
        train_mode(self.model)
        loss, correct = 0.0, 0.0
        for index, batch in enumerate(prefetch_to_device(self.train_loader, self.device)):
            seed_step(self.cfg, epoch, index)
            logits, label = self.logits(batch["clip"]), batch["label"].to(self.device)
            heads, size, _ = logits.shape
            losses = self.loss(logits.flatten(0, 1), label.repeat(heads)).view(heads, size)
            losses.mean(dim=1).sum().backward()
            for candidate in self.candidates:
                self.step(candidate, optim.learning_rate_of_batch(candidate.cfg, epoch, index, batches))
            loss = loss + losses.detach().double().sum(dim=1)
            correct = correct + (logits.detach().argmax(dim=2) == label).double().sum(dim=1)
            count += size
        self.progress.epoch = epoch + 1
        for candidate, mean, share in zip(
            self.candidates, (loss / count).tolist(), (correct / count).tolist(), strict=True
        ):
            metrics = {"loss": mean, "top1": 100 * share, "unreadable": len(self.unreadable.reasons)}
            candidate.train.append((epoch + 1, metrics))

    def step(self, candidate: Candidate, lr: float) -> None:
        """Updates one head."""
        optimizer = candidate.optimizer
        optim.set_learning_rate(optimizer, lr)
        if self.cfg.SOLVER.CLIP_GRAD_L2NORM > 0:
            nn.utils.clip_grad_norm_(candidate.parameters.values(), self.cfg.SOLVER.CLIP_GRAD_L2NORM)
        optimizer.step()
        optimizer.zero_grad()

    @torch.no_grad()
    def validate(self) -> None:
        """Validates all heads if it is due; after the last epoch, selects one by top-1, then by calibrated loss."""
        progress = self.progress
        if not progress.needs_validation(self.cfg):
            return
        self.model.eval()
        batches = [self.logits(batch["clip"]).cpu() for batch in prefetch_to_device(self.val_loader, self.device)]
        labels, readable = self.evaluation.labels, self.evaluation.readable
        for candidate, scores in zip(self.candidates, torch.cat(batches, dim=1), strict=True):
            seen, targets = scores[readable].double(), labels[readable]
            loss = F.cross_entropy(seen, targets).item()
            metrics = replace(self.evaluation, scores=scores, loss=loss).metrics()
            candidate.val.append((progress.epoch, metrics | {"unreadable": len(self.evaluation.unreadable)}))
            if np.isfinite(loss):
                # Unlike the plain loss, it does not grow with the confidence of a head that was trained for long.
                candidate.rank = (metrics["top1"], -fit_temperature(seen, targets)[1])
            else:
                candidate.rank = (-np.inf, -np.inf)
        self.best = max(self.candidates, key=lambda candidate: candidate.rank)
        metrics = self.best.val[-1][1]
        if not np.isfinite(metrics["loss"]):
            raise UserError("the losses of all heads became NaN or infinite: lower FEATURES.LEARNING_RATES")
        is_last = progress.epoch == self.cfg.SOLVER.MAX_EPOCH
        if is_last:
            progress.update_best(metrics["top1"], metrics["loss"])
        progress.validated = progress.epoch
        logger.log(
            logging.INFO if is_last else STEP,
            f"epoch {progress.epoch}: validation top-1 {metrics['top1']:.2f} %, loss {metrics['loss']:.4f} with "
            f"{self.best.describe()}",
        )

    def finish(self) -> None:
        """Saves the best head as a checkpoint of the whole model, and writes the metrics of its training."""
        best, progress = self.best, self.progress
        for epoch, metrics in best.train:
            self.writer.write("train_epoch", epoch, metrics)
        for epoch, metrics in best.val:
            self.writer.write("val_epoch", epoch, metrics)
        self.model.load_state_dict(best.parameters, strict=False)
        rows = []
        for candidate in self.candidates:
            metrics, solver = candidate.val[-1][1], candidate.cfg.SOLVER
            rows.append({"lr": solver.BASE_LR, "weight_decay": solver.WEIGHT_DECAY})
            rows[-1] |= {"val_top1": metrics["top1"], "val_loss": metrics["loss"]}
            logger.info(
                f"{candidate.describe()}: validation top-1 {metrics['top1']:.2f} %, loss {metrics['loss']:.4f}, "
                f"calibrated {-candidate.rank[1]:.4f}"
            )
        grid = _Grid(rows, progress.seconds, progress.epoch)
        checkpoint.save(best.cfg, {"model": self.model, "probe": grid}, progress, best_path(self.cfg))
        logger.info(
            f"training done in {duration(progress.seconds)}, {progress.finish_reason(self.cfg)}; validation top-1 "
            f"{progress.best_top1:.2f} % with {best.describe()}: {best_path(self.cfg)}"
        )
