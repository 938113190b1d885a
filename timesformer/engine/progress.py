"""How far a training run has come, and what is due next."""

import logging
from dataclasses import dataclass, field

from fvcore.common.config import CfgNode

from timesformer.datasets.loader import EpochBatchSampler
from timesformer.engine.optim import batches_per_step

logger = logging.getLogger(__name__)


@dataclass
class Progress:
    """The progress of a training run; checkpoints contain these fields."""

    epoch: int = 0  # finished epochs
    iteration: int = 0  # finished batches of the next epoch, all of them in finished optimizer steps
    batch_size: int = 0  # clips of such a batch, in all processes
    validated: int = 0  # finished epochs at the last validation
    not_better: int = 0  # validations since the best one
    best_top1: float | None = None  # percent; None before the first validation
    best_loss: float = float("inf")  # at the best top-1
    best_epoch: int = 0  # finished epochs at the best validation
    last_top1: float | None = None  # of the last validation, percent
    seconds: float = 0.0  # training time, over all interruptions
    class_names: list[str] = field(default_factory=list)  # in label order
    clip_seconds: float = 0.0  # median length of the training clips, 0 if unknown

    @property
    def position(self) -> tuple[int, int]:
        return self.epoch, self.iteration

    def describe(self) -> str:
        """The position, for the log."""
        return f"epoch {self.epoch}" + (f" and {self.iteration} iterations" if self.iteration else "")

    def is_due(self, cfg: CfgNode, period: int) -> bool:
        """Whether the finished epochs are a multiple of `period`, or SOLVER.MAX_EPOCH."""
        return self.epoch % period == 0 or self.epoch == cfg.SOLVER.MAX_EPOCH

    def needs_validation(self, cfg: CfgNode) -> bool:
        """Whether a validation is due (TRAIN.EVAL_PERIOD) and not done yet."""
        return self.iteration == 0 and self.validated < self.epoch and self.is_due(cfg, cfg.TRAIN.EVAL_PERIOD)

    def should_stop_early(self, cfg: CfgNode) -> bool:
        """Whether the last TRAIN.EARLY_STOP_PATIENCE validations were not better than the best."""
        return 0 < cfg.TRAIN.EARLY_STOP_PATIENCE <= self.not_better

    def is_finished(self, cfg: CfgNode) -> bool:
        """Whether nothing is left to train or validate."""
        ended = self.epoch >= cfg.SOLVER.MAX_EPOCH or self.should_stop_early(cfg)
        return ended and not self.needs_validation(cfg)

    def finish_reason(self, cfg: CfgNode) -> str:
        """Why the run is finished, for the log."""
        if self.should_stop_early(cfg):
            return f"stopped early after epoch {self.epoch}, best after {self.best_epoch} (TRAIN.EARLY_STOP_PATIENCE)"
        return f"SOLVER.MAX_EPOCH is {cfg.SOLVER.MAX_EPOCH}"

    def update_best(self, top1: float, loss: float) -> bool:
        """Records a validation of the finished epochs; returns whether it is the best, by top-1, then by loss."""
        is_best = self.best_top1 is None or (top1, -loss) > (self.best_top1, -self.best_loss)
        self.validated, self.last_top1 = self.epoch, top1
        self.not_better = 0 if is_best else self.not_better + 1
        if is_best:
            self.best_top1, self.best_loss, self.best_epoch = top1, loss, self.epoch
        return is_best

    def fit_to_batches(self, cfg: CfgNode, sampler: EpochBatchSampler) -> None:
        """Converts the iteration to the batches of `sampler`: if they differ, to the last step that skips no clip."""
        accumulate = batches_per_step(cfg)
        done = min(self.iteration * self.batch_size, sampler.num_items - 1)
        self.iteration = done // (sampler.batch_size * accumulate) * accumulate
        self.batch_size = sampler.batch_size
        if repeated := done - self.iteration * sampler.batch_size:
            logger.warning("batches have changed since the checkpoint: %d clips of its epoch are repeated", repeated)
